"""A saved view of a W&B project: what runs of this pipeline log, arranged to be read.

Charts of a search over tests, edges left and seconds; runs side by side by size and by how good
they are on new prompts; the circuits themselves. Written with wandb-workspaces (an extra), which
asks the server, so a key is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
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


def save(project: str) -> str:
    """Save the view in "entity/project"; returns its address.

    InputError for another form, without an API key or the extra, and where the server refuses.
    """
    check_project(project)
    workspaces, panels = _library()
    entity, _, name = project.partition("/")
    sections = [
        workspaces.Section(name=title, is_open=True, panels=[_made(panels, one) for one in some])
        for title, some in VIEW.items()
    ]
    view = workspaces.Workspace(
        entity=entity, project=name, name=NAME, sections=sections,
        runset_settings=workspaces.RunsetSettings(
            pinned_columns=[f"summary:{column}" for column in COLUMNS]
        ),
    )  # fmt: skip
    try:
        return str(view.save().url)
    except Exception as error:  # of wandb, requests or the server: none of them promised
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"W&B does not save the view in {project}: {reason[:300]}") from error


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
