"""Run folders: what survives kills, full disks, bad values and races."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import discovery
from acdc.errors import InputError
from discovery.runs import folder as run_folder
from discovery.runs.folder import RunFolder, Terminated, config_hash, read_run, termination_as_exit
from discovery.runs.json_files import write_json

CONFIG = {"model": {"name": "tiny", "layers": 2}, "threshold": 0.1}
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def start(folder: Path, body: str) -> subprocess.Popen[str]:
    """A child process that opens a run in `folder`, says so, and then does `body`."""
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from discovery.runs.folder import RunFolder, termination_as_exit\n"
        "with termination_as_exit(), RunFolder.create(Path(sys.argv[1]), {}, []) as run:\n"
        f"    print('ready', flush=True)\n    {body}\n"
    )
    root = Path(discovery.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


def full_disk(*args: object, **kwargs: object) -> None:
    raise NO_SPACE


def test_a_run_that_ends_well_reads_back_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with RunFolder.create(folder, CONFIG, ["threshold=0.1"]) as run:
        assert read_run(folder).state == "running"
        run.append_metrics({"reader": "logits", "kl": 0.5})
        run.append_metrics({"reader": "m1", "kl": 0.25})
        run.append_edges([{"edge": "m1->logits", "kept": True}, {"edge": "é\udc80", "kept": False}])
        run.append_edges([])
        run.write("result.json", {"edges": 1})
    found = read_run(folder)
    assert (found.state, found.result, found.circuit) == ("done", {"edges": 1}, None)
    assert [row["kl"] for row in found.metrics] == [0.5, 0.25]
    assert [row["edge"] for row in found.edges] == ["m1->logits", "é\udc80"]
    assert found.config == {
        "config": CONFIG,
        "overrides": ["threshold=0.1"],
        "config_hash": config_hash(CONFIG),
    }
    assert found.status["pid"] == os.getpid()
    assert found.status["started"] <= found.status["updated"]
    assert found.status["updated"].endswith("+00:00")
    names = {"config.json", "status.json", "metrics.jsonl", "edges.jsonl", "result.json"}
    assert {path.name for path in folder.iterdir()} == names  # no temporary file stays


def test_the_hash_depends_on_the_values_only() -> None:
    turned = {"threshold": 0.1, "model": {"layers": 2, "name": "tiny"}}
    assert config_hash(turned) == config_hash(CONFIG)
    assert config_hash({**CONFIG, "threshold": 0.2}) != config_hash(CONFIG)
    assert len(config_hash({})) == 16 and int(config_hash({}), 16) >= 0
    with pytest.raises(ValueError):
        config_hash({"threshold": float("nan")})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no luck"), "no luck"),
        (KeyboardInterrupt(), "interrupted from the keyboard"),
        (SystemExit(3), "exit with code 3"),
        (Terminated(), "terminated by SIGTERM"),
    ],
)
def test_a_failure_is_recorded_and_goes_on(
    tmp_path: Path, error: BaseException, message: str
) -> None:
    with pytest.raises(type(error)) as caught, RunFolder.create(tmp_path, CONFIG, []):
        raise error
    assert caught.value is error
    found = read_run(tmp_path)
    assert found.state == "failed"
    assert found.status["error"]["type"] == type(error).__name__
    assert found.status["error"]["message"] == message
    assert "test_a_failure_is_recorded" in found.status["error"]["traceback"]


def test_sigterm_is_recorded_and_gives_its_exit_code(tmp_path: Path) -> None:
    child = start(tmp_path, "time.sleep(60)")
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 143
    found = read_run(tmp_path)
    assert found.state == "failed"
    assert found.status["error"]["message"] == "terminated by SIGTERM"


def test_kill_9_loses_nothing_that_was_appended(tmp_path: Path) -> None:
    body = "for i in range(10**9): run.append_metrics({'i': i}); print(i, flush=True)"
    child = start(tmp_path, body)
    assert child.stdout is not None
    for _ in range(200):
        last = int(child.stdout.readline())
    child.kill()
    last = max(
        [last, *(int(line) for line in child.stdout.read().splitlines(True) if "\n" in line)]
    )
    # not waited for yet: a zombie is gone as well
    deadline = time.monotonic() + 5
    while read_run(tmp_path).state == "running" and time.monotonic() < deadline:
        time.sleep(0.01)
    found = read_run(tmp_path)
    child.wait(10)
    assert (found.state, found.status["state"]) == ("killed", "running")
    assert [row["i"] for row in found.metrics] == list(range(len(found.metrics)))
    assert len(found.metrics) > last >= 199
    assert read_run(tmp_path).state == "killed"


def test_a_torn_last_line_is_left_out_and_other_damage_is_named(tmp_path: Path) -> None:
    lines = tmp_path / "edges.jsonl"
    lines.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    found = read_run(tmp_path)
    assert found.edges == ({"a": 1}, {"a": 2})
    assert (found.state, found.config, found.metrics, found.result) == ("unknown", None, (), None)
    lines.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(InputError, match=r"edges.jsonl, line 2 is not JSON"):
        read_run(tmp_path)
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path / "nowhere")


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "discover.log").write_text("foreign files are fine")
    alive = rf"running, process {os.getpid()} is still alive"
    with RunFolder.create(tmp_path, CONFIG, []), pytest.raises(InputError, match=alive):
        RunFolder.create(tmp_path, {}, [])
    with pytest.raises(InputError, match=r"\(done\).*hydra.run.dir=.*delete"):
        RunFolder.create(tmp_path, {}, [])
    assert (read_run(tmp_path).config or {})["config"] == CONFIG
    (tmp_path / "status.json").write_text("")  # another process is just about to write it
    with pytest.raises(InputError, match=r"\(unknown\)"):
        RunFolder.create(tmp_path, {}, [])


def test_a_killed_run_is_told_from_a_foreign_one(tmp_path: Path) -> None:
    child = start(tmp_path, "time.sleep(60)")
    child.kill()
    child.wait(10)
    with pytest.raises(InputError, match=rf"killed: process {child.pid} is gone"):
        RunFolder.create(tmp_path, {}, [])
    status = json.loads((tmp_path / "status.json").read_text())
    write_json(tmp_path / "status.json", {**status, "host": "elsewhere"})
    assert read_run(tmp_path).state == "running"
    with pytest.raises(InputError, match=rf"process {child.pid} on host elsewhere"):
        RunFolder.create(tmp_path, {}, [])
    silent = {**status, "host": "elsewhere", "updated": "2020-01-01T00:00:00+00:00"}
    write_json(tmp_path / "status.json", silent)
    with pytest.raises(InputError, match=r"killed: .* on host elsewhere is silent since 2020"):
        RunFolder.create(tmp_path, {}, [])


def test_exactly_one_of_many_wins_the_folder(tmp_path: Path) -> None:
    def attempt(folder: Path, barrier: threading.Barrier, outcomes: list[str]) -> None:
        barrier.wait()
        try:
            RunFolder.create(folder, CONFIG, [])
            outcomes.append("won")
        except InputError:
            outcomes.append("refused")

    for n in range(25):
        outcomes: list[str] = []
        arguments = (tmp_path / str(n), threading.Barrier(8), outcomes)
        threads = [threading.Thread(target=attempt, args=arguments) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["refused"] * 7 + ["won"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "result.json", {"old": True})
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(InputError, match="Cannot write .*result.json: No space left on device"):
        write_json(tmp_path / "result.json", {"old": False})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text()) == {"old": True}


def test_a_full_disk_cuts_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise NO_SPACE
        return write(descriptor, data[: len(data) // 2])

    refused = pytest.raises(InputError, match="metrics.jsonl: No space left")
    with refused, RunFolder.create(tmp_path, CONFIG, []) as run:
        run.append_metrics({"i": 0})
        monkeypatch.setattr(os, "write", half)
        run.append_metrics({"i": 1, "text": "long enough to be written in several turns"})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"i": 0}\n'
    assert read_run(tmp_path).state == "failed"


def test_a_full_disk_does_not_hide_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="the reason"), RunFolder.create(tmp_path, CONFIG, []):
        monkeypatch.setattr(os, "replace", full_disk)
        raise RuntimeError("the reason")
    assert read_run(tmp_path).status["state"] == "failed"


def test_a_folder_that_cannot_be_claimed_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(InputError, match="status.json: No space"):
        patch.setattr(os, "write", full_disk)
        RunFolder.create(tmp_path, CONFIG, [])
    with pytest.raises(ValueError, match="threshold = nan"):
        RunFolder.create(tmp_path, {"threshold": float("nan")}, [])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write .*file"):
        RunFolder.create(tmp_path / "file", CONFIG, [])


def test_a_value_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a\[1\]\.b = inf is not a finite number"):
        write_json(tmp_path / "x.json", {"a": [0.5, {"b": float("inf")}]})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="^kl = nan"), RunFolder.create(tmp_path, {}, []) as run:
        run.append_metrics({"kl": float("nan")})
    assert read_run(tmp_path).metrics == ()


def test_the_heart_beats_while_the_run_lasts_and_not_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "HEARTBEAT_SECONDS", 0.01)

    def updated() -> str:
        return read_run(tmp_path).status["updated"]

    with RunFolder.create(tmp_path, CONFIG, []):
        seen = {updated()}
        deadline = time.monotonic() + 20
        while len(seen) < 4 and time.monotonic() < deadline:
            seen.add(updated())
            assert read_run(tmp_path).state == "running"
    assert len(seen) == 4 and read_run(tmp_path).state == "done"
    last = updated()
    time.sleep(0.1)
    assert updated() == last


def test_another_process_of_the_same_number_is_not_the_run(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, {}, []):
        status = json.loads((tmp_path / "status.json").read_text())
        assert run_folder.state_of(status) == "running"
        assert run_folder.state_of({**status, "born": "1"}) == "killed"
        assert run_folder.state_of({**status, "born": None}) == "running"


def test_a_run_does_not_write_into_its_successors_folder(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    mine = pytest.raises(InputError, match="no longer the folder")
    with mine, RunFolder.create(folder, CONFIG, []) as run:
        folder.rename(tmp_path / "moved")
        with RunFolder.create(folder, {}, []):
            before = (folder / "status.json").read_bytes()
            with pytest.raises(InputError, match="no longer the folder"):
                run.write("result.json", {})
            assert (folder / "status.json").read_bytes() == before
    assert read_run(folder).state == "done" and not (folder / "result.json").exists()


def test_a_silent_run_on_another_host_was_killed(tmp_path: Path) -> None:
    """Silent for longer than SILENT_SECONDS; what is no time says nothing."""
    now = datetime.now(timezone.utc)
    for ago, state in ((0, "running"), (60, "running"), (120, "killed"), (None, "running")):
        at = "yesterday" if ago is None else (now - timedelta(seconds=ago)).isoformat()
        status = {"state": "running", "pid": 1, "host": "elsewhere", "updated": at}
        assert run_folder.state_of(status) == state
        assert run_folder.state_of({**status, "state": "done"}) == "done"


def test_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), termination_as_exit():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_do_without_the_handler() -> None:
    seen: list[object] = []

    def body() -> None:
        with termination_as_exit():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
