"""The page in a browser: every view on real runs, the main path, hostile files, the figures.

What is shown is compared with the files. Every test fails on an error in the page's console and on
a request that leaves this machine. Screenshots go to build/dashboard/.
"""

import json
import os
import re
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, drawn, go, picture, table  # noqa: E402

from discovery.dashboard.export import export_page  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
EVIL = "<img src=x onerror='window.hacked=1'></script><script>window.hacked=1</script>"


def test_the_report_of_a_run_is_one_link_away_and_opens_by_itself(page, address, runs):
    go(page, address, "run", "acdc_0.5")
    assert page.locator("nav[aria-label='Pages of the run']").count() == 0
    go(page, address, "run", "acdc_0.05")
    links = page.locator("nav[aria-label='Pages of the run'] a")
    assert links.all_inner_texts() == ["Is it true? The report"]
    page.goto(address + links.first.get_attribute("href"))
    assert page.locator("h1").count() == 1
    size = page.locator("h1").evaluate("h => getComputedStyle(h).fontSize")
    assert size != "32px"  # its own style is let in


def test_the_main_path(page, address, runs, on_disk, tmp_path):
    """Filter, a run, the slider, a head, two runs compared, the export from disk."""
    go(page, address)
    assert page.locator("[data-run]").count() == 5
    picture(page, "runs")
    page.fill("#filter", "acdc")
    assert page.locator("[data-run]").count() == 2
    result = on_disk("acdc_0.05", "result.json")
    row = page.locator('[data-run="acdc_0.05"]').inner_text()
    assert re.search(rf"\b{result['n_edges']}\b", row)
    assert f"{100 * result['faithfulness']:.1f} %" in row

    page.click('[data-run="acdc_0.05"] a')
    page.wait_for_selector("body[data-ready=run]")
    effects = sorted(
        (abs(e["score"]), name)
        for name, e in on_disk("acdc_0.05", "circuit.json")["edges"].items()
        if e["in_graph"]
    )
    assert drawn(page) == len(table(page, ".edges")) == len(effects) == result["n_edges"]
    picture(page, "circuit")
    page.fill("#least", "3")  # the three smallest go
    assert drawn(page) == len(table(page, ".edges")) == len(effects) - 3
    names = page.locator(".edges [data-row]").evaluate_all("rows => rows.map(r => r.dataset.row)")
    assert names == [name for _, name in reversed(effects[3:])]

    page.fill("#least", "0")
    head = effects[-1][1].split("->")[1].partition("<")[0]
    assert re.fullmatch(r"a\d+\.h\d+", head)
    page.fill("#find", head)
    near = {n for _, n in effects if head in (n.split("->")[0], n.split("->")[1].partition("<")[0])}
    names = page.locator(".edges [data-row]").evaluate_all("rows => rows.map(r => r.dataset.row)")
    assert set(names) == near and drawn(page, "") == len(effects)
    assert page.locator(".edge:not(.dim)").count() == len(near)
    picture(page, "head")

    go(page, address)
    page.check('[data-run="acdc_0.05"] input')
    page.check('[data-run="other/eap_ig"] input')
    page.click("nav >> text=Compare")
    page.wait_for_selector("body[data-ready=compare]")
    picture(page, "compare")
    with page.expect_download() as download:
        page.click("text=Export as one file")
    download.value.save_as(tmp_path / "two.html")
    page.goto(f"file://{tmp_path}/two.html")
    page.wait_for_selector("body[data-ready=compare]")
    assert drawn(page, "[data-side='0']") == result["n_edges"]
    assert "not the host, the process and the traceback" in page.inner_text(".inside")


def test_compare_shows_what_the_files_share(page, address, on_disk):
    go(page, address, "compare", "acdc_0.05", "other/eap_ig")
    left, right = (
        {k for k, e in on_disk(*run, "circuit.json")["edges"].items() if e["in_graph"]}
        for run in (("acdc_0.05",), ("other", "eap_ig"))
    )
    for share, edges in (("in-both", left & right), ("only-left", left - right),
                         ("only-right", right - left), ("", left | right)):  # fmt: skip
        page.click(f'[data-share="{share}"]')
        assert {f"{row[0]}->{row[1]}" for row in table(page, ".edges")} == edges
        assert drawn(page, "[data-side='0']") == len(edges & left)
        assert drawn(page, "[data-side='1']") == len(edges & right)
    assert left & right and right - left


def test_search_validation_heads_route_record(page, address, runs, on_disk):
    go(page, address, "run", "acdc_0.05", "search")
    lines = [json.loads(line) for line in (runs / "acdc_0.05/metrics.jsonl").open()]
    page.fill("#step", "4")
    facts = dict(zip(*(page.locator(f".replay {t}").all_inner_texts() for t in ("dt", "dd"))))  # noqa: B905
    assert facts["reader"] == lines[4]["reader"] and facts["kept"] == str(lines[4]["n_kept"])
    assert float(facts["kl"]) == pytest.approx(lines[4]["metric"], rel=1e-2)
    page.click("text=Replay")
    page.wait_for_function("n => +document.getElementById('step').value > n", arg=5)
    picture(page, "search")

    go(page, address, "run", "acdc_0.05", "validation")
    validation = on_disk("acdc_0.05", "validation.json")
    answers = [v["holds"] for v in validation["verdicts"]]
    for look, answer in (("yes", True), ("no", False), ("open", None)):
        assert page.locator(f".verdicts.{look} li").count() == answers.count(answer)
    assert page.locator("[data-what]").count() == len(validation["completeness"]["tried"])
    picture(page, "validation")

    check_heads(page, address, on_disk("acdc_0.05", "heads.json"))

    go(page, address, "run", "route")
    edges = [e for e in on_disk("route", "route.json")["edges"] if e["kind"] in ("head", "mlp")]
    assert len(table(page, ".edges")) == len(edges)
    picture(page, "route")
    check_routes(page, address, runs / "acdc_0.05" / "routes.jsonl")
    go(page, address, "run", "acdc_0.5", "record")
    assert json.loads(page.locator("pre").nth(1).inner_text()) == on_disk("acdc_0.5", "result.json")


def check_routes(page, address, file):
    """From the second prompt of the heads to its route, and one further."""
    routes = [json.loads(line) for line in file.read_text().splitlines()]
    go(page, address, "run", "acdc_0.05", "heads")
    page.click("[aria-label='Next prompt']")
    page.click("text=The prompt's route")
    page.wait_for_selector(".flow")
    for prompt in (1, 2):
        edges = [e for e in routes[prompt]["edges"] if e["kind"] in ("head", "mlp")]
        assert page.input_value("#prompt") == str(prompt)
        assert page.url.endswith(f"route?prompt={prompt}")
        words = [token["text"] for token in routes[prompt]["tokens"]]
        shown = page.locator("#prompt option").nth(prompt).inner_text()
        assert " ".join([str(prompt + 1), *words]).startswith(shown)
        page.wait_for_function(  # to where it starts
            "(({ scrollLeft, clientWidth, scrollWidth }) => scrollLeft + clientWidth >= scrollWidth"
            " - 1)(document.querySelector('.picture'))"
        )
        assert len(table(page, ".edges")) == len(edges)
        page.click("[aria-label='Next prompt']")


def check_heads(page, address, file):
    """Every head's roles in the list; one head's scores, pattern and writing as in the file."""
    go(page, address, "run", "acdc_0.05", "heads")
    rows = {row[0]: row[1] for row in table(page, ".head-list")}
    assert set(rows) == set(file["heads"])
    for name, entry in file["heads"].items():
        assert all(role in rows[name] for role in entry["candidates"])
        mark, value = max(entry["attention"].items(), key=lambda item: item[1])
        assert value < 0.1 or f"{mark.replace('->', ' → ')} {value:.2f}" in rows[name]
    name = next(n for n, e in file["heads"].items() if "induction" in e["candidates"])
    entry, prompt = file["heads"][name], file["prompts"][1]
    page.click(f".heads button >> text={name}")
    page.select_option("#prompt", "1")
    assert f"head={name}" in page.url
    drawn = page.eval_on_selector_all(
        ".pattern .cell", "cells => cells.map(c => [+c.parentNode.dataset.query, +c.dataset.key])"
    )
    pattern = entry["patterns"][1]
    cells = [[i, j] for i, row in enumerate(pattern) for j, v in enumerate(row) if v >= 0.02]
    assert drawn == cells and cells
    last = entry["writes"][1][-1]
    assert last["position"] == len(prompt["tokens"]) - 1
    words = [row[0] for row in table(page, ".writes")]
    assert words == [f"“{word}”" for word, _ in last["for"]]
    page.select_option("#query", str(entry["writes"][1][0]["position"]))
    words = [row[2] for row in table(page, ".writes")]
    assert words == [f"“{word}”" for word, _ in entry["writes"][1][0]["against"]]
    at = entry["writes"][1][0]["position"]
    assert page.locator(".tokens [aria-pressed=true]").get_attribute("title").startswith(f"{at}")
    shades = page.locator(".tokens .shade").evaluate_all("all => all.map(s => +s.style.opacity)")
    assert shades == pytest.approx([*pattern[at], *[0] * (len(pattern) - at - 1)], abs=0.006)
    assert page.locator("#prompt option").count() == len(file["prompts"]) > 4
    attention = {row[0].replace(" → ", "->"): row[1] for row in table(page, ".heat")}
    assert attention == {mark: f"{value:.2f}" for mark, value in entry["attention"].items()}
    shown = page.locator(".two .chart g > title").all_text_contents()
    score = entry["scores"]["induction"]
    assert f"induction: {score['value']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" in shown
    picture(page, "heads")
    page.click("text=Its edges")
    page.wait_for_selector(f'.node.focused[data-id="{name}"]')
    page.click(f"text=What {name} looks at and writes")
    page.wait_for_selector(f'.heads tr.here[data-head="{name}"]')


def test_sweep_leads_to_the_run(page, address):
    go(page, address, "sweep")
    assert page.locator("svg [data-run]").count() == 3
    page.locator('svg [data-run="acdc_0.5"]').hover()
    assert "acdc_0.5" in page.inner_text("#tip")
    picture(page, "sweep")
    page.select_option("#measure", "kl")
    assert page.locator("svg [data-run]").count() >= 2
    page.click('svg [data-run="acdc_0.5"]')
    page.wait_for_selector("body[data-ready=run]")
    assert "acdc_0.5" in page.inner_text("main")


def test_a_wandb_run_shows_its_circuit_and_its_search(page, tracked_runs, copied_runs):
    (run,) = copied_runs.glob("acdc/wandb/offline-run-*")
    name = run.relative_to(copied_runs).as_posix()
    (file,) = run.glob("files/media/table/edges_*.json")
    kept = {row[0] for row in json.loads(file.read_text())["data"] if row[3]}
    with Server(copied_runs) as address:
        go(page, address)
        assert page.locator("[data-run]").count() == 2
        page.fill("#filter", "W&B acdc")
        assert "W&B: induction-induction-kl-" in page.inner_text(f'[data-run="{name}"]')
        picture(page, "wandb_runs")
        page.click(f'[data-run="{name}"] a')
        page.wait_for_selector("body[data-ready=run]")
        assert {f"{row[0]}->{row[1]}" for row in table(page, ".edges")} == kept
        assert drawn(page) == len(kept) > 5
        picture(page, "wandb_circuit")
        go(page, address, "run", name, "search")
        lines = [json.loads(line) for line in (tracked_runs / "acdc/metrics.jsonl").open()]
        page.fill("#step", "4")
        facts = dict(zip(*(page.locator(f".replay {t}").all_inner_texts() for t in ("dt", "dd"))))  # noqa: B905
        assert facts["reader"] == lines[4]["reader"] and facts["kept"] == str(lines[4]["n_kept"])
        go(page, address, "run", name, "record")
        titles = page.locator("main h2").all_inner_texts()
        assert titles == ["W&B run", "W&B config", "W&B summary"]
        go(page, address, "compare", name, name.replace("acdc", "eap_ig"))
        assert drawn(page, "[data-side='0']") == len(kept)
        assert page.locator("p.error").count() == 0  # the two models have the same sizes
        page.goto("about:blank")


def test_by_keyboard_alone(page, address):
    go(page, address)
    page.focus("#filter")
    page.keyboard.type("other")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.key") == "open other/eap_ig":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready=run]")
    page.focus('.node[data-id="logits"]')
    page.keyboard.press("Enter")
    assert page.get_attribute('.node[data-id="logits"]', "aria-pressed") == "true"
    assert re.fullmatch(r"\d+ edges? shown", page.inner_text("#said"))
    page.keyboard.press("Escape")
    assert page.locator(".focused").count() == 0
    page.focus("#least")
    before = drawn(page)
    page.keyboard.press("ArrowRight")
    assert drawn(page) == before - 1
    unnamed = "e => !(e.labels?.length || e.ariaLabel || e.innerText)"
    found = page.locator("input, select, button").evaluate_all(f"all => all.filter({unnamed})")
    assert found == []


@pytest.mark.parametrize("page", ["dark"], indirect=True)
def test_in_the_dark(page, address):
    go(page, address, "run", "other/eap_ig")
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour))) < 60
    picture(page, "circuit_dark")


def test_a_running_search_is_followed(page, tmp_path, written):
    status = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    run = written(tmp_path / "run", status=status, metrics='{"n_kept": 3, "metric": 0.5}\n')
    with Server(tmp_path) as address:
        go(page, address)
        assert "running" in page.inner_text("[data-run]")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"n_kept": 41, "metric": 0.5}\n')
        page.wait_for_selector("[data-run] >> text=41")
        written(run, status={"state": "failed", "error": {"type": "Full", "message": "no room"}})
        page.wait_for_selector("[data-run] >> text=Full: no room")
        page.goto("about:blank")


def test_hostile_files_do_nothing(page, tmp_path, written, many_edges):
    circuit = {
        "cfg": {"n_layers": 2, "n_heads": 2},
        "edges": {
            EVIL: {"score": 1, "in_graph": True},
            "a0.h0->logits": {"score": 1, "in_graph": True},
        },
    }
    evil = {"model": EVIL, "task": EVIL, "method": EVIL, "metric": EVIL, "n_edges": 1,
            "faithfulness": 0.5}  # fmt: skip
    verdict = {"name": EVIL, "question": EVIL, "figures": EVIL, "holds": EVIL}
    tokens = [{"text": EVIL}]
    edge = {"kind": EVIL, "layer": 0, "source": 0, "target": 0, "flow": 1}
    point = {"share": 0.5, "requested": 1, "n_edges": 1, "faithfulness": 0.5}
    written(
        tmp_path / "evil",
        notes={"note": EVIL, "tags": [EVIL[:40]], "groups": {EVIL[:40]: ["a0.h0"]}},
        config={"config": {EVIL[:60]: EVIL}},
        status={"state": "done", "error": {"type": EVIL, "message": EVIL}},
        result=evil, circuit=circuit, heads={EVIL: {EVIL: 0.5}}, validation={"verdicts": [verdict]},
        route={"tokens": tokens, "edges": [edge]},
        metrics=json.dumps({"reader": EVIL, "kind": EVIL, "reason": EVIL, "n_tests": 1}) + "\n",
        compare={"curves": {EVIL: {"metric": EVIL, "unit": EVIL, "signed": {"points": [point]}}}},
        components={part: {"name": EVIL, "components": {"a0.h0": {"mean": 1}, EVIL: {"mean": 1}}}
                    for part in ("task", "versus")},
    )  # fmt: skip
    decision = {"order": 0, "edge": EVIL, "effect": 1, "kept": True, "kind": "edge"}
    (tmp_path / "evil" / "edges.jsonl").write_text(json.dumps(decision) + "\n")
    written(tmp_path / "torn", status={"state": "done"}, result='{"model": ', circuit="[")
    (tmp_path / "<img src=x onerror=hacked=1>").mkdir()
    written(tmp_path / "<img src=x onerror=hacked=1>", status={"state": EVIL})
    (tmp_path / "page.html").write_text(export_page(tmp_path, ["evil"]))
    with Server(tmp_path) as address:
        places = [(address, ()), (address, ("sweep",)), (address, ("compare", "evil", "evil"))]
        places += [(address, ("run", run)) for run in ("torn", "<img src=x onerror=hacked=1>")]
        for base in (address, f"file://{tmp_path}/page.html"):
            views = ("circuit", "search", "validation", "heads", "route", "methods", "components",
                     "record")  # fmt: skip
            places += [(base, ("run", "evil", view)) for view in views]
        for base, parts in places:
            go(page, base, *parts)
            assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
            assert page.locator("[role=alert]").count() == 0, parts
            if parts[1:2] == ("evil",):
                assert "<img src=x" in page.inner_text("main")
        go(page, address)
        assert "unreadable" in page.locator('[data-run="torn"]').inner_text()


@pytest.mark.slow
def test_500_runs_take_one_question_and_2400_edges_are_drawn_once(
    page, tmp_path, written, many_edges, monkeypatch
):
    """What the page's speed rests on, counted; scripts/benchmark_dashboard.py has the seconds."""
    result = {"model": "m", "task": "t", "method": "acdc", "metric": "kl", "n_edges": 2400,
              "n_edges_total": 32491, "faithfulness": 0.9, "metric_circuit": 0.1}  # fmt: skip
    for i in range(500):
        written(tmp_path / f"run{i}", status={"state": "done"}, result={**result, "n_edges": i + 1})
    written(tmp_path / "run0", circuit=many_edges(2400))
    asked, opened = [], Counter()
    page.on("request", lambda r: asked.append(urlsplit(r.url).path))
    os_open = os.open

    def counting(path, *args, **more):
        opened[Path(path).name] += str(path).startswith(str(tmp_path))
        return os_open(path, *args, **more)

    monkeypatch.setattr("discovery.dashboard.files.os.open", counting)
    elements = "document.querySelectorAll('#main *').length"
    questions = lambda: [path for path in asked if path.startswith("/api")]  # noqa: E731
    with Server(tmp_path) as address:
        go(page, address)
        assert questions() == ["/api/runs"]
        assert page.locator("[data-run]").count() == 60
        page.click("text=Show the other 440")
        assert page.locator("[data-run]").count() == 500
        assert +opened == {"status.json": 500, "result.json": 500}
        assert page.evaluate(elements) < 20 * 500
        go(page, address, "run", "run0")
        asked_for = [path for path in questions() if path != "/api/runs"]  # asked again, if slow
        assert asked_for == ["/api/run"] and opened["circuit.json"] == 1
        page.fill("#least", "0")
        assert drawn(page) == 2400 and page.evaluate(elements) < 6 * 2400
        page.evaluate(
            """() => {
              window.made = 0;
              const count = (changes) => changes.forEach((c) => window.made += c.addedNodes.length);
              new MutationObserver(count).observe(
                document.querySelector(".picture"), { childList: true, subtree: true });
            }"""
        )
        page.fill("#least", "1200")
        assert drawn(page) == 1200 and page.evaluate("window.made") == 0  # hidden, not drawn anew
        assert page.locator(".edges tbody tr").count() == 300
        picture(page, "many_edges")
