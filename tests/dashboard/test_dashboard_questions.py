"""Questions of a reviewer, answered from the page alone: right by the files, in few clicks.

docs/pages/dashboard.md lists them with the clicks and keys that they may take.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, go, table  # noqa: E402

from tests.dashboard.conftest import search  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
GUIDE = Path(__file__).parents[2] / "docs" / "pages" / "dashboard.md"
EDGES = (4, 8, 12, 20, 40)


class Hand:
    """What a reader does on a page, counted; each question starts at the table of runs."""

    def __init__(self, page, address):
        self.page, self.clicks, self.keys = page, 0, 0
        go(page, address)

    def click(self, what):
        self.page.click(what)
        self.clicks += 1

    def type(self, text):
        """Where one is: the page's first field is the filter."""
        self.page.keyboard.type(text)
        self.keys += len(text)

    def choose(self, what, label):
        """Open a list and press an entry."""
        self.page.select_option(what, label=label)
        self.clicks += 2

    def at(self, ready):
        self.page.wait_for_selector(f"body[data-ready={ready}]")

    def within(self, question):
        clicks, keys = allowed()[question]
        assert self.clicks <= clicks and self.keys <= keys, (self.clicks, self.keys)


def allowed():
    """Clicks and keys by question, as the documentation says."""
    rows = re.findall(r"^\| \*(.+)\* \| .* \| (\d+) \| (\d+) \|$", GUIDE.read_text(), re.M)
    return {question: (int(clicks), int(keys)) for question, clicks, keys in rows}


@pytest.fixture(scope="module")
def sweep(runs, tmp_path_factory):
    """Real runs of a sweep, with held-out prompts, and one that was validated."""
    root = tmp_path_factory.mktemp("questions")
    shutil.copytree(runs / "acdc_0.05", root / "validated")
    for n in EDGES:
        asked = ("method=eap_ig", f"method.n_edges={n}", "task.n=32", "test=16", f"seed={n % 3}")
        search(root / "sweep" / f"n_edges={n}", *asked)
    return root


@pytest.fixture(scope="module")
def place(sweep):
    with Server(sweep) as address:
        yield address


def said(root, run, name):
    return json.loads((root / run / f"{name}.json").read_text())


def nodes(root, run):
    """Both ends of each kept edge, readers without their q, k or v."""
    kept = [name for name, e in said(root, run, "circuit")["edges"].items() if e["in_graph"]]
    ends = {end.partition("<")[0] for name in kept for end in name.split("->")}
    return ends - {"input", "logits"}


def test_the_guide_asks_what_is_asked_here():
    assert len(allowed()) == 5 and GUIDE.read_text().count("## Five questions") == 1


def test_which_run_is_best_at_80_percent(page, place, sweep):
    results = {n: said(sweep, f"sweep/n_edges={n}", "result") for n in EDGES}
    good = [n for n in EDGES if results[n]["test_faithfulness"] >= 0.8]
    assert good[0] == min(good, key=lambda n: results[n]["n_edges"])
    assert 0 < len(good) < len(EDGES)  # the filter matters
    hand = Hand(page, place)
    hand.click("#filter")
    hand.type("sweep held-out>=80%")
    hand.click("[data-key='sort edges']")
    shown = page.locator("[data-run]").evaluate_all("rows => rows.map(r => r.dataset.run)")
    assert len(shown) == len(good) and shown[0] == f"sweep/n_edges={good[0]}"
    hand.within("Which run of the sweep is best at held-out faithfulness ≥ 80 %?")


def compared(hand):
    """Three runs of the sweep side by side."""
    for n in EDGES[1:4]:
        hand.click(f"[data-run='sweep/n_edges={n}'] input")
    hand.click("text=Compare all 3")
    hand.at("compare")
    return [f"sweep/n_edges={n}" for n in EDGES[1:4]]


def test_how_three_differ(page, place, sweep):
    hand = Hand(page, place)
    names = compared(hand)
    rows = {row[0]: row[1:] for row in table(page, ".apart")}
    configs = [said(sweep, name, "config")["config"] for name in names]
    results = [said(sweep, name, "result") for name in names]
    assert rows["method.n_edges"] == [str(c["method"]["n_edges"]) for c in configs]
    assert rows["seed"] == [str(c["seed"]) for c in configs]
    assert rows["edges"] == [str(r["n_edges"]) for r in results]
    held = [f"{100 * r['test_faithfulness']:.1f} %".replace("-", "−") for r in results]
    assert rows["held-out"] == held
    assert not any("task" in name for name in rows)  # in which they do not differ
    hand.within("How do these three differ?")


def test_which_heads_are_in_all_of_them(page, place, sweep):
    hand = Hand(page, place)
    names = compared(hand)
    inside = set.intersection(*(nodes(sweep, name) for name in names))
    assert inside and inside != set.union(*(nodes(sweep, name) for name in names))
    line = page.inner_text(".side p").split("In at least")[0]
    assert set(re.findall(r"a\d+\.h\d+|m\d+", line)) == inside
    hand.within("Which heads are in all of them?")


def test_what_a_head_looks_at_on_prompt_17(page, place, sweep):
    run = "sweep/n_edges=20"
    heads = said(sweep, run, "heads")
    assert len(heads["prompts"]) == 32
    name = sorted(heads["heads"])[-1]
    hand = Hand(page, place)
    hand.click(f"[data-run='{run}'] a")
    hand.at("run")
    hand.click("nav >> text=Heads")
    page.wait_for_selector(".head-list")
    hand.click(f".head-list button >> text={name}")
    option = page.locator("#prompt option").nth(16).inner_text()
    assert option.startswith("17 ")
    hand.choose("#prompt", option)
    last = heads["heads"][name]["patterns"][16][-1]
    most = max(range(len(last)), key=lambda i: last[i])
    word, share = table(page, "table:has(caption:text-is('Where this query looks most'))")[0]
    assert word.startswith(f"“{heads['prompts'][16]['tokens'][most]}”")
    assert share == f"{last[most]:.3f}"
    hand.within("What does this head look at on prompt 17?")


@pytest.mark.slow
def test_may_i_believe_it(page, place, sweep):
    file = said(sweep, "validated", "validation")
    hand = Hand(page, place)
    hand.click("[data-run=validated] a")
    hand.at("run")
    hand.click("nav >> text=Validation")
    assert page.inner_text(".verdict") == file["decision"]["heading"]
    cards = page.locator(".figure .big").all_inner_texts()
    assert cards == [one["said"] for one in file["decision"]["figures"]]
    assert page.locator(".steps li").all_inner_texts() == file["next"]
    box = page.locator(".steps").bounding_box()
    assert box["y"] + box["height"] < 800  # without scrolling
    hand.within("May I believe this circuit, and why not?")
