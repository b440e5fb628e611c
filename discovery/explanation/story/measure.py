"""A story on prompts that it was not written on: what it and each claim recovers, controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from discovery.explanation.figures import adjusted
from discovery.explanation.story.claims import (
    Carried,
    Chance,
    Place,
    Story,
    groups_of,
    without,
)
from discovery.explanation.story.data import Pool, Rows, Variable
from discovery.explanation.story.judge import Judge, Scrub
from discovery.explanation.story.search import Written, shown
from discovery.scrubbing.score import Recovered


@dataclass(frozen=True)
class ClaimWorth:
    """One group's claim. Figures are of the story without it and all that it is computed from."""

    group: str
    places: tuple[Place, ...]
    carried: Carried
    without: Recovered
    cost: float  # share recovered with it - without it
    p_value: float  # that it costs nothing, Benjamini-Hochberg over the claims
    smallest: int | None  # prompts in the smallest class that was met; None: its own prompt
    alone: float  # share of samples with nothing to swap with: there the claim is empty


@dataclass(frozen=True)
class Broken:
    """The single change of the story that breaks it most, found on the other half."""

    group: str
    what: str
    chosen: float  # share recovered on the half that it was picked on
    recovered: Recovered


@dataclass(frozen=True)
class Measured:
    """All on the test half."""

    recovered: Recovered
    kl_share: float
    claims: tuple[ClaimWorth, ...]
    permuted: tuple[float, ...]  # shares recovered with other prompts' values of the variables
    random: tuple[float, ...]  # shares recovered by the same tree on other heads
    broken: Broken | None


@dataclass(frozen=True)
class Told:
    """A story, how it was come by, and what it is worth."""

    variables: tuple[Variable, ...]
    left_out: tuple[str, ...]  # sentences on candidates that cannot be claimed
    written: Written
    measured: Measured
    n_choose: int
    n_test: int
    stories: int  # scrubbed
    runs: int  # prompts run through the model

    @property
    def found(self) -> tuple[Place, ...]:
        """The tree of places that the story is on."""
        return self.written.found


Draw = Callable[[Story], Scrub]


def measure(
    judge: Judge, written: Written, others: Sequence[Sequence[Place]],
    worst: tuple[str, str, Story, float] | None, seed: int, draws: int, level: float,
    rng: np.random.Generator, permutations: int,
) -> Measured:  # fmt: skip
    """Scrub the story and its variants; every place has data of its own, in controls one draw."""
    found, story = written.found, written.story

    def scrub(one: Story) -> Scrub:
        return judge.scrub(found, one, Chance(seed), draws)

    whole = scrub(story)
    claims = _worth(judge, found, story, whole, scrub, level, rng)

    def control(tree: Sequence[Place], instead: Rows | None) -> float:
        return judge.share(judge.scrub(tree, story, Chance(seed, False, instead)))

    permuted = [control(found, derangement(judge.pool, rng)) for _ in range(permutations)]
    random = [control(tree, None) for tree in others]
    broken = None
    if worst is not None:
        group, what, changed, chosen = worst
        broken = Broken(group, what, chosen, judge.recovered(scrub(changed), level, rng))
    return Measured(
        judge.recovered(whole, level, rng), judge.kl_share(whole), claims, tuple(permuted),
        tuple(random), broken,
    )  # fmt: skip


def _worth(
    judge: Judge, found: Sequence[Place], story: Story, whole: Scrub, scrub: Draw, level: float,
    rng: np.random.Generator,
) -> tuple[ClaimWorth, ...]:  # fmt: skip
    """What each group's claim is worth: the story without it."""
    rows, p_values = list[ClaimWorth](), list[float]()
    for group, own in groups_of(found).items():
        if group not in story:
            continue
        done = scrub(without(found, story, group))
        change = judge.change(done, whole)
        classes = [whole.classes[p.label] for p in own if p.label in whole.classes]
        smallest = min((c.smallest for c in classes), default=None)
        alone = sum(c.alone for c in classes) / max(1, len(classes) * whole.loss.size)
        p_values.append(change.p_value)
        rows.append(
            ClaimWorth(
                group,
                tuple(own),
                story[group],
                judge.recovered(done, level, rng),
                change.mean,
                change.p_value,
                smallest,
                alone,
            )  # fmt: skip
        )
    pairs = zip(rows, adjusted(p_values).tolist(), strict=True)
    return tuple(replace(row, p_value=p) for row, p in pairs)


def derangement(pool: Pool, rng: np.random.Generator) -> Rows:
    """Another prompt for each prompt, each once: a random round."""
    order = rng.permutation(pool.n)
    out = np.empty(pool.n, np.int64)
    out[order] = np.roll(order, 1)
    return out


def adversary(
    judge: Judge, found: Sequence[Place], story: Story, variables: Sequence[Variable],
    chance: Chance,
) -> tuple[str, str, Story, float] | None:  # fmt: skip
    """The one change that leaves least: a claim dropped, or on one other variable instead.

    -> (group, what, changed story, share recovered); None for a story without claims.
    """
    tried = list[tuple[str, str, Story]]()
    for group, carried in story.items():
        tried.append((group, "dropped", without(found, story, group)))
        for one in variables if carried else ():
            if (one,) != carried and one not in (carried or ()):
                what = f"{one.name} instead of {shown(carried)}"
                tried.append((group, what, {**story, group: (one,)}))
    done = [(*one, judge.share(judge.scrub(found, one[2], chance))) for one in tried]
    return min(done, key=lambda one: one[3], default=None)
