"""A run that was stopped, whenever it was, goes on in its folder and ends with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from stopping import Stop, checkpoint_at_every_chance, stopped_after
from test_settings import AS_PUBLISHED, settings

from acdc.errors import InputError
from discovery.job import propose
from discovery.job.pipeline import discover
from discovery.runs.folder import read_run

ROOT = Path(__file__).parents[1]
SAME = ("circuit.json", "edges.jsonl", "heads.json")
ASKED = (*AS_PUBLISHED, "task.n=8", "method.threshold=0.02")


@pytest.fixture(scope="module")
def whole(undisturbed):
    return undisturbed(*ASKED)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run of some words, made once."""

    @cache
    def made(*words):
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        discover(settings(*words), folder, [], lambda text: None)
        return folder

    return made


@pytest.fixture(autouse=True)
def at_every_chance(monkeypatch):
    """Checkpoints are as many as can be."""
    checkpoint_at_every_chance(monkeypatch)


def equal(one, two):
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize(
    "steps", [1, 26, 97, *(pytest.param(n, marks=pytest.mark.slow) for n in (9, 51))]
)
@pytest.mark.quick("1", "26")
def test_stopped_in_the_search(whole, tmp_path, steps):
    run = tmp_path / "run"
    with stopped_after(steps):
        discover(settings(*ASKED), run, [], lambda text: None)
    assert read_run(run).state == "failed" and not (run / "result.json").exists()
    assert (run / "checkpoint.safetensors").exists()
    with open(run / "edges.jsonl", "ab") as file:  # what a killed process had begun to write
        file.write(b'{"order": 7, "ed')
    result = discover(settings(*ASKED), run, [], lambda text: None)
    equal(whole, run)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    for row in (*rows, *wanted):
        del row["seconds"]
    assert rows == wanted and not (run / "checkpoint.safetensors").exists()
    first = json.loads((whole / "result.json").read_text())
    for name in ("n_tests", "n_gates", "n_gates_kept", "n_ties", "n_passes", "metric_circuit"):
        assert result[name] == first[name]


@pytest.mark.slow
def test_stopped_again_and_again(whole, tmp_path):
    run, moments = tmp_path / "run", random.Random(0)
    for _ in range(10):
        with stopped_after(moments.randint(5, 15)):
            discover(settings(*ASKED), run, [], lambda text: None)
        if (run / "circuit.json").exists():
            break
    discover(settings(*ASKED), run, [], lambda text: None)
    equal(whole, run)


BEST = "method=best", "method.steps=30", "method.again=30"  # 30 lines of each, then the search


@pytest.mark.parametrize(
    "words, steps",
    [
        (["method=acdc"], 70),
        pytest.param(["method=learned", "method.steps=30"], 12, marks=pytest.mark.slow),
        pytest.param(["method=iterative"], 5, marks=pytest.mark.slow),
        pytest.param([*BEST], 20, marks=pytest.mark.slow),
        ([*BEST], 45),
        ([*BEST], 130),
    ],
)
@pytest.mark.quick("words0-70")
def test_on_its_way_to_a_target_it_goes_on(undisturbed, tmp_path, monkeypatch, words, steps):
    """From its last checkpoint: what lay before it is not done again."""
    words = ("tracking=disabled", "task.n=8", "tune=16", "test=0", *words)
    run, plain, asked = tmp_path / "run", undisturbed(*words), settings(*words)
    with stopped_after(steps):
        discover(asked, run, [], lambda text: None)
    before, done = read_run(run).metrics, []
    write = propose._Work.write

    def counted(self, step):
        done.extend([step.row] if step.row else [])
        write(self, step)

    monkeypatch.setattr(propose._Work, "write", counted)
    discover(asked, run, [], lambda text: None)
    equal(plain, run)
    rows, wanted = ([dict(r, seconds=0) for r in read_run(f).metrics] for f in (run, plain))
    assert rows == wanted and len(done) < len(wanted) - len(before) / 2


@pytest.mark.parametrize("method", ["acdc", pytest.param("eap_ig", marks=pytest.mark.slow)])
def test_stopped_after_the_search_it_is_finished_from_its_circuit(tmp_path, monkeypatch, method):
    asked = settings("tracking=disabled", "task.n=8", f"method={method}")  # on its way to a target
    run, plain = tmp_path / "run", tmp_path / "plain"

    def broken(*args, **kwargs):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("discovery.job.pipeline.evaluate", broken)
        with pytest.raises(Stop):
            discover(asked, run, [], lambda text: None)
    with monkeypatch.context() as patch:
        for ask in ("find", "reach"):  # it is not asked again
            patch.setattr(type(asked.method), ask, broken)
        result = discover(asked, run, [], lambda text: None)
    wanted = discover(asked, plain, [], lambda text: None)
    equal(plain, run)
    for name in ("n_edges", "metric_circuit", "faithfulness", "scores"):
        assert result[name] == wanted[name]
    assert result["seconds"]["search"] > 0


def test_only_the_same_question_goes_on(whole, tmp_path):
    run = tmp_path / "run"
    with stopped_after(9):
        discover(settings(*ASKED), run, [], lambda text: None)
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    with pytest.raises(InputError, match="already holds a run"):
        discover(settings(*ASKED, "seed=3"), run, [], lambda text: None)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    with pytest.raises(InputError, match="already holds a run"):  # done is done
        discover(settings(*ASKED), whole, [], lambda text: None)


@pytest.mark.slow
def test_kill_9_from_outside(whole, here, tmp_path):
    run = tmp_path / "run"
    words = [*ASKED, f"hydra.run.dir={run}"]
    command = [sys.executable, str(ROOT / "scripts" / "discover.py"), *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "edges.jsonl").exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_run(run).state == "killed"
    code, _, err = here("discover.py", *words)
    assert code == 0, err
    equal(whole, run)
