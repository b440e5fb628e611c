"""One circuit: edges on no path, tall and wide models, the header."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import BOTH, CHROMIUM, Server, drawn, go, picture, settled  # noqa: E402

from acdc.circuit import Circuit  # noqa: E402
from acdc.graph import Graph  # noqa: E402
from acdc.schema import Spans  # noqa: E402
from discovery.dashboard.contents import circuit  # noqa: E402

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LEGIBLE = Path(__file__).with_name("legible.js").read_text()


@pytest.mark.parametrize("groups", [4, 2])
def test_edges_on_no_path_are_those_that_pruning_drops(groups):
    """Of many random circuits, the answer of the circuit itself; groups share keys and values."""
    graph, found = Graph(3, 4, groups, 8), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        mask = graph.legal & (rng.random(graph.legal.shape) < 0.02 + 0.004 * seed)
        whole = Circuit(graph, mask, np.where(mask, rng.random(mask.shape) + 0.1, 0.0))
        shown = circuit(json.loads(json.dumps(whole.to_json())))
        kept = circuit(json.loads(json.dumps(whole.pruned().to_json())))
        assert shown and kept
        names = [tuple(edge[:2]) for edge in shown["edges"]]
        off = {names[i] for i in shown["off_path"]}
        assert set(names) - off == {tuple(edge[:2]) for edge in kept["edges"]} - off
        assert len(names) - len(off) == len(kept["edges"])
        found += bool(off)
    assert found > 10


@pytest.mark.parametrize(("groups", "kv"), [(4, "per_query_head"), (2, "per_group")])
@pytest.mark.parametrize("joint", [False, True])
def test_steps_between_spans_are_the_circuits(groups, kv, joint):
    """Of many random circuits at three spans, of which the first does not see the second."""
    sees = ((True, False, False), (False, True, False), (True, True, True))
    spans = Spans(("io", "s1", "end"), sees, (False, False, True))
    graph, lost = Graph(2, 4, groups, 8, kv=kv, joint=joint, spans=spans), 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        mask = graph.legal & (rng.random(graph.legal.shape) < 0.02 + 0.004 * seed)
        whole = Circuit(graph, mask, np.where(mask, rng.random(mask.shape) + 0.1, 0.0))
        shown = circuit(json.loads(json.dumps(whole.to_json())))
        assert shown and shown["spans"] == ["io", "s1", "end"]
        names = [f"{writer}->{reader}" for writer, reader, _ in shown["edges"]]
        wanted = {
            (f"{graph.writers[w]}->{graph.readers[r].name}", *_ends(graph, r, step))
            for (w, r), found in whole.steps().items()
            for step in found
        }
        assert {(names[i], *ends) for i, *ends in shown["steps"]} == wanted
        assert len(shown["steps"]) == len(wanted)
        assert {names[i] for i in shown["off_path"]} == set(whole.edges) - set(whole.pruned().edges)
        lost += len(shown["off_path"])
    assert lost > 30


def _ends(graph, reader, step):
    """A step's ends by name, the second with what it feeds."""
    (writer, here), to = step
    part = graph.readers[reader].part
    of = f"<{part}>" if part in "qkv" else ""
    at = graph.spans.names
    end = "logits" if to == "logits" else f"{graph.writers[to[0]]}{of}@{at[to[1]]}"
    return f"{graph.writers[writer]}@{at[here]}", end


def test_spans_that_make_no_sense_are_none():
    """A torn table of what sees what: the circuit is shown, as one without spans."""
    data = json.loads(json.dumps(over_spans()))
    data["graph"]["spans"]["sees"] = [[True], "x"]
    shown = circuit(data)
    assert shown and len(shown["edges"]) == 6
    assert "steps" not in shown


def tall(layers, heads, used):
    """A chain of heads and MLPs through these layers, and one edge that leads nowhere."""
    names, before = [], "input"
    for i, layer in enumerate(used):
        head = f"a{layer}.h{(7 * i) % heads}"
        names += [f"{before}->{head}<{'qkv'[i % 3]}>", f"{head}->m{layer}", f"m{layer}->logits"]
        before = head
    names += [f"m{used[0]}->m{used[-1]}", "a1.h0->m2"]
    edges = {name: {"score": 1.0 - i / 200, "in_graph": True} for i, name in enumerate(names)}
    return {"cfg": {"n_layers": layers, "n_heads": heads}, "edges": edges}


def over_spans():
    """Two edges into one key, at two spans, and what is read at the last."""
    spans = Spans(("s2", "end"), ((True, False), (True, True)), (False, True))
    graph = Graph(2, 2, 2, 8, spans=spans)
    edges = ["input->a0.h1<v>@s2", "a0.h1->a1.h0<k>@s2", "a0.h1->a1.h0<k>@end", "input->m0@end",
             "a1.h0->logits", "m0->logits"]  # fmt: skip
    mask = graph.mask(edges)
    return Circuit(graph, mask, mask * 1.0).to_json()


@pytest.fixture(scope="module")
def large(tmp_path_factory, written):
    root = tmp_path_factory.mktemp("large")
    score = {"accuracy": 0.75}
    result = {
        "n_edges": 26, "n_edges_on_paths": 25, "metric": "kl", "metric_clean": 0.0,
        "metric_empty": 4.0, "metric_circuit": 0.5, "faithfulness": 0.875, "unit": "nats",
        "test_faithfulness": 0.8, "test_accuracy": 0.5,
        "splits": {"test": {"scores": {"model": score, "empty": {"accuracy": 0.25}}}},
        "holds": "the circuit does part of the task: on 8 new prompts",
    }  # fmt: skip
    done = {"state": "done"}
    written(root / "thirty", status=done, result=result, circuit=tall(30, 9, range(30)))
    written(root / "eighty", status=done, circuit=tall(80, 64, [0, 3, 4, 30, 31, 55, 78, 79]))
    written(root / "spans", status=done, circuit=over_spans())
    return root


@pytest.fixture(scope="module")
def large_address(large):
    with Server(large) as address:
        yield address


def visible_names(page):
    script = "all => all.filter(t => t.checkVisibility()).map(t => t.textContent)"
    return page.locator(".picture .node text").evaluate_all(script)


@needs_browser
@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_tall_models_can_be_read_at_every_width(page, large_address):
    for run in ("thirty", "eighty"):
        for width in (420, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 1080 if width > 1900 else 800})
            go(page, large_address, "run", run)
            page.wait_for_function("document.querySelector('.picture svg').dataset.names")
            assert page.evaluate(LEGIBLE)["problems"] == [], (run, width)
            n_nodes = page.locator(".picture .node").count()
            assert len(visible_names(page)) == n_nodes > 15, (run, width)
            picture(page, f"{run}_{width}")


@needs_browser
def test_empty_layers_fold_and_edges_on_no_path_wait(page, large_address):
    go(page, large_address, "run", "eighty")
    assert drawn(page) == 25 and "26" not in page.inner_text("#edges-title")
    labels = page.locator(".picture text.small").all_text_contents()
    assert {"5–29", "32–54", "56–77"} <= set(labels) and "2" not in labels[:9]
    height = page.locator(".picture svg").evaluate("p => p.viewBox.baseVal.height")
    page.uncheck("#fold")
    assert page.locator(".picture svg").evaluate("p => p.viewBox.baseVal.height") > 3 * height
    assert page.evaluate("document.activeElement.id") == "fold"
    page.check("#fold")
    page.check("#loose")
    assert drawn(page) == 26 and page.locator(".edge.loose").count() == 1
    width = page.locator(".picture svg").bounding_box()["width"]
    page.click("[aria-label=Larger]")
    assert page.locator(".picture svg").bounding_box()["width"] > 1.25 * width
    page.click("text=Fit")
    box, svg = (page.locator(q).bounding_box() for q in (".picture", ".picture svg"))
    assert svg["width"] <= box["width"] and svg["height"] <= box["height"] + 1


@needs_browser
def test_edges_between_mlps_go_round_those_between_them(page, large_address):
    go(page, large_address, "run", "thirty")
    least, box, most, width = page.evaluate(
        """() => {
          const grid = headGrid({ layers: 30, heads: 9, groups: 9, mlp: true });
          const path = svg("path", { d: edgePath(grid, "m0", "m29").d });
          const at = (part) => path.getPointAtLength(part * path.getTotalLength()).x;
          const points = [.2, .35, .5, .65, .8].map(at);
          const box = grid.place("m10");
          return [Math.min(...points), box.x + box.width / 2, Math.max(...points), grid.width];
        }"""
    )
    assert box < least and most < width


@needs_browser
def test_the_header_names_what_the_numbers_lie_between(page, large_address):
    go(page, large_address, "run", "thirty")
    head = page.inner_text(".head")
    for said in ("26", "25 on a path", "87.5 %", "80.0 %", "0.5 nats", "model 0, empty 4",
                 "50.0 %", "model 75.0 %, empty 25.0 %",
                 "he circuit does part of the task: on 8 new prompts."):  # fmt: skip
        assert said in head


@needs_browser
def test_edges_of_a_span_are_chosen(page, large_address):
    """Each span's edge is one; choosing a span leaves what is read there."""
    go(page, large_address, "run", "spans", "circuit", options="?columns=heads")
    assert drawn(page, ".picture") == 6
    assert page.locator("#span option").all_inner_texts() == ["all", "s2", "end"]
    page.select_option("#span", "s2")
    assert drawn(page, ".picture") == 2
    assert page.locator("#edges-title ~ .scroll").inner_text().count("@s2") == 2
    page.select_option("#span", "all")
    assert drawn(page, ".picture") == 6
    go(page, large_address, "run", "thirty")
    assert page.locator("#span").count() == 0


@needs_browser
def test_spans_are_columns(page, large_address):
    """A node stands where paths pass through it; what is read at one span is drawn to another."""
    go(page, large_address, "run", "spans")
    nodes = page.locator(".picture .node").evaluate_all("all => all.map(n => n.dataset.id).sort()")
    assert nodes == [
        "a0.h1@end",
        "a0.h1@s2",
        "a1.h0@end",
        "input@end",
        "input@s2",
        "logits",
        "m0@end",
    ]
    assert drawn(page, ".picture") == 7  # input -> a0.h1<v>@s2 leads to both of its spans
    x = {name: page.locator(f'[data-id="{name}"]').bounding_box()["x"] for name in nodes}
    assert x["a0.h1@s2"] == x["input@s2"] < x["a1.h0@end"] == x["input@end"]
    page.locator('[data-id="a0.h1@s2"]').press("Enter")
    assert page.inner_text("#edges-title") == "a0.h1@s2: 1 in, 1 out"
    shown = page.locator("#edges-title ~ .scroll tbody").inner_text()
    assert "a1.h0<k>@s2" in shown
    assert "a1.h0<k>@end" not in shown
    page.select_option("#columns", "heads")  # the head stays in focus, at all its spans
    assert page.inner_text("#edges-title") == "a0.h1: 1 in, 2 out"
    page.fill("#find", "1.0")
    page.select_option("#columns", "spans")
    assert page.locator(".node.focused").get_attribute("data-id") == "a1.h0@end"
    page.select_option("#span", "s2")
    assert drawn(page, ".picture") == 3
    for width in (420, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        settled(page)
        assert page.evaluate(LEGIBLE)["problems"] == [], width
