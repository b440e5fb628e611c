"""Sweeps of the main job: where their folders are, which jobs are left, what is said at the end.

Registers two resolvers for conf/discover.yaml, and names the callback there. Processes that a
launcher starts import this module too, so the folder that it lies in is put on their path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aggregate import summarise
from command import cleaned, plain, shown
from explain import explain
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from validate import validate

from discovery.dashboard.embed import circuit_html
from discovery.runs.folder import goes_on, record_refusal
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.explanation import ExplainSettings
from discovery.settings.run import read_settings
from discovery.sweeps.folder import (
    holds_result,
    is_done,
    is_explained,
    is_validated,
    record_validation,
    set_aside,
)

if TYPE_CHECKING:
    from discovery.job.prepare import Cache

LONGEST = 160  # characters of a folder's name that are read by people


def sweep_name(overrides: Sequence[str]) -> str:
    """The folder of a sweep: its `+sweep=` name and what else was asked, as a hash.

    The same command has the same folder, in whatever order its words come.
    """
    named = [value for key, _, value in map(_split, overrides) if key == "sweep"]
    return f"{cleaned('-'.join(named)) or 'sweep'}_{_hash(_asked(overrides))}"


def job_name(overrides: Sequence[str]) -> str:
    """The folder of a job: its overrides, readable as far as there is room, and their hash."""
    asked = [o for o in _asked(overrides) if _split(o)[0] != "sweep"]
    words = [cleaned(f"{key.rpartition('.')[2]}={value}") for key, _, value in map(_split, asked)]
    return f"{','.join(words)[:LONGEST] or 'job'}_{_hash(asked)}"


def _asked(overrides: Sequence[str]) -> list[str]:
    """What can change a result, in one order."""
    return sorted(o for o in overrides if _split(o)[0].partition(".")[0] != "tracking")


def _split(override: str) -> tuple[str, str, str]:
    return override.lstrip("+").partition("=")


def _hash(overrides: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]


def register() -> None:
    """Make the resolvers known, and this folder importable wherever jobs are started."""
    # the sweep's name is resolved once, by the process that starts it, and its jobs are told
    OmegaConf.register_new_resolver("sweep_name", sweep_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_name", job_name, replace=True)
    here = str(Path(__file__).parent)
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    wanted = [p for p in (here, os.getcwd()) if p not in paths]  # one's own modules lie here
    os.environ["PYTHONPATH"] = os.pathsep.join([*wanted, *paths])


def in_sweep() -> bool:
    """Whether the running job is one of a sweep's."""
    return not OmegaConf.is_missing(HydraConfig.get().job, "num")


def run_job(config: DictConfig, folder: Path, overrides: list[str]) -> dict[str, Any] | None:
    """One job of a sweep; its result, or None if it is done already or cannot be done.

    What fails is left in the folder and said, not raised: the other jobs go on.
    """
    from discovery.job.pipeline import discover

    try:
        settings = read_settings(plain(config))
    except Exception as error:  # a file or a device may be away: what is done stays where it is
        if not holds_result(folder):
            _set_aside(folder)
            record_refusal(folder, overrides, error)
        return _say_failed(folder, error)
    try:
        result = None
        if is_done(folder, settings):
            print(f"== {folder.name}: done already, skipped")
        else:
            if goes_on(folder, settings.model_dump(mode="json")):
                print(f"== {folder.name}: goes on")
            else:
                _set_aside(folder)
                print(f"== {folder.name}")
            result = discover(
                settings, folder, overrides, print, folder.parent.name, shared(), circuit_html
            )
        if isinstance(settings.evaluation, FullEvaluation) and not is_validated(folder):
            _validate(folder, settings.evaluation)
        if isinstance(settings.evaluation, ExplainSettings) and not is_explained(folder):
            explain(folder, settings.evaluation)
        return result
    except Exception as error:
        return _say_failed(folder, error)


def _validate(folder: Path, evaluation: FullEvaluation) -> None:
    try:
        validate([folder], evaluation)
    except Exception as error:
        record_validation(folder, error)
        raise
    record_validation(folder, None)


@cache
def shared() -> Cache:
    """What the jobs of this process share. The process that starts workers never needs torch."""
    from discovery.job.prepare import Cache

    return Cache()


def _say_failed(folder: Path, error: Exception) -> None:
    lines = str(error).strip().splitlines() or [""]
    print(f"error: {folder.name}: {type(error).__name__}: {lines[0]}", file=sys.stderr)


def _set_aside(folder: Path) -> None:
    if place := set_aside(folder):
        print(f"== {folder.name}: an earlier attempt is kept in {shown(place)}")


class Summary(Callback):
    """At the sweep's end: the table, the figures, a W&B run; exit code 1 unless all is done."""

    begun: ClassVar[list[Path]] = []  # the sweep that runs in this process, until it is summed up

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.begun.append(Path(str(config.hydra.sweep.dir)).absolute())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            done = summarise(self.begun.pop(), tracked=True)
        except Exception:  # Hydra would make it a warning, and the exit code 0
            traceback.print_exc()
            done = False
        if not done:
            sys.exit(1)


NEEDS = {  # launcher -> the extra and the package that it brings
    "joblib": ("joblib", "hydra_joblib_launcher"),
    "slurm": ("submitit", "hydra_submitit_launcher"),
    "submitit_local": ("submitit", "hydra_submitit_launcher"),
    "submitit_slurm": ("submitit", "hydra_submitit_launcher"),
}


def check_launcher(words: Sequence[str]) -> None:
    """Exit with one sentence if the launcher asked for cannot start here."""
    asked = [value for key, _, value in map(_split, words) if key == "hydra/launcher"]
    for name in (name for name in asked if name in NEEDS):
        extra, package = NEEDS[name]
        if not _is_installed(package):
            _refuse(f"hydra/launcher={name} needs: pip install -c constraints.txt -e '.[{extra}]'")
        if name.endswith("slurm") and not (shutil.which("sbatch") and shutil.which("srun")):
            _refuse(
                f"hydra/launcher={name} finds no sbatch and srun: start it on a machine of the"
                " cluster, or use hydra/launcher=submitit_local"
            )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(f"hydra_plugins.{package}") is not None
    except ModuleNotFoundError:  # no plugin at all
        return False


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


@contextmanager
def summed_up() -> Iterator[None]:
    """Sum up a sweep that was interrupted, or whose launcher broke as a worker was killed."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if Summary.begun and any(Summary.begun[0].glob("*/status.json")):
            why = "interrupted" if interrupted else "the launcher broke"
            print(f"error: {why}; repeat the command for what is left", file=sys.stderr)
            summarise(Summary.begun.pop(), tracked=False)
        if interrupted:
            sys.exit(128 + signal.SIGINT)
        raise


register()
