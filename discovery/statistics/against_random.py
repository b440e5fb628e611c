"""Is the circuit better than chance? Comparisons with random circuits and random edges.

Sufficiency, partial necessity and minimality of Shi et al. (2024, arXiv 2410.13032): the circuit
must beat nine tenths of the random ones, tested exactly. Random circuits must be unions of paths
from input to logits (`random_circuits`); loose edges do nothing and make every circuit look good.
How far two circuits' scores are apart is the root of the mean squared difference over prompts. What
is within a margin of perfect counts as perfect: below it, who is closer is decided by rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from acdc.errors import InputError
from discovery.statistics.result import (
    Floats,
    TestResult,
    check_between,
    check_margin,
    check_need,
    check_scores,
    decide,
)


def mean_squared(scores: Floats, reference: Floats) -> Floats:
    """[...]: mean squared difference over prompts of scores [..., prompts] and a reference."""
    return np.asarray(np.square(scores - reference).mean(axis=-1))


def distance(scores: Floats, reference: Floats) -> Floats:
    """[...]: root of `mean_squared`, in the scores' unit."""
    return np.asarray(np.sqrt(mean_squared(scores, reference)))


def sufficiency(
    circuit: Floats, random: Floats, model: Floats, margin: float = 0.0,
    share: float = 0.9, level: float = 0.05,
) -> TestResult:  # fmt: skip
    """Is the circuit closer to the model than `share` of the random circuits?

    Scores: circuit and model [prompts], random [circuits, prompts], margin in their unit. A circuit
    within the margin of the model is as close as any; else ties count against it, since where all
    do nothing none is special. Of 100 random circuits it must beat 96, of 46 it may lose to one.
    InputError with fewer than could show it (29).
    """
    _check("sufficiency", circuit, random, model)
    check_margin("sufficiency", margin)
    own, others = distance(circuit, model), distance(random, model)
    count = len(others) if own <= margin else int((own < others).sum())
    null = f"at most {share:g} of random circuits are farther from the model than the circuit"
    return _beats("sufficiency", null, count, len(random), share, level)


def partial_necessity(
    complement: Floats, random: Floats, model: Floats, empty: Floats, margin: float = 0.0,
    share: float = 0.9, level: float = 0.05,
) -> TestResult:  # fmt: skip
    """Does knocking the circuit out hurt more than knocking out `share` of random ones?

    Scores with the circuit knocked out, of the model and of the empty circuit [prompts], with each
    random circuit knocked out [circuits, prompts]; margin in their unit. Strictly more, so ties
    count against it, unless it hurts as much, less the margin, as cutting every edge. 96 of 100.
    """
    _check("partial necessity", complement, random, model)
    check_scores("partial necessity", model.shape[:1], empty=empty)
    check_margin("partial necessity", margin)
    own, whole = distance(complement, model), distance(empty, model)
    done = 0 < whole - margin <= own
    count = len(random) if done else int((own > distance(random, model)).sum())
    null = f"for at most {share:g} of random circuits the circuit's knock-out hurts more"
    return _beats("partial necessity", null, count, len(random), share, level)


def minimality(
    edges: Sequence[str],
    effects: Floats,
    reference: Floats,
    share: float = 0.9,
    level: float = 0.05,
) -> TestResult:
    """Does every edge matter more than `share` of the edges of a random path put into the circuit?

    `effects` [edges]: `mean_squared` of the circuit's scores with and without the edge. `reference`
    [draws]: the same for one added edge of a circuit with a random path (`inflate`). Of 100 draws
    an edge is superfluous if it exceeds at most 84, before correction. `rejected` and `p_value`
    follow Benjamini-Hochberg, valid here although all edges share the draws (positive dependence);
    `extra` has every edge with both corrections. `holds` is True if every edge is shown to matter.
    """
    check_scores("minimality", (len(edges),), effects=effects)
    check_scores("minimality", reference.shape[:1], reference=reference)
    check_between("share", share, 0.0, 1.0)
    check_between("level", level, 0.0, 1.0)
    if not edges:
        raise InputError("minimality: the circuit has no edges")
    draws = len(reference)
    need = math.ceil(math.log(level / len(edges)) / math.log(1 - share))
    check_need("minimality", "reference draws", need, draws)
    counts = (effects[:, None] > reference[None, :]).sum(axis=1)
    p = stats.binom.cdf(counts, draws, share)
    p_bh = stats.false_discovery_control(p, method="bh")
    p_bonferroni = np.minimum(1.0, p * len(edges))
    columns = (edges, effects, counts, p, p_bh, p_bonferroni)
    names = ("edge", "effect", "exceeds", "p", "p_bh", "p_bonferroni")
    rows = [
        dict(zip(names, row, strict=True))
        for row in zip(edges, *(column.tolist() for column in columns[1:]), strict=True)
    ]
    smallest = float(p_bh.min())
    matters = float(stats.binom.sf(counts - 1, draws, share).max())
    return TestResult(
        name="minimality",
        null=f"every edge matters more than {share:g} of the edges of random paths",
        statistic=float((p_bh <= level).sum()),
        p_value=smallest,
        n=draws,
        level=level,
        rejected=smallest <= level,
        holds=decide(matters, smallest, level),
        correction="Benjamini-Hochberg",
        extra={
            "edges": rows,
            "superfluous": [r["edge"] for r in rows if r["p"] <= level],
            "superfluous_bh": [r["edge"] for r in rows if r["p_bh"] <= level],
            "superfluous_bonferroni": [r["edge"] for r in rows if r["p_bonferroni"] <= level],
            "p_opposite": matters,
        },
    )


@dataclass(frozen=True)
class NullRank:
    """Where a figure stands in a null family that does not hold it."""

    p: float  # rank / (1 + members)
    rank: int  # 1 + members at least as large; 1: above all
    members: int


def null_rank(value: float, family: Floats) -> NullRank:
    """The rank of a figure, higher being better, among the members; InputError if none."""
    check_need("null rank", "members of the null family", 1, len(family))
    rank = 1 + int((family >= value).sum())
    return NullRank(rank / (1 + len(family)), rank, len(family))


def null_percentile(value: float, family: Floats, level: float = 0.05) -> TestResult:
    """Is a figure larger than chance gives? `family` [members]: the figure of each random member.

    p as `null_rank`. The percentile counts ties half. `holds` is False if the figure is as small as
    level's share of the family.
    """
    name = "null percentile"
    check_scores(name, family.shape[:1], family=family)
    check_between("value", value, -math.inf, math.inf)
    check_between("level", level, 0.0, 1.0)
    members = len(family)
    check_need(name, "members of the null family", math.ceil(1 / level) - 1, members)
    above, ties = int((family > value).sum()), int((family == value).sum())
    p = null_rank(value, family).p
    opposite = (1 + members - above) / (1 + members)
    return TestResult(
        name=name,
        null="the figure is one of the null family's",
        statistic=100 * (members - above - ties / 2) / members,
        p_value=p,
        n=members,
        level=level,
        rejected=p <= level,
        holds=decide(p, opposite, level),
        extra={"value": value, "ties": ties, "p_opposite": opposite},
    )


def _check(test: str, circuit: Floats, random: Floats, model: Floats) -> None:
    prompts = model.shape[:1]
    check_need(test, "prompts", 1, prompts[0] if prompts else 0)
    check_scores(test, prompts, circuit=circuit, model=model)
    check_scores(test, (*random.shape[:1], *prompts), random=random)


def _beats(
    name: str, null: str, count: int, circuits: int, share: float, level: float
) -> TestResult:
    """The exact test that more than `share` of random circuits are beaten."""
    check_between("share", share, 0.0, 1.0)
    check_between("level", level, 0.0, 1.0)
    check_need(name, "random circuits", math.ceil(math.log(level) / math.log(share)), circuits)
    p = float(stats.binomtest(count, circuits, share, "greater").pvalue)
    opposite = float(stats.binomtest(count, circuits, share, "less").pvalue)
    return TestResult(
        name=name,
        null=null,
        statistic=count / circuits,
        p_value=p,
        n=circuits,
        level=level,
        rejected=p <= level,
        holds=decide(p, opposite, level),
        extra={"beaten": count, "share": share, "p_opposite": opposite},
    )
