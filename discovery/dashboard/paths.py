"""Which edges of a circuit are on no path from `input` to `logits`, so that they cannot matter.

And, where edges are at spans of positions, from which span to which a path takes them. By names
alone: the array that a Graph is would be as large as the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from acdc.names import Name, named
from acdc.schema import Spans


def off_paths(edges: Sequence[tuple[str, str]], per_group: int, together: int = 0) -> list[int]:
    """Numbers of the edges, (writer, reader), that no path goes along.

    What a key/value group reads, of so many heads, each of its heads reads; where so many heads of
    a layer are normed `together`, what one reads shapes all of them.
    """
    ends = [[str(n) for n in _nodes(named(reader), per_group, together)] for _, reader in edges]
    after, before = defaultdict(list), defaultdict(list)
    for (writer, _), nodes in zip(edges, ends, strict=True):
        for node in nodes:
            after[writer].append(node)
            before[node].append(writer)
    alive = _reached(["input"], after) & _reached(["logits"], before)
    return [
        i
        for i, ((writer, _), nodes) in enumerate(zip(edges, ends, strict=True))
        if writer not in alive or alive.isdisjoint(nodes)
    ]


class Step(NamedTuple):
    """What a path takes of an edge: "m0@io" into "a23.h0<v>@end", by the edge's number."""

    edge: int
    writer: str
    reader: str


def steps(
    edges: Sequence[tuple[str, str]], per_group: int, together: int, spans: Spans
) -> list[Step]:
    """Of edges at spans, (writer, reader): every step on a path from token to token.

    As acdc.Circuit.steps has them: up within a span, and from a key's or value's to those that see
    it. Edges at spans that there are not have none.
    """
    found = [
        Step(i, f"{writer}@{here}", str(to))
        for i, (writer, reader) in enumerate(edges)
        for here, to in _joined(named(reader), per_group, together, spans)
    ]
    after, before = defaultdict(list), defaultdict(list)
    for _, writer, reader in found:
        node = _placed(reader)
        after[writer].append(node)
        before[node].append(writer)
    inputs = [f"input@{name}" for name in spans.names]
    alive = _reached(inputs, after) & _reached(["logits"], before)
    return [step for step in found if {step.writer, _placed(step.reader)} <= alive]


def _joined(reader: Name, per_group: int, together: int, spans: Spans) -> list[tuple[str, Name]]:
    """From which span a reader reads, and as what, where, its node is shaped by that."""
    if reader.kind == "logits":
        return [(name, reader) for name, last in zip(spans.names, spans.last, strict=True) if last]
    if reader.span not in spans.names:
        return []
    key = spans.names.index(reader.span)
    seen = [n for n, row in zip(spans.names, spans.sees, strict=True) if row[key]]
    across = seen if reader.part in ("k", "v") else [reader.span]
    nodes = _nodes(reader, per_group, together)
    return [(reader.span, replace(n, part=reader.part, span=to)) for n in nodes for to in across]


def _placed(reader: str) -> str:
    """The node of a step's end, at its span."""
    return str(replace(named(reader), part=""))


def _nodes(reader: Name, per_group: int, together: int) -> list[Name]:
    """The nodes whose output it shapes."""
    node = replace(reader, part="", span="")
    first, count = reader.index, 1
    if reader.part and together:
        first, count = 0, together
    elif reader.kind == "kv":
        first, count = reader.index * per_group, per_group
    elif not reader.part:
        return [node]
    return [replace(node, kind="head", index=first + i) for i in range(count)]


def _reached(start: Sequence[str], steps: Mapping[str, Iterable[str]]) -> set[str]:
    found, waiting = set(start), list(start)
    while waiting:
        for node in steps.get(waiting.pop(), ()):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found
