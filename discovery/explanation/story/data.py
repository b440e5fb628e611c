"""What a claim may say of a prompt, and prompts that agree on it.

A variable is the token at a marked position (or one before it), the position of a mark, or a
feature of the task. Few prompts share a name or a position, so a datum that agrees is made: another
prompt of the same half, drawn among those that share what is not a token, in which tokens are
renamed (two ids change places all over the prompt) until the wanted ones stand at its own marks.
Renaming keeps what equals what, so a made prompt is one that the task could have given wherever
tokens are exchangeable, as random ones and names are. A token that only few different prompts have
is renamed; one with large classes is looked for, as all else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from acdc.prompts import Prompts
from discovery.scrubbing.samplers import Sampler, class_ids

Rows = NDArray[np.integer]
LARGE = 8  # prompts of a token's smallest class from which agreeing ones are looked for, not made


@dataclass(frozen=True)
class Variable:
    """One thing that a prompt has a value of."""

    name: str
    kind: Literal["token", "position", "feature"]
    source: str  # of a mark or a feature
    offset: int = 0  # of a token, from its mark
    made: bool = False  # tokens are renamed; else agreeing prompts are looked for
    also: tuple[str, ...] = ()  # the same on all prompts: cannot be told apart
    answer: bool = False  # it is what the model should say

    def positions(self, prompts: Prompts) -> Int[np.ndarray, " prompt"]:
        """Where it stands, of a token."""
        return np.array(prompts.marks[self.source]) + self.offset

    def values(self, prompts: Prompts) -> Int[np.ndarray, " prompt"]:
        """Its value in each prompt."""
        if self.kind == "token":
            return prompts.clean.cpu().numpy()[np.arange(len(prompts)), self.positions(prompts)]
        found = prompts.marks if self.kind == "position" else prompts.features
        return np.array(found[self.source])


def variables(prompts: Prompts) -> tuple[list[Variable], list[str]]:
    """The candidates, told apart as far as these prompts do, and sentences on those left out.

    In order: the task's features, tokens at marks, positions of marks, tokens before marks. What
    has one value in all prompts distinguishes nothing; a feature that is no token and has another
    value in nearly every prompt has nothing to swap with.
    """
    found, left_out = list[Variable](), list[str]()
    for one in _candidates(prompts):
        values = one.values(prompts)
        ids = class_ids(values)
        size = np.bincount(ids)
        if len(size) == 1:
            left_out.append(f"{one.name} has one value in all prompts, so no claim can be on it")
            continue
        twin = next((i for i, v in enumerate(found) if _alike(v, one, prompts)), None)
        if twin is not None:
            also = (*found[twin].also, one.name)
            found[twin] = replace(found[twin], also=tuple(dict.fromkeys(also)))
        elif one.kind != "token" and len(size) > len(prompts) / 2:
            left_out.append(
                f"{one.name} differs from prompt to prompt ({len(size)} values in {len(prompts)}),"
                " so there is nothing to swap"
            )
        else:
            made = one.kind == "token" and bool(size.min() < LARGE)
            found.append(replace(one, made=made, answer=_is_answer(values, prompts)))
    return found, left_out


def _candidates(prompts: Prompts) -> list[Variable]:
    """All of them, twins among them."""
    tokens = [Variable(f"token at {m}", "token", m) for m in prompts.marks]
    before = [Variable(f"token before {m}", "token", m, -1) for m in prompts.marks]
    before = [v for v in before if v.positions(prompts).min() >= 0]
    places = [Variable(f"position of {m}", "position", m) for m in prompts.marks]
    features = list[Variable]()
    for name in prompts.features:
        own = Variable(name, "feature", name)
        values = own.values(prompts)
        at = next((t for t in tokens if (t.values(prompts) == values).all()), None)
        features.append(own if at is None else replace(at, name=name))
    return [*features, *tokens, *places, *before]


def _alike(one: Variable, other: Variable, prompts: Prompts) -> bool:
    """Whether two say the same of every prompt: equal tokens, or equal classes of anything else."""
    a, b = one.values(prompts), other.values(prompts)
    if (one.kind == "token") != (other.kind == "token"):
        return False
    return bool((a == b).all() if one.kind == "token" else (class_ids(a) == class_ids(b)).all())


def _is_answer(values: Rows, prompts: Prompts) -> bool:
    return all(int(v) in right for v, right in zip(values, prompts.answers, strict=True))


class Pool:
    """Prompts, and those made of them; a datum is a row number, the prompts come first."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts, self.n = prompts, len(prompts)
        self._tokens = prompts.clean.cpu().numpy()
        self._base = np.arange(self.n)  # which prompt's marks and features a row has
        self._drawn: dict[tuple[object, ...], Rows] = {}

    def tokens(self, rows: Rows) -> Int[torch.Tensor, "row pos"]:
        """Of some data."""
        return torch.from_numpy(self._tokens[rows]).to(self.prompts.clean.device)

    def base(self, rows: Rows) -> Rows:
        """The prompt that each datum was made of."""
        return self._base[rows]

    def values(self, one: Variable, rows: Rows) -> Rows:
        """A variable's value in each datum."""
        base = self._base[rows]
        if one.kind == "token":
            return self._tokens[rows, one.positions(self.prompts)[base]]
        return one.values(self.prompts)[base]

    def agreeing(
        self, carried: Sequence[Variable], reference: Rows
    ) -> Bool[np.ndarray, "row prompt"]:
        """Which prompts a datum may be made of: equal in all that is looked for, and with the same
        tokens among the claimed ones equal to each other.
        """
        every = np.arange(self.n)
        own = [(self.values(v, reference)[:, None], self.values(v, every)[None]) for v in carried]
        ok = np.ones((len(reference), self.n), bool)
        for v, (wanted, there) in zip(carried, own, strict=True):
            if not v.made:
                ok &= wanted == there
        tokens = [pair for v, pair in zip(carried, own, strict=True) if v.kind == "token"]
        for i, (wanted, there) in enumerate(tokens):
            for wanted_too, there_too in tokens[:i]:
                ok &= (wanted == wanted_too) == (there == there_too)
        return ok

    def draw(
        self, carried: Sequence[Variable], reference: Rows, key: Sequence[int]
    ) -> Int[np.ndarray, " row"]:
        """A datum for each reference that agrees with it; equal keys draw alike."""
        memo = (tuple(v.name for v in carried), tuple(key), reference.tobytes())
        if memo not in self._drawn:
            ok = self.agreeing(carried, reference)
            place = np.random.default_rng(list(key)).random(len(reference)) * ok.sum(1)
            donors = (ok.cumsum(1) > place[:, None]).argmax(1)
            self._drawn[memo] = self._made(carried, reference, donors)
        return self._drawn[memo]

    def _made(self, carried: Sequence[Variable], reference: Rows, donors: Rows) -> Rows:
        """The donors with the reference's tokens; donors themselves where none is claimed."""
        if not any(v.made for v in carried):
            return donors
        tokens, lines = self._tokens[donors].copy(), np.arange(len(donors))
        for v in (v for v in carried if v.kind == "token"):
            have = tokens[lines, v.positions(self.prompts)[donors]][:, None]
            want = self.values(v, reference)[:, None]
            tokens = np.where(tokens == have, want, np.where(tokens == want, have, tokens))
        first = len(self._tokens)
        self._tokens = np.concatenate([self._tokens, tokens])
        self._base = np.concatenate([self._base, donors])
        return np.arange(first, first + len(donors))


@dataclass(frozen=True, eq=False)
class Agreeing(Sampler):
    """A datum that agrees on the variables; none: any prompt. Equal keys draw alike.

    `instead` [prompt]: agree with another prompt's values than the reference's own (a control).
    """

    pool: Pool
    variables: tuple[Variable, ...]
    key: tuple[int, ...]
    instead: Rows | None = None

    def draw(self, reference: Rows, size: int, generator: np.random.Generator) -> Rows:
        """As Pool.draw; `generator` is not used, so that a change elsewhere changes nothing."""
        return self.pool.draw(self.variables, self._meant(reference), self.key)

    def class_sizes(self, reference: Rows) -> Rows | None:
        """Prompts that a datum may be made of."""
        if not self.variables:
            return None
        return self.pool.agreeing(self.variables, self._meant(reference)).sum(1)

    def _meant(self, reference: Rows) -> Rows:
        return reference if self.instead is None else self.instead[self.pool.base(reference)]
