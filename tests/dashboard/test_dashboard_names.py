"""Own tasks and models in the table: by their own names, and never two under one."""

import json

import pytest
from fastapi.testclient import TestClient

from discovery.dashboard.app import make_app
from discovery.dashboard.contents import summary, told_apart


def tasks(folder, name):
    client = TestClient(make_app(folder), base_url="http://127.0.0.1")
    return {run["id"]: run[name] for run in client.get("/api/runs").json()["runs"]}


@pytest.fixture
def folder(tmp_path):
    """A writer of runs: (name, task's file, what the result says of the task and where it is)."""

    def write(name, path, said=None, place=None):
        run = tmp_path / name
        run.mkdir()
        task = {"name": "pairs", "path": path}
        asked = {"task": task, "model": {"kind": "hf", "name": f"./{name}/model"}}
        (run / "config.json").write_text(json.dumps({"config": asked}))
        (run / "status.json").write_text(json.dumps({"state": "done"}))
        result = {"task": said, "places": {"task": place}} if place else {"task": said}
        (run / "result.json").write_text(json.dumps(result if said else {}))
        return tmp_path

    return write


def test_a_task_is_called_by_its_file(folder):
    folder("early", "my_task.jsonl", "pairs")  # as it was recorded before
    folder("running", "data/other.jsonl")
    root = folder("now", "/data/third.v2.jsonl", "third.v2", "/data/third.v2.jsonl")
    assert tasks(root, "task") == {"early": "my_task", "running": "other", "now": "third.v2"}
    assert set(tasks(root, "model").values()) == {"early/model", "running/model", "now/model"}


def test_two_files_of_one_name_are_two_tasks(folder):
    """Also where both were asked for in the same words, from two folders."""
    folder("a", "my.jsonl", "my", "/x/one/my.jsonl")
    folder("b", "my.jsonl", "my", "/x/two/my.jsonl")
    folder("c", "/x/two/my.jsonl", "my", "/x/two/my.jsonl")
    root = folder("d", "alone.jsonl", "alone", "/x/one/alone.jsonl")
    assert tasks(root, "task") == {"a": "one/my", "b": "two/my", "c": "two/my", "d": "alone"}


@pytest.mark.parametrize("places, names", [
    (["a/my.jsonl", "a/my.json"], ["my (a/my.jsonl)", "my (a/my.json)"]),
    (["/a/b/my.jsonl", "/c/b/my.jsonl"], ["a/b/my", "c/b/my"]),
    (["my.jsonl", "b/my.jsonl"], ["my", "b/my"]),
])  # fmt: skip
def test_as_many_folders_as_it_takes(places, names):
    lines = [summary({"config": {"task": {"name": "pairs", "path": p}}}, {}, {}) for p in places]
    assert [line["task"] for line in told_apart(lines)] == names
    assert {line["task"] for line in lines} == {"my"}


def test_a_hostile_record_is_no_error():
    task = {"name": "pairs", "path": ["a"]}
    results = [{"places": 3}, {"places": {"task": []}}, {"task": [], "places": {"task": "b"}}, {}]
    lines = [summary({"config": {"task": task, "model": 3}}, r, {}) for r in results]
    assert len(told_apart(lines)) == 4
