"""A saved view of a W&B project, or a report: what runs of this pipeline log, arranged to be read.

Charts of a search over tests, edges left and seconds; runs side by side by size and by how good
they are on new prompts; the circuits themselves. Written with wandb-workspaces (an extra), which
asks the server, so a key is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from acdc.errors import InputError
from discovery.runs.wandb_log import check_project

NAME = "Circuits"
COLUMNS = ("verdict", "test_faithfulness", "circuit_accuracy", "model_accuracy", "n_edges",
           "seconds_total")  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One panel, by the names that runs log under."""

    kind: Literal["line", "scatter", "media", "parallel"]
    y: tuple[str, ...]  # one for a scatter plot; media keys; the axes of parallel coordinates
    x: str | None = None
    log_x: bool = False


VIEW: Mapping[str, tuple[Panel, ...]] = {
    "Which run": (
        Panel("scatter", ("test_faithfulness",), "n_edges", log_x=True),
        Panel("scatter", ("circuit_accuracy",), "n_edges", log_x=True),
        Panel("scatter", ("test_faithfulness",), "seconds_total", log_x=True),
        Panel("parallel", ("threshold", "seed", "n_edges", "test_faithfulness")),
    ),
    "The circuit": (Panel("media", ("circuit_page",)), Panel("media", ("circuit",)),
                    Panel("media", ("heads",)), Panel("media", ("edges",))),
    "The search": (
        Panel("line", ("metric",), "n_tests"),
        Panel("line", ("by edges left/metric",), "n_edges"),
        Panel("line", ("by seconds/metric",), "seconds"),
        Panel("line", ("n_kept",), "n_tests"),
    ),
    "Is it true": (Panel("media", ("report",)), Panel("media", ("validation_ladder",)),
                   Panel("media", ("validation_matrix",)), Panel("media", ("verdicts",))),
    "Sweeps": (Panel("media", ("pareto",)), Panel("media", ("overlap",)),
               Panel("media", ("points",))),
}  # fmt: skip


SAYS: Mapping[str, str] = {  # below the titles of a report; to be replaced by what was found
    "Which run": "The fewest edges that are good enough on prompts that no search saw, and why.",
    "The circuit": "Its heads, what they do on the task, and the edges between them.",
    "The search": "What was cut, in which order, and what that did to the metric.",
    "Is it true": "The verdict with its three figures, and what would change it.",
    "Sweeps": "How the circuit depends on thresholds and seeds.",
}


def save(project: str) -> str:
    """Save the view in "entity/project"; returns its address.

    InputError for another form, without an API key or the extra, and where the server refuses.
    """
    return _saved(project, "view", _view)


def save_report(project: str) -> str:
    """Save a draft of a report there, a title, a sentence and panels a section; as `save` else."""
    return _saved(project, "report", _report)


def _saved(project: str, what: str, make: Callable[[str, str], Any]) -> str:
    check_project(project)
    entity, _, name = project.partition("/")
    made = make(entity, name)
    try:
        return str((made.save(draft=True) if what == "report" else made.save()).url)
    except Exception as error:  # of wandb, requests or the server: none of them promised
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"W&B does not save the {what} in {project}: {reason[:300]}") from error


def _report(entity: str, name: str) -> Any:
    _, reports = _library()
    blocks = []
    for title, some in VIEW.items():
        runs = reports.Runset(entity=entity, project=name)
        panels = [_made(reports, one) for one in some]
        blocks += [reports.H2(text=title), reports.P(text=SAYS[title]),
                   reports.PanelGrid(runsets=[runs], panels=panels)]  # fmt: skip
    return reports.Report(entity=entity, project=name, title=NAME, blocks=blocks, width="fluid")


def _view(entity: str, name: str) -> Any:
    workspaces, panels = _library()
    sections = [
        workspaces.Section(name=title, is_open=True, panels=[_made(panels, one) for one in some])
        for title, some in VIEW.items()
    ]
    return workspaces.Workspace(
        entity=entity, project=name, name=NAME, sections=sections,
        runset_settings=workspaces.RunsetSettings(
            pinned_columns=[f"summary:{column}" for column in COLUMNS]
        ),
    )  # fmt: skip


def _library() -> tuple[ModuleType, ModuleType]:
    names = ("wandb_workspaces.workspaces", "wandb_workspaces.reports.v2")
    try:
        workspaces, panels = map(importlib.import_module, names)
    except ImportError as error:
        raise InputError(
            'the view needs wandb-workspaces: pip install -c constraints.txt -e ".[workspaces]"'
        ) from error
    return workspaces, panels


def _made(panels: ModuleType, one: Panel) -> Any:
    if one.kind == "line":
        return panels.LinePlot(title=one.y[0], x=one.x, y=list(one.y))
    if one.kind == "scatter":
        title = f"{one.y[0]} against {one.x}"
        return panels.ScatterPlot(title=title, x=one.x, y=one.y[0], log_x=one.log_x)
    if one.kind == "parallel":
        columns = [panels.ParallelCoordinatesPlotColumn(metric=name) for name in one.y]
        return panels.ParallelCoordinatesPlot(columns=columns)
    return panels.MediaBrowser(title=one.y[0], media_keys=list(one.y))
