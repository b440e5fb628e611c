"""Forty real runs of a sweep: the table, the sweep's page, and all of them compared at once."""

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import BOTH, CHROMIUM, Server, go, picture, table  # noqa: E402

from discovery.sweeps.folder import aggregate  # noqa: E402
from tests.dashboard.conftest import search  # noqa: E402

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.slow,  # forty searches
]
LEGIBLE = Path(__file__).with_name("legible.js").read_text()
SIZES = ((1280, 800), (1920, 1080), (420, 800))
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SEEDS = range(5)


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Eight thresholds, each with five draws of the prompts, as a sweep leaves them."""
    root = tmp_path_factory.mktemp("forty")
    for threshold in THRESHOLDS:
        for seed in SEEDS:
            asked = (f"method.threshold={threshold}", f"seed={seed}", "task.n=8")
            search(root / "sweep" / f"method.threshold={threshold},seed={seed}", *asked)
    aggregate(root / "sweep")
    return root


@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_forty_runs_are_read_at_every_size(page, forty, request):
    ids = sorted(str(path.parent.relative_to(forty)) for path in forty.rglob("result.json"))
    files = [json.loads((forty / run / "circuit.json").read_text())["edges"] for run in ids]
    kept = [{name for name, edge in edges.items() if edge["in_graph"]} for edges in files]
    views = {"runs": (), "sweep": ("sweep",), "compare": ("compare", *ids)}
    problems, scheme = [], request.node.callspec.params["page"]
    with Server(forty) as address:
        for name, parts in views.items():
            for width, height in SIZES:
                page.set_viewport_size({"width": width, "height": height})
                go(page, address, *parts)
                picture(page, f"forty_{name}_{width}_{scheme}")
                problems += [f"{name} at {width}: {p}" for p in page.evaluate(LEGIBLE)["problems"]]
                assert page.evaluate("document.scrollingElement.scrollWidth") <= width, name
            if name == "runs":
                assert page.locator("tr[data-run]").count() == len(ids) == 40
            if name == "sweep":
                assert page.locator("[data-mean]").count() == len(THRESHOLDS)
                assert page.locator("svg [data-run]").count() == len(ids)
        assert page.inner_text("h1") == "40 circuits"
        page.fill("#least", str(len(ids)))  # only what all have
        shared = {f"{row[0]}->{row[1]}" for row in table(page, ".side .edges")}
        assert shared == set.intersection(*kept) != set()
    assert problems == []
