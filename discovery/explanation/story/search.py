"""Writing a story and refining it, on prompts that it is not measured on.

It starts from the circuit alone: every place carries its own prompt whole, all else is random. From
the logits down, group by group, three questions are asked. Is the claim needed at all? Do all
variables together do for the own prompt? Which of them can be left out? Then refined: where a step
has cost more than it seemed, the claim that gains most is made stronger (of a group of heads that
of one alone if it gains as much: it is split off), and what costs nothing is dropped. A change
counts if it moves the share recovered, either way, by more than is negligible and beyond chance
(paired t-test, Bonferroni over the alternatives). What is not beyond chance may still add up, so
once all changes together have cost what is tolerated, negligible ones only are made. Draws of one
claim stay the same while others change: stories are compared on equal draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

from discovery.explanation.story.claims import (
    Carried,
    Chance,
    Place,
    Story,
    carried_over,
    groups_of,
    parents,
    short,
    split_off,
    without,
)
from discovery.explanation.story.data import Variable
from discovery.explanation.story.judge import Change, Judge, Scrub


@dataclass(frozen=True)
class Step:
    """One change of the story that was kept."""

    place: str  # in short, as the tree was then; "" for all of it
    what: str  # in words
    share: float  # recovered after it, on the prompts that chose it


@dataclass(frozen=True)
class Written:
    """A story and how it was come by."""

    found: tuple[Place, ...]  # the tree that it is on: groups may have been split
    story: dict[str, Carried]
    steps: tuple[Step, ...]
    own: dict[str, str]  # groups left with their own prompt, and why


@dataclass(frozen=True)
class Rule:
    """When a change counts."""

    level: float
    negligible: float  # share of the whole way
    tolerated: float  # share that all changes together may cost

    def counts(self, change: Change, lost: float, tests: int) -> bool:
        """Whether a change moves the story: `lost` is what has been lost since the start with it,
        `tests` the alternatives that were tried.
        """
        if abs(change.mean) <= self.negligible:
            return False
        beyond_chance = change.p_value * tests <= self.level
        return beyond_chance or (change.mean < 0 and lost > self.tolerated)


def write(
    judge: Judge, found: Sequence[Place], variables: Sequence[Variable], rule: Rule,
    chance: Chance, rounds: int, done: Callable[[], object] = lambda: None,
) -> Written:  # fmt: skip
    """Write and refine; `done` is called after each group."""
    writer = Writer(judge, found, variables, rule, chance)
    for group in groups_of(found):
        writer.settle(group)
        done()
    for _ in range(rounds):
        stronger = writer.strengthen()
        if stronger is None:
            break
        writer = stronger
    writer.prune()
    return Written(tuple(writer.found), writer.story, tuple(writer.steps), writer.own)


class Writer:
    """A story in the making."""

    def __init__(
        self, judge: Judge, found: Sequence[Place], variables: Sequence[Variable], rule: Rule,
        chance: Chance,
    ) -> None:  # fmt: skip
        self.judge, self.rule, self.chance = judge, rule, chance
        self.variables = tuple(variables)
        self._climb(found)
        self.story: dict[str, Carried] = dict.fromkeys(self.labels)
        self.now = self._scrub(self.story)
        self.steps = [Step("", "the circuit's paths, every claim its own prompt", self._share())]
        self.own = dict[str, str]()

    # ---- one group ------------------------------------------------------------------------------

    def settle(self, group: str) -> None:
        """The least that a group may carry without a loss against its own prompt."""
        if group not in self.story:
            return None
        start = self.now
        fewer = without(self.found, self.story, group)
        dropped = self._scrub(fewer)
        if not self._counts(start, dropped, 1):
            return self._take(fewer, dropped, group, "not claimed")
        best = self._with(group, self.variables)
        whole = self._scrub(best)
        if not self.variables or self._counts(start, whole, 1):
            self.own[group] = "no candidate variable, nor all together, does for its own prompt"
            return None
        kept, done = self._least(group, start, whole)
        if self._alone(group, done) > 0.5:
            self.own[group] = "the variables that it needs leave nothing to swap with"
            return None
        return self._take(self._with(group, kept), done, group, shown(kept))

    def _least(self, group: str, start: Scrub, whole: Scrub) -> tuple[tuple[Variable, ...], Scrub]:
        """Variables left after all that can go are gone, tried in halves and halves of halves."""
        kept, done = self.variables, whole

        def leave_out(block: tuple[Variable, ...]) -> None:
            nonlocal kept, done
            fewer = tuple(v for v in kept if v not in block)
            after = self._scrub(self._with(group, fewer))
            if not self._counts(start, after, len(self.variables)):
                kept, done = fewer, after
            elif len(block) > 1:
                half = len(block) // 2
                leave_out(block[half:])
                leave_out(block[:half])

        half = len(self.variables) // 2
        for block in (self.variables[half:], self.variables[:half]):
            if block:
                leave_out(block)
        return kept, done

    # ---- all groups -----------------------------------------------------------------------------

    def strengthen(self) -> Writer | None:
        """The story with the claim stronger that gains most by its own prompt, beyond chance.

        Of a group of heads one alone may gain most, or as much as the group: it is split off. None
        if no claim gains.
        """
        weak = [g for g in self.labels if self._may(g) and self.story.get(g, ()) is not None]
        ways = [_Way(self, g, g) for g in weak]
        ways += [way for g in weak for way in self._splits(g)]
        done = [way.writer._scrub(way.writer._with(way.group, None)) for way in ways]
        gains = [self.judge.change(self.now, one).mean for one in done]
        if not ways or max(gains) <= 0:
            return None
        best = gains.index(max(gains))
        if not self._counts(self.now, done[best], len(ways)):
            return None
        parts = [i for i, w in enumerate(ways) if w.writer is not self and w.of == ways[best].group]
        do = [i for i in parts if not self._counts(done[best], done[i], len(parts))]
        best = max(do, key=lambda i: gains[i], default=best)
        ways[best].writer._make_stronger(ways[best].group, done[best])
        return ways[best].writer

    def _splits(self, group: str) -> list[_Way]:
        """Each head of a group of several on its own, all claims as they are."""
        nodes = list(dict.fromkeys(one.node for one in self.found if one.group == group))
        out = list[_Way]()
        for node in nodes if len(nodes) > 1 else ():
            tree, own = split_off(self.found, group, node)
            other = copy(self)
            other._climb(tree)
            other.story = carried_over(self.found, tree, self.story)
            other.own = carried_over(self.found, tree, self.own)
            other.steps = list(self.steps)
            out.append(_Way(other, own, group))
        return out

    def _make_stronger(self, group: str, whole: Scrub) -> None:
        """One variable more, or its own prompt (`whole`) where no single one does.

        A claim that was dropped comes back with all above it and is settled anew.
        """
        story = self._with(group, None)
        if group not in self.story:
            self._take(story, whole, group, "its own prompt after all")
            for again in [g for g in self.labels if group in self._above(g)]:
                self.settle(again)
            return
        have = self.story[group] or ()
        for one in (v for v in self.variables if v not in have):
            more = self._with(group, tuple(v for v in self.variables if v in (*have, one)))
            after = self._scrub(more)
            if not self._counts(whole, after, len(self.variables)):
                self._take(more, after, group, shown(more[group]))
                return
        self._take(story, whole, group, "its own prompt")
        self.own[group] = "no single variable more does for its own prompt"

    def prune(self) -> None:
        """Drop claims that cost nothing, the least costly first."""
        costs = dict[str, float]()
        for group in self.story:
            done = self._scrub(without(self.found, self.story, group))
            costs[group] = abs(self.judge.change(self.now, done).mean)
        for group in sorted(costs, key=lambda g: costs[g]):
            fewer = without(self.found, self.story, group)
            done = self._scrub(fewer)
            if group in self.story and not self._counts(self.now, done, len(costs)):
                self._take(fewer, done, group, "not claimed")

    # ---- helpers --------------------------------------------------------------------------------

    def _climb(self, found: Sequence[Place]) -> None:
        """Write on this tree."""
        self.found, self.parent = found, parents(found)
        self.labels = {g: [p.label for p in own] for g, own in groups_of(found).items()}

    def _scrub(self, story: Story) -> Scrub:
        return self.judge.scrub(self.found, story, self.chance)

    def _share(self) -> float:
        return self.judge.share(self.now)

    def _counts(self, before: Scrub, after: Scrub, tests: int) -> bool:
        lost = self.steps[0].share - self.judge.share(after)
        return self.rule.counts(self.judge.change(before, after), lost, tests)

    def _take(self, story: dict[str, Carried], done: Scrub, group: str, what: str) -> None:
        self.story, self.now = story, done
        self.own = {g: why for g, why in self.own.items() if g in story and g != group}
        self.steps.append(Step(short(group, self.found), what, self._share()))

    def _with(self, group: str, carried: Carried) -> dict[str, Carried]:
        """The story with a group's claim made so; one that was not there comes with all above it.

        Places keep their order.
        """
        story = {**self.story, group: carried}
        if group not in self.story:
            story |= dict.fromkeys(g for g in self.labels if group in self._above(g))
            story[group] = carried
        return {g: story[g] for g in self.labels if g in story}

    def _above(self, group: str) -> list[str]:
        """A group and those that it is an input of, up to the logits."""
        out, at = list[str](), group
        while True:
            out.append(at)
            parent = self.parent[at]
            if parent is None:
                return out
            at = parent

    def _may(self, group: str) -> bool:
        parent = self.parent[group]
        return parent is None or parent in self.story

    def _alone(self, group: str, done: Scrub) -> float:
        """Share of a group's samples that had nothing to swap with."""
        found = [done.classes[label] for label in self.labels[group] if label in done.classes]
        return sum(c.alone for c in found) / (len(found) * done.loss.size) if found else 0.0


@dataclass(frozen=True, eq=False)
class _Way:
    """A claim that may be made stronger: a group's, or that of one head split off."""

    writer: Writer
    group: str
    of: str  # the group that it is, or was, part of


def shown(carried: Carried) -> str:
    """What a claim says, in words."""
    if carried is None:
        return "its own prompt"
    return " and ".join(v.name for v in carried) if carried else "nothing"
