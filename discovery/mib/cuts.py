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

import torch
from jaxtyping import Float
from torch import Tensor

from acdc.ablation import ABLATIONS, Ablation
from acdc.errors import InputError
from acdc.model import NO_NORM, Block, Model
from acdc.prompts import Prompts
from acdc.writers import Writers

Cut = Literal["patching", "mean_clean", "zero", "zero_folded"]
CUTS: tuple[Cut, ...] = get_args(Cut)


def cut_edges(cut: Cut, model: Model, prompts: Prompts) -> Ablation:
    """The ablation of that name; InputError where the model has no such convention."""
    if cut == "mean_clean":
        return replace(ABLATIONS["mean"], reference=prompts)
    if cut == "zero_folded":
        return FoldedZero("zero_folded", needs_corrupt=False, left=left_behind(model))
    return ABLATIONS["resample" if cut == "patching" else "zero"]


@dataclass(frozen=True)
class Left:
    """What stays of each writer."""

    values: Float[Tensor, "layer head d_head"]
    positions: Float[Tensor, "ctx d_model"] | None


@dataclass(frozen=True, eq=False)
class FoldedZero(Ablation):
    """Value biases and learned positions, which TransformerLens' processing leaves."""

    left: Left | None = None

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of."""
        assert self.left is not None
        z = self.left.values[:, :, None, None, :].expand(clean.z.shape)
        rest = torch.zeros_like(clean.rest)
        if self.left.positions is not None:
            rest[0] = self.left.positions[: rest.shape[-2]]
        return Writers(clean.graph, clean.W_O, z, rest)


def left_behind(model: Model) -> Left:
    """See FoldedZero. InputError where a norm makes the embedding or the heads no sum."""
    values = [_of_layer(model, block) for block in model.blocks]
    for there, of in (
        (model.W_pos is not None and model.ln_embed is not NO_NORM, "embedding"),
        (any(own.any() for own in values) and model.graph().joint, "heads"),
    ):
        if there:
            raise InputError(f"cut=zero_folded: a norm follows this model's {of}; take cut=zero")
    return Left(torch.stack(values), model.W_pos)


def _of_layer(model: Model, block: Block) -> Float[Tensor, "head d_head"]:
    """The value that every query head gets wherever it looks: of the norm's bias, and its own."""
    values = torch.zeros_like(block.attn.W_V[:, 0])
    if block.ln1.bias is not None:
        values = values + torch.einsum("d, kdh -> kh", block.ln1.bias, block.attn.W_V)
    if block.attn.b_V is not None:
        values = values + block.attn.b_V
    return values[[model.kv_head(head) for head in range(model.n_heads)]]
