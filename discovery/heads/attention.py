"""What a circuit's heads attend to, in the words of the task.

A task marks tokens by name ("io", "s2", "end", ...). For each head: mean attention from each marked
token to each marked token before it, and the mean attention to the previous token. Descriptive: it
helps a reader recognise a head, and is no evidence that the head matters.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from acdc.forward import PatchedForward
from acdc.prompts import Prompts


def head_attention(pattern: Float[Tensor, "batch query pos"], prompts: Prompts) -> dict[str, float]:
    """One head's mean attention over prompts: {"end->io": 0.7, ..., "previous token": 0.1}."""
    found = {"previous token": _previous(pattern)}
    rows = torch.arange(len(prompts), device=pattern.device)
    marks = {name: torch.tensor(at, device=pattern.device) for name, at in prompts.marks.items()}
    for start, here in marks.items():
        for end, there in marks.items():
            if start != end and bool((there <= here).all()):
                found[f"{start}->{end}"] = pattern[rows, here, there].mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def head_pattern(
    forward: PatchedForward, layer: int, head: int
) -> Float[Tensor, "batch query pos"]:
    """One head's attention in the clean run, from the stream that it saw."""
    model, x, n = forward.model, forward.clean.streams[2 * layer], forward.n_pos
    q = model.project(layer, "q", head, x, n)
    k = model.project(layer, "k", model.kv_head(head), x, n)
    return model.pattern(layer, head, q, k)


def _previous(pattern: Tensor) -> float:
    return pattern.diagonal(-1, dim1=-2, dim2=-1).mean().item() if pattern.shape[-1] > 1 else 0.0
