"""What a circuit's heads attend to, in the words of the task.

A task marks tokens by name ("io", "s2", "end", ...). For each head: mean attention from each marked
token to each marked token before it, and the mean attention to the previous token. Descriptive: it
helps a reader recognise a head, and is no evidence that the head matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from acdc.forward import PatchedForward
from acdc.prompts import Prompts

Seen = tuple[
    Prompts, Float[Tensor, "_ _ _"]
]  # a part's prompts, and a head's attention on them: batch query key


def head_attention(parts: Sequence[Seen]) -> dict[str, float]:
    """One head's mean attention over prompts: {"end->io": 0.7, ..., "previous token": 0.1}."""
    n = sum(len(prompts) for prompts, _ in parts)
    found = {"previous token": _previous([pattern for _, pattern in parts])}
    marks = list(parts[0][0].marks)
    for start, end in ((a, b) for a in marks for b in marks if a != b):
        seen = [_between(prompts, pattern, start, end) for prompts, pattern in parts]
        if all(own is not None for own in seen):
            found[f"{start}->{end}"] = sum(own.sum().item() for own in seen if own is not None) / n
    return {name: round(value, 4) for name, value in found.items()}


def _between(
    prompts: Prompts, pattern: Float[Tensor, "batch query pos"], start: str, end: str
) -> Float[Tensor, " batch"] | None:
    """Attention from one mark to another; None unless the other never comes later."""
    here, there = (torch.tensor(prompts.marks[m], device=pattern.device) for m in (start, end))
    rows = torch.arange(len(prompts), device=pattern.device)
    return pattern[rows, here, there] if bool((there <= here).all()) else None


def head_pattern(
    forward: PatchedForward, layer: int, head: int
) -> Float[Tensor, "batch query pos"]:
    """One head's attention in the clean run, from the stream that it saw."""
    model, x, n = forward.model, forward.clean.streams[2 * layer], forward.n_pos
    q = model.project(layer, "q", head, x, n)
    k = model.project(layer, "k", model.kv_head(head), x, n)
    return model.pattern(layer, head, q, k)


def _previous(patterns: Sequence[Tensor]) -> float:
    """The mean over all positions but the first."""
    own = [pattern.diagonal(-1, dim1=-2, dim2=-1) for pattern in patterns]
    n = sum(one.numel() for one in own)
    return sum(one.sum().item() for one in own) / n if n else 0.0
