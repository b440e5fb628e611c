"""A hypothesis as a tree of claims, and what it comes down to on a computation.

A claim says which feature a node carries, when reached from the parent claim's node over certain
paths: data that agree on the feature are interchangeable there. The whole hypothesis is the claim
on the output. Two roots or a claim without parent cannot be written down; all else is checked by
`resolve` before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType

from acdc.errors import InputError
from discovery.scrubbing.computation import Computation
from discovery.scrubbing.samplers import Sampler, Unconditioned

Path = tuple[str | EllipsisType, ...]


@dataclass(frozen=True, eq=False)
class Claim:
    """One node of the interpretation.

    Without children: all above the node comes from the one datum that `sampler` draws. With
    children: theirs come from their own data, drawn with this claim's datum as the reference, and
    everything else that the node reads from one datum drawn by `others`.
    """

    node: str
    sampler: Sampler
    children: tuple[Claim, ...] = ()
    path: Path = ()  # nodes from the parent claim's to this, both left out; `...`: any or none
    avoid: tuple[str, ...] = ()  # nodes that `...` must not pass
    others: Sampler = Unconditioned()  # reference: this claim's datum
    per_parent: bool = False  # `others` drawn for each unclaimed parent by itself
    name: str = ""  # default: the node; siblings need different ones


Progress = tuple[frozenset[int], ...]  # of each child: how much of its path may be behind us


@dataclass(frozen=True)
class Spot:
    """A node on the way to claimed ones, told apart by how it was reached."""

    node: str
    progress: Progress


@dataclass(frozen=True)
class FromChild:
    """The value is a child claim's."""

    index: int


@dataclass(frozen=True)
class FromOthers:
    """The value is the node's on one of the claim's other data."""

    node: str
    branch: int


Source = FromChild | FromOthers | Spot


@dataclass(frozen=True)
class Resolved:
    """A claim with what each node between it and its children reads."""

    claim: Claim
    label: str  # names from the root down, joined by "/"
    children: tuple[Resolved, ...]
    start: Spot | None  # the claim's own node; None for a claim without children
    sources: Mapping[Spot, tuple[Source, ...]]  # in the order of the node's parents
    branches: int  # how many data `others` has to draw


def resolve(computation: Computation, hypothesis: Claim) -> Resolved:
    """Check the hypothesis and lay it out; InputError names the claim that is wrong."""
    root = hypothesis.name or hypothesis.node
    if hypothesis.node != computation.output:
        raise InputError(f"claim {root}: the root must be the output {computation.output!r}")
    if hypothesis.path or hypothesis.avoid:
        raise InputError(f"claim {root}: the root has no parent and so no path")
    return _resolve(computation, hypothesis, root)


def _resolve(computation: Computation, claim: Claim, label: str) -> Resolved:
    _check(computation, claim, label)
    labels = [f"{label}/{child.name or child.node}" for child in claim.children]
    for twice in (one for i, one in enumerate(labels) if one in labels[:i]):
        raise InputError(f"claim {twice}: made twice; give one of them another name or path")
    children = tuple(
        _resolve(computation, child, own) for child, own in zip(claim.children, labels, strict=True)
    )
    if not children:
        return Resolved(claim, label, (), None, {}, 0)
    walk = _Walk(computation, claim, labels)
    start = Spot(claim.node, tuple(_closure(child, {0}) for child in claim.children))
    for index, child in enumerate(claim.children):
        if not walk.reaches(claim.node, index, start.progress[index]):
            raise InputError(
                f"claim {labels[index]}: no path {_shown(child)} leads up from {claim.node!r}"
            )
    walk.visit(start)
    return Resolved(claim, label, children, start, walk.sources, walk.branches)


def _check(computation: Computation, claim: Claim, label: str) -> None:
    """Names, samplers, and that nothing is claimed above the input."""
    named = [claim.node, *claim.avoid, *(n for n in claim.path if isinstance(n, str))]
    for node in named:
        if node not in computation.nodes and node != computation.input:
            raise InputError(f"claim {label}: there is no node {node!r}")
    if claim.node in claim.avoid:
        raise InputError(f"claim {label}: avoid names the claim's own node {claim.node!r}")
    if claim.children and claim.node == computation.input:
        raise InputError(f"claim {label}: nothing lies above the input, so it has no children")
    for sampler in (claim.sampler, claim.others):
        try:
            sampler.check(computation.size)
        except InputError as error:
            raise InputError(f"claim {label}: {error}") from None


def _shown(child: Claim) -> str:
    steps = ["..." if step is ... else repr(step) for step in child.path]
    without = f" avoiding {list(child.avoid)}" if child.avoid else ""
    return " - ".join([*steps, repr(child.node)]) + without


def _closure(child: Claim, states: set[int]) -> frozenset[int]:
    """A `...` may also stand for no node at all."""
    out = set(states)
    for state in range(len(child.path)):
        if state in out and child.path[state] is ...:
            out.add(state + 1)
    return frozenset(out)


class _Walk:
    """The walk from one claim's node upwards to its children."""

    def __init__(self, computation: Computation, claim: Claim, labels: list[str]) -> None:
        self._computation, self._claim, self._labels = computation, claim, labels
        self._reaches: dict[tuple[str, int, frozenset[int]], bool] = {}
        self.sources: dict[Spot, tuple[Source, ...]] = {}
        self.branches = 0 if claim.per_parent else 1

    def reaches(self, node: str, index: int, states: frozenset[int]) -> bool:
        """Whether a path of that child leads on from `node`."""
        key = (node, index, states)
        if key not in self._reaches:
            self._reaches[key] = bool(states) and any(
                self._arrives(parent, index, states)
                or self.reaches(parent, index, self._step(parent, index, states))
                for parent in self._computation.parents(node)
            )
        return self._reaches[key]

    def _arrives(self, node: str, index: int, states: frozenset[int]) -> bool:
        child = self._claim.children[index]
        return node == child.node and len(child.path) in states

    def _step(self, node: str, index: int, states: frozenset[int]) -> frozenset[int]:
        """The states after passing `node` on the way up."""
        child = self._claim.children[index]
        if node in child.avoid or node == child.node:
            return frozenset()
        open_ = [state for state in states if state < len(child.path)]
        stay = {state for state in open_ if child.path[state] is ...}
        return _closure(child, stay | {state + 1 for state in open_ if child.path[state] == node})

    def visit(self, spot: Spot) -> None:
        """Record what the spot's node reads, and go on where claims lie above."""
        if spot in self.sources:
            return
        found = [self._source(parent, spot) for parent in self._computation.parents(spot.node)]
        self.sources[spot] = tuple(found)
        for source in found:
            if isinstance(source, Spot):
                self.visit(source)

    def _source(self, parent: str, spot: Spot) -> Source:
        indices = range(len(spot.progress))
        here = [i for i in indices if self._arrives(parent, i, spot.progress[i])]
        steps = [self._step(parent, i, spot.progress[i]) for i in indices]
        live = [s if self.reaches(parent, i, s) else frozenset() for i, s in enumerate(steps)]
        beyond = [i for i in indices if live[i]]
        if len(here) > 1 or (here and beyond):
            first, second = [self._labels[i] for i in here + beyond][:2]
            raise InputError(
                f"claim {second}: {parent!r} is claimed by {first} already, on the same path;"
                " make it a child of that or avoid the node"
            )
        if here:
            return FromChild(here[0])
        if beyond:
            return Spot(parent, tuple(live))
        if self._claim.per_parent:
            self.branches += 1
        return FromOthers(parent, self.branches - 1)
