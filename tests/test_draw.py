"""Pictures of circuits by the command: every style and format, and how rows are ordered."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.schema import Spans
from discovery.show.drawing import DrawnEdge, Layout
from discovery.show.edge_table import latex
from discovery.show.layered import Layered, ordered_rows
from discovery.show.spans import Columns, from_token_to_token

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
draw = importlib.import_module("draw")

EDGES = ["input->a0.h0<v>", "a0.h0->a1.h1<k>", "a0.h0->m1", "a1.h1->logits", "m1->logits"]
RESULT = {
    "model": "tiny", "task": "induction", "method": "acdc", "threshold": 0.1, "target": None,
    "n_edges": 5, "n_edges_total": 110, "metric": "kl", "unit": "nats", "ablation": "zero",
    "splits": {"search": {"n": 4, "circuit": 0.25, "faithfulness": 0.9}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    graph = Graph(2, 4, 4, 32)
    circuit = Circuit(graph, graph.mask(EDGES), np.where(graph.mask(EDGES), -0.5, 0.0))
    (tmp_path / "circuit.json").write_text(json.dumps(circuit.to_json()))
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    return tmp_path


@pytest.mark.parametrize("style", ["grid", "layered", "table"])
@pytest.mark.parametrize("kind, starts", [("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_every_style_in_every_format_and_the_same_bytes_again(run, style, kind, starts):
    words = [f"run={run}", f"style={style}", f"format={kind}"]
    draw.main(words)
    path = run / f"circuit_{style}.{kind}"
    first = path.read_bytes()
    assert first.startswith(starts) and len(first) > 2000
    draw.main(words)
    assert path.read_bytes() == first


@pytest.mark.parametrize("style", ["grid", "layered", "table"])
def test_what_is_drawn_is_named(run, style):
    draw.main([f"run={run}", f"style={style}", f"out={run}/a.svg"])
    text = (run / "a.svg").read_text()
    assert all(f">{node}<" in text for node in ("input", "a0.h0", "a1.h1", "m1", "logits"))
    assert "Circuit for induction in tiny" in text
    assert "5 of 110 edges; on 4 searched prompts kl 0.25 nats, faithfulness 90.0%" in text
    draw.main([f"run={run}/circuit.json", f"style={style}", f"out={run}/b.svg", "title=Mine"])
    assert ">Mine<" in (run / "b.svg").read_text()


def test_latex_holds_the_strongest(run):
    draw.main([f"run={run}", "style=table", "format=tex", "edges=2"])
    lines = (run / "circuit_table.tex").read_text().splitlines()
    assert lines[3] == r"\midrule" and len(lines) == 8
    assert lines[4] == r"a0.h0 & a1.h1 & key & $-0.5$ \\"
    assert "100\\%\\_\\$" in latex([DrawnEdge("input", "logits", 1.0)], "100%_$")


@pytest.mark.parametrize("words, message", [
    (["style=grid", "format=tex"], "format=tex: only a table is written so"),
    (["style=round"], "style='round'"),
    (["out=a.png"], "out='a.png': it must end in .svg"),
    (["edges=0"], "edges='0'"),
    (["layered"], "layered: words are of the form field=value"),
    (["colour=red"], "colour: there is no such field"),
])  # fmt: skip
def test_refusals(run, words, message):
    with pytest.raises(InputError, match=message):
        draw.read_words([f"run={run}", *words])
    with pytest.raises(InputError, match="nowhere"):
        draw.draw(draw.read_words(["run=nowhere"]))


def test_rows_are_ordered_so_that_curves_do_not_cross():
    """By hand: each head of layer 1 reads the head that stands last in layer 0."""
    layout = Layout(2, 4, 4, False)
    crossed = [DrawnEdge(f"a0.h{i}", f"a1.h{3 - i}<q>", 1.0) for i in range(4)]
    rows = ordered_rows(layout, crossed)
    below, above = rows[0, 1], rows[1, 1]
    assert [f"a1.h{3 - int(node[-1])}" for node in below] == above


def test_rows_without_nodes_take_no_room():
    edges = [DrawnEdge("input", "a3.h0<v>", 1.0), DrawnEdge("a3.h0", "a70.kv0<k>", 1.0),
             DrawnEdge("a70.h1", "logits", 1.0)]  # fmt: skip
    few, many = (Layered(Layout(n, 4, 2, True), edges) for n in (71, 80))
    assert few.height == many.height < 6
    assert many.span(0, 70) == (many.place("a70.h1").x,) * 2 and many.span(1, 70) is None
    with pytest.raises(ValueError, match="'m5' is no node"):
        many.place("m5")


SPANS = Spans(("s1", "end"), ((True, False), (True, True)), (False, True))


def test_a_circuit_over_spans_has_a_column_a_span(tmp_path):
    """The induction circuit's shape: what is read elsewhere passes from column to column."""
    graph = Graph(2, 2, 2, 8, has_mlp=False, spans=SPANS)
    edges = ["input->a0.h0<v>@s1", "a0.h0->a1.h1<k>@s1", "input->a1.h1<q>@end", "a1.h1->logits"]
    off = ["a0.h1->a1.h1<q>@s1"]  # read where the head is not
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(Circuit(graph, graph.mask([*edges, *off])).to_json()))
    found = from_token_to_token(Circuit.load(path))
    steps = sorted((e.writer, e.reader) for e in found)
    assert steps == [
        ("a0.h0@s1", "a1.h1<k>@end"), ("a1.h1@end", "logits"), ("input@end", "a1.h1<q>@end"),
        ("input@s1", "a0.h0<v>@s1"),
    ]  # fmt: skip
    places = Columns(Layout(2, 2, 2, False), found, SPANS.names)
    s1, end = places.place("input@s1"), places.place("a1.h1@end")
    assert s1.x == places.place("a0.h0@s1").x < end.x == places.place("logits").x
    assert s1.y < places.place("a0.h0@s1").y < end.y < places.place("logits").y
    draw.main([f"run={path}", "style=spans", f"out={tmp_path}/a.svg"])
    text = (tmp_path / "a.svg").read_text()
    assert all(f">{name}<" in text for name in ("input", "a0.h0", "a1.h1", "s1", "end"))
    for style in ("grid", "layered", "table"):  # where spans have no place
        draw.main([f"run={path}", f"style={style}", f"out={tmp_path}/b.svg"])


def test_a_circuit_without_spans_has_no_columns(run):
    with pytest.raises(InputError, match="its edges are at all positions, and style=spans draws"):
        draw.draw(draw.read_words([f"run={run}", "style=spans"]))
