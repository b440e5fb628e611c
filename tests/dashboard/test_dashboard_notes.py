"""Notes: written only where that was asked for, by our own page, in this form, into this folder."""

import json
import os

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from acdc.errors import InputError  # noqa: E402
from discovery.dashboard.app import make_app  # noqa: E402
from discovery.dashboard.notes import LARGEST, read_notes, write_notes  # noqa: E402

OURS = {"Origin": "http://127.0.0.1", "Content-Type": "application/json"}
NOTES = {"note": "the one\nto keep", "tags": ["best", "to check"], "groups": {"movers": ["a1.h0"]}}


@pytest.fixture
def run(tmp_path, written):
    return written(tmp_path / "runs" / "one", status={"state": "done"}, result={"seed": 3})


def client(run, notes=True):
    return TestClient(make_app(run.parent, notes=notes), base_url="http://127.0.0.1")


def put(asked, given, run="one", **headers):
    data = given if isinstance(given, (str, bytes)) else json.dumps(given)
    return asked.put(f"/api/notes?id={run}", content=data, headers=OURS | headers)


def test_notes_come_back_and_stand_in_the_table(run):
    asked = client(run)
    before = {path.name for path in run.iterdir()}
    assert put(asked, NOTES).json() == NOTES
    assert {path.name for path in run.iterdir()} == before | {"notes.json"}
    (line,) = asked.get("/api/runs").json()["runs"]
    assert {key: line[key] for key in NOTES} == NOTES
    assert asked.get("/api/run?id=one").json()["notes"] is True  # they may be written
    assert put(asked, {}).json() == {"note": "", "tags": [], "groups": {}}


def test_nothing_is_written_without_being_asked_for(run):
    asked = client(run, notes=False)
    assert put(asked, NOTES).status_code in (404, 405) and not (run / "notes.json").exists()
    assert asked.get("/api/run?id=one").json()["notes"] is False


@pytest.mark.parametrize("headers", [
    {"Origin": "http://elsewhere.example"}, {"Origin": "null"}, {"Content-Type": "text/plain"},
])  # fmt: skip
def test_foreign_pages_are_refused(run, headers):
    assert put(client(run), NOTES, **headers).status_code == 400
    assert not (run / "notes.json").exists()


@pytest.mark.parametrize("place", ["../one", "..", "one/../../x", "/etc", "nothing", "one%00", "."])
def test_only_folders_of_runs_are_written_to(run, place):
    assert put(client(run), NOTES, place).status_code == 400
    assert not [*run.parent.parent.rglob("notes.json")]


@pytest.mark.parametrize("given, said", [
    ([], "notes: allowed is an object"),
    ({"notes": ""}, "'notes' is none"),
    ({"note": 3}, "note: allowed is a text"),
    ({"note": "x" * 4001}, "at most 4000"),
    ({"tags": "best"}, "tags: allowed is a list"),
    ({"tags": ["x" * 41]}, "tags: 'xxx"),
    ({"tags": ["  "]}, "allowed are 1 to 40 letters"),
    ({"groups": {"movers": ["nonsense"]}}, "groups: 'movers'"),
    ({"groups": {"movers": []}}, "1 to 400 names"),
])  # fmt: skip
def test_notes_of_another_form_are_refused_with_a_sentence(run, given, said):
    answer = put(client(run), given)
    assert answer.status_code == 400 and said in answer.json()["error"]
    assert not (run / "notes.json").exists()


def test_what_is_huge_or_torn_is_refused(run):
    assert "at most 64 KiB" in put(client(run), b"[" * (LARGEST + 1)).json()["error"]
    for torn in (b"{", b"[" * 5000, b"\xff"):
        assert "no JSON" in put(client(run), torn).json()["error"]
    assert not (run / "notes.json").exists()


def test_a_link_is_replaced_and_never_followed(run):
    """Neither one that has the file's name nor one that waits under the name before that."""
    outside = run.parent.parent / "outside.json"
    outside.write_text("{}")
    for name in ("notes.json", f".notes.json.{os.getpid()}.tmp"):
        (run / name).symlink_to(outside)
    assert put(client(run), NOTES).json() == NOTES
    assert outside.read_text() == "{}" and not (run / "notes.json").is_symlink()
    assert [*run.glob(".*")] == []


def test_a_folder_that_is_a_link_to_outside_is_no_run(run, written):
    outside = written(run.parent.parent / "outside", status={"state": "done"})
    (run.parent / "link").symlink_to(outside)
    assert put(client(run), NOTES, "link").status_code == 400
    assert not (outside / "notes.json").exists()


def test_hostile_notes_are_read_as_far_as_they_make_sense(run):
    root = run.parent
    hostile = {"note": 7e400, "tags": ["x" * 100, 3, None, {}], "groups": {"g": ["a0.h1", "b", 3]}}
    (run / "notes.json").write_text(json.dumps(hostile | {"other": 1}))
    found = read_notes(root, run)
    assert found["groups"] == {"g": ["a0.h1"]} and found["note"] == ""
    assert found["tags"] == ["x" * 39 + "…", "3"]
    for torn in ("[]", '{"note": '):
        (run / "notes.json").write_text(torn)
        (line,) = client(run).get("/api/runs").json()["runs"]
        assert line["state"] == "done" and line["tags"] == [] and "notes.json" in line["error"]
    with pytest.raises(InputError, match="allowed is an object"):
        write_notes(root, run, None)
