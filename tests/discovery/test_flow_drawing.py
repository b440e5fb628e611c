"""Figures of routes: deterministic, and every part of a route is on them."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import families
import pytest
import torch

from acdc.errors import InputError
from discovery.flow.drawing import Grid, draw_route
from discovery.flow.routes import Kind, Route, find_route
from discovery.flow.shares import flow_graph

SVG = "{http://www.w3.org/2000/svg}"
PROMPTS = families.prompts(n=1, length=6)
TEXTS = ["The", " <cat>", " $s$", " on", " ", " mat"]


@pytest.fixture(scope="module", params=["llama", "pythia", "attention_only"])
def route(request) -> Route:
    model = families.view(request.param, torch.float32)
    graph = flow_graph(model, PROMPTS.clean, right=PROMPTS.answers, wrong=PROMPTS.wrong)
    return find_route(graph, threshold=0.02)


def draw(folder: Path, route: Route) -> ElementTree.Element:
    folder.mkdir(exist_ok=True)
    png, svg = draw_route(folder, route, TEXTS, top="logit of $a$ − b", title="A & B", subtitle="")
    assert png.read_bytes().startswith(b"\x89PNG")
    return ElementTree.parse(svg).getroot()


def test_equal_input_gives_equal_files(tmp_path: Path, route: Route) -> None:
    draw(tmp_path / "a", route)
    draw(tmp_path / "b", route)
    for name in ("route.svg", "route.png"):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes() and len(data) > 5000
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["route.png", "route.svg"]


def test_every_edge_is_drawn_and_every_head_named(tmp_path: Path, route: Route) -> None:
    root = draw(tmp_path, route)
    drawn = {g.get("id", "") for g in root.iter(f"{SVG}g")}
    texts = ["".join(t.itertext()).strip() for t in root.iter(f"{SVG}text")]
    heads = defaultdict(set)
    for kind, _, layer, head, source, target, _, _ in route.edges.tolist():
        if kind == Kind.HEAD:
            heads[f"head:{layer}:{source}:{target}"].add(str(head))
        elif kind not in (Kind.CONSTANT, Kind.INPUT):
            assert f"{Kind(kind).name.lower()}:{layer}:{target}" in drawn
    assert drawn >= set(heads) and len(heads) > 3
    labels = [sorted(text[1:].split(",")) for text in texts if re.fullmatch(r"h\d[\d,]*", text)]
    assert sorted(labels) == sorted(sorted(names) for names in heads.values())
    assert {"The", "<cat>", "$s$", "on", "mat", "logit of $a$ − b", "A & B"} <= set(texts)
    assert sum(text.endswith("%") for text in texts) == int((route.input > 0).sum())
    assert ("MLP" in texts) == bool((route.edges["kind"] == Kind.MLP).any())
    levels = {i for i in drawn if i.startswith("direct:")}
    assert levels and f"direct:{(len(route.states) - 3) // 2}" in levels


def test_widths_follow_flow(tmp_path: Path, route: Route) -> None:
    root, widths, flows = draw(tmp_path, route), {}, defaultdict(float)
    for group in root.iter(f"{SVG}g"):
        if group.get("id", "").startswith("head:"):
            style = group.find(f"{SVG}path").attrib["style"]  # type: ignore[union-attr]
            width = re.search(r"stroke-width: ([\d.]+)", style)
            widths[group.attrib["id"]] = float(width[1]) if width else 1.0
    for _, _, layer, _, source, target, _, flow in route.edges[
        route.edges["kind"] == Kind.HEAD
    ].tolist():
        flows[f"head:{layer}:{source}:{target}"] += flow
    order = [widths[name] for name in sorted(flows, key=lambda name: flows[name])]
    assert order == sorted(order) and len(set(order)) > 3


def test_twenty_tokens_and_thirty_layers_keep_apart() -> None:
    grid = Grid(n_tokens=20, n_layers=30, split=True)
    assert grid.column >= 0.7 and grid.row >= 0.4
    assert grid.x(19) < grid.width and grid.y(30) < grid.height
    narrow = Grid(n_tokens=1, n_layers=1, split=False)
    assert narrow.x(0) < narrow.width


def test_a_text_for_every_token(tmp_path: Path, route: Route) -> None:
    with pytest.raises(InputError, match="2 texts for 6 tokens"):
        draw_route(tmp_path, route, ["a", "b"], top="", title="", subtitle="")
