"""Figures of circuits: deterministic, complete, and comparable between circuits."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from acdc.errors import InputError
from discovery.show.drawing import COLOURS, DrawnEdge, Grid, Layout, draw_circuit

LAYOUT = Layout(n_layers=4, n_heads=6, n_kv_heads=2, has_mlp=True)
FIRST = [
    DrawnEdge("input", "a0.kv1<v>", 0.5),
    DrawnEdge("input", "m0", -0.25),
    DrawnEdge("a0.h4", "a2.h5<q>", 1.0),
    DrawnEdge("m0", "a2.kv1<k>", 0.1),
    DrawnEdge("a2.h5", "logits", 0.0),
]
SECOND = [DrawnEdge("a0.h4", "a3.h0<q>", 3.0), DrawnEdge("a3.h0", "logits", 2.0)]
SVG = "{http://www.w3.org/2000/svg}"


def draw(folder: Path, layout: Layout, edges: list[DrawnEdge]) -> ElementTree.Element:
    folder.mkdir(exist_ok=True)
    _, svg = draw_circuit(folder, layout, edges, title="A <circuit> & $its$ title", subtitle="$")
    return ElementTree.parse(svg).getroot()


def boxes(root: ElementTree.Element) -> dict[str, str]:
    """Name of a drawn node -> the outline of its box."""
    groups = [g for g in root.iter(f"{SVG}g") if g.get("id", "").startswith("node:")]
    return {g.attrib["id"][5:]: g.find(f"{SVG}path").attrib["d"] for g in groups}  # type: ignore[union-attr]


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    draw(tmp_path / "a", LAYOUT, FIRST)
    draw(tmp_path / "b", LAYOUT, FIRST[::-1])
    for name in ("circuit.svg", "circuit.png"):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes() and len(data) > 5000
    assert b"date" not in (tmp_path / "a" / "circuit.svg").read_bytes()


def test_every_node_is_named_and_every_edge_drawn_in_its_colour(tmp_path: Path) -> None:
    root = draw(tmp_path, LAYOUT, FIRST)
    texts = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
    names = {"input", "a0.kv1", "m0", "a0.h4", "a2.h5", "a2.kv1", "logits"}
    assert texts >= names | set(COLOURS) | {"A <circuit> & $its$ title"}
    assert set(boxes(root)) == names
    for edge, feeds in zip(FIRST, ("value", "MLP", "query", "key", "logits"), strict=True):
        group = next(g for g in root.iter() if g.get("id") == f"{edge.writer}->{edge.reader}")
        style = group.find(f"{SVG}path").attrib["style"]  # type: ignore[union-attr]
        assert f"stroke: {COLOURS[feeds].lower()}" in style


def test_the_stronger_lies_on_top_and_is_wider(tmp_path: Path) -> None:
    root = draw(tmp_path, LAYOUT, FIRST)
    drawn = [g for g in root.iter(f"{SVG}g") if "->" in g.get("id", "")]
    effect = {f"{e.writer}->{e.reader}": abs(e.effect) for e in FIRST}
    effects = [effect[g.attrib["id"]] for g in drawn]
    assert effects == sorted(effects) and len(effects) == len(FIRST)
    styles = [g.find(f"{SVG}path").attrib["style"] for g in drawn]  # type: ignore[union-attr]
    widths = [float(re.findall(r"stroke-width: ([\d.]+)", style)[0]) for style in styles]
    assert widths == sorted(set(widths))


def test_positions_depend_on_the_architecture_only(tmp_path: Path) -> None:
    first, second = draw(tmp_path / "a", LAYOUT, FIRST), draw(tmp_path / "b", LAYOUT, SECOND)
    shared = boxes(first).keys() & boxes(second).keys()
    assert shared == {"input", "logits", "a0.h4"}
    assert all(boxes(first)[name] == boxes(second)[name] for name in shared)
    assert first.attrib["viewBox"] == second.attrib["viewBox"]


@pytest.mark.parametrize(
    "layout",
    [LAYOUT, Layout(1, 1, 1, False), Layout(2, 8, 8, False), Layout(30, 9, 3, True),
     Layout(21, 25, 5, True), Layout(3, 32, 4, True)],
)  # fmt: skip
def test_no_two_boxes_overlap_and_all_are_on_the_figure(layout: Layout) -> None:
    grid = Grid(layout)
    names = ["input", "logits"]
    for layer in range(layout.n_layers):
        names += [f"a{layer}.h{head}" for head in range(layout.n_heads)]
        names += [f"a{layer}.kv{head}" for head in range(layout.n_kv_heads)]
        names += [f"m{layer}"] * layout.has_mlp
    places = [grid.place(name) for name in names]
    for i, a in enumerate(places):
        assert a.width / 2 < a.x < grid.width - a.width / 2 and 0 < a.y < grid.height - 0.9
        for b in places[:i]:
            apart_x = abs(a.x - b.x) >= (a.width + b.width) / 2
            assert apart_x or abs(a.y - b.y) > (a.height + b.height) / 2


def test_a_group_sits_below_the_middle_of_its_heads() -> None:
    grid = Grid(LAYOUT)
    heads, group = [grid.place(f"a2.h{head}") for head in (3, 4, 5)], grid.place("a2.kv1")
    assert group.x == pytest.approx(heads[1].x) and group.y < heads[1].y
    assert heads[0].y == heads[2].y < grid.place("m2").y < grid.place("a3.h0").y


def test_a_circuit_without_edges_is_drawn(tmp_path: Path) -> None:
    assert set(boxes(draw(tmp_path, Layout(2, 8, 8, False), []))) == {"input", "logits"}


def test_a_hundred_edges_are_a_hundred_lines_and_only_their_ends_are_boxes(tmp_path: Path) -> None:
    """What the time of a drawing rests on."""
    random.seed(0)
    edges = [
        DrawnEdge(
            f"a{random.randrange(15)}.h{random.randrange(9)}",
            f"a{random.randrange(15, 30)}.h{random.randrange(9)}<q>",
            random.random(),
        )
        for _ in range(100)
    ]
    root = draw(tmp_path, Layout(30, 9, 3, True), edges)
    names = {f"{edge.writer}->{edge.reader}" for edge in edges}
    groups = [g for g in root.iter(f"{SVG}g") if "->" in g.get("id", "")]
    assert {g.attrib["id"] for g in groups} == names
    assert [len(list(g.iter(f"{SVG}path"))) for g in groups] == [1] * 100
    ends = {end for edge in edges for end in (edge.writer, edge.reader.removesuffix("<q>"))}
    assert boxes(root).keys() == ends | {"input", "logits"}


@pytest.mark.parametrize(
    ("writer", "reader"),
    [("a0.h6", "logits"), ("m4", "logits"), ("x", "m1"), ("input", "a1.h2"), ("input", "m1<q>"),
     ("input", "a1.kv2<k>"), ("input", "input")],
)  # fmt: skip
def test_unknown_names_are_refused(tmp_path: Path, writer: str, reader: str) -> None:
    wrong = reader.partition("<")[0] if writer == "input" else writer
    with pytest.raises(ValueError, match=f"^'{re.escape(wrong)}"):
        draw(tmp_path, LAYOUT, [DrawnEdge(writer, reader, 1.0)])
    assert list(tmp_path.iterdir()) == []


def test_an_old_picture_survives_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    draw(tmp_path, LAYOUT, FIRST)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(InputError, match="circuit.png: No space left"):
        draw(tmp_path, LAYOUT, SECOND)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"circuit.png", "circuit.svg"}
