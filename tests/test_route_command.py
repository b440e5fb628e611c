"""scripts/route.py, scripts/components.py and prompts without a corrupt side, by command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from discovery.runs.folder import read_run

ROOT = Path(__file__).parents[1]


def run(script, *overrides, folder):
    command = [sys.executable, f"scripts/{script}.py", f"hydra.run.dir={folder}", *overrides]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)


def test_a_route_from_ids(tmp_path):
    done = run("route", "ids=[5,9,3,40,5]", "target=9", folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "run").state == "done"
    found = json.loads((tmp_path / "run/route.json").read_text())
    assert [t["id"] for t in found["tokens"]] == [5, 9, 3, 40, 5] and found["edges"]
    assert "the largest" in done.stdout and "route.json" in done.stdout
    assert (tmp_path / "run/route.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "overrides, words",
    [
        (['text=He said: "it\'s", {a}\\'], ["text='He said: \"it\\'s\", {a}\\\\'", "no tokenizer"]),
        (["ids=[1]", "target= Mary"], ["target=' Mary'"]),
    ],
)
def test_bad_input_is_one_clear_error(overrides, words, tmp_path):
    done = run("route", *overrides, folder=tmp_path / "run")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_components_of_a_task_against_a_file_of_prompts(tmp_path):
    lines = ({"clean_ids": [9, i, i + 1, i + 2, 9]} for i in range(20, 26))
    other = write(tmp_path / "other.jsonl", *lines)
    done = run("components", f"versus={other}", "task.n=8", folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run/components.json").read_text())
    assert found["task"]["n_prompts"] == 8 and found["versus"]["n_prompts"] == 6
    one, two = (found[d]["components"]["a0.h3"]["mean"] for d in ("task", "versus"))
    gap = found["difference"]["components"]["a0.h3"]
    assert gap["flow"] == pytest.approx(one - two) and gap["low"] <= gap["flow"] <= gap["high"]
    assert "a0.h3" in found["difference"]["named"] and "| a0.h3 |" in done.stdout
    for name in ("components", "difference"):
        assert (tmp_path / f"run/{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["versus=nonesuch"], ["task/nonesuch"]),
        (["versus=none.jsonl", "+versus_fields.size=3"], ["versus.size", "no such field"]),
    ],
)
def test_bad_data_sets_are_one_clear_error(overrides, words, tmp_path):
    done = run("components", *overrides, folder=tmp_path / "run")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


LINES = [{"clean_ids": [9, 4, 7, 9, 4], "answers": [7], "wrong": [5]},
         {"clean_ids": [8, 3, 6, 8, 3], "answers": [6], "wrong": [5]}]  # fmt: skip


def test_routes_need_no_corrupt_prompts(tmp_path):
    path = write(tmp_path / "mine.jsonl", *LINES)
    task = ["task=pairs", f"task.path={path}", "method=ifr", "tracking=disabled",
            "ablation=resample", "method.n_edges=20"]  # fmt: skip
    done = run("discover", *task, folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "no corrupt prompts" in done.stdout
    result = read_run(tmp_path / "run").result
    assert result["n_edges"] > 0 and result["faithfulness"] is result["metric_circuit"] is None
