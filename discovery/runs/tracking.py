"""Trackers: mirrors of a run for people who watch runs in Weights & Biases.

The run folder is the record; a tracker only repeats it, because an offline W&B run loses what a
killed process had not flushed and keeps artifacts as references to a staging area. Hence two
settings that must be in the environment before wandb starts: the log is flushed every second, and
the staging area lies inside the run folder. This module imports wandb only when a run asks for it;
discovery/runs/wandb_log.py, which reads runs back, is the only other one that does. It prints
nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from acdc.errors import InputError
from discovery.runs.folder import TestedEdge

MODES = ("disabled", "wandb_offline", "wandb_online")
TABLE_ROWS = 1000  # W&B shows no more without asking, and every row is stored twice
INIT_SECONDS = 30  # how long to wait for the server; wandb's own 90 s is long to look at nothing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a tracker is told at the end of a run."""

    summary: Mapping[str, Any]  # plain values, or objects of them
    edges: Sequence[TestedEdge]
    picture: Path | None
    circuit: Path | None  # circuit.json
    page: Path | None = None  # self-contained HTML


@runtime_checkable
class Tracker(Protocol):
    def log(self, row: Mapping[str, float | int | str], step: int) -> None:
        """One reader's metrics; steps do not decrease."""

    def finish(self, outcome: Outcome) -> None:
        """The end of a run that succeeded; called once, after the last `log`."""

    def summarise(
        self,
        counts: Mapping[str, int],
        rows: Sequence[Mapping[str, object]],
        pictures: Mapping[str, Path],
    ) -> None:
        """A sweep: how many runs, a table, and pictures by name; instead of log and finish."""


class NullTracker:
    """Tracks nothing."""

    def log(self, row: Mapping[str, float | int | str], step: int) -> None:
        pass

    def finish(self, outcome: Outcome) -> None:
        pass

    def summarise(
        self,
        counts: Mapping[str, int],
        rows: Sequence[Mapping[str, object]],
        pictures: Mapping[str, Path],
    ) -> None:
        pass


class WandbTracker:
    """Writes to an open W&B run; closing it is left to who opened it."""

    def __init__(self, run: Any, wandb: ModuleType) -> None:
        self._run = run
        self._wandb = wandb

    def log(self, row: Mapping[str, float | int | str], step: int) -> None:
        self._run.log(dict(row), step=step)

    def finish(self, outcome: Outcome) -> None:
        self._run.summary.update(dict(outcome.summary))
        rows = [[e.edge, e.order, e.effect, e.kept] for e in table_edges(outcome.edges)]
        media: dict[str, Any] = {}
        if rows:
            media["edges"] = self._wandb.Table(["edge", "order", "effect", "kept"], rows)
        if outcome.picture is not None:
            media["circuit"] = self._wandb.Image(str(outcome.picture))
        if outcome.page is not None:
            media["report"] = self._wandb.Html(outcome.page.read_text(encoding="utf-8"))
        if media:
            self._run.log(media)
        if outcome.circuit is not None:
            artifact = self._wandb.Artifact(f"circuit-{self._run.id}", type="circuit")
            artifact.add_file(str(outcome.circuit), name="circuit.json")
            self._run.log_artifact(artifact)

    def summarise(
        self,
        counts: Mapping[str, int],
        rows: Sequence[Mapping[str, object]],
        pictures: Mapping[str, Path],
    ) -> None:
        self._run.summary.update(dict(counts))
        table = self._wandb.Table(list(rows[0]), [list(row.values()) for row in rows])
        images = {name: self._wandb.Image(str(path)) for name, path in pictures.items()}
        self._run.log({"points": table, **images})


def table_edges(edges: Sequence[TestedEdge], limit: int = TABLE_ROWS) -> list[TestedEdge]:
    """All kept edges, and the strongest others while there is room; in the order of the search."""
    kept = [edge for edge in edges if edge.kept]
    others = sorted((e for e in edges if not e.kept), key=lambda e: (-abs(e.effect), e.order))
    return sorted(kept + others[: max(0, limit - len(kept))], key=lambda e: e.order)


def check_tracking(mode: str) -> None:
    """Refuse a mode that cannot work here; needs no network. Call it before the model is loaded."""
    if mode not in MODES:
        raise InputError(f"tracking={mode} is unknown; choose one of {', '.join(MODES)}.")
    if mode == "wandb_online":
        instead = ", or use tracking=wandb_offline and upload with `wandb sync` later"
        check_credentials("tracking=wandb_online", instead)


def check_credentials(asked: str, instead: str = "") -> None:
    """Refuse what was `asked` for if wandb finds no API key here; needs no network.

    `instead` ends the sentence that says what to do.
    """
    if not _has_credentials(asked):
        raise InputError(
            f"{asked} needs a W&B API key and finds none: run `wandb login`, "
            f"{'' if instead else 'or '}set WANDB_API_KEY{instead}."
        )


@contextmanager
def start_tracker(
    mode: str,
    *,
    folder: Path,
    project: str,
    config: Mapping[str, Any],
    name: str | None,
    group: str | None,
    job_type: str | None,
    tags: Sequence[str],
) -> Iterator[Tracker]:
    """Open a tracker for the run in `folder`; an exception in the block closes it as failed."""
    check_tracking(mode)
    if mode == "disabled":
        yield NullTracker()
        return
    folder = folder.resolve()  # W&B's own process stays in the folder where the first run began
    with _environment(WANDB_DATA_DIR=str(folder / "wandb" / "data")):
        wandb = _import_wandb()
        try:
            run = wandb.init(
                mode=mode.removeprefix("wandb_"),
                dir=folder,
                project=project,
                config=dict(config),
                name=name,
                group=group,
                job_type=job_type,
                tags=list(tags),
                reinit="finish_previous",  # a run that leaked must not swallow this one
                settings=wandb.Settings(
                    console="off", silent=True, x_disable_stats=True, init_timeout=INIT_SECONDS
                ),
            )
        except wandb.errors.Error as error:
            reason = str(error).partition("\n")[0]  # the rest is advice on wandb's own settings
            raise InputError(f"tracking={mode}: W&B cannot start: {reason}") from error
        with _finishing(run):
            yield WandbTracker(run, wandb)


@contextmanager
def _finishing(run: Any) -> Iterator[None]:
    """Like `with run`, which would also print the traceback of every exception."""
    try:
        yield
    except BaseException:
        try:
            run.finish(exit_code=1)
        except Exception as error:  # must not replace the exception that is on its way
            _log.warning("W&B did not close the failed run: %s", error)
        raise
    run.finish()


def _import_wandb() -> ModuleType:
    """Import wandb with the log flushed every second, instead of every 15 s or 32 KiB.

    wandb reads this from the environment when it is first used; older versions reject it as an
    argument but ignore it here.
    """
    os.environ.setdefault("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")
    import wandb

    return wandb


def _has_credentials(asked: str) -> bool:
    """Whether wandb would find an API key or an identity token; asks nobody, prints nothing.

    The public wandb.login(prompt=False) asks the server who it is, and writes to the settings.
    """
    with _environment(WANDB_SILENT="true"):
        wandb = _import_wandb()
        from wandb.sdk import wandb_setup
        from wandb.sdk.lib import wbauth

        try:
            found = wbauth.authenticate_session(
                host=wandb_setup.singleton().settings.base_url,
                source="tracking",
                prompt=False,
                update_session=False,
            )
        except wandb.errors.AuthenticationError as error:
            raise InputError(f"{asked}: {error}") from error
    return found is not None


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
