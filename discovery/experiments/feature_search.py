"""Search for the roles of a network's parts: which part carries which feature.

Roles do not transfer from one training run to the next, so they are found, not assumed. Denoising:
start with every part random; at each step make the one claim (part, feature) that recovers most.
Claims are chosen on one half of the references and judged on the other, so that the choice does not
flatter its own score. What the search finds scores high by design; `Found.null` says how random
features on the same parts would have scored. `noising` asks the opposite question, one part at a
time with all else exact, and misses parts that back each other up. Being greedy, the search misses
parts of which none tells anything alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from acdc.errors import InputError
from discovery.scrubbing.computation import Computation
from discovery.scrubbing.engine import Measure, scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Agree, Exact, Unconditioned
from discovery.scrubbing.score import (
    Losses,
    Recovered,
    recovered,
    retained,
)
from discovery.statistics.against_random import NullRank, null_rank

ENUMERATED = 500  # role assignments up to which the null family is complete
Roles = dict[str, str]  # feature by part, in the order they were found
TRIVIAL = 1e-9  # nats of H(feature | label) up to which a feature is the label


@dataclass(frozen=True)
class Problem:
    """A computation, the parents of its output that may carry something, and what they may carry.

    Raises InputError if a part is no parent of the output or an array does not fit the data set.
    """

    computation: Computation
    parts: tuple[str, ...]
    features: Mapping[str, NDArray[Any]]  # [datum]
    labels: Int[np.ndarray, " datum"]
    measure: Measure  # the loss of each sample
    baseline: Losses  # [datum] expected loss when another datum's output is given
    draws: int = 1  # scrubbed runs of each reference, averaged

    def __post_init__(self) -> None:
        parents = self.computation.parents(self.computation.output)
        for part in self.parts:
            if part not in parents:
                raise InputError(f"parts: {part!r} is not among the output's parents {parents}")
        arrays = {**self.features, "labels": self.labels, "baseline": self.baseline}
        for name, array in arrays.items():
            if len(array) != self.computation.size:
                raise InputError(
                    f"{name}: {len(array)} values for {self.computation.size} rows of data"
                )
        if not self.parts or not self.candidates:
            raise InputError("a search needs at least 1 part and 1 feature that is not the label")

    @property
    def trivial(self) -> tuple[str, ...]:
        """Features that the label decides: H(feature | label) = 0. They explain no mechanism."""
        known = {name: retained(array, self.labels) for name, array in self.features.items()}
        return tuple(name for name, one in known.items() if one.beyond_label <= TRIVIAL)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The other features."""
        return tuple(name for name in self.features if name not in self.trivial)

    def losses(self, claim: Claim, references: NDArray[Any], seed: tuple[int, ...]) -> Losses:
        """Loss per reference under a claim on the output; equal seeds share their draws."""
        generator = np.random.default_rng(seed)
        scrubbed = scrub(
            self.computation, claim, references, generator, draws=self.draws, measure=self.measure
        )
        return scrubbed.output.mean(1, dtype=np.float64)

    def denoised(self, roles: Roles, references: NDArray[Any], seed: tuple[int, ...]) -> Losses:
        """Loss when the parts carry their features and all else comes from one random datum."""
        if not roles:
            return self.baseline[references]
        children = tuple(Claim(p, Agree(self.features[f])) for p, f in roles.items())
        claim = Claim(self.computation.output, Exact(), children)
        return self.losses(claim, references, seed)

    def noised(
        self, part: str, feature: str | None, references: NDArray[Any], seed: tuple[int, ...]
    ) -> Losses:
        """Loss when one part carries at most a feature (None: nothing) and all else is exact."""
        sampler = Unconditioned() if feature is None else Agree(self.features[feature])
        claim = Claim(self.computation.output, Exact(), (Claim(part, sampler),), others=Exact())
        return self.losses(claim, references, seed)

    def score(self, losses: Losses, references: NDArray[Any], seed: tuple[int, ...]) -> Recovered:
        """Fraction recovered, from a random datum's output (0) to the model (1)."""
        model = self.losses(Claim(self.computation.output, Exact()), references, seed)
        baseline = self.baseline[references]
        generator = np.random.default_rng(seed)
        return recovered(model, baseline, losses[:, None], "random datum", generator)


@dataclass(frozen=True)
class Step:
    """One claim more. Both figures are from references that did not choose it."""

    part: str
    feature: str
    recovered: Recovered  # with all claims so far
    gain: Recovered  # of this claim: recovered after - recovered before, same scale


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    steps: tuple[Step, ...]
    refused: Step | None  # the best next claim, if its gain is not clearly above 0
    trivial: tuple[str, ...]  # features left out because they are the label
    null: NullRank | None  # rank of the found roles; None if nothing was found
    null_scores: NDArray[np.float64]  # fraction recovered of random features on the same parts

    @property
    def roles(self) -> Roles:
        return {step.part: step.feature for step in self.steps}


def search(
    problem: Problem, references: NDArray[Any], seed: int, limit: int | None = None
) -> Found:
    """Find roles by denoising, until a gain's interval includes 0 or `limit` claims are made.

    `references` are rows of the data, halved at random. Raises InputError for fewer than 4.
    """
    if len(references) < 4:
        raise InputError(f"{len(references)} references: at least 4 are needed")
    shuffled = np.random.default_rng([seed, 0]).permutation(references)
    choosing, judging = np.array_split(shuffled, 2)
    steps: list[Step] = []
    refused = None
    most = len(problem.parts) if limit is None else min(limit, len(problem.parts))
    while refused is None and len(steps) < most:
        roles = {step.part: step.feature for step in steps}
        part, feature = _best(problem, roles, choosing, (seed, 1, len(steps)))
        step = _judged(problem, roles, (part, feature), judging, (seed, 2))
        if step.gain.low > 0:
            steps.append(step)
        else:
            refused = step
    roles = {step.part: step.feature for step in steps}
    scores = np.array(
        [
            _plain_score(problem, other, judging, (seed, 3))
            for other in _others(problem, roles, seed)
        ]
    )
    own = _plain_score(problem, roles, judging, (seed, 3))
    null = null_rank(own, scores) if len(scores) else None
    return Found(tuple(steps), refused, problem.trivial, null, scores)


def _best(
    problem: Problem, roles: Roles, references: NDArray[Any], seed: tuple[int, ...]
) -> tuple[str, str]:
    """The claim that lowers the loss most; on equal draws, so that noise does not decide."""
    free = [part for part in problem.parts if part not in roles]
    tried = list(product(free, problem.candidates))
    means = [problem.denoised(roles | {p: f}, references, seed).mean() for p, f in tried]
    return tried[int(np.argmin(means))]


def _judged(
    problem: Problem,
    roles: Roles,
    claim: tuple[str, str],
    references: NDArray[Any],
    seed: tuple[int, ...],
) -> Step:
    """Score a claim, and its gain: what is recovered when only the gain is taken off the zero."""
    before = problem.denoised(roles, references, seed)
    after = problem.denoised(roles | dict([claim]), references, seed)
    gained = problem.baseline[references] - (before - after)
    return Step(
        *claim,
        recovered=problem.score(after, references, seed),
        gain=problem.score(gained, references, seed),
    )


def _plain_score(
    problem: Problem, roles: Roles, references: NDArray[Any], seed: tuple[int, ...]
) -> float:
    """Fraction recovered without its interval."""
    model = problem.losses(Claim(problem.computation.output, Exact()), references, seed).mean()
    zero = problem.baseline[references].mean()
    return float((zero - problem.denoised(roles, references, seed).mean()) / (zero - model))


def _others(problem: Problem, roles: Roles, seed: int) -> list[Roles]:
    """All other features on the same parts; a sample of different ones where they are too many."""
    parts, features = list(roles), problem.candidates
    own = tuple(roles.values())
    if len(features) ** len(parts) <= ENUMERATED:
        found = [one for one in product(features, repeat=len(parts)) if one != own]
    else:
        generator = np.random.default_rng([seed, 4])
        drawn = iter(lambda: tuple(generator.choice(features, len(parts)).tolist()), None)
        unlike = dict.fromkeys(one for one in islice(drawn, 2 * ENUMERATED) if one != own)
        found = list(unlike)[: ENUMERATED - 1]
    return [dict(zip(parts, one, strict=True)) for one in found]


@dataclass(frozen=True)
class Noised:
    """Fraction recovered when one part carries at most a feature and everything else is exact."""

    part: str
    random: Recovered  # the part carries nothing
    features: dict[str, float]  # fraction recovered with each candidate feature


def noising(problem: Problem, references: NDArray[Any], seed: int) -> tuple[Noised, ...]:
    """Noise the parts one at a time."""

    def score(part: str, feature: str | None) -> Recovered:
        losses = problem.noised(part, feature, references, (seed, 5))
        return problem.score(losses, references, (seed, 5))

    return tuple(
        Noised(part, score(part, None), {f: score(part, f).value for f in problem.candidates})
        for part in problem.parts
    )
