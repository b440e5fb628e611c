"""The view of a W&B project: what it names is what runs log; what cannot be saved is refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from acdc.errors import InputError
from discovery.runs import workspace
from discovery.runs.tracking import charts_over


@dataclass
class Made:
    kind: str
    fields: dict[str, Any]

    def save(self, draft: bool = False) -> Any:
        return SimpleNamespace(url=f"https://wandb.example/{'draft' if draft else 'view'}")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """A stand-in that keeps what is made of it; a name that the real one lacks is an error."""
    found: list[Made] = []

    def maker(kind: str) -> Any:
        def make(**fields: Any) -> Made:
            found.append(Made(kind, fields))
            return found[-1]

        return make

    names = {
        "wandb_workspaces.workspaces": ("Workspace", "Section", "RunsetSettings"),
        "wandb_workspaces.reports.v2": (
            "LinePlot", "ScatterPlot", "ParallelCoordinatesPlot", "ParallelCoordinatesPlotColumn",
            "MediaBrowser", "Report", "Runset", "PanelGrid", "H2", "P",
        ),
    }  # fmt: skip
    for name, kinds in names.items():
        module = ModuleType(name)
        for kind in kinds:
            setattr(module, kind, maker(kind))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(workspace, "check_project", lambda project: None)
    return found


def test_the_view_is_saved_with_a_panel_each(library: list[Made]) -> None:
    assert workspace.save("team/circuits") == "https://wandb.example/view"
    (view,) = (m.fields for m in library if m.kind == "Workspace")
    assert (view["entity"], view["project"]) == ("team", "circuits")
    titles = [section.fields["name"] for section in view["sections"]]
    assert titles == list(workspace.VIEW)
    panels = [panel for section in view["sections"] for panel in section.fields["panels"]]
    assert len(panels) == sum(map(len, workspace.VIEW.values()))


def test_a_report_is_a_draft_with_a_title_a_sentence_and_panels_each(library: list[Made]) -> None:
    assert workspace.save_report("team/circuits") == "https://wandb.example/draft"
    (report,) = (m.fields for m in library if m.kind == "Report")
    assert (report["entity"], report["project"]) == ("team", "circuits")
    kinds = [block.kind for block in report["blocks"]]
    assert kinds == ["H2", "P", "PanelGrid"] * len(workspace.VIEW)
    for i, (title, some) in enumerate(workspace.VIEW.items()):
        head, sentence, grid = report["blocks"][3 * i : 3 * i + 3]
        assert head.fields == {"text": title} and sentence.fields["text"].endswith(".")
        assert len(grid.fields["panels"]) == len(some)
        (runs,) = grid.fields["runsets"]
        assert runs.fields == {"entity": "team", "project": "circuits"}


def test_lines_are_over_the_axis_that_the_tracker_defines() -> None:
    row = {"metric": 0.5, "n_kept": 3, "n_tests": 7, "n_edges": 9, "seconds": 0.1}
    axes = charts_over(row).axes
    lines = [panel for some in workspace.VIEW.values() for panel in some if panel.kind == "line"]
    assert len(lines) == 4 and all(axes[name] == one.x for one in lines for name in one.y)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="must be of the form ENTITY/PROJECT"):
        workspace.save("circuits")
    monkeypatch.setattr(workspace, "check_project", lambda project: None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(InputError, match="needs wandb-workspaces: pip install"):
        workspace.save("team/circuits")


def test_what_the_server_says_is_one_sentence(
    library: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Made, **_: Any) -> None:
        raise RuntimeError("no such project\nmore")

    monkeypatch.setattr(Made, "save", refuse)
    with pytest.raises(InputError, match="does not save the view in team/circuits: no such proj"):
        workspace.save("team/circuits")
    with pytest.raises(InputError, match="does not save the report in team/circuits: no such"):
        workspace.save_report("team/circuits")
