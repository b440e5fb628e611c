"""Causal scrubbing (Chan et al., Alignment Forum, December 2022): run a network as a claim allows.

scrub(claim, reference), for each reference by itself:
1. The claim's sampler draws a datum for the reference.
2. Without children: the node's value on that datum.
3. With children: each is scrubbed with that datum as the reference; all that the node reads beside
   them comes from one further datum (`others`), the same for all. Then the node's function.

So a chain of references: what lies two claims up agrees with the datum between, not with the first
reference. All data are drawn before anything is computed: the draws depend on the generator alone,
not on batch size or device.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from acdc.errors import InputError
from discovery.scrubbing.computation import Computation
from discovery.scrubbing.hypothesis import Claim, FromChild, FromOthers, Resolved, Spot, resolve
from discovery.scrubbing.samplers import Sampler

Measure = Callable[[Any, NDArray[np.integer]], Any]


@dataclass(frozen=True)
class Classes:
    """How much a claim had to swap with, over all its samples."""

    smallest: int  # data in the smallest class met
    mean: float  # data in the class of a sample, on average
    alone: int  # samples whose class is the datum alone: nothing was swapped


@dataclass(frozen=True)
class Scrubbed:
    """What came out, and of which data it was made."""

    output: NDArray[Any]  # [reference, draw, ...]: the output node, or the measure of it
    references: Int[np.ndarray, " reference"]
    data: dict[str, Int[np.ndarray, "reference draw"]]  # of each claim, by label
    others: dict[str, Int[np.ndarray, "branch reference draw"]]  # of each claim with children
    classes: dict[str, Classes]  # of each claim whose sampler has classes

    @property
    def smallest_class(self) -> int | None:
        """Of all claims; None where no claim has classes."""
        return min((one.smallest for one in self.classes.values()), default=None)

    @property
    def alone(self) -> int:
        """Samples with nothing to swap with, over all claims."""
        return sum(one.alone for one in self.classes.values())


def scrub(
    computation: Computation,
    hypothesis: Claim,
    references: NDArray[Any],
    generator: np.random.Generator,
    draws: int = 1,
    batch: int = 1024,
    measure: Measure | None = None,
    kept: MutableMapping[Any, Any] | None = None,
) -> Scrubbed:
    """Run the computation on each reference (a row of the data), `draws` times with new data.

    `measure(output, references)` [sample, ...] reduces a batch's outputs at once, such as to a
    loss; else they are kept. The labels of a loss are those of the references. `kept` holds values
    of claims from call to call of one computation: what a claim comes to is taken from there where
    it and all above it are as they were, data included. Raises InputError,
    before anything runs, if the hypothesis does not fit the computation, a class is empty, or a
    reference is no row of the data.
    """
    references = np.asarray(references)
    if references.ndim != 1 or not len(references) or references.dtype.kind not in "iu":
        raise InputError("references: a list of 1 or more row numbers is needed")
    if references.min() < 0 or references.max() >= computation.size:
        raise InputError(f"references: allowed are rows 0..{computation.size - 1}")
    for name, value in (("draws", draws), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name}={value}: at least 1 is needed")
    tree = resolve(computation, hypothesis)
    samples = np.repeat(references, draws)
    drawn = _Draws(computation.size, generator)
    drawn.claim(tree, samples)
    parts = []
    for begin in range(0, len(samples), batch):
        part = slice(begin, begin + batch)
        value = _value(computation, tree, drawn, part, kept)
        value = value if measure is None else measure(value, samples[part])
        parts.append(_numpy(value))
    output = np.concatenate(parts)
    shape = (len(references), draws)
    return Scrubbed(
        output=output.reshape(*shape, *output.shape[1:]),
        references=references,
        data={label: rows.reshape(shape) for label, rows in drawn.data.items()},
        others={label: rows.reshape(-1, *shape) for label, rows in drawn.others.items()},
        classes=drawn.classes,
    )


@dataclass(frozen=True)
class _Draws:
    """The data of every claim, drawn from the root up."""

    size: int
    generator: np.random.Generator
    data: dict[str, NDArray[Any]] = field(default_factory=dict)  # [sample]
    others: dict[str, NDArray[Any]] = field(default_factory=dict)  # [branch, sample]
    classes: dict[str, Classes] = field(default_factory=dict)
    shared: dict[str, NDArray[Any]] = field(default_factory=dict)

    def claim(self, tree: Resolved, reference: NDArray[Any]) -> None:
        """Draw for a claim and all above it."""
        rows = self.data[tree.label] = self._draw(tree.claim.sampler, reference, tree.label)
        sizes = tree.claim.sampler.class_sizes(reference)
        if sizes is not None:
            alone = int((sizes == 1).sum())
            self.classes[tree.label] = Classes(int(sizes.min()), float(sizes.mean()), alone)
        if tree.children:
            label = f"{tree.label} (others)"
            others = [self._draw(tree.claim.others, rows, label) for _ in range(tree.branches)]
            self.others[tree.label] = np.array(others, dtype=rows.dtype).reshape(-1, len(rows))
        for child in tree.children:
            self.claim(child, rows)

    def _draw(self, sampler: Sampler, reference: NDArray[Any], label: str) -> NDArray[Any]:
        sizes = sampler.class_sizes(reference)
        if sizes is not None and not sizes.all():
            row = int(reference[np.flatnonzero(sizes == 0)[0]])
            raise InputError(f"claim {label}: no datum may be drawn that agrees with row {row}")
        if sampler.together is None:
            return sampler.draw(reference, self.size, self.generator)
        if sampler.together not in self.shared:
            drawn = sampler.draw(reference, self.size, self.generator)
            self.shared[sampler.together] = drawn
        return self.shared[sampler.together]


def _value(
    computation: Computation, tree: Resolved, drawn: _Draws, part: slice,
    kept: MutableMapping[Any, Any] | None,
) -> Any:  # fmt: skip
    """Value of the claim's node on a part of the samples, made once for equal data."""
    if kept is None:
        return _run(computation, tree, drawn, part, None)
    key = _described(tree, drawn, part)
    value = kept.get(key)
    if value is None:
        value = kept[key] = _run(computation, tree, drawn, part, kept)
    return value


def _described(tree: Resolved, drawn: _Draws, part: slice) -> tuple[Any, ...]:
    """All that the value of a claim depends on: its nodes and paths, and the data of each."""
    claim, rows = tree.claim, drawn.data[tree.label][part].tobytes()
    others = drawn.others[tree.label][:, part].tobytes() if tree.children else b""
    above = tuple(_described(child, drawn, part) for child in tree.children)
    return (claim.node, claim.path, claim.avoid, claim.per_parent, rows, others, above)


def _run(
    computation: Computation, tree: Resolved, drawn: _Draws, part: slice,
    kept: MutableMapping[Any, Any] | None,
) -> Any:  # fmt: skip
    """Value of the claim's node on a part of the samples."""
    rows = drawn.data[tree.label][part]
    if tree.start is None:
        return computation.run(tree.claim.node, rows)
    others = drawn.others[tree.label][:, part]
    children = [_value(computation, child, drawn, part, kept) for child in tree.children]
    known: list[dict[str, Any]] = [{} for _ in others]
    values: dict[Spot, Any] = {}

    def at(source: FromChild | FromOthers | Spot) -> Any:
        if isinstance(source, FromChild):
            return children[source.index]
        if isinstance(source, FromOthers):
            return computation.run(source.node, others[source.branch], known[source.branch])
        if source not in values:
            read = [at(one) for one in tree.sources[source]]
            values[source] = computation.apply(source.node, read, len(rows))
        return values[source]

    return at(tree.start)


def _numpy(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
