"""What the server answers: the files' own numbers, and nothing but them, whatever lies there."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import socket
import sys
from importlib.resources import files as package_files
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from acdc.errors import InputError  # noqa: E402
from discovery.dashboard import contents, files, studies  # noqa: E402
from discovery.dashboard.app import make_app  # noqa: E402
from discovery.dashboard.export import SCRIPTS, export_page  # noqa: E402
from discovery.dashboard.head_contents import heads  # noqa: E402
from discovery.dashboard.validation_contents import validation  # noqa: E402
from discovery.heads import rules

SCRIPT_FOLDER = Path(__file__).parents[2] / "scripts"
PAGE = package_files("discovery.dashboard").joinpath("page")


def client(root):
    return TestClient(make_app(root), base_url="http://127.0.0.1", raise_server_exceptions=True)


def listed(root):
    answer = client(root).get("/api/runs")
    assert answer.status_code == 200
    return {run["id"]: run for run in answer.json()["runs"]}


def one(root, run):
    answer = client(root).get("/api/run", params={"id": run})
    assert answer.status_code == 200
    return answer.json()


def command(name):
    """A script as a module."""
    sys.path.insert(0, str(SCRIPT_FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(
            f"command_{name}", SCRIPT_FOLDER / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT_FOLDER))
    return module


# ---- pages of a run ----------------------------------------------------------------------------


def test_a_run_s_own_pages_are_named_and_served_without_power(tmp_path, written):
    written(tmp_path / "a", status={"state": "done"})
    assert one(tmp_path, "a")["pages"] == []
    (tmp_path / "a" / "explanation.html").write_text("<h1>How</h1><script>alert(1)</script>")
    assert one(tmp_path, "a")["pages"] == ["explanation.html"]
    asked = {"id": "a", "name": "explanation.html"}
    answer = client(tmp_path).get("/page", params=asked)
    assert answer.status_code == 200 and answer.text.startswith("<h1>How</h1>")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox;") and "script-src" not in policy
    assert "default-src 'none'" in policy and answer.headers["x-content-type-options"] == "nosniff"
    (tmp_path / "secret.html").write_text("secret")
    (tmp_path / "a" / "report.html").symlink_to(tmp_path.parent)
    for refused in ({"name": "report.html"}, {"name": "status.json"}, {"name": "../secret.html"},
                    {"id": "nowhere"}):  # fmt: skip
        answer = client(tmp_path).get("/page", params=asked | refused)
        assert answer.status_code == 404 and "error" in answer.json(), refused
    assert "explanation.html" not in export_page(tmp_path, ["a"]).split("</script>")[-1]


# ---- what is shown equals the files -------------------------------------------------------------


def test_the_table_is_what_the_files_say(runs, on_disk):
    found = listed(runs)
    assert sorted(found) == ["acdc_0.05", "acdc_0.5", "failed", "other/eap_ig", "route"]
    for name in ("acdc_0.05", "acdc_0.5", "other/eap_ig"):
        result, run = on_disk(name, "result.json"), found[name]
        for key in ("model", "task", "method", "threshold", "n_edges", "faithfulness", "metric",
                    "unit", "lower_is_better"):  # fmt: skip
            assert run[key] == result[key], key
        assert run["metric_circuit"] == result["metric_circuit"] and run["state"] == "done"
        assert run["seconds"] == result["seconds"]["search"]
    assert found["failed"]["state"] == "failed" and "no such task" in found["failed"]["error"]
    assert found["route"]["views"] == ["route"] and "circuit" in found["acdc_0.5"]["views"]


def test_a_run_is_what_its_files_say(runs, on_disk):
    found = one(runs, "acdc_0.05")
    kept = {
        name: edge["score"]
        for name, edge in on_disk("acdc_0.05", "circuit.json")["edges"].items()
        if edge["in_graph"]
    }
    edges = found["circuit"]["edges"]
    assert {f"{writer}->{reader}": effect for writer, reader, effect in edges} == kept
    assert len(edges) == found["summary"]["n_edges"] and found["circuit"]["skipped"] == 0
    sizes = [abs(effect) for _, _, effect in edges]
    assert sizes == sorted(sizes, reverse=True)
    lines = [json.loads(line) for line in (runs / "acdc_0.05/metrics.jsonl").open()]
    for shown, line in zip(found["search"], lines, strict=True):
        assert all(line[key] == value for key, value in shown.items())
    file = on_disk("acdc_0.05", "heads.json")
    assert [p["tokens"] for p in found["heads"]["prompts"]] == [
        p["tokens"] for p in file["prompts"]
    ]
    for head in found["heads"]["heads"]:
        entry = file["heads"].pop(head["name"])
        for key in ("candidates", "attention", "patterns", "writes"):
            assert head[key] == entry[key]
        scores = {k: {"low": None, "high": None} | v for k, v in entry["scores"].items()}
        assert head["scores"] == scores
    assert not file["heads"]
    assert found["heads"]["about"]["scores"] == [
        {"name": name, **said} for name, said in file["about"]["scores"].items()
    ]
    verdicts = on_disk("acdc_0.05", "validation.json")["verdicts"]
    assert [v["holds"] for v in found["validation"]["verdicts"]] == [v["holds"] for v in verdicts]
    assert len(found["validation"]["verdicts"]) > 8 and found["problems"] == []


def test_words_on_scores_are_the_files_and_ours_where_it_has_none():
    score = {"mine": {"unit": "share", "means": "what I say"}}
    head = {"heads": {"a0.h0": {"scores": {"mine": {"value": 0.5}}}}}
    found = heads(head | {"about": {"attends": 0.7, "scores": score}})["about"]
    mine = {"name": "mine", "on": None} | score["mine"]  # on which prompts it does not say
    assert found == {"attends": 0.7, "scores": [mine]}
    old = heads(head)["about"]
    assert old["attends"] == rules.ATTENDS and len(old["scores"]) == len(rules.about()["scores"])


def test_a_route_is_what_its_file_says(runs, on_disk):
    (found,), file = one(runs, "route")["routes"], on_disk("route", "route.json")
    drawn = [e for e in file["edges"] if e["source"] is not None and e["layer"] is not None]
    assert found["tokens"] == [t["text"] for t in file["tokens"]]
    assert [e["flow"] for e in found["edges"]] == [e["flow"] for e in drawn] and drawn
    assert found["skipped"] == len(file["edges"]) - len(drawn)


def test_routes_of_a_run_are_those_of_the_prompts_that_its_heads_show(runs):
    run = one(runs, "acdc_0.05")
    assert "route" in run["summary"]["views"] and len(run["routes"]) > 1
    for found, prompt in zip(run["routes"], run["heads"]["prompts"], strict=False):
        assert found["tokens"] == prompt["tokens"] and found["edges"]
        assert found["start"]["target"] == prompt["answers"]
    for line in runs.joinpath("acdc_0.05", "routes.jsonl").read_text().splitlines():
        flow = json.loads(line)["flow"]
        assert abs(sum(flow["input"]) + flow["constants"] - 1) < 1e-6  # its ends sum to one


def test_edges_of_a_shared_group_are_one_edge():
    """Two query heads a group; the file has each key edge twice, the query edge once."""
    names = ["input->a1.h2<k>", "input->a1.h3<k>", "a0.h0->a1.h3<q>", "m9->logits"]
    data = {
        "cfg": {"n_layers": 2, "n_heads": 4},
        "graph": {"n_kv_heads": 2, "kv": "per_group"},
        "edges": {name: {"score": -0.5, "in_graph": True} for name in names},
    }
    found = contents.circuit(data)
    assert found["edges"] == [["input", "a1.kv1<k>", -0.5], ["a0.h0", "a1.h3<q>", -0.5]]
    assert found["skipped"] == 1 and found["groups"] == 2  # layer 9 does not exist


def test_a_search_that_still_runs_shows_its_newest_line(tmp_path, written):
    status = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    lines = '{"n_kept": 3, "metric": 0.5, "seconds": 2}\n{"n_kept": 4, "metric": 0.75}\n{"n_ke'
    written(tmp_path / "a", status=status, metrics=lines)
    run = listed(tmp_path)["a"]
    assert (run["state"], run["n_edges"], run["metric_circuit"]) == ("running", 4, 0.75)
    written(tmp_path / "a", status=status | {"pid": 2**22 + 1})
    assert listed(tmp_path)["a"]["state"] == "killed"


# ---- nothing but them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    ["..", "../secret", "/etc", "runs/../../secret", "link", "link/run", "", "a\0b", "x" * 5000],
)  # fmt: skip
def test_folders_outside_are_refused(run, tmp_path, written):
    written(tmp_path / "secret" / "run", status={"state": "done"})
    written(tmp_path / "secret", status={"state": "done"})
    written(tmp_path / "runs" / "runs", status={"state": "done"})
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "secret")
    for path in ("/api/run", "/export"):
        answer = client(tmp_path / "runs").get(path, params={"id": run})
        assert answer.status_code == 404 and answer.json() == {"error": "There is no such run."}
    assert list(listed(tmp_path / "runs")) == ["runs"]


def test_files_outside_are_not_read(tmp_path, written):
    written(tmp_path / "secret", result={"model": "secret", "n_edges": 1})
    run = written(tmp_path / "runs" / "run", status={"state": "done"})
    (run / "result.json").symlink_to(tmp_path / "secret" / "result.json")
    (run / "heads.json").symlink_to("heads.json")
    found = listed(tmp_path / "runs")["run"]
    assert found["state"] == "unreadable" and "leads outside" in found["error"]
    assert found["model"] is None and "heads" not in found["views"]
    text = client(tmp_path / "runs").get("/api/run", params={"id": "run"}).text
    assert "secret" not in text and "heads.json" in text


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("\x00\x01\x02", "not JSON"),
        ('{"n_edges": ' + "9" * 5000 + "}", "not JSON"),
        ("x" * 3000, "most we read"),
    ],
)
def test_what_cannot_be_read_is_listed_with_the_reason(text, words, tmp_path, written, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 2000 if words == "most we read" else files.LARGEST)
    written(tmp_path / "bad", status={"state": "done"}, result=text, circuit=text, metrics=text)
    written(tmp_path / "good", status={"state": "done"}, result={"n_edges": 7})
    found = listed(tmp_path)
    assert found["bad"]["state"] == "unreadable" and words in found["bad"]["error"]
    assert found["good"]["n_edges"] == 7
    details = one(tmp_path, "bad")
    assert details["circuit"] is None and any("circuit.json" in p for p in details["problems"])


def test_a_pipe_does_not_make_us_wait(tmp_path, written):
    run = written(tmp_path / "run", status={"state": "done"})
    os.mkfifo(run / "config.json")
    assert "not a regular file" in listed(tmp_path)["run"]["error"]


def test_values_that_browsers_refuse_become_null(tmp_path, written):
    written(
        tmp_path / "run",
        status='{"state": "running", "pid": 1e999, "host": NaN}',
        result='{"faithfulness": NaN, "n_edges": 1e999, "model": "\\ud800", "threshold": 1e308}',
    )
    run = listed(tmp_path)["run"]
    assert run["faithfulness"] is None and run["n_edges"] is None and run["threshold"] is None
    status = {"state": "running", "pid": 10**30, "host": os.uname().nodename}
    written(tmp_path / "run", status=status)
    assert listed(tmp_path)["run"]["state"] == "killed"


KEYS = st.sampled_from(
    ["cfg", "graph", "edges", "n_layers", "n_heads", "score", "in_graph", "tokens", "text", "start",
     "source", "target", "layer", "flow", "verdicts", "holds", "scrubbing", "recovered", "tests",
     "faithfulness", "cells", "completeness", "tried", "worst", "config", "method", "model", "name",
     "kv", "n_kv_heads", "a0.h0->logits", "input->m0", "nodes", "threshold", "seconds", "curves",
     "table", "signed", "points", "method", "methods", "task", "versus", "components", "difference",
     "named", "flow", "mean", "about", "scores", "means", "a0.h1", "m0", "order", "edge", "effect",
     "kept", "config"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(KEYS, inside, max_size=5),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_form_of_a_file_is_an_error(data):
    shapes = (contents.circuit, heads, contents.route, validation,
              studies.methods, studies.components)  # fmt: skip
    found = [shape(data) for shape in shapes]
    found += [contents.summary(data, data, data), contents.search([data])]
    found += [contents.decisions([data, {**data, "order": 1, "edge": "m0->logits"}])]
    json.dumps(found, allow_nan=False)


def test_headers_methods_and_hosts(runs):
    asking = client(runs)
    for path in ("/", "/api/runs", "/main.js", "/nothing", "/api/run?id=nothing"):
        policy = asking.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert asking.get(path).headers["x-content-type-options"] == "nosniff"
        assert asking.get(path, headers={"host": "evil.example"}).status_code == 400
        for method in ("post", "put", "delete", "patch"):
            assert getattr(asking, method)(path).status_code in (404, 405)
    assert asking.get("/../../etc/passwd").status_code == 404
    assert asking.get("/openapi.json").status_code == asking.get("/docs").status_code == 404


# ---- the page's own files ------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere_and_writes_no_markup():
    for name in ("index.html", "style.css", *SCRIPTS):
        text = PAGE.joinpath(name).read_text()
        assert text.count("\n") <= 400
        foreign = r"https?://(?!www\.w3\.org/2000/svg\")|[\"'(`=]//|@import"
        assert not re.search(foreign, text), name
        assert not re.search(r"(inner|outer)HTML|insertAdjacent|document\.write|eval\(|new F", text)
    page = PAGE.joinpath("index.html").read_text()
    assert tuple(re.findall(r'src="([^"]+)"', page)) == SCRIPTS
    assert not re.search(r"<script(?![^>]* src)|style=|\bon\w+=", page)


def test_the_export_holds_the_run_and_runs_its_own_script_only(runs):
    page = export_page(runs, ["acdc_0.05", "acdc_0.5"])
    data = json.loads(re.search(r'id="data">(.*)</script>', page)[1])
    inside, served = data["details"]["acdc_0.05"], one(runs, "acdc_0.05")
    kept, whole = (json.loads(found["record"].pop("status")) for found in (inside, served))
    assert (inside.pop("pages"), served.pop("pages")) == ([], ["report.html"])
    assert served.pop("notes") is False
    assert inside == served and whole["host"] and whole["pid"]
    assert kept == {k: v for k, v in whole.items() if k not in ("host", "pid")}
    script, style = (
        re.search(rf"<{tag}>(.*)</{tag}>", page, re.DOTALL)[1] for tag in ("script", "style")
    )
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page
    assert " src=" not in page.split("<script", 1)[0] and 'href="style' not in page


def test_the_export_tells_no_machine(tmp_path, written):
    error = {"type": "Full", "message": "no room", "traceback": 'File "/home/alice/x.py"'}
    status = {"state": "failed", "host": "alices-laptop", "pid": 31337, "error": error}
    written(tmp_path / "run", status=status)
    page = export_page(tmp_path, ["run"])
    assert "no room" in page
    assert not re.search("alice|31337", page)
    served = one(tmp_path, "run")["record"]
    assert all(word in served["status"] for word in ("alices-laptop", "31337", "no room"))
    assert served["traceback"] == error["traceback"] and "alice/" not in served["status"]


def test_run_data_cannot_end_its_element(tmp_path, written):
    evil = "</script><script>window.hacked = 1</script><!--"
    written(tmp_path / "run", status={"state": "done"}, result={"model": evil})
    page = export_page(tmp_path, ["run"])
    assert evil not in page and page.count("<script") == 2
    data = json.loads(re.search(r'id="data">(.*)</script>', page)[1])
    assert data["runs"][0]["model"] == evil


# ---- the commands --------------------------------------------------------------------------------


def test_export_command(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    command("export").main([str(runs / "acdc_0.5"), str(runs / "other/eap_ig"), "--out", str(out)])
    assert '"other/eap_ig"' in out.read_text() and "page.html" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        command("export").main([str(tmp_path / "nothing"), "--out", str(out)])
    assert stopped.value.code == 2 and "holds no run" in capsys.readouterr().err


def test_export_command_refuses_in_one_sentence(runs, tmp_path, capsys):
    out, bare = tmp_path / "page.html", tmp_path / "bare"
    bare.mkdir()
    for asked, words in (
        ([bare], f"error: {bare} is no run's folder, so there is nothing to export.\n"),
        ([runs / "acdc_0.5", bare], f"error: {bare} is no run's folder, so there is"),
        ([runs / "acdc_0.5", runs / "route"], "error: route has no circuit, so it cannot be"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command("export").main([*map(str, asked), "--out", str(out)])
        assert stopped.value.code == 2 and capsys.readouterr().err.startswith(words)
    assert not out.exists()
    asking = client(runs).get("/export", params={"id": ["route", "acdc_0.5"]})
    assert asking.status_code == 404 and "route has no circuit" in asking.json()["error"]


def test_dashboard_command_refuses_an_address_that_it_cannot_have(runs, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for options, words in (
            (["--port", str(port)], f"port {port} is in use; choose another with --port"),
            (["--host", "192.0.2.1"], "--host 192.0.2.1 cannot be bound: "),
            (["--host", "no such host"], "--host no such host cannot be bound: "),
        ):
            with pytest.raises(SystemExit) as stopped:
                command("dashboard").main([str(runs), *options])
            out, err = capsys.readouterr()
            assert stopped.value.code == 2 and out == ""
            assert err.startswith(f"error: {words}") and err.count("\n") == 1


def test_names_tell_what_a_run_is(runs, tmp_path, written):
    """A guided search, and a route with the model and the prompt of its config."""
    for guide in (None, "eap_ig"):
        config = {"config": {"method": {"name": "acdc", "guide": guide}}}
        written(tmp_path / str(guide), config=config, result={"method": "acdc"})
    assert {run["id"]: run["method"] for run in listed(tmp_path).values()} == {
        "None": "acdc", "eap_ig": "acdc, guided"}  # fmt: skip
    route = listed(runs)["route"]
    assert (route["method"], route["model"], route["task"]) == ("route", "induction", "one prompt")


@pytest.mark.parametrize("host, warns", [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_dashboard_command_warns_if_others_can_read(host, warns, runs, monkeypatch, capsys):
    import uvicorn

    served = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append((app, options)))
    dashboard = command("dashboard")
    monkeypatch.setattr(dashboard, "check_address", lambda host, port: None)
    dashboard.main([str(runs), "--host", host])
    assert ("other machines" in capsys.readouterr().err) == warns
    app, options = served[0]
    assert options["host"] == host
    foreign = TestClient(app, base_url="http://box.example").get("/api/runs")
    assert foreign.status_code == (200 if warns else 400)


def test_dashboard_command_refuses_what_is_no_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command("dashboard").main([str(tmp_path / "nothing")])
    assert stopped.value.code == 2 and "is not a folder" in capsys.readouterr().err
    with pytest.raises(InputError):
        make_app(tmp_path / "nothing")
