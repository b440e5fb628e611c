"""What the tracker writes is what is read back, and what is damaged is left out, never guessed."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import discovery
from acdc.errors import InputError
from discovery.runs import wandb_log
from discovery.runs.tracking import Outcome, TestedEdge, start_tracker
from discovery.runs.wandb_log import (
    BLOCK,
    CHUNK,
    FIRST,
    HEADER,
    LAST,
    MIDDLE,
    WHOLE,
    TrackedRun,
    read_log,
    read_offline,
)

CONFIG = {
    "model": {"name": "tiny", "sizes": [2, 4]}, "threshold": 0.1, "seed": 0, "path": None,
    "text": 'a "quoted" <b> é', "on": True, "empty": {},
}  # fmt: skip
ROWS = [{"reader": f"m{i}", "metric": i / 2, "n_kept": i, "last": i == 4} for i in range(5)]
EDGES = [TestedEdge(f"m{i}->logits", i, (-0.1) ** i, i != 1) for i in range(4)]


def no_account(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Neither find the developer's W&B account nor write to it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", str(folder / "no-netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(folder / "home"))
    patch.setenv("WANDB_CACHE_DIR", str(folder / "home"))
    # set by tracking for the whole process; listed here so that it is taken back after the test
    patch.setenv("WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL", "1")


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_account(tmp_path, monkeypatch)


def log(tracker: Any, row: dict[str, Any], step: int) -> None:
    tracker.log(row, step)


def log_beside(tracker: Any, row: dict[str, Any], step: int) -> None:
    """Past the tracker, which takes no nested values."""
    tracker._run.log(row, step=step)


def write(
    folder: Path, rows: list[dict[str, Any]], error: Exception | None = None, log: Any = log
) -> Path:
    """A run directory with these rows, finished or failed, and its last bytes written."""
    folder.mkdir(parents=True)
    (folder / "circuit.json").write_text("{}")
    expected = pytest.raises(type(error)) if error else nullcontext()
    with expected, start_tracker(
        "wandb_offline", folder=folder, project="circuits", config=CONFIG, name="a name",
        group="a sweep", job_type="acdc", tags=["one", "two"],
    ) as tracker:  # fmt: skip
        for step, row in enumerate(rows):
            log(tracker, row, step)
        if error:
            raise error
        summary = {"task": "ioi", "n_edges": 3, "faithfulness": 0.25}
        tracker.finish(Outcome(summary, EDGES, files=[folder / "circuit.json"]))
    (run,) = folder.glob("wandb/offline-run-*")
    deadline = time.monotonic() + 5
    while read_offline(run).exit_code is None:
        assert time.monotonic() < deadline, "the log never ended"
        time.sleep(0.05)
    return run


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("wandb_runs")
        no_account(folder, patch)
        return write(folder / "run", ROWS)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("wandb_runs")
        no_account(folder, patch)
        rows = [{"metric": i / 7, "text": "x" * (i % 90)} for i in range(600)]
        rows[300]["text"] = "y" * 3 * BLOCK
        (log,) = write(folder / "run", rows).glob("*.wandb")
        assert log.stat().st_size > 6 * BLOCK
        return log.read_bytes()


def log_of(run: Path) -> bytes:
    (log,) = run.glob("run-*.wandb")
    return log.read_bytes()


def parse(data: bytes, **options: Any) -> TrackedRun:
    return read_log(io.BytesIO(data), Path("run-abc.wandb"), **options)


def logged(run: TrackedRun) -> list[dict[str, Any]]:
    """The rows without what wandb adds of its own, and without media, which join the last row."""
    return [{k: v for k, v in row.items() if k[0] != "_" and k != "edges"} for row in run.history]


# ---- the contract --------------------------------------------------------------------------------


def test_what_was_written_is_read(written: Path) -> None:
    run = read_offline(written)
    assert run.config == CONFIG
    assert logged(run) == ROWS
    assert [row["_step"] for row in run.history] == list(range(len(ROWS)))
    kept = {k: run.summary[k] for k in ("task", "n_edges", "faithfulness", "n_kept", "reader")}
    assert kept == {
        "task": "ioi", "n_edges": 3, "faithfulness": 0.25, "n_kept": 4, "reader": "m4"
    }  # fmt: skip
    assert "_wandb" not in {*run.config, *run.summary}
    assert (run.name, run.group, run.job_type) == ("a name", "a sweep", "acdc")
    assert (run.tags, run.project, run.entity) == (("one", "two"), "circuits", None)
    assert (run.state, run.exit_code) == ("done", 0)
    assert written.name.endswith(f"-{run.id}") and run.started is not None
    assert abs(time.time() - time.mktime(time.strptime(run.started[:10], "%Y-%m-%d"))) < 3 * 86400
    assert run.table("edges") == [dataclasses.asdict(edge) for edge in EDGES]
    assert run.table("nothing") == []


def test_the_rows_can_be_left_out(written: Path) -> None:
    short = read_offline(written, history=False)
    assert short.history == ()
    assert short == dataclasses.replace(read_offline(written), history=())


def test_a_failed_run(tmp_path: Path) -> None:
    run = read_offline(write(tmp_path / "run", ROWS[:2], InputError("the reason")))
    assert (run.state, run.exit_code, logged(run)) == ("failed", 1, ROWS[:2])


def test_nested_values_and_what_is_no_number(tmp_path: Path) -> None:
    row: dict[str, Any] = {"a": {"b": {"c": 1, "d": [1, {"e": 2}]}}, "nan": math.nan,
                           "inf": -math.inf, "none": None}  # fmt: skip
    (found,) = logged(read_offline(write(tmp_path / "run", [row], log=log_beside)))
    assert math.isnan(found.pop("nan"))
    assert found == {"a": {"b": {"c": 1, "d": [1, {"e": 2}]}}, "inf": -math.inf, "none": None}


def test_a_log_of_several_blocks(long: bytes) -> None:
    rows = logged(parse(long))
    assert [row["metric"] for row in rows] == [i / 7 for i in range(600)]
    assert [len(row["text"]) for row in rows] == [
        3 * BLOCK if i == 300 else i % 90 for i in range(600)
    ]


def test_a_killed_process_leaves_what_was_flushed(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nimport discovery.runs.tracking as t\n"
        "with t.start_tracker('wandb_offline', folder=Path(sys.argv[1]), project='p',"
        " config={'a': 1}, name='n', group=None, job_type=None, tags=[]) as tracker:\n"
        "    for step in range(21): tracker.log({'i': step}, step)\n"
        "    print('logged', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(discovery.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "logged\n"
    time.sleep(2.5)  # flushed every second
    child.kill()
    child.wait(10)
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    run = read_offline(folder)
    assert (run.state, run.exit_code, run.name) == ("unknown", None, "n")
    rows = [row["i"] for row in run.history]
    assert rows == list(range(len(rows))) and len(rows) >= 20 and run.config == {"a": 1}


# ---- damage --------------------------------------------------------------------------------------


def test_any_beginning_of_a_log_is_a_beginning_of_the_history(written: Path, long: bytes) -> None:
    for data, count in ((log_of(written), 300), (long, 40)):
        whole = parse(data).history
        step = len(data) // count
        lengths = []
        for end in sorted({*range(0, len(data), step), *range(20), len(data)}):
            found = parse(data[:end])
            assert found.history == whole[: len(found.history)]
            assert found.exit_code in (None, 0) and found.id
            lengths.append(len(found.history))
        assert lengths == sorted(lengths) and lengths[0] == 0 and lengths[-1] == len(whole)
        assert len(set(lengths)) > 5


def test_a_flipped_byte_ends_the_log_quietly(written: Path) -> None:
    data = log_of(written)
    whole, shorter = parse(data).history, 0
    for at in range(len(HEADER), len(data), 7):
        torn = bytearray(data)
        torn[at] ^= 0x40
        found = parse(bytes(torn)).history
        assert found == whole[: len(found)]
        shorter += len(found) < len(whole)
    assert shorter > 100


@pytest.mark.parametrize("at", range(len(HEADER)))
def test_another_header_is_refused(at: int, written: Path) -> None:
    data = bytearray(log_of(written))
    data[at] ^= 1
    with pytest.raises(InputError, match=r"run-abc\.wandb is not a W&B log"):
        parse(bytes(data))


def test_directories_without_records(tmp_path: Path) -> None:
    folder = tmp_path / "offline-run-20260101_000000-abc"
    folder.mkdir()
    with pytest.raises(InputError, match="offline-run-20260101_000000-abc holds no W&B log"):
        read_offline(folder)
    with pytest.raises(InputError, match="holds no W&B log"):
        read_offline(tmp_path / "nothing")
    log = folder / "run-abc.wandb"
    for data in (b"", HEADER[:3], HEADER):  # killed before the first flush
        log.write_bytes(data)
        run = read_offline(folder)
        assert (run.id, run.state, run.config, run.history) == ("abc", "unknown", {}, ())
    with log.open("ab") as file:
        file.truncate(wandb_log.LARGEST + 1)
    with pytest.raises(InputError, match="64 are the most"):
        read_offline(folder)
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(InputError, match="not a regular file"):
        read_offline(folder)


def test_media_outside_the_run_are_not_read(written: Path, tmp_path: Path) -> None:
    run = tmp_path / written.name
    shutil.copytree(written, run)
    secret = tmp_path / "secret.table.json"
    secret.write_text(json.dumps({"columns": ["secret"], "data": [[1]]}))
    (table,) = run.glob("files/media/table/*.json")
    table.unlink()
    table.symlink_to(secret)
    with pytest.raises(InputError, match="not kept"):
        read_offline(run).table("edges")
    for path in ("../../secret.table.json", str(secret), "", ".", 3, "a\0b"):
        entry = {"edges": {"_type": "table-file", "path": path}}
        found = dataclasses.replace(read_offline(run), summary=entry)
        with pytest.raises(InputError):
            found.table("edges")
    table.unlink()
    for text in ("{", "[]", '{"columns": 1, "data": 2}', '{"columns": ["a"], "data": [[1, 2]]}'):
        table.write_text(text)
        with pytest.raises(InputError, match="not a table that can be read"):
            read_offline(run).table("edges")


def chunk(kind: int, data: bytes) -> bytes:
    return CHUNK.pack(zlib.crc32(bytes([kind]) + data), len(data), kind) + data


def record(kind: str, **content: Any) -> bytes:
    from wandb.proto.wandb_internal_pb2 import Record

    return Record(**{kind: content}).SerializeToString()


def history(step: int, **values: str) -> bytes:
    items = [{"key": key, "value_json": text} for key, text in values.items()]
    return record("history", item=items, step={"num": step})


def test_blocks_by_hand() -> None:
    """Padding of one byte, an empty chunk in the last seven, parts over three blocks."""
    first, second = history(1, a="1"), history(2, a='"' + "z" * BLOCK + '"')
    # `second` begins with an empty part that takes the last seven bytes of a block exactly
    start = HEADER + chunk(WHOLE, first)
    start += chunk(WHOLE, pad(BLOCK - len(start) - 2 * CHUNK.size))
    assert len(start) == BLOCK - CHUNK.size
    parts = chunk(FIRST, b"") + chunk(MIDDLE, second[: BLOCK - CHUNK.size])
    parts += chunk(LAST, second[BLOCK - CHUNK.size :])
    found = parse(start + parts + chunk(WHOLE, history(3, a="3")))
    assert [row["_step"] for row in found.history] == [1, 2, 3]
    # three bytes left: padding, whatever they hold
    start = HEADER + chunk(WHOLE, first)
    start += chunk(WHOLE, pad(BLOCK - len(start) - CHUNK.size - 3)) + b"abc"
    assert len(start) == BLOCK
    found = parse(start + chunk(WHOLE, history(3, a="3")))
    assert [row["a"] for row in found.history] == [1, 3]


def pad(size: int) -> bytes:
    """A record of this many bytes that says nothing."""
    for line in range(size - 12, size):
        data = record("output_raw", line="l" * line)
        if len(data) == size:
            return data
    raise AssertionError(size)


def test_hostile_records_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = {"nested_key": ["k"] * 2000, "value_json": "1"}
    bad = [{"key": "a", "value_json": text} for text in ("{", "[" * 5000, "9" * 5000, "")]
    data = HEADER + chunk(WHOLE, record("summary", update=[deep, *bad, {"value_json": "1"}]))
    data += chunk(WHOLE, history(5, _step='"x"'))
    data += chunk(WHOLE, record("run", start_time={"seconds": 10**17}))
    found = parse(data)
    assert found.summary == {"a": None, "": 1} and found.history == ({"_step": "x"},)
    # parts without a beginning, a beginning without an end, no protobuf at all
    for torn in (
        chunk(LAST, b""), chunk(MIDDLE, b""), chunk(FIRST, b"") * 2, chunk(WHOLE, b"\x07"),
        chunk(FIRST, b"") + chunk(WHOLE, history(6)), chunk(0, b""), chunk(5, b""),
    ):  # fmt: skip
        assert parse(data + torn + chunk(WHOLE, history(7))).history == found.history
    monkeypatch.setattr(wandb_log, "MOST_VALUES", 3)
    rows = HEADER + b"".join(chunk(WHOLE, history(i)) for i in range(4))
    with pytest.raises(InputError, match="more than 3 values"):
        parse(rows)
    assert parse(rows, history=False).history == ()


def test_later_words_win_and_removals_remove() -> None:
    def change(update: list[tuple[list[str], str]], remove: list[list[str]] = []) -> bytes:  # noqa: B006
        items = [{"nested_key": keys, "value_json": text} for keys, text in update]
        gone = [{"nested_key": keys} for keys in remove]
        return chunk(WHOLE, record("config", update=items, remove=gone))

    data = HEADER + change([(["a"], '{"x": 1, "y": 2}'), (["b", "c"], "1"), (["d"], "1")])
    data += change([(["a", "y"], "3"), (["b"], "2"), (["e", "f"], "4")], [["d"], ["a", "x"]])
    assert parse(data).config == {"a": {"y": 3}, "b": 2, "e": {"f": 4}}
    assert parse(data + change([(["d"], "5")], [["e"]])).config["d"] == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=60)), max_size=8))
def test_no_bytes_are_an_error(chunks: list[tuple[int, bytes]]) -> None:
    parse(HEADER + b"".join(chunk(kind, data) for kind, data in chunks))
    parse(HEADER + b"".join(data for _, data in chunks))
