"""Causal scrubbing of the bracket classifier (Chan et al., Alignment Forum, December 2022).

The published claims: (1) heads 1.0 and 2.0 test whether the counts of ( and ) agree and the string
starts with (, head 2.1 whether it closes too much read from the right; (2) 1.0 and 2.0 get the
share of ( from head 0.0 at position 1; (3) 2.1 gets one verdict from each position. Each hypothesis
goes one step further into the network; the controls say how much a score means. "Direct" is the
path through the residual stream to the final LayerNorm at position 0. The roles hold for the
published weights; another network has others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from discovery.experiments.brackets_features import TOLERANCE, horizon_all, horizon_parts
from discovery.experiments.brackets_graph import (
    BracketData,
    Split,
    computation,
    early_heads,
    late_head,
    position,
)
from discovery.scrubbing.computation import Computation
from discovery.scrubbing.engine import Scrubbed, scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Agree, Exact, Sampler, Unconditioned
from discovery.scrubbing.score import (
    Calibrated,
    Effect,
    Recovered,
    Retained,
    calibrated_information,
    effect,
    recovered,
    retained,
)
from discovery.statistics.against_random import NullRank, null_rank

HEADS = ("1.0", "2.0", "2.1")
ROLES = ("start", "count", "count_start", "horizon")
CLAIM_1 = ("count_start", "count_start", "horizon")
SWAPPED = ("horizon", "horizon", "count_start")


@dataclass(frozen=True)
class Experiment:
    """A hypothesis on a graph, with the published percent recovered where there is one."""

    name: str
    says: str
    computation: Computation
    hypothesis: Claim
    published: float | None = None


@dataclass(frozen=True)
class Result:
    """One experiment's figures; losses in nats."""

    name: str
    says: str
    published: float | None  # percent
    recovered: Recovered
    calibrated: Calibrated
    effect: Effect
    retained: Retained | None  # by the features at the heads together; None: no feature there
    smallest_class: int | None
    alone: int  # samples with nothing to swap with, over all claims


def losses(z: Float[np.ndarray, ...], labels: Int[np.ndarray, ...]) -> Float[np.ndarray, ...]:
    """Binary cross-entropy of logit differences, in nats."""
    return np.logaddexp(0, np.where(labels == 1, -z, z))


def baseline(data: BracketData) -> Float[np.ndarray, " datum"]:
    """Loss of each label with the logits of a random other datum: the mean over all data."""
    by_label = np.array([losses(data.z, np.full(data.size, label)).mean() for label in (0, 1)])
    return by_label[data.labels]


def heads(roles: Mapping[str, Sampler | Claim], **options: Any) -> Claim:
    """Claims on direct terms: a sampler, or a whole claim; the rest is one random datum."""
    claims = [r if isinstance(r, Claim) else Claim(n, r) for n, r in roles.items()]
    return Claim("z", Exact(), tuple(claims), **options)


def assigned(data: BracketData, roles: Sequence[str]) -> Claim:
    """Heads 1.0, 2.0 and 2.1 carry these features, directly."""
    return heads({h: Agree(data.features[r]) for h, r in zip(HEADS, roles, strict=True)})


def ladder(data: BracketData, tolerance: float = TOLERANCE) -> list[Experiment]:
    """The published hypotheses, from none to all; `tolerance` decides ties of weighted shares."""
    direct = computation(data)
    claim_1 = assigned(data, CLAIM_1)
    mean, adjusted = _late(data, data.share, 0.0), _late(data, data.adjusted, tolerance)
    late = computation(data, late_head(data))
    count_start = Agree(data.features["count_start"])
    upper = {"1.0": count_start, "2.0": count_start}

    def early(split: Split, *below: Claim, late: Claim | None = None) -> tuple[Computation, Claim]:
        opened = [early_heads(data, split)] + ([late_head(data)] if late else [])
        claims: dict[str, Sampler | Claim] = {h: _early(data, h, below) for h in ("1.0", "2.0")}
        return computation(data, *opened), heads(
            {**claims, "2.1": late or Agree(data.features["horizon"])}
        )

    along, estimate = _shares_at_1(data, "direction"), _shares_at_1(data, "estimate")
    return [
        Experiment("0a", "nothing swapped", direct, heads({}, others=Exact()), 100.0),
        Experiment("0b", "everything swapped", direct, Claim("z", Unconditioned()), 0.0),
        Experiment(
            "1a", "count, count, horizon", direct,
            assigned(data, ("count", "count", "horizon")), 88.0,
        ),
        Experiment("1b", "claim 1: count and start, twice, horizon", direct, claim_1, 93.0),
        Experiment("2 part 1", "1.0 and 2.0 read position 1", *early("whole")),
        Experiment("2a", "it holds 0.0: share, rest: start", *early(
            "whole", *_shares_at_1(data, "whole")), 87.0),
        Experiment("2 projection", "of 0.0 one direction", *early("direction", *along)),
        Experiment("2b", "claims 1, 2: 0.0 is an estimate", *early("estimate", *estimate), 88.0),
        Experiment("3a", "2.1 reads verdicts, shares", late, heads({**upper, "2.1": mean}), 77.0),
        Experiment(
            "3b", "claims 1, 3: weighted shares", late, heads({**upper, "2.1": adjusted}), 84.0
        ),
        Experiment("4", "claims 1, 2, 3", *early("estimate", *estimate, late=adjusted), 72.0),
    ]  # fmt: skip


def _early(data: BracketData, head: str, below: Sequence[Claim]) -> Claim:
    """Head 1.0 or 2.0: of its layer's stream only position 1 matters."""
    count_start = Agree(data.features["count_start"])
    stream = Claim(f"stream{head[0]} at 1", count_start, tuple(below))
    return Claim(head, count_start, (stream,))


def _shares_at_1(data: BracketData, split: Split) -> tuple[Claim, Claim]:
    """At position 1: head 0.0 carries the share of (, on all paths; the embeddings the start."""
    share = Agree(data.features["open_share"])
    node = "0.0 along" if split == "direction" else "0.0 at 1"
    further = (Claim("0.0 estimate", share),) if split == "estimate" else ()
    start = Agree(data.features["start"])
    without = ("0.0 at 1", "0.0 elsewhere")
    return (
        Claim(node, share, further, path=(...,)),
        Claim("embedding", start, path=(...,), avoid=without),
    )


def _late(data: BracketData, share: Float[np.ndarray, "datum pos"], tolerance: float) -> Claim:
    """Head 2.1: each position from its own datum with that verdict, the mask of equal length."""
    parts = horizon_parts(data.tokens.numpy(), share, tolerance)
    claims = [Claim(position(i), Agree(parts[:, i])) for i in range(parts.shape[1])]
    mask = Claim("2.1 padded", Agree(data.features["length"]))
    return Claim("2.1", Agree(horizon_all(parts)), (*claims, mask))


def controls(data: BracketData) -> list[Experiment]:
    """Hypotheses that are wrong, trivial or lenient: what scores claim 1 must be held against."""
    direct = computation(data)
    roles = {h: Agree(data.features[r]) for h, r in zip(HEADS, CLAIM_1, strict=True)}
    pair = computation(data, together=("1.0", "2.0"))
    shared = {"1.0+2.0": roles["1.0"], "2.1": roles["2.1"]}
    exact = heads(dict.fromkeys(HEADS, Exact()))
    return [
        Experiment("swapped", "WRONG: roles exchanged", direct, assigned(data, SWAPPED)),
        Experiment("trivial", "the label, thrice", direct, assigned(data, ("balanced",) * 3)),
        Experiment(
            "irrelevant", "parity of half the length", direct, assigned(data, ("half_parity",) * 3)
        ),
        *(
            Experiment(
                f"{head} random", "claim 1 but for one head, which has any datum of its own",
                direct, heads({**roles, head: Unconditioned()}),
            )
            for head in HEADS
        ),
        Experiment("one draw", "1.0 and 2.0 share a datum", pair, heads(shared)),
        Experiment("others exact", "claim 1, nothing else", direct, heads(roles, others=Exact())),
        Experiment("heads exact", "all but the three heads swapped", direct, exact),
        Experiment(
            "one datum", "all from one string of that label", direct,
            Claim("z", Agree(data.features["balanced"])),
        ),
    ]  # fmt: skip


def run(
    data: BracketData,
    experiment: Experiment,
    references: Int[np.ndarray, " reference"],
    seed: int,
    draws: int = 1,
) -> Result:
    """Scrub and score; the draws depend on the seed and the experiment's name alone."""
    generator = np.random.default_rng([seed, crc32(experiment.name.encode())])
    done = scrub(experiment.computation, experiment.hypothesis, references, generator, draws)
    labels = data.labels[references]
    model = losses(data.z[references], labels)
    scrubbed = scrubbed_losses(data, done)
    base = baseline(data)[references]
    return Result(
        name=experiment.name,
        says=experiment.says,
        published=experiment.published,
        recovered=recovered(model, base, scrubbed, "logits of a random string", generator),
        calibrated=calibrated_information(done.output[:, 0].astype(np.float64), labels),
        effect=effect(model, scrubbed),
        retained=_retained(data, experiment.hypothesis),
        smallest_class=done.smallest_class,
        alone=done.alone,
    )


def scrubbed_losses(data: BracketData, done: Scrubbed) -> Float[np.ndarray, "reference draw"]:
    """Of the scrubbed logit differences, with the references' labels; nats."""
    return losses(done.output.astype(np.float64), data.labels[done.references][:, None])


def _retained(data: BracketData, hypothesis: Claim) -> Retained | None:
    """Information in the features at the heads, or at the output, taken together."""
    claims = hypothesis.children or (hypothesis,)
    features = [c.sampler.feature for c in claims if isinstance(c.sampler, Agree)]
    return retained(np.stack(features, 1), data.labels) if features else None


def role_scores(
    data: BracketData, references: Int[np.ndarray, " reference"], seed: int
) -> dict[tuple[str, ...], float]:
    """Fraction recovered by each of the 4^3 assignments of `ROLES` to the three heads."""
    direct = computation(data)
    labels = data.labels[references]
    model, base = losses(data.z[references], labels).mean(), baseline(data)[references].mean()
    scores = {}
    for index, roles in enumerate(itertools.product(ROLES, repeat=len(HEADS))):
        generator = np.random.default_rng([seed, index])
        done = scrub(direct, assigned(data, roles), references, generator)
        scores[roles] = float((base - scrubbed_losses(data, done).mean()) / (base - model))
    return scores


def rank_among_roles(
    scores: Mapping[tuple[str, ...], float], observed: float, own: Sequence[str]
) -> NullRank:
    """Where a score stands among the assignments other than `own`, the observed one's."""
    return null_rank(observed, np.array([s for r, s in scores.items() if r != tuple(own)]))
