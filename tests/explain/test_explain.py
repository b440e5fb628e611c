"""The frame of an explanation: parts in order, refusals before the work, page and file."""

import json
import shutil

import pytest

import discovery as cd
from acdc.errors import InputError
from discovery.choices.fields import checked
from discovery.explanation import parts
from discovery.explanation.section import Section, Table
from discovery.settings.explanation import ExplainSettings


@pytest.fixture(scope="module")
def task():
    return cd.task("induction", cd.load("induction"), n=16)


@pytest.fixture(scope="module")
def found(task):
    return cd.discover(task.model, task, "eap_ig", n_edges=25, test=20, tune=20)


@pytest.fixture(scope="module")
def explained(found):
    return cd.explain(found, parts=["roles"], prompts=32)


def test_page_and_file_hold_what_was_found(explained, found):
    data = json.loads((found.folder / "explanation.json").read_text(encoding="utf-8"))
    page = explained.page.read_text(encoding="utf-8")
    assert data["sections"]["roles"]["found"]["classes"]["previous token"] == ["a0.h3"]
    assert "Who is in it" in page and "a0.h3" in page and "<script" not in page
    assert (data["n_choose"], data["n_test"], data["n_edges"]) == (16, 16, 25)
    assert data["empty_score"] < data["circuit_score"] <= data["model_score"] + 1
    assert repr(explained).startswith("Who is in it") and "<iframe" in explained._repr_html_()
    assert explained["roles"].found == data["sections"]["roles"]["found"]


@pytest.mark.slow
def test_a_bare_circuit_is_explained_like_its_run(found, task, explained):
    bare = cd.explain(found.circuit, task, parts=["roles"], prompts=32)
    assert bare["roles"].found == explained["roles"].found
    with pytest.raises(InputError, match=r"explain\(circuit, task\)"):
        cd.explain(found.circuit)


class Stub:
    """A part that notes what it was told."""

    def __init__(self, reason=None):
        self.reason, self.seen = reason, None

    def check(self, subject, asked):
        return self.reason

    def explain(self, subject, asked, told):
        self.seen = list(told)
        return Section("stub", "", ["<b>found</b>"], [Table("rows", [{"a": "<i>"}])])


@pytest.fixture
def stubs(monkeypatch):
    made = {"roles": Stub(), "paths": Stub("no paths here"), "story": Stub()}
    monkeypatch.setattr(parts, "PARTS", tuple(made))
    monkeypatch.setattr(parts, "import_module", lambda name: made[name.rsplit(".")[-2]])
    return made


def test_parts_are_made_in_order_and_told_of_those_before(found, stubs):
    out = cd.explain(found, prompts=16)
    assert stubs["story"].seen == ["roles"] and out.left_out == {"paths": "no paths here"}
    page = out.page.read_text(encoding="utf-8")
    assert "&lt;b&gt;found" in page and "&lt;i&gt;" in page and "paths: no paths here" in page


def test_a_named_part_that_cannot_be_asked_is_refused_before_any_is_made(found, stubs):
    with pytest.raises(InputError, match="parts: paths: no paths here"):
        cd.explain(found, prompts=16, parts=["story", "paths"])
    assert stubs["story"].seen is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"parts": ["path"]}, "parts.0='path': input should be 'roles'"),
        ({"parts": []}, "parts=[]: name at least one"),
        ({"variables": {"k": [0]}}, "variables.k.0=0: input should be greater"),
        ({"prompts": 8}, "prompts=8: at least 16"),
        ({"level": 0.7}, "level=0.7"),
        ({"depth": 3}, "depth: there is no such field"),
    ],
)
def test_wrong_fields_are_one_sentence(fields, words):
    with pytest.raises(InputError) as error:
        checked(ExplainSettings, fields)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_run_that_is_not_finished(tmp_path, found):
    half = tmp_path / "half"
    shutil.copytree(found.folder, half)
    (half / "result.json").unlink()
    with pytest.raises(InputError):
        cd.explain(type(found)(half, found.task, found.settings, found.result, found.asked))


def test_every_part_has_settings_of_its_name():
    assert set(parts.PARTS) - {"roles"} <= set(ExplainSettings.model_fields)


def test_a_circuit_s_file_from_the_command(here, found, tmp_path):
    path = found.circuit.save(tmp_path / "mine.json") or tmp_path / "mine.json"
    folder = tmp_path / "run"
    words = ["task.n=16", "tune=20", "test=20", "parts=[roles]", "prompts=16"]
    code, said, complained = here(
        "explain.py", f"circuit={path}", *words, f"hydra.run.dir={folder}"
    )
    assert code == 0, complained
    assert "Who is in it" in said and (folder / "explanation.html").exists()
    again, said, complained = here("explain.py", f"run={folder}", "parts=[rols]")
    assert again == 2 and complained.count("\n") == 1 and "parts.0='rols'" in complained
