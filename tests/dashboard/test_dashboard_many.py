"""Many circuits compared: what is shown equals the files, worked out again in the plainest way."""

import json
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import BOTH, CHROMIUM, Server, drawn, go, picture, table  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from discovery.dashboard.app import make_app  # noqa: E402
from discovery.dashboard.export import export_page  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LEGIBLE = Path(__file__).with_name("legible.js").read_text()
EDGES = [
    f"{w}->{r}" for w in ("input", "a0.h0", "a0.h1") for r in ("a1.h0<q>", "a1.h1<v>", "logits")
]
HELD = {  # which of EDGES, the strongest first
    "sweep/seed=0,threshold=0.1": (0, 1, 2, 5),
    "sweep/seed=1,threshold=0.1": (1, 0, 5),
    "sweep/seed=2,threshold=0.1": (5, 1, 8),
    "sweep/seed=3,threshold=0.1": (3, 1, 0, 5, 4, 7),
}


def write(written, root, held, **more):
    for name, edges in held.items():
        kept = {EDGES[e]: {"score": 1.0 / (1 + i), "in_graph": True} for i, e in enumerate(edges)}
        seed = int(name.partition("seed=")[2][:1])
        result = {"seed": seed, "metric": "kl", "method": "acdc", "n_edges": len(edges), **more}
        written(root / name, status={"state": "done"}, result=result,
                config={"config": {"seed": seed, "method": {"name": "acdc"}}},
                circuit={"cfg": {"n_layers": 2, "n_heads": 2}, "edges": kept})  # fmt: skip
    return root


@pytest.fixture(scope="module")
def four(tmp_path_factory, written):
    return write(written, tmp_path_factory.mktemp("four"), HELD)


def test_what_four_circuits_share(page, four):
    sets = [{EDGES[e] for e in edges} for edges in HELD.values()]
    count = {e: sum(e in own for own in sets) for e in set.union(*sets)}
    with Server(four) as address:
        go(page, address, "compare", *HELD)
        indices = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
        head = page.inner_text(".head p")
        assert f"{len(count)} edges in any, 2 in all" in head
        assert f"median {median(indices):.3g}" in head and f"to {max(indices):.3g}" in head
        apart = table(page, ".apart")
        assert (
            apart[0] == ["seed", "0", "1", "2", "3"] and apart[1][0] == "edges"
        )  # no other setting
        names = page.locator(".apart thead th").all_inner_texts()
        assert names[1:] == [f"seed={i}" for i in range(4)]
        made = page.locator(".edge").count()
        assert made == sum(n >= 2 for n in count.values())  # no more than are shown
        for least in range(1, 5):
            page.fill("#least", str(least))
            rows = {f"{a}->{b}": c for a, b, c, _ in table(page, ".side .edges")}
            assert rows == {e: f"{n} of 4" for e, n in count.items() if n >= least}
            assert drawn(page) == len(rows)
        places = {f"{row[0]}->{row[1]}": row[3] for row in table(page, ".side .edges")}
        own = [1 - edges.index(1) / len(edges) for edges in HELD.values()]
        assert places[EDGES[1]] == f"{100 * median(own):.1f} %"
        assert page.inner_text(".side p") == "Nodes in all: a0.h0, a1.h1."
        columns = page.locator(".pattern-column")
        patterns = {frozenset(i for i, own in enumerate(sets) if e in own) for e in count}
        assert columns.count() == len(patterns)
        column = page.locator("[aria-label*='exactly all runs']")
        assert column.get_attribute("aria-label").startswith("2 edges")
        column.focus()
        page.keyboard.press("Enter")
        assert drawn(page) == 2 and "in exactly 4 runs" in page.inner_text(".side h2")
        picture(page, "many")
        page.click("text=Show all")
        order = page.locator(".edge").evaluate_all("all => all.map(e => +e.dataset.edge)")
        assert order == sorted(order, reverse=True)  # what is common lies on top
        page.click('.node[data-id="logits"]')
        assert page.inner_text(".side h2").startswith("logits: ")


@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_it_can_be_read_at_every_width(page, four):
    with Server(four) as address:
        for width in (420, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            go(page, address, "compare", *HELD)
            assert page.evaluate(LEGIBLE)["problems"] == [], width
    picture(page, "many_1920")


def test_two_whose_numbers_differ_in_kind_are_compared_by_place(page, tmp_path, written):
    two = {name: HELD[name] for name in list(HELD)[:2]}
    write(written, tmp_path / "like", two)
    write(written, tmp_path / "unlike", two)
    other = tmp_path / "unlike" / list(two)[1] / "circuit.json"
    file = json.loads(other.read_text())
    other.write_text(json.dumps(file | {"about": {"score": "EAP-IG's estimate"}}))
    with Server(tmp_path) as address:
        go(page, address, "compare", *(f"like/{name}" for name in two))
        assert ["input", "a1.h1<v>", "0.500", "1.000", "in both"] in table(
            page, ".panel > .scroll .edges"
        )
        go(page, address, "compare", *(f"unlike/{name}" for name in two))
        rows = table(page, ".panel > .scroll .edges")
        assert ["input", "a1.h1<v>", "75.0 %", "100.0 %", "in both"] in rows
        assert "measure different things" in page.inner_text("main")


@pytest.mark.slow
def test_many_are_exported_and_too_many_refused(page, four, tmp_path):
    (tmp_path / "page.html").write_text(export_page(four, list(HELD)))
    page.goto(f"file://{tmp_path}/page.html")
    page.wait_for_selector("body[data-ready=compare]")
    assert page.inner_text("h1") == "4 circuits" and page.locator(".pattern-column").count() > 3
    client = TestClient(make_app(four), base_url="http://127.0.0.1")
    name = list(HELD)[0]
    for place in ("/export", "/api/circuits"):
        answer = client.get(place, params={"id": [name] * 101})
        assert answer.status_code == 404 and "at most 100" in answer.json()["error"]
    assert client.get("/api/circuits", params={"id": [name, "../x"]}).status_code == 404
    (torn := tmp_path / "torn").mkdir()
    (torn / "circuit.json").write_text("{")
    found = TestClient(make_app(tmp_path), base_url="http://127.0.0.1").get("/api/circuits?id=torn")
    assert found.json()[0]["circuit"] is None and "circuit.json" in found.json()[0]["problems"][0]
