"""The command `circuits`: from a clone, and what of it is in a wheel."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))
circuits = importlib.import_module("circuits")


def run(*words, cwd):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "circuits.py"), *words], cwd=cwd,
        env={**os.environ, "PYTHONPATH": path}, text=True, capture_output=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_it_names_every_command_in_a_line(capsys, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["circuits", *words])
    circuits.main()
    lines = capsys.readouterr().out.splitlines()
    assert all(sum(line.startswith(f"  {name} ") for line in lines) == 1 for name in known())


@pytest.mark.parametrize("name", ["aggregate", "dashboard", "draw", "export", "workspace"])
@pytest.mark.quick("draw", "export")
def test_help_calls_a_command_by_its_name(name, tmp_path):
    done = run(name, "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: circuits {name} ")


def known():
    assert len(circuits.COMMANDS) == 16
    assert all((ROOT / "scripts" / f"{name}.py").is_file() for name in circuits.COMMANDS)
    return circuits.COMMANDS


@pytest.mark.parametrize("word", ["disco", "command", "../discover", "task=ioi"])
def test_an_unknown_command_is_one_sentence(capsys, monkeypatch, word):
    monkeypatch.setattr(sys, "argv", ["circuits", word])
    with pytest.raises(SystemExit) as stop:
        circuits.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and word in said
    assert all(name in said for name in known())


def test_the_main_job_and_its_folder_called_by_what_was_run(tmp_path):
    pair = {"answers": [2], "wrong": [5]}
    lines = [{"clean_ids": [i, 9, 2, i], "corrupt_ids": [i, 7, 2, 8]} | pair for i in range(20, 32)]
    path = tmp_path / "my task.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["task=pairs", f"task.path={path}", "method.threshold=0.5", "tracking=disabled"]
    done = run("discover", *words, "tune=0", "test=0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("runs/*/*/result.json")
    assert result.parent.name.endswith("_induction_my-task_acdc")
    assert json.loads(result.read_text())["task"] == "my task"


def test_a_refusal_of_the_command_is_its_own(tmp_path):
    done = run("route", "task=ioi", "text=When", cwd=tmp_path)
    assert done.returncode == 2 and "exactly one of text, ids and task" in done.stderr
    done = run("export", "nowhere", "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 2 and "nowhere is not a folder" in done.stderr
    assert "--out" in run("export", "--help", cwd=tmp_path).stdout


def test_the_wheel_holds_all_that_the_commands_need(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    for name in ("acdc", "discovery", "scripts", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
         "--wheel-dir", "out", "."],
        cwd=tmp_path, text=True, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {f"circuit_discovery/{name}.py" for name in [*known(), "command", "sweeping"]}
    places = {"conf": "circuit_discovery/conf", "acdc": "acdc", "discovery": "discovery"}
    for folder, place in places.items():
        files = [f for f in (ROOT / folder).rglob("*") if f.is_file()]
        shown = [f for f in files if f.suffix not in (".pyc", ".md") and f.parent.name != "gallery"]
        wanted |= {f"{place}/{f.relative_to(ROOT / folder).as_posix()}" for f in shown}
    assert len(wanted) > 150
    assert found == wanted | {f"circuit_discovery/{name}.py" for name in ("__init__", "circuits")}
