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

import numpy as np

from acdc.circuit import Circuit
from discovery.explanation.story.data import Agreeing, Pool, Rows, Variable
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Exact, Sampler

# a head of several roles goes by the first; looking at the first or the current token is none
ROLES = (
    "previous token", "induction", "duplicate token", "mover", "negative mover", "S-inhibition",
)  # fmt: skip

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
            if of is None:
                found.append(Place(name, name, via, None, role, False))
            else:
                step = f"<{via}> " if via else " "
                label, group = f"{of.label}{step}{name}", f"{of.group}{step}{role}"
                found.append(Place(label, name, via, of.label, group, False))
    return found


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
