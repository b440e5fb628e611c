"""Trackers; what an offline W&B run holds is read back with the program that wandb ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import discovery
from acdc.errors import InputError
from discovery.runs.tracking import (
    Chart,
    NullTracker,
    Outcome,
    TestedEdge,
    charts_over,
    check_tracking,
    start_tracker,
    table_edges,
)

CONFIG = {"model": {"name": "tiny"}, "threshold": 0.1}
EDGES = [TestedEdge(f"m{i}->logits", i, 0.1 * i, i == 2) for i in range(4)]


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither find the developer's W&B account nor write to it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "home"))
    # set by tracking for the whole process; listed here so that it is taken back after the test
    monkeypatch.setenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "folder": folder,
        "project": "circuits",
        "config": CONFIG,
        "name": "a name",
        "group": "a sweep",
        "job_type": "acdc",
        "tags": ["test"],
    }


def closed(folder: Path) -> list[dict[str, Any]]:
    """`records` of a run that was finished; the last bytes come some milliseconds later."""
    deadline = time.monotonic() + 5
    while not (log := records(folder)) or log[-1]["type"] != "exit":
        assert time.monotonic() < deadline, "the log never ended"
        time.sleep(0.05)
    return log


def records(folder: Path) -> list[dict[str, Any]]:
    """What the only offline run in the folder logged."""
    import wandb

    logs = list(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    if logs[0].stat().st_size <= 7:  # nothing but the header of the file
        return []
    command = [wandb.util.get_core_path(), "leet", "inspect", "--json", "--no-observability"]
    output = subprocess.run(
        [*command, "-run-file", str(logs[0])], capture_output=True, text=True, check=True
    ).stdout
    return [json.loads(line) for line in output.splitlines()]


def history(log: list[dict[str, Any]], key: str) -> list[Any]:
    items = [record["history"]["item"] for record in log if record["type"] == "history"]
    return [item[key] for item in items if key in item]


def test_the_table_holds_what_was_kept_and_the_strongest_of_the_rest() -> None:
    edges = [TestedEdge(str(i), i, (-1.0) ** i * ((7 * i) % 100), i % 10 == 0) for i in range(100)]
    chosen = table_edges(edges, limit=30)
    assert [e.order for e in chosen] == sorted({e.order for e in chosen}) and len(chosen) == 30
    left_out = [e for e in edges if e not in chosen]
    assert not any(e.kept for e in left_out)
    weakest = min(abs(e.effect) for e in chosen if not e.kept)
    assert all(abs(e.effect) <= weakest for e in left_out)
    assert [e for e in edges if e.kept] == table_edges(edges, limit=3)  # kept ones always stay
    assert table_edges(edges) == edges


def test_what_is_charted_over_what() -> None:
    """Each value over tests; those of most interest over edges left and seconds too."""
    row = {"reader": "m0", "metric": 0.5, "n_kept": 3, "n_tests": 7, "n_edges": 9, "seconds": 0.1}
    found = charts_over(row)
    assert found.copies == {
        "by edges left/metric": 0.5, "by edges left/n_kept": 3,
        "by seconds/metric": 0.5, "by seconds/n_kept": 3,
    }  # fmt: skip
    assert found.axes == {
        "reader": "n_tests", "metric": "n_tests", "n_kept": "n_tests",
        "by edges left/metric": "n_edges", "by edges left/n_kept": "n_edges",
        "by seconds/metric": "seconds", "by seconds/n_kept": "seconds",
    }  # fmt: skip
    learning = charts_over({"step": 4, "loss": 0.3, "budget": 0.1, "seconds": 2.0})
    assert learning.axes == {"loss": "step", "budget": "step", "by seconds/loss": "seconds"}
    assert charts_over({"kl": 0.1}).axes == {}


def test_disabled_needs_no_wandb(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport discovery.runs.tracking as t\n"
        "with t.start_tracker('disabled', folder=Path('.'), project='', config={}, name=None,"
        " group=None, job_type=None, tags=[]) as tracker:\n"
        "    tracker.log({'kl': 0.1}, 0)\n    tracker.finish(t.Outcome({}))\n"
        "assert 'wandb' not in sys.modules\n"
    )
    root = Path(discovery.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="tracking=on is unknown.*disabled, wandb_offline"):
        check_tracking("on")
    with pytest.raises(InputError, match="needs a W&B API key"):
        check_tracking("wandb_online")
    refused = pytest.raises(InputError, match="needs a W&B API key")
    with refused, start_tracker("wandb_online", **arguments(tmp_path)):
        pytest.fail("started without an account")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_tracking("wandb_online")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(InputError, match="tracking=wandb_online: WANDB_API_KEY invalid"):
        check_tracking("wandb_online")


def test_an_offline_run_holds_everything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "circuit.json").write_text('{"edges": ["m2->logits"]}')
    (folder / "scores.npz").write_bytes(b"scores")
    Figure().savefig(folder / "circuit.png")
    with start_tracker("wandb_offline", **arguments(folder)) as tracker:
        for step in range(3):
            row = {"kl": 0.5 * step, "reader": f"m{step}", "metric": step, "n_tests": 7 * step}
            tracker.log({**row, "n_edges": 9 - step, "seconds": 0.5}, step)
        outcome = Outcome(
            {"circuit_edges": 1},
            EDGES,
            tables={
                "heads": [{"head": "a0.h1", "induction": 0.9}, {"head": "a1.h0", "induction": None}]
            },
            charts={
                "front": Chart(
                    "edges", "share", {"eap": [(1.0, 0.2), (9.0, 0.8)], "ifr": [(3.0, 0.3)]}
                )
            },
            pictures={"circuit": folder / "circuit.png"},
            pages={"circuit_page": "<!doctype html><p>the circuit</p>"},
            files=[folder / "circuit.json", folder / "scores.npz"],
        )
        tracker.finish(outcome)
    assert capfd.readouterr() == ("", "")
    assert "WANDB_DATA_DIR" not in os.environ

    log = closed(folder)
    assert history(log, "kl") == [0, 0.5, 1] and history(log, "reader") == ["m0", "m1", "m2"]
    start = next(record["run"] for record in log if record["type"] == "run")
    assert (start["project"], start["run_group"], start["job_type"]) == (
        "circuits",
        "a sweep",
        "acdc",
    )
    assert any(r["type"] == "summary" and r["summary"]["update"].get("circuit_edges") for r in log)
    assert [record["exit"]["exit_code"] for record in log if record["type"] == "exit"] == [0]
    (media,) = folder.glob("wandb/offline-run-*/files/media")
    tables = {
        p.name.partition("_")[0]: json.loads(p.read_text()) for p in media.rglob("*.table.json")
    }
    assert tables["edges"]["data"][2] == ["m2->logits", 2, 0.2, True]
    assert tables["heads"]["columns"] == ["head", "induction"]
    assert tables["heads"]["data"] == [["a0.h1", 0.9], ["a1.h0", None]]
    assert [1, "eap", 0.2] in [[row[0], row[1], row[2]] for row in tables["front"]["data"]]
    (page,) = media.glob("html/*.html")
    assert page.read_text() == "<!doctype html><p>the circuit</p>"
    assert len(list(folder.glob("wandb/offline-run-*/files/media/images/*.png"))) == 1
    manifests = [r["artifact"]["manifest"] for r in log if r["type"] == "artifact"]
    staged = [Path(entry["local_path"]) for m in manifests for entry in m["contents"]]
    kept = {p.read_text() for p in staged if p.name.partition(".")[2] != "table.json"}
    assert {'{"edges": ["m2->logits"]}', "scores"} <= kept
    assert all(path.is_relative_to(folder) for path in staged)
    assert not (tmp_path / "home" / ".local").exists()  # where wandb would stage them


def test_a_failure_inside_fails_the_wandb_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    failing = pytest.raises(InputError, match="the reason")
    with failing, start_tracker("wandb_offline", **arguments(tmp_path)) as tracker:
        tracker.log({"kl": 0.1}, 0)
        raise InputError("the reason")
    assert capfd.readouterr() == ("", "")  # no traceback: the scripts decide what is shown
    log = closed(tmp_path)
    assert history(log, "kl") == [0.1]
    assert [record["exit"]["exit_code"] for record in log if record["type"] == "exit"] == [1]


def test_a_name_that_wandb_refuses_is_the_users_to_mend(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match="Invalid project name 'a/b'")
    with refused, start_tracker("wandb_offline", **{**arguments(tmp_path), "project": "a/b"}):
        pytest.fail("started")


def test_kill_9_after_three_seconds_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL")
    code = (
        "import sys, time\nfrom pathlib import Path\nimport discovery.runs.tracking as t\n"
        "with t.start_tracker('wandb_offline', folder=Path(sys.argv[1]), project='p', config={},"
        " name=None, group=None, job_type=None, tags=[]) as tracker:\n"
        "    for step in range(20): tracker.log({'i': step}, step)\n"
        "    tracker.log({'last': 1}, 20)\n"
        "    print('logged', flush=True)\n    time.sleep(60)\n"
    )
    root = Path(discovery.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "logged\n"
    time.sleep(3)
    child.kill()
    child.wait(10)
    log = records(tmp_path)
    assert history(log, "i") == list(range(20))
    assert not [record for record in log if record["type"] == "exit"]


def test_the_null_tracker_takes_everything() -> None:
    tracker = NullTracker()
    tracker.log({"kl": 0.1, "reader": "m0", "step": 1}, 0)
    tracker.finish(Outcome({}, EDGES))
