"""What would be right if a variable had another prompt's value: labels of interchanges.

Geiger et al. (2021): a high-level model says what the base's answer is when one of its variables is
taken from a source. Here that model is read off the prompts. A variable (Prompts.features) plays
one of these parts, if it does so in every prompt:

    answer   its value is the answer          -> right is the source's value
    place    the answer stands at its value   -> the base's token at the source's place
    order    two values, which of the right and the wrong token comes first -> the base's other one
    key      the answer follows the first token equal to its value -> what follows the source's key
    table    else: the answer of a prompt that has the source's value and all else as the base

Where the prompts hold right and wrong answers both, a place's token must be one of the two. Of some
pairs the label stays unknown; a variable of which it always is cannot be asked. Taken together the
variables are a chain, key -> place or order -> answer: of several interchanged ones the last
decides. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError
from acdc.prompts import Prompts

Role = Literal["answer", "place", "order", "key", "table"]
CHAIN: tuple[tuple[Role, ...], ...] = (("answer",), ("place", "order"), ("key",), ("table",))
UNKNOWN = -1
MEANS: Mapping[Role, str] = {
    "answer": "the answer itself",
    "place": "where the answer stands",
    "order": "which of the two comes first",
    "key": "what to look up",
    "table": "other prompts tell the answer",
}
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts with one answer each, and the part that each variable plays."""

    prompts: Prompts
    tokens: Ints  # [prompt, pos], each from its start; UNKNOWN after the end of shorter ones
    answers: Ints  # [prompt]
    wrong: Ints  # [prompt], the first wrong answer or UNKNOWN
    roles: Mapping[str, Role]

    @classmethod
    def of(cls, prompts: Prompts, roles: Mapping[str, Role] | None = None) -> Task:
        """Roles are read off these prompts unless given; InputError if answers are not one each."""
        if not all(len(a) == 1 for a in prompts.answers):
            raise InputError("an interchange needs one right answer a prompt")
        answers = np.array([a[0] for a in prompts.answers])
        wrong = np.array([w[0] if w else UNKNOWN for w in prompts.wrong])
        tokens = np.full(tuple(prompts.clean.shape), UNKNOWN, np.int64)
        for row, own in enumerate(prompts.rows()):
            tokens[row, : len(own)] = own
        task = cls(prompts, tokens, answers, wrong, roles or {})
        if roles is not None:
            return task
        found: dict[str, Role] = {name: task._role(name) for name in prompts.features}
        return cls(prompts, task.tokens, answers, wrong, found)

    def values(self, name: str) -> Ints:
        """[prompt]: a variable."""
        return np.array(self.prompts.features[name])

    def _role(self, name: str) -> Role:
        values = self.values(name)
        if np.array_equal(values, self.answers):
            return "answer"
        n_pos, rows = self.tokens.shape[1], np.arange(len(values))
        inside = bool(((values >= 0) & (values < n_pos)).all())
        if inside and np.array_equal(self.tokens[rows, values], self.answers):
            return "place"
        if len(np.unique(values)) == 2 and self._tells_order(values):
            return "order"
        return "key" if np.array_equal(self._after(rows, values), self.answers) else "table"

    def _tells_order(self, values: Ints) -> bool:
        right, wrong = _first(self.tokens, self.answers), _first(self.tokens, self.wrong)
        there = (right >= 0) & (wrong >= 0) & (right != wrong)
        sooner, high = right < wrong, values == values.max()
        return bool(there.all()) and (np.array_equal(sooner, high) or np.array_equal(sooner, ~high))

    def _after(self, rows: Ints, keys: Ints) -> Ints:
        """The token after the first one equal to the key; UNKNOWN unless both are there."""
        tokens = self.tokens[rows]
        at = _first(tokens, keys)
        known = (at >= 0) & (at + 1 < tokens.shape[1])
        return np.where(known, tokens[np.arange(len(rows)), np.where(known, at + 1, 0)], UNKNOWN)

    # ---- labels --------------------------------------------------------------------------------

    def label(self, base: Ints, taken: Mapping[str, Ints]) -> Ints:
        """[pair]: the right token of each base if each variable named had its source's value.

        `taken`: variable -> source prompts [pair]. UNKNOWN where nothing tells, or two differ.
        """
        for level in CHAIN:
            names = [name for name in taken if self.roles[name] in level]
            if names and level == ("table",):
                return self._looked_up(base, taken)
            if names:
                found = [self._alone(name, base, taken[name]) for name in names]
                agree = np.all([one == found[0] for one in found], axis=0)
                return np.where(agree, found[0], UNKNOWN)
        return self.answers[base]

    def _alone(self, name: str, base: Ints, source: Ints) -> Ints:
        role, values = self.roles[name], self.values(name)
        if role == "answer":
            return values[source]
        if role == "key":
            return self._after(base, values[source])
        if role == "order":
            return np.where(values[base] == values[source], self.answers[base], self.wrong[base])
        token = self.tokens[base, values[source]]
        named = (token == self.answers[base]) | (token == self.wrong[base])
        return np.where(named | (not self._holds_both), token, UNKNOWN)

    @cached_property
    def _holds_both(self) -> bool:
        """Whether every prompt holds its right and its wrong answer."""
        return all(bool((_first(self.tokens, t) >= 0).all()) for t in (self.answers, self.wrong))

    def _looked_up(self, base: Ints, taken: Mapping[str, Ints]) -> Ints:
        """Answers of prompts with the wanted values; UNKNOWN if there is none, or they differ."""
        names = list(self.prompts.features)
        table: dict[tuple[int, ...], int] = {}
        for row, answer in zip(self._wanted(names, {}), self.answers.tolist(), strict=True):
            table[row] = answer if table.get(row, answer) == answer else UNKNOWN
        wanted = self._wanted(names, taken, base)
        return np.array([table.get(row, UNKNOWN) for row in wanted], dtype=np.int64)

    def _wanted(
        self, names: list[str], taken: Mapping[str, Ints], base: Ints | None = None
    ) -> list[tuple[int, ...]]:
        rows = np.arange(len(self.answers)) if base is None else base
        columns = [self.values(name)[taken.get(name, rows)].tolist() for name in names]
        return list(zip(*columns, strict=True))


def _first(tokens: Ints, wanted: Ints) -> Ints:
    """[row]: the first place of the wanted token; -1 if it is not there."""
    here = tokens == wanted[:, None]
    return np.where(np.any(here, axis=1), here.argmax(1), -1)


@dataclass(frozen=True)
class Pairs:
    """Bases, sources and what is right when one variable, or several, comes from the source."""

    base: Ints  # [pair]
    sources: Mapping[str, Ints]  # variable -> [pair], whose value is put in
    right: Ints  # [pair], token
    # [pair, candidate]: right, the base's own answer, and others; a token may come twice
    tokens: Ints
    changes: NDArray[np.bool_]  # [pair]: right is not the base's own answer

    def take(self, which: NDArray[np.bool_] | Ints) -> Pairs:
        """Some of the pairs."""
        return Pairs(
            self.base[which], {n: s[which] for n, s in self.sources.items()}, self.right[which],
            self.tokens[which], self.changes[which],
        )  # fmt: skip


def paired(task: Task, base: Ints, sources: Mapping[str, Ints]) -> Pairs:
    """Pairs whose label is known, in order.

    Candidates: the answers of base and sources, the base's wrong one, the labels of every variable
    alone, so that a value that carries another variable is told apart; and the label.
    """
    right = task.label(base, sources)
    own, columns = task.answers[base], [right, task.answers[base], task.wrong[base]]
    for source in sources.values():
        columns += [task.answers[source], *(task.label(base, {n: source}) for n in task.roles)]
    tokens = np.stack(columns, axis=1)
    tokens = np.where(tokens == UNKNOWN, own[:, None], tokens)
    return Pairs(base, sources, right, tokens, right != own).take(right != UNKNOWN)


def pairs_of(task: Task, name: str, rng: np.random.Generator, each: int) -> Pairs:
    """For each base up to `each` sources that change the label and as many that leave it as it is.

    Both are needed: a value that always turns the answer, whatever the source, would pass the first
    alone.
    """
    n, base, source = len(task.answers), list[int](), list[int]()
    for row in range(n):
        others = rng.permutation(np.delete(np.arange(n), row))
        label = task.label(np.full(n - 1, row), {name: others})
        changed = others[(label != UNKNOWN) & (label != task.answers[row])][:each]
        kept = others[label == task.answers[row]][: len(changed)]
        base += [row] * (len(changed) + len(kept))
        source += [*changed.tolist(), *kept.tolist()]
    return paired(task, np.array(base, np.int64), {name: np.array(source, np.int64)})


def permuted(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """The same labels with other pairs' sources: nothing to find is left."""
    order = rng.permutation(len(pairs.base))
    return Pairs(
        pairs.base, {n: s[order] for n, s in pairs.sources.items()}, pairs.right, pairs.tokens,
        pairs.changes,
    )  # fmt: skip
