"""What an edge that is cut carries: functions of runs.

    resample  the writer's output on the corrupt prompt (Conmy et al. 2023; interchange, patching)
    other     the same, the corrupt prompt being another of the task (Prompts.with_others)
    mean      its mean at each position, over the corrupt prompts or a reference set (Wang et al.)
    zero      nothing
    optimal   the constant that hurts least; see acdc/optimal.py

All see clean and corrupt outputs of some prompts (`Writers`) and return what the edges out of each
writer carry there. One that depends on more than the prompt at hand is shown all of them first, a
part at a time (`fit`), so that the parts never change a result. Another is a subclass with `of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from acdc.errors import InputError
from acdc.prompts import Align, Prompts
from acdc.writers import Writers


@dataclass(frozen=True, eq=False)
class Ablation:
    """One way to cut an edge."""

    name: str
    needs_corrupt: bool = True  # whether it is nothing without corrupt prompts
    reference: Prompts | None = None  # prompts that `fit` sees in the place of the corrupt ones
    # whether it goes by no place in a prompt, and no other prompt: PAD may then stand before some
    pads: ClassVar[bool] = False

    @property
    def by_prompt(self) -> bool:
        """Whether what a prompt's edges carry depends on no other prompt at hand."""
        return type(self).fit is Ablation.fit or self.reference is not None

    def fit(self, runs: Iterable[Writers]) -> Ablation:
        """Ready to be used, having seen every prompt's run; most need not look."""
        return self

    def learnt(self, data: Any) -> Ablation:
        """Ready to be used, having been tried on prompts (acdc.data.Data); most need not."""
        return self

    def partners(self, prompts: Prompts) -> list[list[int]] | None:
        """Whose clean run may stand for each prompt's corrupt one; None: their pairs are given."""
        return None

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """What the edges out of every writer carry; `rows` are the prompts' places among all."""
        raise NotImplementedError


class Resample(Ablation):
    """The corrupt run's own outputs."""

    pads: ClassVar[bool] = True

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of."""
        return corrupt


@dataclass(frozen=True, eq=False)
class Other(Resample):
    """The corrupt run's, of prompts whose corrupt sides are others of them."""

    align: Align = "length"

    def partners(self, prompts: Prompts) -> list[list[int]] | None:
        """See Ablation.partners."""
        return prompts.partners(self.align)


class Zero(Ablation):
    """Nothing."""

    pads: ClassVar[bool] = True

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of."""
        return clean.map(lambda x: x.new_zeros(()).expand(x.shape))


@dataclass(frozen=True, eq=False)
class Mean(Ablation):
    """The mean at each position over the reference set, else all corrupt (or clean) prompts.

    Of prompts of several lengths each length has its own means.
    """

    means: Mapping[int, Writers] = field(default_factory=dict)  # by length; of one prompt

    def fit(self, runs: Iterable[Writers]) -> Ablation:
        """See Ablation.fit."""
        totals, counts = dict[int, Writers](), dict[int, int]()
        for run in runs:
            own, length = run.map(lambda x: x.double().sum(-3, keepdim=True)), run.rest.shape[-2]
            totals[length] = totals[length].with_(own, torch.add) if length in totals else own
            counts[length] = counts.get(length, 0) + run.n_prompts
            dtype = run.rest.dtype
        if not totals:
            raise InputError("ablation=mean: there are no prompts to take the mean of")
        means = {
            length: total.map(lambda x, n=counts[length]: (x / n).to(dtype))
            for length, total in totals.items()
        }
        return replace(self, means=means)

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of. InputError if no prompt of this length was seen."""
        length = clean.rest.shape[-2]
        if length not in self.means:
            have = " or ".join(map(str, sorted(self.means)))
            raise InputError(
                f"ablation=mean: the reference prompts have {have} tokens, the task's {length}; a"
                " mean at each position needs reference prompts of every length"
            )

        def everywhere(x: Tensor) -> Tensor:
            return x.expand(*x.shape[:-3], len(rows), *x.shape[-2:])

        return self.means[length].map(everywhere)


RESAMPLE = Resample("resample")
OTHER = Other("other")
ABLATIONS: dict[str, Ablation] = {
    "resample": RESAMPLE,
    "zero": Zero("zero", needs_corrupt=False),
    "mean": Mean("mean", needs_corrupt=False),
}
