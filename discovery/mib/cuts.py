"""What cut edges carry in MIB's evaluation, and in its code's other interventions.

    patching     the corrupt run (all that MIB evaluates with)
    mean_clean   the mean at each position over the clean prompts; ours is over the corrupt ones
    zero         nothing, as ours
    zero_folded  nothing but what their processing leaves behind: value biases (the norm's before
                 them too), which it folds into the attention's output bias, and learned positions,
                 which belong to no writer

Of prompts of several lengths `mean_clean` has means for each length; theirs are over the padded
batch. Their plain `mean`, one vector for all nodes, is not imitated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from acdc.ablation import ABLATIONS, Ablation
from acdc.model import Model
from acdc.prompts import Prompts
from acdc.writers import Writers
from discovery.flow.processed import Left, left_behind

Cut = Literal["patching", "mean_clean", "zero", "zero_folded"]
CUTS: tuple[Cut, ...] = get_args(Cut)


def cut_edges(cut: Cut, model: Model, prompts: Prompts) -> Ablation:
    """The ablation of that name; InputError where the model has no such convention."""
    if cut == "mean_clean":
        return replace(ABLATIONS["mean"], reference=prompts)
    if cut == "zero_folded":
        return FoldedZero("zero_folded", needs_corrupt=False, left=left_behind(model))
    return ABLATIONS["resample" if cut == "patching" else "zero"]


@dataclass(frozen=True, eq=False)
class FoldedZero(Ablation):
    """Value biases and learned positions, which TransformerLens' processing leaves."""

    left: Left | None = None

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of."""
        assert self.left is not None
        return self.left.writers(clean)
