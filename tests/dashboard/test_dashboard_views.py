"""The search as it grows, methods and components compared: what is shown equals the files."""

import json
import os

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, drawn, go, table  # noqa: E402

from discovery.dashboard import contents  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def lines(path):
    return [json.loads(line) for line in path.open()]


def number(text):
    return float(text.replace("−", "-"))


def decided(page):
    """The table of decisions: what, effect, kept or cut."""
    rows = page.locator(".decisions tbody tr").all_inner_texts()
    return [row.split("\t") for row in rows]


def seen_edges(page):
    return set(
        page.locator(".edge:not(.off)").evaluate_all(
            "(all) => all.map((e) => describePart(e, edgesHere)[0])"
        )
    )


# ---- the search ----------------------------------------------------------------------------------


def test_each_step_shows_its_decisions_and_the_circuit_so_far(page, address, runs, on_disk):
    folder = runs / "acdc_0.05"
    steps, decisions = lines(folder / "metrics.jsonl"), lines(folder / "edges.jsonl")
    edges = on_disk("acdc_0.05", "circuit.json")["edges"]
    circuit = {name for name, e in edges.items() if e["in_graph"]}
    go(page, address, "run", "acdc_0.05", "search")
    page.evaluate("async () => { window.edgesHere = (await loadRun('acdc_0.05')).circuit.edges; }")
    before, settled = 0, set()
    for i, step in enumerate(steps):
        page.fill("#step", str(i))
        mine, before = decisions[before : step["n_tests"]], step["n_tests"]
        kept = {d["edge"] for d in mine if d["kept"]}
        found = decided(page)
        assert len(found) == len(mine)
        names = {row[0].removeprefix("all edges into ").replace(" → ", "->"): row for row in found}
        for d in mine:
            _, effect, decision = names[d["edge"]]
            assert decision == ("kept" if d["kept"] else "cut")
            assert number(effect) == pytest.approx(d["effect"], rel=0.1, abs=6e-4)
        if mine:
            title = f"Tested for {step['reader']}: {len(kept)} of {len(mine)} kept"
            assert page.inner_text("#tested") == title
        if step["kind"] == "edges":
            settled |= {e for e in circuit if e.split("->")[1] == step["reader"]}
        assert {name.replace(" → ", "->") for name in seen_edges(page)} == settled
        assert page.locator(".settling text").text_content() == step["reader"].partition("<")[0]
    assert settled == circuit and before == len(decisions)
    page.fill("#step", "0")  # and back
    first = {e for e in circuit if e.endswith("->" + steps[0]["reader"])}
    assert drawn(page) == len(first) < len(circuit)
    page.click("[aria-label='Next test']")
    at = int(page.input_value("#step"))
    assert steps[at]["n_tests"] > steps[at - 1]["n_tests"] == steps[0]["n_tests"]


def test_a_running_search_shows_what_it_kept_so_far(page, tmp_path, runs, written):
    """No circuit file yet: sizes from the readers' names, edges from the decisions."""
    folder = runs / "acdc_0.05"
    status = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    run = written(tmp_path / "run", status=status)
    steps = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    half = steps[: 2 * len(steps) // 3]
    (run / "metrics.jsonl").write_text("".join(half))
    (run / "edges.jsonl").write_text((folder / "edges.jsonl").read_text() + '{"order": 10, "ed')
    n_tests = json.loads(half[-1])["n_tests"]
    with Server(tmp_path) as address:
        go(page, address, "run", "run")
        assert page.locator(".chart .stroke").count() == 3
        decisions = lines(folder / "edges.jsonl")[:n_tests]
        kept = [d for d in decisions if d["kept"] and d["kind"] == "edge"]
        assert drawn(page) == len(kept) == json.loads(half[-1])["n_kept"] > 0
        (run / "metrics.jsonl").write_text(half[0])  # only the logits: no sizes yet
        (run / "edges.jsonl").unlink()
        go(page, address, "run", "run")
        assert page.locator(".edge").count() == 0 and page.locator(".chart .stroke").count() == 3
        page.goto("about:blank")


@pytest.mark.slow
def test_replay_of_a_large_search_is_smooth(page, tmp_path, written, many_edges):
    """2,400 edges, 36 readers in 400 steps; a step toggles classes, and draws its own table."""
    circuit = many_edges(2400)
    names = sorted(circuit["edges"], key=lambda name: name.split("->")[1])
    readers = sorted({name.split("->")[1] for name in names})
    more = [f"a{layer}.h{head}<{p}>" for layer in range(10) for head in range(12) for p in "qkv"]
    readers += [reader for reader in more if reader not in readers]
    rows, tests, order = [], [], 0
    for reader in readers:
        for name in [n for n in names if n.endswith("->" + reader)]:
            tests.append(
                {"order": order, "edge": name, "kind": "edge", "effect": 0.1, "kept": True}
            )
            order += 1
        rows.append({"reader": reader, "kind": "edges", "metric": 1.0, "n_tests": order})
    run = written(
        tmp_path / "run", status={"state": "done"}, circuit=circuit,
        metrics="".join(json.dumps(row) + "\n" for row in rows),
    )  # fmt: skip
    (run / "edges.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tests))
    with Server(tmp_path) as address:
        go(page, address, "run", "run", "search")
        times = page.evaluate(
            """() => [...Array(60).keys()].map((i) => {
              const slider = document.getElementById("step");
              const start = performance.now();
              slider.value = (i * 37) % 390;
              slider.dispatchEvent(new Event("input"));
              document.body.getBoundingClientRect();
              return performance.now() - start;
            })"""
        )
        page.fill("#step", "9")
        assert drawn(page) == sum(name.split("->")[1] in readers[:10] for name in names)
    assert sorted(times)[len(times) // 2] < 90, sorted(times)  # a step of the replay


def test_the_largest_of_too_many_decisions_stay(page, tmp_path, written, monkeypatch):
    monkeypatch.setattr(contents, "MOST_DECISIONS", 30)
    rows = [{"order": i, "edge": f"m{i}->logits", "effect": i / 100, "kept": i < 20}
            for i in range(80)]  # fmt: skip
    run = written(tmp_path / "run", status={"state": "done"},
                  metrics='{"reader": "logits", "kind": "edges", "n_tests": 80}\n')  # fmt: skip
    (run / "edges.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Server(tmp_path) as address:
        go(page, address, "run", "run")
        shown = {int(row[0].split(" ")[0][1:]) for row in decided(page)}
        assert shown == {*range(20), *range(70, 80)}
        notes = page.locator(".cut").all_inner_texts()
    assert notes[0].startswith("30 of 80 decisions are here")
    assert notes[1] == "30 of 80 shown, the largest first"


# ---- cut tables ----------------------------------------------------------------------------------


def test_cut_tables_say_so(page, tmp_path, written, many_edges):
    route = {"tokens": [{"text": "a"}, {"text": "b"}], "edges": [
        {"kind": "head", "layer": 0, "head": i % 100, "source": 0, "target": 1, "flow": 1 + i}
        for i in range(310)]}  # fmt: skip
    written(tmp_path / "left", status={"state": "done"}, circuit=many_edges(812))
    written(tmp_path / "right", status={"state": "done"}, circuit=many_edges(305), route=route)
    with Server(tmp_path) as address:
        go(page, address, "run", "left")
        assert page.locator(".cut").count() == 0  # 60 of them at first
        page.fill("#least", "0")
        assert page.inner_text(".cut").startswith("300 of 812 shown")
        assert len(table(page, ".edges")) == 300 and drawn(page) == 812
        go(page, address, "compare", "left", "right")
        page.fill("#least", "0")
        assert page.inner_text(".cut").startswith("300 of 812 shown")
        page.click("[data-share=in-both]")
        assert page.inner_text(".cut").startswith("300 of 305 shown")
        go(page, address, "run", "right", "route")
        assert page.inner_text(".cut").startswith("300 of 310 shown")


# ---- methods and components ----------------------------------------------------------------------


def test_methods_are_what_the_file_says(page, studies):
    file = json.loads((studies / "methods/compare.json").read_text())
    with Server(studies) as address:
        go(page, address)
        row = page.inner_text("[data-run=methods]")
        assert "3 methods compared" in row and "induction" in row and "logit_diff" not in row
        go(page, address, "run", "methods")
        found = table(page, ".side table, .circuit > section:last-child table")
        assert [r[0] for r in found] == [r["method"] for r in file["table"]]
        for cells, row in zip(found, file["table"], strict=True):
            assert number(cells[1]) == pytest.approx(row["cpr"], rel=0.01)
            assert number(cells[2]) == pytest.approx(row["cmd"], rel=0.01)
            assert int(cells[3]) == row["shared"]
        needed = {(row["method"], row["target"]): row for row in file["needed"]}
        targets = sorted({target for _, target in needed})
        assert [row[0] for row in table(page, ".needed")] == [
            row["method"] for row in file["table"]
        ]
        for name, *cells in table(page, ".needed"):
            for target, cell in zip(targets, cells, strict=True):
                row = needed[name, target]
                edges = "not reached" if row["edges"] is None else f"{row['edges']:,}"
                assert cell.startswith(edges) and f"accuracy {100 * row['accuracy']:.1f} %" in cell
        for ranking in ("signed", "absolute"):
            page.click(f"[data-ranking={ranking}]")
            points = {name: curve[ranking]["points"] for name, curve in file["curves"].items()}
            sizes = table(page, ".sizes")
            for i, cells in enumerate(sizes):
                for cell, name in zip(cells[1:], points, strict=True):
                    point = points[name][i]
                    share = f"{100 * point['faithfulness']:.1f} %".replace("-", "−")
                    share = share.removeprefix("−") if share == "−0.0 %" else share
                    edges = f"{point['n_edges']:,} edge"
                    assert cell.startswith(share) and edges in cell
            drawn_points = sum(p["n_edges"] > 0 for curve in points.values() for p in curve)
            assert page.locator("[data-point]").count() == drawn_points
        shapes = page.locator("[data-point]").evaluate_all(
            "all => all.map(p => p.getAttribute('d'))"
        )
        assert len(set(shapes)) == 3


def test_components_are_what_the_file_says(page, studies):
    file = json.loads((studies / "components/components.json").read_text())
    with Server(studies) as address:
        go(page, address)
        assert "induction against induction" in page.inner_text("[data-run=components]")
        go(page, address, "run", "components")
        gap = file["difference"]["components"]
        found = {row[0].removesuffix(" •"): row for row in table(page, ".edges")}
        assert set(found) == set(gap) - {"input"}
        for name, (shown, difference, interval, _) in found.items():
            assert shown.endswith("•") == (name in file["difference"]["named"])
            low, high = map(number, interval.split(" to "))
            for value, key in ((number(difference), "flow"), (low, "low"), (high, "high")):
                assert value == pytest.approx(gap[name][key], rel=0.1, abs=6e-4)
        page.locator("main button").first.click()
        flow = file["task"]["components"]
        for row in table(page, ".edges"):
            assert number(row[1]) == pytest.approx(flow[row[0]]["mean"], rel=0.1, abs=6e-4)
            assert row[3] == f"{100 * flow[row[0]]['on_route']:.1f} %"
        page.hover("[data-component='a1.h3']")
        assert page.inner_text("#tip").startswith("a1.h3")
        heads = page.locator(".cell:not(.mlp) .shade").evaluate_all(
            "all => all.map((shade) => [shade.parentElement.dataset.component,"
            " +shade.getAttribute('fill-opacity')])"
        )
        darkest = max(heads, key=lambda head: head[1])
        of_heads = {name: row["mean"] for name, row in flow.items() if name[0] == "a"}
        assert darkest == [max(of_heads, key=of_heads.get), 1]


@pytest.mark.slow
def test_studies_alone_are_runs(tmp_path, studies):
    """A folder that holds only the result, as after copying it, is found too."""
    from discovery.dashboard.runs import summaries

    for name, file in (("methods", "compare.json"), ("components", "components.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text((studies / name / file).read_text())
    views = {run["id"]: run["views"] for run in summaries(tmp_path)}
    assert views == {"methods": ["methods"], "components": ["components"]}
