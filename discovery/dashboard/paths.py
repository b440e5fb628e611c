"""Which edges of a circuit are on no path from `input` to `logits`, so that they cannot matter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from acdc.names import parse


def off_paths(edges: Sequence[tuple[str, str]], per_group: int) -> list[int]:
    """Numbers of the edges, (writer, reader), that no path goes along.

    What a key/value group reads, of so many heads, each of its heads reads.
    """
    ends = [_nodes(reader, per_group) for _, reader in edges]
    after, before = defaultdict(list), defaultdict(list)
    for (writer, _), nodes in zip(edges, ends, strict=True):
        for node in nodes:
            after[writer].append(node)
            before[node].append(writer)
    alive = _reached("input", after) & _reached("logits", before)
    return [
        i
        for i, ((writer, _), nodes) in enumerate(zip(edges, ends, strict=True))
        if writer not in alive or alive.isdisjoint(nodes)
    ]


def _nodes(reader: str, per_group: int) -> list[str]:
    name = parse(reader)
    if name is None:
        return []
    if name.kind != "kv":
        return [name.node]
    first = name.index * per_group
    return [f"a{name.layer}.h{head}" for head in range(first, first + per_group)]


def _reached(start: str, steps: Mapping[str, Iterable[str]]) -> set[str]:
    found, waiting = {start}, [start]
    while waiting:
        for node in steps.get(waiting.pop(), ()):
            if node not in found:
                found.add(node)
                waiting.append(node)
    return found
