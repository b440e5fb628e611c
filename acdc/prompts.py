"""Clean/corrupt prompt pairs: what a task hands to everything else.

Knows token ids only; no tokenizer, no text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from acdc.errors import InputError

T = TypeVar("T")
Align = Literal["length", "marks"]
PAD = -(2**31)  # stands before a prompt that is shorter than others; no token has this id


@dataclass(frozen=True)
class Prompts:
    """Clean/corrupt pairs. The two of a pair have one length; pairs may differ in theirs.

    All prompts end in the last column, and PAD fills the columns before the shorter ones, so a
    column is a distance from the end. No token looks at padding: acdc/parts.py puts prompts of one
    length together, or Model.padded hides it. Attention is causal, so tokens after
    `answer_position` cannot matter; they are cut off here and the answer position is the last one
    of what remains.

    An answer of several tokens is teacher-forced: all but the last of them end both prompts
    (`forced`). It is read a token at a time, each being what follows a shorter prompt (`reading`).
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]  # equal to clean where there are none
    # per prompt: token ids that are right, and those they are compared with; empty if not named
    answers: tuple[tuple[int, ...], ...]
    wrong: tuple[tuple[int, ...], ...]
    answer_position: int  # column whose next-token logits are read, the last one where several are
    # name of a token (such as "io") -> its column in each prompt; for reviewing, not for search
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # what of a prompt a part of the model may be said to carry: name (such as "order") -> its value
    # in each prompt; hypotheses about circuits are made of these
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # what the task has to tell about its making (dropped names, mode, ...), printed; a "warning" is
    # a sentence of its own
    notes: Mapping[str, int | str] = field(default_factory=dict)
    # per prompt: how many of its last tokens are of its answer; () = none of any
    forced: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n, length = self.clean.shape
        if self.corrupt.shape != self.clean.shape:
            raise InputError(
                f"prompts: clean is {tuple(self.clean.shape)}, corrupt {tuple(self.corrupt.shape)};"
                " both must be [batch, pos] of one shape"
            )
        if n == 0 or length == 0:
            raise InputError(f"prompts: empty batch {tuple(self.clean.shape)}")
        if not 0 <= self.answer_position < length:
            raise InputError(
                f"prompts: answer_position {self.answer_position} outside 0..{length - 1}"
            )
        if len(self.answers) != n or len(self.wrong) != n:
            raise InputError(f"prompts: {len(self.answers)} answers for {n} prompts")
        if self.forced and len(self.forced) != n:
            raise InputError(f"prompts: {len(self.forced)} numbers of forced tokens, {n} prompts")
        if any(forced and wrong for forced, wrong in zip(self.forced, self.wrong, strict=False)):
            raise InputError("prompts: an answer of several tokens is not compared with wrong ones")
        object.__setattr__(self, "forced", self.forced or (0,) * n)
        end = self.answer_position + 1
        clean, corrupt = self.clean[:, :end], self.corrupt[:, :end]
        _check_padding(clean, corrupt)
        sizes = (clean != PAD).sum(1).tolist()
        for row, (forced, size) in enumerate(zip(self.forced, sizes, strict=True)):
            if not 0 <= forced < size:
                raise InputError(
                    f"prompts: forced={forced} leaves nothing of prompt {row + 1}'s {size} tokens"
                )
        spare = int((clean == PAD).all(0).sum())  # columns in which no prompt has begun
        object.__setattr__(self, "clean", clean[:, spare:])
        object.__setattr__(self, "corrupt", corrupt[:, spare:])
        if spare:
            marks = {name: tuple(at - spare for at in own) for name, own in self.marks.items()}
            object.__setattr__(self, "marks", marks)
            object.__setattr__(self, "answer_position", self.answer_position - spare)

    @classmethod
    def of_rows(
        cls,
        clean: Sequence[Sequence[int]],
        corrupt: Sequence[Sequence[int]],
        answers: Sequence[tuple[int, ...]],
        wrong: Sequence[tuple[int, ...]],
        marks: Mapping[str, Sequence[int]] | None = None,
        features: Mapping[str, Sequence[int]] | None = None,
        notes: Mapping[str, int | str] | None = None,
        forced: Sequence[int] = (),
    ) -> Prompts:
        """Prompts of any lengths, each ending at its answer; marks count its own tokens from 0.

        InputError as the constructor, and for a pair whose sides differ in length.
        """
        width = max(map(len, [*clean, *corrupt]), default=0)
        before = [width - len(row) for row in clean]
        return cls(
            _padded(clean, width), _padded(corrupt, width), tuple(answers), tuple(wrong), width - 1,
            marks={
                name: tuple(at + pad for at, pad in zip(own, before, strict=True))
                for name, own in (marks or {}).items()
            },
            features={name: tuple(own) for name, own in (features or {}).items()},
            notes=notes or {}, forced=tuple(forced),
        )  # fmt: skip

    def __len__(self) -> int:
        return self.clean.shape[0]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple((self.clean != PAD).sum(1).tolist())

    @cached_property
    def padding(self) -> Int[Tensor, " batch"] | None:
        """Columns before each prompt; None where all have one length."""
        before = (self.clean == PAD).sum(1)
        return before if bool(before.any()) else None

    @property
    def extent(self) -> str:
        """Lengths in words: "15", or "12 to 15"."""
        return _range(self.lengths)

    @property
    def asked(self) -> str:
        """Prompts in words, answers apart: "8 of 12 to 15 tokens with answers of 1 to 3"."""
        few = f" with answers of {_range([n + 1 for n in self.forced])}" if any(self.forced) else ""
        return f"{len(self)} of {self.reading(0).extent} tokens{few}"

    def alike(self) -> dict[tuple[int, int], list[int]]:
        """Rows that may be run together, by length and forced tokens; the shortest first."""
        kinds = list(zip(self.lengths, self.forced, strict=True))
        groups: dict[tuple[int, int], list[int]] = {kind: [] for kind in sorted(set(kinds))}
        for row, kind in enumerate(kinds):
            groups[kind].append(row)
        return groups

    @property
    def lengths_read(self) -> list[int]:
        """Tokens of every reading of every prompt: what a run of all of them goes through."""
        pairs = zip(self.lengths, self.forced, strict=True)
        return [length - less for length, forced in pairs for less in range(forced + 1)]

    def reading(self, token: int) -> Prompts:
        """All prompts up to where this token of their answers is read, counted from 0.

        The token that is forced there is then the answer. InputError for an answer without it.
        """
        if token > min(self.forced):
            raise InputError(f"reading={token}: an answer has only {min(self.forced) + 1} tokens")
        if not any(self.forced):
            return self
        ends = [n - forced + token for n, forced in zip(self.lengths, self.forced, strict=True)]
        rows, width = range(len(self)), self.clean.shape[1]

        def tokens(ids: Int[Tensor, "batch pos"]) -> list[list[int]]:
            return [ids[i, width - self.lengths[i] :].tolist() for i in rows]

        clean = tokens(self.clean)
        found = Prompts.of_rows(
            [clean[i][: ends[i]] for i in rows],
            [row[: ends[i]] for i, row in enumerate(tokens(self.corrupt))],
            [(clean[i][ends[i]],) if self.forced[i] > token else self.answers[i] for i in rows],
            self.wrong,
            {m: [at[i] - width + self.lengths[i] for i in rows] for m, at in self.marks.items()},
            self.features,
            self.notes,
        )
        return found.to(self.clean.device)

    def tokens(self, row: int) -> list[int]:
        """One clean prompt, without padding."""
        return self.clean[row, -self.lengths[row] :].tolist()

    def rows(self) -> list[tuple[int, ...]]:
        """All clean prompts, without padding."""
        whole = zip(self.clean.tolist(), self.lengths, strict=True)
        return [tuple(row[-length:]) for row, length in whole]

    @property
    def has_corrupt(self) -> bool:
        """Whether any corrupt prompt differs from its clean one."""
        return not torch.equal(self.clean, self.corrupt)

    @property
    def has_answers(self) -> bool:
        """Whether every prompt names at least one right answer."""
        return all(self.answers)

    @property
    def has_wrong(self) -> bool:
        """Whether every prompt names at least one wrong answer."""
        return all(self.wrong)

    def check_vocabulary(self, d_vocab: int) -> None:
        """Raise InputError unless every token id lies in 0..d_vocab-1."""
        for name, ids in (("clean", self.clean), ("corrupt", self.corrupt)):
            bad = ((ids != PAD) & ((ids < 0) | (ids >= d_vocab))).nonzero()
            if len(bad):
                row, col = bad[0].tolist()
                at = col - (ids.shape[1] - self.lengths[row])
                raise InputError(
                    f"prompt {row + 1}: {name} token {int(ids[row, col])} at position {at} is"
                    f" outside the model's vocabulary 0..{d_vocab - 1}"
                )
        for name, lists in (("answers", self.answers), ("wrong", self.wrong)):
            for row, ids in enumerate(lists):
                for token in ids:
                    if not 0 <= token < d_vocab:
                        raise InputError(
                            f"prompt {row + 1}: {name} token {token} is outside the model's"
                            f" vocabulary 0..{d_vocab - 1}"
                        )

    def to(self, device: torch.device | str) -> Prompts:
        """The same prompts with their token tensors on another device."""
        moved = copy(self)
        object.__setattr__(moved, "clean", self.clean.to(device))
        object.__setattr__(moved, "corrupt", self.corrupt.to(device))
        return moved

    def swapped(self) -> Prompts:
        """The corrupt prompts in the place of the clean ones, and the other way round."""
        return replace(self, clean=self.corrupt, corrupt=self.clean)

    def take(self, rows: Sequence[int]) -> Prompts:
        """Some of the prompts, in the order given; a row may come twice."""
        chosen = list(rows)

        def of(values: Sequence[T]) -> tuple[T, ...]:
            return tuple(values[i] for i in chosen)

        return replace(
            self, clean=self.clean[chosen], corrupt=self.corrupt[chosen],
            answers=of(self.answers), wrong=of(self.wrong), forced=of(self.forced),
            marks={name: of(values) for name, values in self.marks.items()},
            features={name: of(values) for name, values in self.features.items()},
        )  # fmt: skip

    def with_others(self, seed: int, draws: int = 1, align: Align = "length") -> Prompts:
        """Each prompt `draws` times, its corrupt side being another prompt's clean side.

        What causal scrubbing resamples from (Chan et al. 2022) asked of a search. Partners come
        from a random order of the prompts, the next ones of each: none is its own, or equal in
        tokens, and every prompt is partner as often as the next. Partners are of one length, with
        answers of as many tokens, each its own; with align="marks" they also have the same marked
        positions. InputError where a prompt has too few.
        """
        kinds, texts = self._kinds(align), self._texts()
        groups: dict[tuple[int, ...], list[int]] = {}
        for row in np.random.default_rng(seed).permutation(len(self)).tolist():
            groups.setdefault(kinds[row], []).append(row)
        partners = np.zeros((draws, len(self)), np.int64)
        for group in groups.values():
            for i, row in enumerate(group):
                unlike = (o for o in (*group[i + 1 :], *group[:i]) if texts[o] != texts[row])
                partners[:, row] = self._first(row, unlike, draws, align)
        rows = list(range(len(self))) * draws
        return replace(self.take(rows), corrupt=self.clean[partners.ravel().tolist()])

    def partners(self, align: Align = "length") -> list[list[int]]:
        """Of each prompt all that `with_others` may choose from."""
        kinds, texts = self._kinds(align), self._texts()
        pairs = list(zip(kinds, texts, strict=True))
        return [
            [o for o, (other, text) in enumerate(pairs) if other == kind and text != own]
            for kind, own in pairs
        ]

    def _kinds(self, align: Align) -> list[tuple[int, ...]]:
        """Of each prompt what its partners have as well."""
        places = list(zip(*self.marks.values(), strict=True)) if align == "marks" else []
        sizes = list(zip(self.lengths, self.forced, strict=True))
        return [(*sizes[row], *(places[row] if places else ())) for row in range(len(self))]

    def _texts(self) -> list[tuple[int, ...]]:
        """Clean prompts without their answers: partners differ in these."""
        both = zip(self.rows(), self.forced, strict=True)
        return [tokens[: len(tokens) - forced] for tokens, forced in both]

    def _first(self, row: int, unlike: Iterable[int], draws: int, align: Align) -> list[int]:
        """The first so many of this row's partners; InputError if they are fewer."""
        found = list(islice(unlike, draws))
        if len(found) < draws:
            where = " with the same marked positions" if align == "marks" else ""
            if len(set(self.lengths)) > 1:
                where = f" of its {self.lengths[row]} tokens{where}"
            raise InputError(
                f"ablation=other: prompt {row + 1} of {len(self)} has {len(found)} other prompts"
                f"{where}, and draws={draws} are wanted; take more prompts, or ablation=resample"
            )
        return found


def together(first: Prompts, *others: Prompts) -> Prompts:
    """All of them, one after the other; marks and features are those of the first."""
    every = [first, *others]
    width = max(p.clean.shape[1] for p in every)

    def of(values: Callable[[Prompts], Sequence[T]]) -> tuple[T, ...]:
        return tuple(value for p in every for value in values(p))

    def wide(ids: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch width"]:
        return torch.nn.functional.pad(ids, (width - ids.shape[1], 0), value=PAD)

    def columns(mark: str, p: Prompts) -> list[int]:
        return [at + width - p.clean.shape[1] for at in p.marks[mark]]

    return replace(
        first, clean=torch.cat([wide(p.clean) for p in every]),
        corrupt=torch.cat([wide(p.corrupt) for p in every]), answer_position=width - 1,
        answers=of(lambda p: p.answers), wrong=of(lambda p: p.wrong),
        forced=of(lambda p: p.forced),
        marks={m: of(partial(columns, m)) for m in first.marks},
        features={f: of(lambda p, f=f: p.features[f]) for f in first.features},
    )  # fmt: skip


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(most) if least == most else f"{least} to {most}"


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int[Tensor, "batch pos"]:
    whole = [[PAD] * (width - len(row)) + list(row) for row in rows]
    return torch.tensor(whole, dtype=torch.long).reshape(len(rows), width)


def _check_padding(clean: Int[Tensor, "batch pos"], corrupt: Int[Tensor, "batch pos"]) -> None:
    """Raise InputError unless PAD stands before tokens only, and alike in both of a pair."""
    padding = clean == PAD
    unlike = (padding != (corrupt == PAD)).any(1)
    inside = (padding[:, 1:] & ~padding[:, :-1]).any(1) | padding[:, -1]
    for faulty, what in (
        (unlike, "clean and corrupt have different numbers of tokens"),
        (inside, "padding stands between its tokens or after them"),
    ):
        if bool(faulty.any()):
            raise InputError(f"prompts: prompt {int(faulty.nonzero()[0]) + 1}: {what}")
