"""Masks learnt by gradient: one number an edge, whose order gives a circuit of every size.

Each step draws a budget k between two sizes, log-uniform, and runs the model through the mask

    m_i = sigmoid((s_i - tau) / T),   tau such that  sum m = k

so masks of larger budgets contain those of smaller ones, softly; T falls from step to step, so in
the end they are nearly circuits. The loss is what the masked run loses of the model, the mean over
a minibatch. With g = d loss / d m, as tau moves with s (implicit differentiation),

    d loss / d s_j = p_j / T (g_j - sum_i g_i p_i / sum_i p_i),   p = m (1 - m)

(Matryoshka attribution, arXiv 2609.25518: there with one temperature and a signed loss). Adam makes
the steps. Scores start from a ranking made by something cheaper, s_i = -ln rank_i, a mask of one
shape at every budget; edges beyond the best few may be left out for good. Knows no tasks or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import PatchedForward
from acdc.gradient import LOSSES, Loss, MaskedRun
from acdc.graph import Graph
from acdc.metrics import Metric
from acdc.minibatches import Minibatches

Mask = NDArray[np.bool_]  # [writers, readers]
Scores = NDArray[np.float64]  # [writers, readers]
BETAS, EPS = (0.9, 0.99), 1e-10  # of Adam; gradients of single edges are small
HALVINGS = 60  # of the interval that holds tau
NEGLIGIBLE = 1e-4  # an entry of a mask below it is taken for 0, so that few edges cost little


@dataclass(frozen=True)
class How:
    """How masks are learnt."""

    smallest: float  # budgets, in edges
    largest: float
    steps: int = 300
    batch: int = 8  # prompts a step
    rate: float = 0.05  # of Adam, falls to 0 over the steps
    warm: float = 1.0  # temperature at the first step
    cold: float = 0.1  # and at the last
    loss: Literal["share", "metric"] = "share"

    def temperature(self, step: int) -> float:
        """Of a step, geometrically between the two."""
        return self.warm * (self.cold / self.warm) ** (step / max(1, self.steps - 1))

    def budget(self, step: int, seed: int) -> float:
        """Of a step: the sum of its mask."""
        share = float(np.random.default_rng([seed, step]).random())
        return self.smallest * (self.largest / self.smallest) ** share


@dataclass(frozen=True, eq=False)
class State:
    """Where learning stands after some steps. Tensors have one entry an edge that takes part."""

    steps: int
    scores: Float[Tensor, " edges"]
    mean: Float[Tensor, " edges"]  # of Adam: of the gradient
    square: Float[Tensor, " edges"]  # and of its square
    loss: float = 0.0  # of the last step, mean over its minibatch
    budget: float = 0.0  # of the last step


# ---- masks of a budget ---------------------------------------------------------------------------


def top_k(scores: Float[Tensor, " edges"], k: float, temperature: float) -> Float[Tensor, " edges"]:
    """sigmoid((scores - tau) / temperature) with tau such that it adds up to k, 0 < k < edges."""
    room = temperature * (math.log(len(scores)) + 40)
    low, high = float(scores.min()) - room, float(scores.max()) + room
    for _ in range(HALVINGS):
        tau = (low + high) / 2
        if float(torch.sigmoid((scores - tau) / temperature).sum()) > k:
            low = tau
        else:
            high = tau
    return torch.sigmoid((scores - (low + high) / 2) / temperature)


def through_top_k(
    gradient: Float[Tensor, " edges"], mask: Float[Tensor, " edges"], temperature: float
) -> Float[Tensor, " edges"]:
    """d loss / d scores from d loss / d mask, at a fixed sum of the mask."""
    slope = mask * (1 - mask)
    common = (gradient * slope).sum() / slope.sum().clamp_min(torch.finfo(slope.dtype).tiny)
    return slope / temperature * (gradient - common)


# ---- learning ------------------------------------------------------------------------------------


def start(ranking: Scores, within: Mask) -> State:
    """Scores -ln rank: the best of the edges within has 0, the second -ln 2, and so on."""
    value = torch.from_numpy(ranking[within])
    rank = torch.empty_like(value)
    rank[value.argsort(descending=True, stable=True)] = torch.arange(1.0, len(value) + 1).double()
    scores = -rank.log()
    return State(0, scores, torch.zeros_like(scores), torch.zeros_like(scores))


def learn(
    data: Data, metric: Metric, within: Mask, first: State, how: How, seed: int
) -> Iterator[State]:
    """Steps from `first` on, to `how.steps` of them.

    FloatingPointError if the loss or a gradient is NaN or infinite.
    """
    n, batches, now = int(within.sum()), Minibatches(data, how.batch, seed), first
    loss_of = LOSSES[how.loss](data, metric)
    if not 0 < how.smallest <= how.largest < n:
        raise InputError(f"sizes {how.smallest:g} to {how.largest:g} lie not within the {n} edges")
    while now.steps < how.steps:
        heat, budget = how.temperature(now.steps), how.budget(now.steps, seed)
        mask = top_k(now.scores, budget, heat)
        mask = mask * (mask > NEGLIGIBLE)
        gradient, loss = _slope(batches.at(now.steps), loss_of, within, mask)
        now = _adam(now, through_top_k(gradient, mask, heat), how)
        now = replace(now, loss=loss, budget=budget)
        yield now


def _slope(
    batch: Iterable[PatchedForward], loss_of: Loss, within: Mask, mask: Tensor
) -> tuple[Tensor, float]:
    """(d mean loss / d mask, mean loss) of a minibatch; 0 where the mask is 0."""
    edges = torch.tensor(within)
    whole = torch.zeros(within.shape, dtype=mask.dtype).masked_scatter(edges, mask)
    active = (whole > 0).numpy()
    total, loss, n = torch.zeros_like(mask), 0.0, 0
    for forward in batch:
        run = MaskedRun(forward, whole, active)
        losses = loss_of(forward, run.logits)
        total += run.gradient(losses).double().cpu()[edges]
        loss, n = loss + float(losses.detach().sum()), n + forward.n_new
    if not (math.isfinite(loss) and bool(total.isfinite().all())):
        raise FloatingPointError("the loss or its gradient is NaN or infinite")
    return total / n, loss / n


def _adam(now: State, gradient: Tensor, how: How) -> State:
    """One step of Adam (Kingma and Ba 2015) at a rate that falls linearly to 0."""
    step, (one, two) = now.steps + 1, BETAS
    mean = one * now.mean + (1 - one) * gradient
    square = two * now.square + (1 - two) * gradient**2
    size = (square / (1 - two**step)).sqrt() + EPS
    rate = how.rate * (1 - now.steps / how.steps)
    scores = now.scores - rate * (mean / (1 - one**step)) / size
    return State(step, scores, mean, square)


def ranked(graph: Graph, ranking: Scores, within: Mask, state: State) -> Scores:
    """Scores that rank all edges: those that took part first, above 1; the others by `ranking`."""
    out = np.zeros(graph.legal.shape)
    outside = np.flatnonzero(graph.legal & ~within)
    order = outside[np.argsort(ranking.ravel()[outside], kind="stable")]
    out.flat[order] = np.arange(1, len(order) + 1) / (len(order) + 1)
    out[within] = (state.scores - state.scores.min()).numpy() + 1
    return out
