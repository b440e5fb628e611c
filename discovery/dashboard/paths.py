"""What paths from `input` to `logits` take of a circuit's edges, from which span to which.

An edge of which they take nothing cannot matter. By names alone: the array that a Graph is would be
as large as the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from acdc.names import Name, named
from acdc.schema import Spans


class Step(NamedTuple):
    """What a path takes of an edge: "m0@io" into "a23.h0<v>@end", by the edge's number."""

    edge: int
    writer: str
    reader: str


def steps(
    edges: Sequence[tuple[str, str]], per_group: int, together: int, spans: Spans
) -> list[Step]:
    """Of the edges, (writer, reader): every step on a path from token to token.

    As acdc.Circuit.steps has them: up within a span, and from a key's or value's to those that see
    it; a span of all positions has no name. What a key/value group reads, of so many heads, each of
    its heads reads; where so many heads of a layer are normed `together`, what one reads shapes all
    of them. Edges at spans that there are not have none.
    """
    readers = dict.fromkeys(reader for _, reader in edges)
    joined = {name: _joined(named(name), per_group, together, spans) for name in readers}
    found, nodes = list[Step](), list[str]()
    for i, (writer, reader) in enumerate(edges):
        for here, to in joined[reader]:
            found.append(Step(i, f"{writer}@{here}" if here else writer, str(to)))
            nodes.append(str(replace(to, part="")))
    after, before = defaultdict(list), defaultdict(list)
    for (_, writer, _), node in zip(found, nodes, strict=True):
        after[writer].append(node)
        before[node].append(writer)
    inputs = [str(Name("input", span=name)) for name in spans.names]
    alive = _reached(inputs, after) & _reached(["logits"], before)
    return [
        step
        for step, node in zip(found, nodes, strict=True)
        if step.writer in alive and node in alive
    ]


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
