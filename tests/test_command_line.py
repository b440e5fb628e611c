"""scripts/discover.py as a person runs it: another process, its exit code, what it leaves."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from discovery.runs.folder import read_run

ROOT = Path(__file__).parents[1]
SLOW = (
    "method.chunk=1",
    "method.threshold=0.05",
    "task.n=600",
    "threads=1",
)  # seconds of search, not a fraction of one


def start(*overrides, folder, **kwargs):
    command = [sys.executable, "scripts/discover.py", f"hydra.run.dir={folder}", *overrides]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        **kwargs,
    )  # fmt: skip


def finish(*overrides, folder, **kwargs):
    process = start(*overrides, folder=folder, **kwargs)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def command(script, *overrides, cwd):
    """Another process in a folder of its own; what it printed."""
    words = [sys.executable, str(ROOT / "scripts" / script), *overrides]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=cwd, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_main_job_and_consensus_where_one_works(tmp_path):
    """Without a word: the run folder is below the working directory, W&B's log offline in it."""
    out, err = command("discover.py", cwd=tmp_path)
    assert "circuit.png" in out and "faithfulness" in out and "kept" in err  # the progress bar
    (folder,) = tmp_path.glob("runs/*/*")
    day, name = folder.relative_to(tmp_path / "runs").parts
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day)
    assert re.fullmatch(r"\d\d-\d\d-\d\d_induction_induction_acdc", name)
    run = read_run(folder)
    assert run.state == "done" and run.config["overrides"] == []
    logs = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1 and logs[0].stat().st_size > 1000
    words = f"run={folder.relative_to(tmp_path)}", "pairs=3", "second=false"
    out, err = command("consensus.py", *words, cwd=tmp_path)
    assert "Jaccard" in out and (folder / "consensus" / "consensus.json").exists()
    assert "Traceback" not in err and list((folder / "consensus" / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["task=nonesuch"], ["task.name='nonesuch'", "greater_than", "pairs"]),
        (["method.thresold=1"], ["method.thresold"]),
        (["method.threshold=abc"], ["method.threshold", "abc", "number"]),
        (["task=pairs"], ["task.path", "required"]),
        (["model=hf", f"model.name={ROOT / 'conf'}"], ["config.json"]),
    ],
)
def test_bad_input_is_one_clear_error(overrides, words, here, tmp_path):
    code, _, err = here("discover.py", f"hydra.run.dir={tmp_path / 'run'}", *overrides)
    assert code != 0 and "Traceback" not in err
    assert all(word in err for word in words), err
    if (tmp_path / "run").exists():
        assert read_run(tmp_path / "run").state == "failed"


def lines(folder):
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def logged(folder):
    return sum(p.stat().st_size for p in folder.glob("wandb/offline-run-*/run-*.wandb"))


def wait_for(process, begun):
    for _ in range(1200):
        if begun():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("the search never started")


@pytest.mark.parametrize(
    "sent, state, code",
    [
        pytest.param(signal.SIGTERM, "failed", 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "killed", -9, marks=pytest.mark.slow),  # see test_resume.py
    ],
)
def test_a_killed_run_keeps_what_it_had(sent, state, code, here, tmp_path):
    folder = tmp_path / "run"
    process = start(*SLOW, folder=folder)
    wait_for(process, lambda: lines(folder) >= 5 and logged(folder) > 1000)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == code
    run = read_run(folder)
    assert run.state == state and run.result is None
    assert run.metrics[-1]["n_tests"] == len(run.edges) > 0
    assert all(row["order"] == i for i, row in enumerate(run.edges))
    assert logged(folder) > 1000
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    again, _, err = here("discover.py", f"hydra.run.dir={folder}")
    assert again == 2 and "already holds a run" in err
    assert before == {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}


@pytest.mark.slow
def test_no_space_left(tmp_path):
    """A file-size limit stands for a full disk: the error names the file, the state is failed."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    folder = tmp_path / "run"
    code, _, err = finish("tracking=disabled", folder=folder, preexec_fn=limit)
    assert code == 2 and "Cannot write" in err and "Traceback" not in err
    run = read_run(folder)
    assert run.state == "failed" and run.result is None and run.metrics


@pytest.mark.slow
def test_two_runs_are_byte_identical(tmp_path):
    for name in ("one", "two"):
        assert finish("tracking=disabled", "task.n=8", folder=tmp_path / name)[0] == 0
    for file in ("circuit.json", "edges.jsonl"):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two and len(one) > 1000
    rows = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").open()]
    assert rows and "seconds" in rows[0]
