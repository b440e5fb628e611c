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
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from acdc.errors import InputError
from discovery.runs.folder import TestedEdge

MODES = ("disabled", "wandb_offline", "wandb_online")
TABLE_ROWS = 1000  # W&B shows no more without asking, and every row is stored twice
INIT_SECONDS = 30  # how long to wait for the server; wandb's own 90 s is long to look at nothing

_log = logging.getLogger(__name__)


AXES = {"n_tests": "tests", "n_edges": "edges left", "seconds": "seconds"}  # of a search's charts
OTHER_AXES = ("step", "round")  # of methods that learn
FOLLOWED = ("metric", "n_kept", "loss")  # what is charted over each of AXES


Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """Lines that the tracker draws itself."""

    x_name: str
    y_name: str
    lines: Mapping[str, Sequence[tuple[float, float]]]  # by name: x and y, in the line's order


@dataclass(frozen=True)
class Outcome:
    """What a tracker is told at the end of a run; things go by the name that they have there."""

    summary: Mapping[str, Any]  # plain values, or objects of them
    edges: Sequence[TestedEdge] = ()
    tables: Mapping[str, Rows] = field(default_factory=dict)  # rows with the same members
    charts: Mapping[str, Chart] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)  # self-contained HTML
    files: Sequence[Path] = ()  # kept as one artifact, which is called by the first


@runtime_checkable
class Tracker(Protocol):
    def log(self, row: Mapping[str, float | int | str], step: int) -> None:
        """One reader's metrics; steps do not decrease."""

    def finish(self, outcome: Outcome) -> None:
        """The end of a run that succeeded; called once, after the last `log`."""


class NullTracker:
    """Tracks nothing."""

    def log(self, row: Mapping[str, float | int | str], step: int) -> None:
        pass

    def finish(self, outcome: Outcome) -> None:
        pass


class WandbTracker:
    """Writes to an open W&B run; closing it is left to who opened it."""

    def __init__(self, run: Any, wandb: ModuleType) -> None:
        self._run = run
        self._wandb = wandb
        self._defined = set[str]()

    def log(self, row: Mapping[str, float | int | str], step: int) -> None:
        charted = charts_over(row)
        for name, axis in charted.axes.items():
            if name not in self._defined:
                self._run.define_metric(name, step_metric=axis)
                self._defined.add(name)
        self._run.log({**row, **charted.copies}, step=step)

    def finish(self, outcome: Outcome) -> None:
        self._run.summary.update(dict(outcome.summary))
        media: dict[str, Any] = {name: self._table(rows) for name, rows in outcome.tables.items()}
        if outcome.edges:
            media["edges"] = self._table([
                {"edge": e.edge, "order": e.order, "effect": e.effect, "kept": e.kept}
                for e in table_edges(outcome.edges)
            ])  # fmt: skip
        media |= {name: self._chart(name, chart) for name, chart in outcome.charts.items()}
        media |= {name: self._wandb.Image(str(path)) for name, path in outcome.pictures.items()}
        media |= {
            name: self._wandb.Html(page, inject=False) for name, page in outcome.pages.items()
        }
        if media:
            self._run.log(media)
        if outcome.files:
            kind = outcome.files[0].stem
            artifact = self._wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
            for path in outcome.files:
                artifact.add_file(str(path), name=path.name)
            self._run.log_artifact(artifact)

    def _table(self, rows: Rows) -> Any:
        columns = list(rows[0]) if rows else []
        return self._wandb.Table(columns, [[row[name] for name in columns] for row in rows])

    def _chart(self, name: str, chart: Chart) -> Any:
        return self._wandb.plot.line_series(
            xs=[[x for x, _ in line] for line in chart.lines.values()],
            ys=[[y for _, y in line] for line in chart.lines.values()],
            keys=list(chart.lines), title=f"{name}: {chart.y_name}", xname=chart.x_name,
        )  # fmt: skip


@dataclass(frozen=True)
class Charted:
    """A row's axes, by the name of what is charted over them, and values under further names."""

    axes: Mapping[str, str]
    copies: Mapping[str, float | int | str]


def charts_over(row: Mapping[str, float | int | str]) -> Charted:
    """What of a row is charted over what.

    Everything over the first axis that the row has (tests; steps of learning), the values of most
    interest over each of the others too, as copies such as "by edges left/metric": W&B draws a
    value over one axis only.
    """
    known = [name for name in (*AXES, *OTHER_AXES) if name in row]
    first = next((name for name in known if name not in ("n_edges", "seconds")), None)
    axes = {} if first is None else {name: first for name in row if name not in known}
    copies = {
        f"by {AXES[axis]}/{name}": (axis, row[name])
        for axis in known
        if axis in AXES and axis != first
        for name in FOLLOWED
        if name in row
    }
    axes |= {name: axis for name, (axis, _) in copies.items()}
    return Charted(axes, {name: value for name, (_, value) in copies.items()})


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
