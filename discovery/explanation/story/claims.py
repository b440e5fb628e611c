"""A story: which variable each node of a circuit carries, along which path, as a tree of claims.

A place is a node as it is reached from the logits along the circuit's edges: `a1.h3`, and
`a1.h3<k> a0.h3` for what a0.h3 writes into its keys. Places that heads of one role have in common
form a group and carry the same variables, each with data of its own. A place whose inputs the
circuit names is computed from them; what it reads besides comes from a random prompt.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from acdc.circuit import Circuit
from discovery.explanation.figures import listed
from discovery.explanation.story.data import Agreeing, Pool, Rows, Variable
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Exact, Sampler

# a head of several roles goes by the first; looking at the first or the current token is none
ROLES = (
    "previous token", "induction", "duplicate token", "mover", "negative mover", "S-inhibition",
)  # fmt: skip

STRONG = 0.1  # of the strongest path into the same node: what a story may speak of besides
T = TypeVar("T")
READ_BY = {"q": "queries", "k": "keys", "v": "values", "": "input"}
Carried = tuple[Variable, ...] | None  # of a claim: variables; None: its own prompt, all of it
Story = Mapping[str, Carried]  # by group; a group that is not in it is not claimed


@dataclass(frozen=True)
class Place:
    """A node reached along one path."""

    label: str  # such as "a1.h3<k> a0.h3"; the path from the logits down to the node
    node: str
    via: str  # "q", "k" or "v" of the head that reads it; "" if that is an MLP or the logits
    parent: str | None  # label; None: the logits
    group: str  # places of one group carry the same variables
    opened: bool  # its inputs are places too


def with_paths(circuit: Circuit, paths: Sequence[Mapping[str, Any]]) -> tuple[Circuit, list[str]]:
    """The circuit with strong paths between its own nodes that it lacks, and their names.

    `paths` are those of the part `paths`. They are taken by their estimates, which are of prompts
    that no figure is of: at least STRONG of the largest into the same node.
    """
    graph, mask, inside = circuit.graph, circuit.mask.copy(), circuit.graph.touched(circuit.mask)
    best, added = dict[str, float](), list[str]()
    for p in paths:
        best[p["node"]] = max(best.get(p["node"], 0.0), abs(p["estimate"]))
    for p in paths:
        writer, reader = graph.edge(f"{p['sender']}->{p['receiver']}")
        nodes = graph.readers[reader].nodes
        own = inside[writer] and (not nodes or inside[list(nodes)].any())
        strong = abs(p["estimate"]) >= STRONG * best[p["node"]] > 0
        if own and strong and not mask[writer, reader]:
            mask[writer, reader] = True
            added.append(graph.edge_name(writer, reader))
    return Circuit(graph, mask), added


def places(circuit: Circuit, heads_role: Mapping[str, str], most: int) -> list[Place]:
    """The circuit's paths from the logits down, breadth first, at most so many places.

    A place whose inputs would go beyond `most` is a leaf: all above it is of one prompt. `input` is
    always one.
    """
    found = _inputs(circuit, heads_role, None)
    done = 0
    while done < len(found):
        below = _inputs(circuit, heads_role, found[done])
        if below and len(found) + len(below) <= most:
            found[done] = replace(found[done], opened=True)
            found += below
        done += 1
    return found


def _inputs(circuit: Circuit, heads_role: Mapping[str, str], of: Place | None) -> list[Place]:
    """What the circuit's edges bring to a place, or to the logits."""
    graph, found = circuit.graph, list[Place]()
    for via, reader in _readers(circuit, "logits" if of is None else of.node):
        for writer in np.flatnonzero(circuit.mask[:, reader]).tolist():
            name = graph.writers[writer]
            role = heads_role.get(name, name)
            above, label, group = (None,) * 3 if of is None else (of.label, of.label, of.group)
            found.append(
                Place(_step(label, via, name), name, via, above, _step(group, via, role), False)
            )
    return found


def _step(above: str | None, via: str, name: str) -> str:
    """One step further from the logits."""
    return name if above is None else f"{above}<{via}> {name}" if via else f"{above} {name}"


def _readers(circuit: Circuit, node: str) -> list[tuple[str, int]]:
    """Which readers a node has: q, k and v of a head."""
    graph = circuit.graph
    if node == "input":
        return []
    if node == "logits":
        return [("", len(graph.readers) - 1)]
    layer, place = graph.place(graph.writer_index[node])
    if place == graph.n_heads:
        return [("", graph.reader(layer, "mlp"))]
    return list(zip("qkv", graph.head_readers(layer, place), strict=True))


def role_of(name: str, candidates: Sequence[str]) -> str:
    """What a head's group goes by: its role, or its own name."""
    return next((f"{role} heads" for role in ROLES if role in candidates), name)


def groups_of(found: Sequence[Place]) -> dict[str, list[Place]]:
    """Places by group, in order."""
    out: dict[str, list[Place]] = {}
    for one in found:
        out.setdefault(one.group, []).append(one)
    return out


def short(group: str, found: Sequence[Place]) -> str:
    """A group as one line of a path: "a0.h3 > keys of a1.h2, a1.h3"; deeper ones go on."""
    by_label = {one.label: one for one in found}
    level = [one for one in found if one.group == group]
    out = _named(level)
    while level[0].parent is not None:
        via = READ_BY[level[0].via]
        level = [by_label[one.parent] for one in level if one.parent is not None]
        out += f" > {via} of {_named(level)}"
    return out


def _named(some: Sequence[Place]) -> str:
    return listed(list(dict.fromkeys(p.node for p in some)), 2)


def without(found: Sequence[Place], story: Story, group: str) -> dict[str, Carried]:
    """The story without a group and without all that it is computed from."""
    parent = parents(found)
    out = dict[str, Carried]()
    for g, carried in story.items():
        above: str | None = g
        while above is not None and above != group:
            above = parent[above]
        if above is None:
            out[g] = carried
    return out


def parents(found: Sequence[Place]) -> dict[str, str | None]:
    """The group that reads each group's places; None: the logits."""
    group_of = {one.label: one.group for one in found}
    return {one.group: group_of[one.parent] if one.parent else None for one in found}


def split_off(found: Sequence[Place], group: str, node: str) -> tuple[list[Place], str]:
    """The tree with a group's places on one node as a group of their own, named by the node.

    What those places are computed from goes with them. Comes with the name.
    """
    by_label, out, own = {one.label: one for one in found}, list[Place](), ""
    for place in found:
        at: Place | None = place
        while at is not None and (at.group, at.node) != (group, node):
            at = by_label[at.parent] if at.parent else None
        if at is None:
            out.append(place)
        else:
            own = _step(by_label[at.parent].group if at.parent else None, at.via, node)
            out.append(replace(place, group=own + place.group[len(group) :]))
    return out, own


def carried_over(
    before: Sequence[Place], after: Sequence[Place], said: Mapping[str, T]
) -> dict[str, T]:
    """What is said of one tree's groups, on another of the same places: as of their places."""
    pairs = zip(before, after, strict=True)
    return {new.group: said[old.group] for old, new in pairs if old.group in said}


@dataclass(frozen=True)
class Chance:
    """Where a story's draws come from."""

    seed: int
    together: bool = False  # one datum for all places of a group; else one each
    instead: Rows | None = None  # [prompt]: whose values the data agree with (permuted stories)

    def key(self, place: Place, what: str) -> tuple[int, ...]:
        """A place's own stream of chance."""
        name = place.group if self.together else place.label
        return (self.seed, zlib.crc32(f"{what} {name}".encode()))


def claims(found: Sequence[Place], story: Story, pool: Pool, chance: Chance) -> Claim:
    """The story as a hypothesis on the logits, whose datum is the reference.

    A place that the circuit gives inputs, of which none is claimed, is not claimed either.
    """
    below: dict[str | None, list[Place]] = {}
    for one in found:
        below.setdefault(one.parent, []).append(one)
    node_of = {one.label: one.node for one in found}

    def claim(place: Place) -> Claim | None:
        if place.group not in story:
            return None
        children = tuple(c for b in below.get(place.label, []) if (c := claim(b)) is not None)
        if place.opened and not children:
            return None
        path = (f"{node_of[place.parent or '']}<{place.via}>",) if place.via else ()
        return Claim(
            place.node, _sampler(place, story[place.group], pool, chance), children, path,
            others=Agreeing(pool, (), chance.key(place, "others")), name=place.label,
        )  # fmt: skip

    children = tuple(c for p in below.get(None, []) if (c := claim(p)) is not None)
    others = Agreeing(pool, (), (chance.seed, zlib.crc32(b"others")))
    return Claim("logits", Exact(), children, others=others)


def _sampler(place: Place, carried: Carried, pool: Pool, chance: Chance) -> Sampler:
    if carried is None:
        return Exact()
    instead = chance.instead
    return Agreeing(pool, carried, chance.key(place, "own"), instead)


def with_other_heads(
    found: Sequence[Place], circuit: Circuit, rng: np.random.Generator
) -> list[Place]:
    """The same tree on other heads of the same layers, outside the circuit while there are enough.

    Each head goes to one head of its layer wherever it is; MLPs and `input` stay. Labels are the
    first tree's, so that draws are the same.
    """
    graph, other = circuit.graph, dict[str, str]()
    inside = {one.node for one in found}
    for layer in range(graph.n_layers):
        heads = [f"a{layer}.h{h}" for h in range(graph.n_heads)]
        mine = [h for h in heads if h in inside]
        free = rng.permutation([h for h in heads if h not in inside]).tolist()
        rest = rng.permutation(mine).tolist()
        taken = [*free, *rest][: len(mine)]
        other.update(zip(mine, taken, strict=True))
    return [replace(one, node=other.get(one.node, one.node)) for one in found]
