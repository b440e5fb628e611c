"""What features do to the score: attributions, exact losses, and what a few of them keep.

Attribution is activation x gradient (Marks et al. 2024, arXiv:2403.19647; of edges Syed et al.
2023); losses are runs. All in the score's unit, positive = the score falls without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from acdc.data import floats
from discovery.explanation.features.sites import stream_gradients
from discovery.explanation.features.split import Split, marked, position_of, with_others
from discovery.statistics.intervals import Interval, ratio_of_means
from discovery.validation.bench import Bench, Floats

MOST = 0.8  # of the node's effect: the smallest k that keeps it is told
Change = Callable[[Split], Tensor]  # [batch, pos, width]


@dataclass(frozen=True)
class Attributions:
    """First-order effects, mean over prompts, summed over the positions that are changed.

    Their sum against 0 with the bias's is slope . x exactly.
    """

    zero: Floats  # [feature], against 0
    other: Floats  # [feature], against its value on the other prompt
    error_zero: float
    error_other: float
    bias: float
    at: Mapping[str, Floats]  # mark or "answer" -> [feature], `other` there alone
    density: Floats  # [feature], share of prompts and positions where it is active


def attribute(parts: Sequence[Split]) -> Attributions:
    """Of every feature, the bias and the error: one pass and back."""
    prompts = [split.forward.prompts for split in parts]
    n, names = sum(map(len, prompts)), marked(prompts)

    def mean(of: Callable[[Split], Tensor]) -> Floats:
        return np.asarray(np.sum([floats(of(split)) for split in parts], axis=0) / n)

    def at(split: Split, name: str) -> Tensor:
        where = position_of(split.forward.prompts, name)
        return split.attributions[torch.arange(len(where)), where].sum(0)

    return Attributions(
        mean(lambda s: (s.own.features * (s.slope @ s.sae.W_dec.T)).sum((0, 1))),
        mean(lambda s: s.attributions.sum((0, 1))),
        float(mean(lambda s: (s.own.error * s.slope).sum())),
        float(mean(lambda s: ((s.own.error - s.other.error) * s.slope).sum())),
        float(mean(lambda s: (s.sae.b_dec * s.slope).sum())),
        {name: mean(lambda s, m=name: at(s, m)) for name in names},
        mean(lambda s: (s.own.features > 0).to(s.slope).mean(1).sum(0)),
    )


def lost(parts: Sequence[Split], change: Change) -> Floats:
    """[prompts]: how far the score falls when the site's output is changed so."""
    return np.concatenate([floats(split.lost(change(split))) for split in parts])


@dataclass(frozen=True)
class Kept:
    """Everything of the node from another prompt, but for k features: what stays of its effect.

    1 = the model, 0 = the whole node from the other prompt.
    """

    k: int
    top: Interval  # the same k for all prompts
    random: tuple[float, ...]  # k at random, the same for all prompts; one a draw
    own: Interval  # each prompt's own k by its own attributions: picked and measured on it
    own_random: tuple[float, ...]  # k at random of those that differ on each prompt


@dataclass(frozen=True)
class Measured:
    """All figures. Losses and shares are of the test prompts, the order of the choosing ones."""

    found: Attributions  # on the choosing prompts
    order: list[int]  # features by |attribution against the other prompt|, without those at 0
    variance: float  # explained, of the site's outputs on the test prompts
    l0: float  # features active at a time
    whole: Floats  # [prompts], lost where the whole node is another prompt's
    by_error: Interval  # of that, lost where the error alone is
    by_features: Interval  # of that, lost where all features are and the error stays
    off: Interval  # lost where the error is left out, in the score's unit
    strongest: list[dict[str, Any]]
    agreement: float | None  # correlation of attributions with exact effects, over the strongest
    kept: list[Kept]
    enough: Mapping[str, int]  # top, own -> k that keeps MOST of the effect on the choosing prompts


def keep_features(
    parts: Sequence[Split], order: Sequence[int], sizes: Sequence[int], whole: Floats, draws: int,
    rng: np.random.Generator, level: float = 0.05,
) -> list[Kept]:  # fmt: skip
    """What the first k of `order` keep, and what each prompt's own strongest k do.

    `whole` [prompts] is what resampling the node loses. Random features for all come from `order`.
    Sizes beyond the length of `order` are left out.
    """
    own = {id(split): split.attributions.sum(1).abs() for split in parts}  # [batch, feature]

    def left(keep: Change) -> Floats:
        return whole - lost(parts, lambda split: split.resampled(keep(split)))

    def share(keep: Change) -> Interval:
        return ratio_of_means(left(keep), whole, rng, level=1 - level)

    def mean(keep: Change) -> float:
        return float(left(keep).mean() / whole.mean()) if whole.mean() else float("nan")

    def same(features: Sequence[int]) -> Change:
        return lambda split: _ones(split, features)

    found = []
    for k in tqdm([k for k in sizes if k <= len(order)], desc="k", leave=False):
        drawn = [rng.choice(list(order), k, replace=False).tolist() for _ in range(draws)]
        found.append(
            Kept(
                k,
                share(same(order[:k])),
                tuple(mean(same(features)) for features in drawn),
                share(lambda s, k=k: _largest(own[id(s)], k)),
                tuple(mean(lambda s, k=k: _drawn(own[id(s)], k, rng)) for _ in range(draws)),
            )
        )
    return found


def enough(kept: Sequence[Kept]) -> dict[str, int]:
    """Of `top` and `own` the smallest k that keeps MOST of the effect, else the largest tried."""

    def of(which: str) -> int:
        return next((k.k for k in kept if (getattr(k, which).estimate or 0) >= MOST), kept[-1].k)

    return {"top": of("top"), "own": of("own")} if kept else {}


def _ones(split: Split, features: Sequence[int]) -> Float[Tensor, " feature"]:
    out = split.slope.new_zeros(split.sae.n_features)
    out[list(features)] = 1
    return out


def _largest(values: Float[Tensor, "batch feature"], k: int) -> Float[Tensor, "batch feature"]:
    """1 at the k largest of each row, 0 elsewhere."""
    return torch.zeros_like(values).scatter(1, values.topk(k, 1).indices, 1.0)


def _drawn(
    values: Float[Tensor, "batch feature"], k: int, rng: np.random.Generator
) -> Float[Tensor, "batch feature"]:
    """1 at k of each row's values that are not 0, drawn; at all of them where they are fewer."""
    order = torch.as_tensor(rng.random(tuple(values.shape))).to(values)
    return _largest(torch.where(values > 0, 1 + order, order), k)


def node_effects(bench: Bench, nodes: Sequence[int]) -> Floats:
    """[nodes]: first-order fall of the score where a node's output is another prompt's.

    One pass and back for all of them.
    """
    graph, total = bench.graph, np.zeros(len(nodes))
    for forward in with_others(bench).data:
        gradients = stream_gradients(forward, bench.score_of)
        own, other = forward.clean.writers, forward.corrupt.writers
        for i, node in enumerate(nodes):
            layer, part = graph.place(node)
            stream = 2 * layer + 1 + (part == graph.n_heads)
            total[i] += float(((own[node] - other[node]) * gradients[stream]).sum())
    return total / bench.n
