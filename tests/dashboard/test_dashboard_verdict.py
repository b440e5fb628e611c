"""May I believe this circuit: what the Validation view says is what validation.json says."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import BOTH, CHROMIUM, Server, go, picture, settled, table  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LEGIBLE = Path(__file__).with_name("legible.js").read_text()
LOOKS = {True: "yes", False: "no", None: "open"}


def figures(page):
    """Of each card: its look, its question, what is said and the rest."""
    cards = page.locator(".figure")
    looks = [one.split()[-1] for one in cards.evaluate_all("all => all.map(c => c.className)")]
    said = cards.evaluate_all(
        "all => all.map(c => ['h3', '.big', '.quiet'].map(s => c.querySelector(s).innerText))"
    )
    return [[look, *words] for look, words in zip(looks, said, strict=True)]


def test_the_verdict_comes_first_and_all_tests_are_folded(page, address, on_disk):
    file = on_disk("acdc_0.05", "validation.json")
    decision = file["decision"]
    go(page, address, "run", "acdc_0.05", "validation")
    assert page.inner_text(".verdict") == decision["heading"]
    wanted = [
        [LOOKS[one["good"]], one["question"], one["said"],
         one["scale"] + (" (dotted)." if one["baselines"] else ".")]
        for one in decision["figures"]
    ]  # fmt: skip
    assert figures(page) == wanted and len(wanted) == 3
    marks = page.locator(".figure .baseline").count()
    assert marks == sum(len(one["baselines"]) for one in decision["figures"] if one["share"]) > 1
    steps = page.locator(".steps li").all_inner_texts()
    assert steps == file["next"] and len(steps) > 0
    assert page.locator(".verdicts li:visible").count() == 0
    assert page.locator("main svg[aria-label]:visible").count() == 3  # bars alone
    page.click("summary >> text=All tests")
    assert file["headline"] in page.inner_text("main")
    told = page.locator(".verdicts li").all_inner_texts()
    assert len(told) == len(file["verdicts"])
    for one in file["verdicts"]:
        assert sum(one["says"] in words and one["figures"] in words for words in told) == 1


def test_prompts_and_origin_are_named(page, address, on_disk):
    file = on_disk("acdc_0.05", "validation.json")
    go(page, address, "run", "acdc_0.05", "validation")
    rows = table(page, ".samples")
    assert [row[:2] for row in rows] == [
        [s["prompt"], ", ".join(s["answers"])] for s in file["samples"]
    ]
    terms = page.locator(".terms dt").all_inner_texts()
    origin = dict(zip(terms, page.locator(".terms dd").all_inner_texts(), strict=True))
    assert origin["command"] == file["provenance"]["command"]
    assert (
        origin["seed"] == "0"
        and "torch" in origin["versions"]
        and "commit" in origin["validated by"]
    )


def test_a_file_without_a_verdict_opens_its_tests(page, tmp_path, written):
    row = {"name": "equivalence", "question": "as good", "holds": False, "figures": "p = 1"}
    written(tmp_path / "old", status={"state": "done"}, validation={"verdicts": [row]})
    with Server(tmp_path) as address:
        go(page, address, "run", "old", "validation")
        assert page.inner_text(".verdicts.no li").split("\n")[1] == "as good"
        assert page.locator(".verdict").count() == 0
        page.goto("about:blank")


@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_it_can_be_read_at_every_width(page, address):
    for width in (420, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        go(page, address, "run", "acdc_0.05", "validation")
        for summary in page.locator(".folded > summary").all():
            summary.click()
        settled(page)
        assert page.evaluate(LEGIBLE)["problems"] == [], width
    picture(page, "verdict_1920")


@pytest.mark.parametrize("page", BOTH, indirect=True)
@pytest.mark.slow
def test_the_report_by_itself_says_the_same(page, runs, on_disk):
    """From disk, without a script: the verdict in sight, the tests and figures behind a press."""
    file = on_disk("acdc_0.05", "validation.json")
    page.goto((runs / "acdc_0.05" / "report.html").as_uri())
    assert page.inner_text("h1") == file["decision"]["heading"]
    said = page.locator(".card .big").all_inner_texts()
    assert said == [one["said"] for one in file["decision"]["figures"]]
    assert page.locator("ol li").all_inner_texts() == file["next"]
    images = page.locator("img").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert len(images) == 1 and images[0] > 100  # the circuit
    assert page.locator("svg:visible, script").count() == 0
    for summary in page.locator("summary").all():
        if summary.evaluate("s => !s.parentElement.open"):
            summary.click()
    assert file["headline"] in page.inner_text("details >> nth=0")
    assert page.locator("svg:visible").count() == page.locator("svg").count() > 2
    assert page.evaluate(LEGIBLE)["problems"] == []
    page.set_viewport_size({"width": 420, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 420
