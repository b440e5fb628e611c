"""A circuit in a frame of its own, as a notebook shows it: the dashboard's drawing, and no more."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("uvicorn", reason="the extra `dashboard` is not installed")
from browsing import CHROMIUM, PICTURES  # noqa: E402

from discovery.dashboard.embed import circuit_frame  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture
def frame(page, many_edges, tmp_path, request):
    """The frame of a circuit of thirty edges, within a page from disk; a param is its score."""
    data = {**many_edges(30), "about": {"score": getattr(request, "param", None)}}
    inside = circuit_frame(data, 'thirty <b> & "edges"')
    (tmp_path / "page.html").write_text(f"<!doctype html><title>x</title>{inside}")
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_selector("iframe")
    found = page.frames[1]
    found.wait_for_selector(".edge")
    return found


def test_every_edge_is_drawn_and_a_head_can_be_looked_at(frame, page):
    assert frame.locator(".edge").count() == 30
    assert frame.locator("h1").inner_text() == 'thirty <b> & "edges"'
    assert frame.locator("#edges-title").inner_text() == "30 edges"
    node = frame.locator(".node[data-id='a11.h0']")
    node.click()
    into = frame.locator("#edges-title").inner_text()
    assert into.startswith("a11.h0: ") and into != "30 edges"
    frame.locator("#clear").click()
    frame.locator(".edge .line").first.dispatch_event("pointermove")
    assert "effect" in frame.locator("#tip").inner_text()
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / "notebook_circuit.png")


def test_what_is_in_the_frame_cannot_reach_out(frame):
    """No origin, no address, no form: only these scripts and this style."""
    assert frame.evaluate("self.origin") == "null"
    policy = frame.locator("meta[http-equiv]").get_attribute("content")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")


@pytest.mark.parametrize(
    "frame, word",
    [("effect of the edge's removal", "effect"), ("eap, in logits", "score")],
    indirect=["frame"],
)
def test_a_score_is_not_called_an_effect(frame, word):
    assert frame.locator("label[for=least]").inner_text() == f"Smallest |{word}|"
    assert frame.locator("table.edges th").nth(2).inner_text() == word
    assert frame.locator(".legend").inner_text().count("effect of") == (word == "effect")
