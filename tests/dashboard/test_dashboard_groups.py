"""Heads: the task first in what is said of them; groups with names of the reader's own."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, drawn, go, picture, table  # noqa: E402

from discovery.heads import rules  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LEGIBLE = Path(__file__).with_name("legible.js").read_text()


@pytest.fixture(scope="module")
def own(runs, tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    shutil.copytree(runs / "acdc_0.05", root / "run")
    return root


def bodies(page):
    """The heads of each body of the list, after the group's name where it has one."""
    return page.locator(".head-list tbody").evaluate_all(
        "all => all.map(body => [...body.rows].map(r => r.dataset.head ?? r.textContent))"
    )


def put(page, heads, name):
    for head in heads:
        page.check(f"[aria-label='tick {head}']")
    page.fill("#group-name", name)
    with saving(page):
        page.keyboard.press("Enter")


@contextmanager
def saving(page):
    """Waits until what is done in the block is saved, and the page says so."""
    with page.expect_response(lambda answer: answer.request.method == "PUT"):
        yield
    page.wait_for_selector("text=Saved.")


@pytest.mark.slow
def test_heads_are_put_together_named_shown_in_the_circuit_and_taken_apart(page, own):
    notes = own / "run" / "notes.json"
    with Server(own, notes=True) as address:
        go(page, address, "run", "run", "heads")
        (names,) = bodies(page)
        put(page, names[:2], "movers & friends")
        assert json.loads(notes.read_text())["groups"] == {"movers & friends": names[:2]}
        assert bodies(page) == [["movers & friends take apart", *names[:2]], names[2:]]
        put(page, names[1:3], "others")  # a head is in one group
        groups = {"movers & friends": names[:1], "others": names[1:3]}
        assert json.loads(notes.read_text())["groups"] == groups
        picture(page, "groups")
        assert page.evaluate(LEGIBLE)["problems"] == []
        go(page, address, "run", "run")  # read again
        edges = [row[:2] for row in table(page, ".edges")]
        near = [e for e in edges if {e[0], e[1].partition("<")[0]} & set(names[1:3])]
        page.click("[data-group=others]")
        focused = page.locator(".node.focused").evaluate_all("all => all.map(n => n.dataset.id)")
        assert sorted(focused) == sorted(names[1:3])
        assert [row[:2] for row in table(page, ".edges")] == near
        assert page.inner_text("#edges-title") == f"others: {len(near)} edges"
        assert 0 < len(near) < len(edges) == drawn(page)
        label = page.get_attribute(f'.node[data-id="{names[0]}"]', "aria-label")
        assert label.endswith("; movers & friends")
        assert page.evaluate(LEGIBLE)["problems"] == []
        picture(page, "groups_circuit")
        go(page, address, "run", "run", "heads")
        with saving(page):
            page.click("[aria-label='take others apart']")
        assert json.loads(notes.read_text())["groups"] == {"movers & friends": names[:1]}
    with Server(own) as address:  # without --notes
        go(page, address, "run", "run", "heads")
        assert bodies(page)[0] == ["movers & friends", names[0]]
        assert page.locator(".heads input, #group-name").count() == 0
        page.goto("about:blank")


def test_nothing_is_saved_without_heads_or_a_name(page, own):
    with Server(own, notes=True) as address:
        go(page, address, "run", "run", "heads")
        page.click("text=Put together")
        assert "Tick heads first." in page.inner_text(".group-form")
        page.locator(".heads input[type=checkbox]").first.check()
        page.click("text=Put together")
        assert "Name them first." in page.inner_text(".group-form")


HEADS = {  # attention, candidates, direct effect -> the headline after the name, and below it
    "a0.h0": ({"end->io": 0.62, "s2->s1": 0.41, "previous token": 0.5}, ["first token", "mover"],
              (1.2, 0.9, 1.5), "mover; looks from end to io (0.62), at the previous token (0.50);"
              " writes for the answer (+1.2 logits)", "On random tokens: first token"),
    "a0.h1": ({"end->io": 0.2, "end->s1": 0.3}, [], (-0.5, -0.7, -0.2),
              "looks from end to s1 (0.30); writes against the answer (−0.5 logits)", ""),
    "a1.h0": ({"end->io": 0.05}, ["induction"], (0.1, -0.1, 0.3),
              "nothing clear on the task", "On random tokens: induction"),
}  # fmt: skip


@pytest.mark.parametrize("about", [rules.about(), {}], ids=["now", "earlier"])
def test_what_a_head_does_on_the_task_comes_first(page, tmp_path, written, about):
    found = {
        name: {"attention": looks, "candidates": roles,
               "scores": {"direct effect": {"value": value, "low": low, "high": high}}}
        for name, (looks, roles, (value, low, high), _, _) in HEADS.items()
    }  # fmt: skip
    written(tmp_path / "run", status={"state": "done"}, heads={"about": about, "heads": found})
    with Server(tmp_path) as address:
        for name, (*_, headline, below) in HEADS.items():
            go(page, address, "run", "run", "heads", options=f"?head={name}")
            assert page.text_content(".heads h2") == f"{name}: {headline}{below}"
        assert "first token" in page.locator(".heads tr .small-print").first.inner_text()
        page.goto("about:blank")
