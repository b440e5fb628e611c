"""What the page says: names, what is missing, and what a reader cannot know."""

import json

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, go, table  # noqa: E402

from discovery.dashboard.export import export_page  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def test_a_head_is_found_by_either_name(page, address):
    go(page, address, "run", "acdc_0.05")
    head = page.locator('.node[data-id^="a1.h"]').first.get_attribute("data-id")
    for typed in (head, head.replace("a", "").replace("h", ""), f" {head.upper()} "):
        page.click("#clear", force=True)
        page.fill("#find", typed)
        assert page.get_attribute(".node.focused", "data-id") == head, typed
    for typed in ("a99.h9", "99.9", "a"):
        page.fill("#find", head)
        page.fill("#find", typed)
        page.keyboard.press("Enter")
        assert page.locator(".node.focused").count() == 0
        assert page.inner_text("#missed") == f"no {typed} in this circuit"
        assert page.inner_text("#said") == page.inner_text("#missed")
    page.fill("#find", head)
    assert page.inner_text("#missed") == ""
    page.goto(f"{address}#/run/acdc_0.05/circuit?head=a99.h9")
    page.wait_for_selector("#missed >> text=no a99.h9 in this circuit")


def test_a_traceback_has_its_lines(page, tmp_path, written):
    lines = [
        "Traceback (most recent call last):",
        '  File "/home/alice/x.py", line 3',
        "Full: none",
    ]
    error = {"type": "Full", "message": "none", "traceback": "\n".join(lines)}
    written(tmp_path / "run", status={"state": "failed", "error": error})
    with Server(tmp_path) as address:
        go(page, address, "run", "run", "record")
        assert page.locator("main h2").all_inner_texts() == ["Traceback", "status.json"]
        assert page.locator("pre").nth(0).inner_text().split("\n") == lines
        status = json.loads(page.locator("pre").nth(1).inner_text())
        assert status["error"] == {"type": "Full", "message": "none"}
    (tmp_path / "page.html").write_text(export_page(tmp_path, ["run"]))
    go(page, f"file://{tmp_path}/page.html", "run", "run", "record")
    assert page.locator("main h2").all_inner_texts() == ["status.json"]


def test_tokens_of_a_route_are_told_apart(page, address, on_disk):
    file = on_disk("route", "route.json")
    words = [f"“{token['text'].strip()}” ({i})" for i, token in enumerate(file["tokens"])]
    assert len({token["text"] for token in file["tokens"]}) < len(words)
    go(page, address, "run", "route")
    assert f"at {words[file['start']['position']]}" in page.inner_text("main p >> nth=1")
    kept = [e for e in file["edges"] if e["kind"] in ("head", "mlp")]
    ends = sorted((words[e["source"]], "logit" if e.get("direct") else words[e["target"]])
                  for e in kept)  # fmt: skip
    assert sorted((row[1], row[2]) for row in table(page, ".edges")) == ends
    assert page.inner_text("h1") == "route on one prompt in induction"
    assert page.title() == "route on one prompt in induction – route – Circuits"
    at = page.evaluate("tokenAt({ tokens: ['a', 'b'] }, 1)")
    assert at == "“b” (1)"


def test_the_table_of_runs_says_what_happens(page, address):
    go(page, address)
    page.fill("#filter", "nonesuch")
    assert page.inner_text(".list tbody") == "no run matches"
    page.fill("#filter", "")
    for count, run in enumerate(("acdc_0.05", "acdc_0.5", "other/eap_ig"), 1):
        page.check(f'[data-run="{run}"] input')
        said = f"{count} run{'s' * (count > 1)}"
        assert page.inner_text("#chosen").startswith(f"{said} ticked")
        assert page.inner_text("#said") == f"{said} to compare"
    page.click("text=Untick")
    assert page.locator("[data-run] input:checked").count() == 0
    assert not page.locator("#chosen").is_visible()


def test_ladder_and_tests_are_in_words(page, address, on_disk):
    file = on_disk("acdc_0.05", "validation.json")
    names = [test["name"] for test in file["tests"]]
    assert len(set(names)) == len(names)
    go(page, address, "run", "acdc_0.05", "validation")
    page.click("text=All figures")
    rows = table(page, "table:has(caption:text-is('All tests'))")
    assert [row[0] for row in rows] == names
    drawn = page.locator(".chart g > title").all_text_contents()
    rungs = [title.rpartition(": ")[0] for title in drawn if title.startswith("cut edges")]
    twin, own = "cut edges: the prompt's corrupt twin", "input: the prompt's own"
    assert rungs[:2] == [f"{twin}; {own}", f"cut edges: one random prompt; {own}"]
    assert len(set(rungs)) == len(rungs) == len([r for r in file["scrubbing"] if r["recovered"]])
    assert "Kept edges carry" in page.inner_text("main")
    texts = " ".join(page.locator(".chart text").all_text_contents())
    assert "…" not in texts and twin in texts


def test_long_labels_are_wrapped(page, address):
    go(page, address)
    name = "one two three " * 6 + "x" * 50
    lines = page.evaluate("name => wrapped(name)", name)
    assert max(map(len, lines)) <= 38 and "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_ticks_are_told_apart(page, address):
    go(page, address)
    ticks = [([15.25, 15.3, 15.35], ["15.25", "15.3", "15.35"]), ([1, 2, 3], ["1", "2", "3"])]
    for values, texts in ticks:
        assert page.evaluate("values => toldApart(values)", values) == texts


def test_a_wandb_run_goes_by_its_wandb_name(page, copied_runs):
    (folder,) = copied_runs.glob("eap_ig/wandb/offline-run-*")
    name = folder.relative_to(copied_runs).as_posix()
    with Server(copied_runs) as address:
        go(page, address, "run", name)
        heading = page.inner_text("h1")
        assert heading.endswith(", eap_ig") and "offline-run" not in heading
        assert page.title() == f"{heading} – Circuits"
        assert page.locator("main").inner_text().count(name) == 1
        facts = page.locator(".head dt").all_inner_texts()
        assert "time" in facts and "search" not in facts
        go(page, address, "run", name.replace("eap_ig", "acdc"))
        assert "search" in page.locator(".head dt").all_inner_texts()
