"""Optimal ablation: cut edges carry the constant that hurts least (Li and Janson 2024).

One vector a writer, the same for all prompts and positions; of heads before W_O. The constants c
make the loss of circuits low on average, over prompts and over random circuits:

    c = argmin  E over masks, prompts of  KL(model || run with cut edges at c)

each mask keeping every edge with a probability that is itself drawn from 0 to 1. In the paper they
are learnt for one circuit, or along with its mask; here they are learnt before the search, so that
all circuits are asked the same. With slope_v = d loss / d x_v, summed over prompts and positions,

    d loss / d abl(u) = sum over v of (1 - mask[u, v]) slope_v

Adam makes the steps, from the mean over the clean prompts and positions. Knows no tasks or files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from acdc.ablation import Ablation
from acdc.data import Data
from acdc.gradient import MaskedRun
from acdc.metrics import KL
from acdc.minibatches import Minibatches
from acdc.writers import Writers, power_sums

BETAS, EPS = (0.9, 0.99), 1e-10  # of Adam


@dataclass(frozen=True, eq=False)
class Optimal(Ablation):
    """Constants, learnt from the data by `learnt`; until then the means of the clean prompts."""

    steps: int = 200
    batch: int = 4  # prompts a step
    rate: float = 0.02  # of Adam, in standard deviations of the writer's outputs; falls to 0
    seed: int = 0
    constants: Writers | None = None  # of one prompt and position

    def fit(self, runs: Iterable[Writers]) -> Ablation:
        """See Ablation.fit; what was learnt stays."""
        return self if self.constants is not None else replace(self, constants=moments(runs)[0])

    def learnt(self, data: Data) -> Ablation:
        """See Ablation.learnt. FloatingPointError if a gradient is NaN or infinite."""
        mean, scale = moments(forward.clean.writers for forward in data)
        batches, graph = Minibatches(data, self.batch, self.seed), data.graph
        moved = mean.map(lambda x: torch.zeros_like(x, requires_grad=True))  # in deviations
        adam = torch.optim.Adam([moved.z, moved.rest], self.rate, BETAS, EPS)
        falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, self.steps or 1)
        for step in range(self.steps):
            mask = random_mask(data, np.random.default_rng([self.seed, step]))
            now = mean.with_(scaled(moved, scale), torch.add)
            ablation = Optimal(self.name, self.needs_corrupt, constants=now)
            total, n = torch.zeros_like(mask[:, :1]), 0
            for forward in batches.at(step):
                run = MaskedRun(forward.under(ablation), mask, graph.legal)
                run.gradient(forward.bound(KL).of_logits(run.logits))
                total, n = total + run.cut_gradient(), n + forward.n_new
            if not bool(total.isfinite().all()):
                raise FloatingPointError(f"ablation={self.name}: a gradient is NaN or infinite")
            slope = scaled(by_constant(mean, total / n), scale)
            moved.z.grad, moved.rest.grad = slope.z, slope.rest
            adam.step()
            falling.step()
        return replace(self, constants=mean.with_(scaled(moved, scale), torch.add))

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of."""
        assert self.constants is not None  # fitted first
        shape = clean.rest.shape[-3:-1]
        return self.constants.map(lambda x: x.expand(*x.shape[:-3], *shape, x.shape[-1]))


def moments(runs: Iterable[Writers]) -> tuple[Writers, Writers]:
    """Of one prompt and position: means over all of them, and each writer's standard deviation."""
    count, total, square = power_sums(runs)
    dtype = total.W_O[0].dtype

    def deviation(sums: Tensor, squares: Tensor) -> Tensor:
        spread = (squares / count - (sums / count) ** 2).clamp(min=0).mean(-1, keepdim=True)
        return spread.sqrt().to(dtype).expand_as(sums)

    return total.map(lambda x: (x / count).to(dtype)), total.with_(square, deviation)


def random_mask(data: Data, rng: np.random.Generator) -> Float[Tensor, "writers readers"]:
    """Each edge kept with the same probability, itself uniform."""
    legal = data.graph.legal
    kept = legal & (rng.random(legal.shape) < rng.random())
    return torch.as_tensor(kept, dtype=data.model.W_E.dtype, device=data.model.device)


def by_constant(like: Writers, slopes: Float[Tensor, "writers d_model"]) -> Writers:
    """Slopes of writers' outputs as slopes of the constants: of heads before W_O."""
    graph = like.graph
    layers, heads = range(graph.n_layers), range(graph.n_heads)
    z = torch.stack(
        [torch.stack([like.W_O[i][h] @ slopes[graph.head(i, h)] for h in heads]) for i in layers]
    )
    others = [0, *(graph.mlp(i) for i in layers if graph.has_mlp)]
    return Writers(graph, like.W_O, z[:, :, None, None], slopes[others][:, None, None])


def scaled(some: Writers, scale: Writers) -> Writers:
    """Deviations as numbers, no gradient along."""
    return some.with_(scale, lambda x, by: x.detach() * by)
