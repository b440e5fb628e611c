"""Clean/corrupt prompt pairs: what a task hands to everything else.

Knows token ids only; no tokenizer, no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from acdc.errors import InputError

T = TypeVar("T")
Align = Literal["length", "marks"]


@dataclass(frozen=True)
class Prompts:
    """A batch of clean/corrupt pairs of one length.

    Attention is causal, so tokens after `answer_position` cannot matter; they are cut off here and
    the answer position is the last one of what remains.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]  # equal to clean where there are none
    # per prompt: token ids that are right, and those they are compared with; empty if not named
    answers: tuple[tuple[int, ...], ...]
    wrong: tuple[tuple[int, ...], ...]
    answer_position: int  # index of the position whose next-token logits are read
    # name of a token (such as "io") -> its position in each prompt; for reviewing, not for search
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # what of a prompt a part of the model may be said to carry: name (such as "order") -> its value
    # in each prompt; hypotheses about circuits are made of these
    features: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # what the task has to tell about its making (dropped names, mode, ...), printed; a "warning" is
    # a sentence of its own
    notes: Mapping[str, int | str] = field(default_factory=dict)

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
        end = self.answer_position + 1
        object.__setattr__(self, "clean", self.clean[:, :end])
        object.__setattr__(self, "corrupt", self.corrupt[:, :end])

    def __len__(self) -> int:
        return self.clean.shape[0]

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
            bad = ((ids < 0) | (ids >= d_vocab)).nonzero()
            if len(bad):
                row, col = bad[0].tolist()
                raise InputError(
                    f"prompt {row + 1}: {name} token {int(ids[row, col])} at position {col} is"
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
        return replace(self, clean=self.clean.to(device), corrupt=self.corrupt.to(device))

    def take(self, rows: Sequence[int]) -> Prompts:
        """Some of the prompts, in the order given; a row may come twice."""
        chosen = list(rows)

        def of(values: Sequence[T]) -> tuple[T, ...]:
            return tuple(values[i] for i in chosen)

        return replace(
            self, clean=self.clean[chosen], corrupt=self.corrupt[chosen],
            answers=of(self.answers), wrong=of(self.wrong),
            marks={name: of(values) for name, values in self.marks.items()},
            features={name: of(values) for name, values in self.features.items()},
        )  # fmt: skip

    def with_others(self, seed: int, draws: int = 1, align: Align = "length") -> Prompts:
        """Each prompt `draws` times, its corrupt side being another prompt's clean side.

        What causal scrubbing resamples from (Chan et al. 2022) asked of a search. Partners come
        from a random order of the prompts, the next ones of each: none is its own, or equal in
        tokens, and every prompt is partner as often as the next. With align="marks" only prompts
        with the same marked positions are partners. InputError where a prompt has too few.
        """
        places = list(zip(*self.marks.values(), strict=True)) if align == "marks" else []
        groups: dict[tuple[int, ...], list[int]] = {}
        for row in np.random.default_rng(seed).permutation(len(self)).tolist():
            groups.setdefault(places[row] if places else (), []).append(row)
        partners = np.zeros((draws, len(self)), np.int64)
        for group in groups.values():
            for i, row in enumerate(group):
                partners[:, row] = self._partners(row, [*group[i + 1 :], *group[:i]], draws, align)
        rows = list(range(len(self))) * draws
        return replace(self.take(rows), corrupt=self.clean[partners.ravel().tolist()])

    def _partners(self, row: int, others: list[int], draws: int, align: Align) -> list[int]:
        """The first of `others` whose tokens differ from this row's."""
        own = self.clean[row]
        found = list(islice((o for o in others if not torch.equal(self.clean[o], own)), draws))
        if len(found) < draws:
            where = " with the same marked positions" if align == "marks" else ""
            raise InputError(
                f"ablation=other: prompt {row + 1} of {len(self)} has {len(found)} other prompts"
                f"{where}, and draws={draws} are wanted; take more prompts, or ablation=resample"
            )
        return found
