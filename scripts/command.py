"""What the commands share: configurations as plain values, refusals as one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from acdc.errors import InputError
from discovery.registry import KEY, KNOWN

CONF = Path(__file__).resolve().parents[1] / "conf"
MOVED = {"method.metric": "metric", "method.ablation": "ablation"}  # before 2026-11 -> now

sys.path.append(os.getcwd())  # one's own modules lie where one works
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration; InputError for what is missing or cannot be resolved."""
    try:
        found: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key} is required: add {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from None
    return found


def asked(words: Sequence[str]) -> list[str]:
    """The overrides as Hydra has to be told them.

    A choice that has no file in conf/ (one's own "module:Name", an entry point) becomes the file
    `own` and its name, so that `method=my_module:Mine method.depth=3` works as for ours. What was
    the method's before is asked of the run. InputError for several own choices in one word.
    """
    words = [_moved(word) for word in words]
    own = {group for group, value in map(_split, words) if group in KNOWN and _is_own(group, value)}
    out = []
    for word in words:
        key, value = _split(word)
        group = key.partition(".")[0]
        if group not in own or not value:
            out.append(word)
        elif key == group:
            if "," in value:
                raise InputError(f"{word}: of your own, one at a time; start a sweep for each")
            out += [f"{group}=own", f"{group}.{KEY.get(group, 'name')}={value}"]
        else:
            out.append(f"++{word.lstrip('+')}")
    return out


def _split(word: str) -> tuple[str, str]:
    key, _, value = word.lstrip("+").partition("=")
    return key, value


def _moved(word: str) -> str:
    key, value = _split(word)
    if key not in MOVED:
        return word
    print(f"note: {word} is now written {MOVED[key]}={value}", file=sys.stderr)
    return f"{MOVED[key]}={value}"


def _is_own(group: str, value: str) -> bool:
    names = value.strip("[]'\"").split(",")
    return bool(value) and not all((CONF / group / f"{name}.yaml").exists() for name in names)


def hydra_words() -> None:
    """Rewrite this command's words as `asked` says; a refusal ends it."""
    with refusals_as_exit():
        sys.argv[1:] = asked(sys.argv[1:])


def this_run() -> tuple[Path, list[str]]:
    """Run folder and overrides of the running command."""
    runtime = HydraConfig.get()
    return Path(runtime.runtime.output_dir), list(runtime.overrides.task)


@contextmanager
def refusals_as_exit() -> Iterator[None]:
    """Turn an InputError into a line on stderr and exit code 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {str(error).strip()}", file=sys.stderr)
        sys.exit(2)


def shown(path: Path) -> Path:
    """A path as it is shortest from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
