"""What TransformerLens' processing of a model, and so MIB's code, leaves to no writer.

Value biases, with what the bias of the norm before them makes, go into the attention's output bias,
for attention's weights add up to 1; learned positions are no part of the embedding that is a writer
there. See discovery/mib/cuts.py and discovery/flow/uniform.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from acdc.errors import InputError
from acdc.model import Block, Model
from acdc.writers import Writers


@dataclass(frozen=True)
class Left:
    """What is taken of each writer."""

    values: Float[Tensor, "layer head d_head"]
    positions: Float[Tensor, "ctx d_model"] | None

    def writers(self, like: Writers) -> Writers:
        """The same for every prompt, in the shapes of a run's writers; MLPs keep all: 0."""
        z = self.values[:, :, None, None, :].expand(like.z.shape)
        rest = torch.zeros_like(like.rest)
        if self.positions is not None:
            rest[0] = self.positions[: rest.shape[-2]]
        return Writers(like.graph, like.W_O, z, rest)


def left_behind(model: Model) -> Left:
    """See above. InputError where a norm makes the embedding or the heads no sum."""
    values = [_of_layer(model, block) for block in model.blocks]
    for there, of in (
        (model.W_pos is not None and model.ln_embed.kind != "none", "embedding"),
        (any(own.any() for own in values) and model.graph().joint, "heads"),
    ):
        if there:
            raise InputError(
                f"MIB's processing: a norm follows this model's {of}, so its biases are no part of"
                " a sum; take cut=zero, or weights=flow"
            )
    return Left(torch.stack(values), model.W_pos)


def _of_layer(model: Model, block: Block) -> Float[Tensor, "head d_head"]:
    """The value that every query head gets wherever it looks: of the norm's bias, and its own."""
    values = torch.zeros_like(block.attn.W_V[:, 0])
    if block.ln1.bias is not None:
        values = values + torch.einsum("d, kdh -> kh", block.ln1.bias, block.attn.W_V)
    if block.attn.b_V is not None:
        values = values + block.attn.b_V
    return values[[model.kv_head(head) for head in range(model.n_heads)]]
