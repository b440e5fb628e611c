"""W&B runs in the dashboard: they show what their run folder shows; damage does no harm."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
from fastapi.testclient import TestClient  # noqa: E402
from test_dashboard_server import client, command, listed, one  # noqa: E402

from acdc.errors import InputError  # noqa: E402
from discovery.dashboard import contents, files, logged, sources, tracked  # noqa: E402
from discovery.dashboard.app import make_app  # noqa: E402
from discovery.dashboard.export import export_page  # noqa: E402
from discovery.dashboard.runs import summaries  # noqa: E402
from discovery.dashboard.sources import Project  # noqa: E402
from discovery.runs.wandb_log import TrackedRun, read_offline  # noqa: E402

NAME = "offline-run-20260101_000000-abc"
EVIL = "<script>alert(1)</script>"


def of(name):
    return f"{name}/wandb/{NAME}"


def run_of(summary, history=(), table=None, **more):
    """A run as read from W&B, with this edge table."""

    def media(path):
        assert path == "media/t.json"
        columns = ["edge", "order", "effect", "kept"]
        return json.dumps({"columns": columns, "data": table}).encode()

    if table is not None:
        summary = {**summary, "edges": {"_type": "table-file", "path": "media/t.json"}}
    fields = {
        "id": "abc", "name": "n", "entity": None, "project": "p", "group": None, "job_type": None,
        "tags": (), "config": {}, "state": "done", "exit_code": 0, "started": None,
    }  # fmt: skip
    return TrackedRun(**{**fields, **more}, summary=summary, history=tuple(history), media=media)


def contents_of(root):
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# ---- what is shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["acdc", "eap_ig"])
def test_a_run_and_its_mirror_show_the_same(name, tracked_runs, copied_runs):
    before = contents_of(copied_runs)
    own, mirror = one(tracked_runs, name), one(copied_runs, of(name))
    assert mirror["summary"] == listed(copied_runs)[of(name)]
    assert mirror["problems"] == []
    assert mirror["summary"].pop("tracked")["name"].startswith("induction-induction-")
    result = json.loads((tracked_runs / name / "result.json").read_text())
    assert own["summary"].pop("seconds") == result["seconds"]["search"]
    # all that its log says of them: how many plain passes, and how long one was
    seconds = result["search_in_forwards"] * result["forward_seconds"]
    assert mirror["summary"].pop("seconds") == pytest.approx(seconds, rel=1e-6)
    for key in ("id", "started", "views"):
        assert mirror["summary"].pop(key) != own["summary"].pop(key) or key == "views"
    assert [own["summary"].pop(key) for key in ("note", "tags", "groups")] == ["", [], {}]
    for asked in (mirror["summary"]["asked"], own["summary"]["asked"]):
        asked.pop("config_hash", None)  # of a W&B run it is a result
    found = mirror["summary"].pop("found"), own["summary"].pop("found")
    flat = {name: value for name, value in found[1].items() if "." not in name and name != "metric"}
    assert flat.items() <= found[0].items() and len(flat) > 15  # W&B is told what is not nested
    assert mirror["summary"] == own["summary"]
    assert own["circuit"].pop("score") and mirror["circuit"].pop("score") is None  # no log says it
    assert mirror["circuit"] == own["circuit"] and mirror["circuit"]["edges"]
    assert len(mirror["search"]) == len(own["search"])
    for row, theirs in zip(own["search"], mirror["search"], strict=True):
        assert row | {"seconds": 0} == theirs | {"seconds": 0} and theirs["seconds"] > 0
    config = json.loads(mirror["record"]["config"])
    assert config == json.loads(own["record"]["config"])["config"]
    assert json.loads(mirror["record"]["run"])["job_type"] == name
    assert before == contents_of(copied_runs)


def test_mirrors_are_not_listed_twice(tracked_runs, tmp_path, written):
    assert sorted(listed(tracked_runs)) == ["acdc", "eap_ig"]
    shutil.copytree(tracked_runs / "acdc" / "wandb", tmp_path / "sweep" / "wandb")
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    shutil.copytree(tracked_runs / "acdc" / "wandb", tmp_path / "refused" / "wandb")
    written(tmp_path / "refused", status={"state": "failed"})
    assert list(listed(tmp_path)) == ["refused"]


def test_links_are_not_followed(copied_runs, tmp_path):
    folder = tmp_path / "root" / "wandb"
    shutil.copytree(copied_runs / of("acdc"), folder / "offline-run-2-b")
    (folder / "latest-run").symlink_to("offline-run-2-b")
    (folder / "offline-run-3-c").symlink_to("offline-run-2-b")
    (folder / "offline-run-4-d").symlink_to(copied_runs / of("acdc"))
    root = tmp_path / "root"
    assert list(listed(root)) == ["wandb/offline-run-2-b"]
    for path in ("/api/run", "/export"):
        answer = client(root).get(path, params={"id": "wandb/offline-run-4-d"})
        assert answer.status_code == 404


def test_a_directory_can_be_the_root(copied_runs):
    assert list(listed(copied_runs / of("acdc"))) == ["."]
    assert one(copied_runs / of("acdc"), ".")["circuit"]["edges"]


def test_shared_groups_and_sizes_from_the_names():
    table = [
        ["input->a1.kv1<k>", 0, 0.5, True], ["a0.h2->a3.h1<q>", 1, -1, True],
        ["m2->logits", 2, 0.25, False], ["a9.h9<q>", 3, 1, True],
    ]  # fmt: skip
    found = tracked.circuit(run_of({}, table=table))
    assert found["edges"] == [["a0.h2", "a3.h1<q>", -1], ["input", "a1.kv1<k>", 0.5]]
    sizes = {k: found[k] for k in ("layers", "heads", "groups", "mlp", "skipped")}
    assert sizes == {"layers": 10, "heads": 10, "groups": 2, "mlp": True, "skipped": 1}
    said = {"n_layers": 24, "n_heads": 8, "n_kv_heads": 4, "has_mlp": False}
    for summary, config in ((said, {}), ({"has_mlp": False}, {"model": said})):
        found = tracked.circuit(run_of(summary, table=table[:3], config=config))
        sizes = {k: found[k] for k in ("layers", "heads", "groups", "mlp", "skipped")}
        assert sizes == {"layers": 24, "heads": 8, "groups": 4, "mlp": False, "skipped": 0}
        assert ["input", "a1.kv1<k>", 0.5] in found["edges"]
    assert tracked.circuit(run_of({})) is None
    assert tracked.circuit(run_of({}, table=[])) is None


def test_states_and_a_search_that_did_not_end():
    last = {"metric": 0.5, "n_kept": 3, "n_edges": 90, "_runtime": 7}
    config = {"method": {"name": "acdc", "metric": "kl"}, "task": "mine", "model": "gpt2"}
    line = tracked.summary("x", run_of(last, config=config, state="failed", exit_code=3), [])
    assert (line["n_edges"], line["metric"], line["metric_circuit"]) == (3, "kl", 0.5)
    assert (line["seconds"], line["state"]) == (7, "failed") and "exit code 3" in line["error"]
    assert (line["task"], line["model"], line["method"]) == ("mine", "gpt2", "acdc")
    done = tracked.summary("x", run_of({**last, "faithfulness": 0.9}, config=config), [])
    assert (done["n_edges"], done["faithfulness"], done["metric"]) == (90, 0.9, "kl")


def test_files_of_one_name_are_two_tasks():
    config = {"task": {"name": "pairs", "path": "my.jsonl"}}
    lines = [
        tracked.summary(name, run_of({"places": {"task": f"/x/{name}/my.jsonl"},
                                      "faithfulness": 0.9}, config=config), [])
        for name in ("one", "two")
    ]  # fmt: skip
    assert [line["task"] for line in contents.told_apart(lines)] == ["one/my", "two/my"]


def test_the_export_holds_an_offline_run(copied_runs, tmp_path):
    out = tmp_path / "page.html"
    command("export").main([str(copied_runs / of("acdc")), "--out", str(out)])
    kept = one(copied_runs, of("acdc"))["circuit"]["edges"]
    assert json.dumps(kept[0], separators=(",", ":")).replace("<", "\\u003c") in out.read_text()
    answer = client(copied_runs).get("/export", params={"id": [of("acdc"), of("eap_ig")]})
    assert answer.status_code == 200 and of("eap_ig") in answer.text


# ---- damage --------------------------------------------------------------------------------------


def log_in(folder, data):
    folder.mkdir(parents=True)
    (folder / "run-abc.wandb").write_bytes(data)
    return folder


def test_logs_that_cannot_be_read_are_listed_with_the_reason(copied_runs, tmp_path, monkeypatch):
    (log,) = (copied_runs / of("acdc")).glob("*.wandb")
    data = log.read_bytes()
    monkeypatch.setattr(files, "LARGEST", len(data))
    log_in(tmp_path / "offline-run-1-torn", data[: len(data) // 2])
    log_in(tmp_path / "offline-run-2-header", data[:7])
    log_in(tmp_path / "offline-run-3-text", b"no log at all")
    log_in(tmp_path / "offline-run-4-huge", data + b"\0")
    (tmp_path / "offline-run-5-empty").mkdir()
    (tmp_path / "offline-run-6-outside").mkdir()
    (tmp_path / "offline-run-6-outside" / "run-a.wandb").symlink_to(log)
    (tmp_path / "offline-run-7-gone").mkdir()
    (tmp_path / "offline-run-7-gone" / "run-a.wandb").symlink_to("nothing")
    os.mkfifo(log_in(tmp_path / "offline-run-8-pipe", b"") / "run-a.wandb")
    (tmp_path / "offline-run-9-file").write_text("x")
    found = {name.rpartition("-")[2]: run for name, run in listed(tmp_path).items()}
    assert set(found) == {"torn", "header", "text", "huge", "empty", "outside", "gone", "pipe"}
    assert found["torn"]["state"] == found["header"]["state"] == "unknown"
    assert found["torn"]["model"] == "induction" and found["torn"]["n_edges"] is not None
    for name, words in {"text": "not a W&B log", "huge": "most we read", "empty": "holds no W&B",
                        "outside": "leads outside", "gone": "missing",
                        "pipe": "not a regular file"}.items():  # fmt: skip
        assert found[name]["state"] == "unreadable" and words in found[name]["error"], name
        details = one(tmp_path, found[name]["id"])
        assert details["summary"] == found[name] and not details.get("circuit")
    whole = one(copied_runs, of("acdc"))["search"]
    torn = one(tmp_path, "offline-run-1-torn")
    assert torn["search"] == whole[: len(torn["search"])] and torn["circuit"] is None


def test_tables_outside_are_not_read(copied_runs, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    root = tmp_path / "root"
    run = root / NAME
    shutil.copytree(copied_runs / of("acdc"), run)
    (table,) = run.glob("files/media/table/edges_*.json")
    (secret / table.name).write_bytes(table.read_bytes())
    shutil.rmtree(table.parent)
    table.parent.symlink_to(secret)  # a folder on the way leads outside
    details = one(root, NAME)
    assert details["circuit"] is None and "leads outside" in details["problems"][0]
    assert details["summary"]["views"] == ["search"] and listed(root)[NAME]["views"] == ["search"]


def test_names_with_markup_stay_text():
    deep = []
    for _ in range(3000):
        deep = [deep]
    summary = {"model": EVIL, "task": EVIL, "metric": EVIL, "n_edges": EVIL, "faithfulness": 0.5,
               EVIL: float("nan"), "deep": deep}  # fmt: skip
    history = [{"reader": EVIL, "metric": float("inf")}]
    table = [[EVIL, 0, 1, True], [{}, 0, EVIL, True], ["m0->logits", 0, float("nan"), True]]
    run = run_of(summary, history, table, name=EVIL, group=EVIL, tags=(EVIL,), config={EVIL: EVIL})
    found = tracked.details(run, tracked.summary(EVIL, run, []))
    text = json.dumps(found, allow_nan=False)
    assert json.loads(text)["summary"]["model"] == EVIL
    assert found["record"]["summary"] == "Nested too deeply to be shown."
    assert found["search"][0]["metric"] is None and found["circuit"]["edges"] == []
    for other in ([[1]], [], {}, [[["a"], 0, 0, True]], [["m0->logits"] * 4]):
        tracked.details(run_of(summary, table=other), {})


def test_a_log_is_read_once_however_often_its_run_is_listed(copied_runs, tmp_path, monkeypatch):
    """And without its rows; scripts/benchmark_dashboard.py has the seconds for 500 runs."""
    runs = [tmp_path / "wandb" / f"offline-run-2026-{i}" for i in range(5)]
    for run in runs:
        shutil.copytree(copied_runs / of("acdc"), run)
    logs, read, rows = [log for run in runs for log in run.glob("*.wandb")], [], []

    def reading(root, path):
        read.append(path)
        return read_bytes(root, path)

    def parsing(file, log, history, media):
        rows.append(history)
        return read_log(file, log, history, media)

    read_bytes, read_log = files.read_bytes, logged.read_log
    monkeypatch.setattr(files, "read_bytes", reading)
    monkeypatch.setattr(logged, "read_log", parsing)
    for _ in range(3):
        assert sum(run["faithfulness"] is not None for run in summaries(tmp_path)) == 5
    assert sorted(path for path in read if path.suffix == ".wandb") == sorted(logs)
    assert len(read) == len(set(read)) == 2 * len(logs)  # and its edge table
    assert rows == [False] * len(logs)
    os.utime(logs[0])  # a log that has changed
    summaries(tmp_path)
    assert set(read[10:]) == {path for path in read[:10] if path.is_relative_to(runs[0])}


def test_a_line_follows_its_log(copied_runs, tmp_path):
    run = tmp_path / NAME
    shutil.copytree(copied_runs / of("acdc"), run)
    assert listed(tmp_path)[NAME]["faithfulness"] is not None
    (log,) = run.glob("*.wandb")
    log.write_bytes(log.read_bytes()[:7])
    assert listed(tmp_path)[NAME]["faithfulness"] is None


# ---- a project -----------------------------------------------------------------------------------


class Api:
    """Answers as wandb.Api does, from a run that was read; counts what it is asked."""

    def __init__(self, read):
        self.read, self.asked, self.failure, self.state = read, [], None, "finished"
        self.answers = threading.Event()
        self.answers.set()

    def flush(self):
        pass

    def runs(self, path, order, lazy):
        self.answers.wait(10)
        return [self.run(f"{path}/abc")]

    def run(self, path):
        self.asked.append(path)
        if self.failure:
            raise self.failure
        return self

    id, name, group, job_type, tags = "abc", "a name", None, "acdc", []
    created_at = "2026-01-01T00:00:00Z"
    config = property(lambda self: dict(self.read.config))
    summary_metrics = property(lambda self: dict(self.read.summary))

    def scan_history(self, use_cache):
        return self.read.history

    def file(self, name):
        return File(name, self.read.media(name))


class File:
    def __init__(self, name, data):
        self.name, self.data, self.size = name, data, len(data)

    def download(self, root, replace):
        path = Path(root, self.name)
        path.parent.mkdir(parents=True)
        path.write_bytes(self.data)
        return path.open()


@pytest.fixture
def api(copied_runs):
    return Api(read_offline(copied_runs / of("acdc")))


def test_a_project_is_shown_as_its_offline_run_is(api, copied_runs):
    offline = one(copied_runs, of("acdc"))
    app = make_app(copied_runs, None, [Project("me/mine", api)])
    asking = TestClient(app, base_url="http://127.0.0.1")
    lines = {run["id"]: run for run in asking.get("/api/runs").json()["runs"]}
    assert sorted(lines) == sorted([of("acdc"), of("eap_ig"), "wandb:me/mine/abc"])
    details = asking.get("/api/run", params={"id": "wandb:me/mine/abc"}).json()
    assert details["summary"] == lines["wandb:me/mine/abc"]
    assert details["circuit"] == offline["circuit"] and details["search"] == offline["search"]
    own = {"id", "started", "tracked"}
    assert {k: v for k, v in details["summary"].items() if k not in own} == {
        k: v for k, v in offline["summary"].items() if k not in own
    }
    for run in ("wandb:me/mine", "wandb:me/mine/", "wandb:me/mine/../x", "wandb:me/other/abc"):
        for path in ("/api/run", "/export"):
            answer = asking.get(path, params={"id": run})
            assert answer.json() == {"error": "There is no such run."}
    export = asking.get("/export", params={"id": ["wandb:me/mine/abc", of("acdc")]})
    assert export.status_code == 200 and "wandb:me/mine/abc" in export.text


def test_a_server_is_asked_once_a_minute_and_may_fail(api):
    now = [100.0]
    project = Project("me/mine", api, lambda: now[0])
    first = project.summaries()
    now[0] += 59
    assert project.summaries() == first and len(api.asked) == 1
    project.details("wandb:me/mine/abc")
    project.details("wandb:me/mine/abc")
    assert len(api.asked) == 2
    api.failure = ConnectionError("no route\nto the host")
    now[0] += 2
    lines = project.summaries()
    assert lines[:-1] == first and lines[-1]["state"] == "unreadable"
    assert lines[-1]["error"] == "W&B does not give me/mine: no route"
    assert project.summaries() == lines and len(api.asked) == 3
    now[0] += 60
    with pytest.raises(InputError, match="no route"):
        project.details("wandb:me/mine/abc")
    api.failure = None
    assert project.summaries() == first


def test_a_slow_server_holds_nobody_up(api, monkeypatch):
    monkeypatch.setattr(sources, "PATIENCE", 0.05)
    api.answers.clear()
    project = Project("me/mine", api)
    for _ in range(3):
        (line,) = project.summaries()
        assert line["error"] == "W&B has not answered yet."
    api.answers.set()
    monkeypatch.setattr(sources, "PATIENCE", 10)
    assert [line["id"] for line in project.summaries()] == ["wandb:me/mine/abc"]
    assert len(api.asked) == 1


def test_the_command(copied_runs, monkeypatch, capsys, tmp_path):
    import uvicorn

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append(app))
    for arguments, words in (
        ([], "name a folder"),
        (["--wandb", "mine"], "ENTITY/PROJECT"),
        (["--wandb", "me/mine"], "needs a W&B API key"),
        ([str(copied_runs), "--wandb", "me/mine"], "needs a W&B API key"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command("dashboard").main(arguments)
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and words in error and error.count("\n") == 1
    assert served == []
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    command("dashboard").main(["--wandb", "me/mine", "--host", "0.0.0.0"])
    assert len(served) == 1 and "every run of me/mine," in capsys.readouterr().err


def test_an_offline_run_alone_is_a_page(copied_runs):
    assert "n_layers" in export_page(copied_runs, [of("acdc")])
