"""Runs of a W&B project, through an object of our own making that answers as wandb.Api does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from test_wandb_log import no_account

from acdc.errors import InputError
from discovery.runs.wandb_log import project_run, project_runs


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_account(tmp_path, monkeypatch)


class FakeFile:
    def __init__(self, name: str, text: str) -> None:
        self.name, self.text, self.size = name, text, len(text)

    def download(self, root: str, replace: bool) -> Any:
        path = Path(root, self.name)
        path.parent.mkdir(parents=True)
        path.write_text(self.text)
        return path.open()


class FakeRun:
    id, name, group, job_type, tags = "abc", "a name", "a sweep", "acdc", ["one"]
    state, created_at = "crashed", "2026-01-01T00:00:00Z"
    config = {"seed": 0, "_wandb": {}}
    summary_metrics = {
        "n_edges": 3, "_wandb": 1, "edges": {"_type": "table-file", "path": "media/t.json"}
    }  # fmt: skip

    def scan_history(self, use_cache: bool) -> Any:
        return iter([{"_step": 0, "metric": 0.5}])

    def file(self, name: str) -> FakeFile:
        return FakeFile(name, '{"columns": ["edge"], "data": [["m0->logits"]]}')


class FakeApi:
    """The part of wandb.Api that is used, as the installed version documents it."""

    def flush(self) -> None: ...

    def runs(self, path: str, order: str, lazy: bool) -> list[FakeRun]:
        assert (path, order, lazy) == ("me/circuits", "-created_at", False)
        return [FakeRun()] * 3

    def run(self, path: str) -> FakeRun:
        if path != "me/circuits/abc":
            raise ValueError(f"Could not find run {path}\nmore")
        return FakeRun()


def test_a_project_is_read_through_the_api() -> None:
    """Against an object of our own making: no test here has ever asked W&B's server."""
    runs = project_runs("me/circuits", FakeApi(), most=2)
    one = project_run("me/circuits", "abc", FakeApi())
    assert len(runs) == 2 and runs[0] == dataclasses.replace(one, history=())
    assert one.history == ({"_step": 0, "metric": 0.5},)
    assert (one.config, one.summary["n_edges"], one.state) == ({"seed": 0}, 3, "killed")
    assert (one.entity, one.project, one.exit_code) == ("me", "circuits", None)
    assert one.table("edges") == [{"edge": "m0->logits"}]
    with pytest.raises(
        InputError, match="W&B does not give me/circuits: Could not find run [^\n]+$"
    ):
        project_run("me/circuits", "xyz", FakeApi())


def test_what_the_api_is_asked_exists() -> None:
    """The fake has no method, argument or property that wandb's own classes lack."""
    import inspect

    from wandb.apis.public import Api, File, Run

    for own, fake in ((Api, FakeApi), (Run, FakeRun), (File, FakeFile)):
        for name, method in inspect.getmembers(fake, inspect.isfunction):
            if name != "__init__":
                known = inspect.signature(getattr(own, name)).parameters
                assert {*inspect.signature(method).parameters} <= {*known}, name
    for name in ("id", "name", "state", "config", "summary_metrics"):
        assert isinstance(getattr(Run, name), property)


def test_a_project_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="The W&B project me/circuits needs a W&B API key"):
        project_runs("me/circuits")
    for project in ("circuits", "a/b/c", "/b", "a/", " a/b", ""):
        with pytest.raises(InputError, match="must be of the form ENTITY/PROJECT"):
            project_runs(project)
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match="The W&B project me/circuits: WANDB_API_KEY invalid"):
        project_run("me/circuits", "abc")
