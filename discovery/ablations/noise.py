"""Cut edges carry the clean output with noise on it: how much of it does the circuit need?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from acdc.ablation import Ablation
from acdc.writers import Writers, power_sums
from discovery.ablations.choices import AblationChoice, References
from discovery.choices.fields import Amount

SEED_STEP = 1_000_003  # between the streams of two seeds; more than there are prompts


class Noise(AblationChoice):
    """Gaussian noise, `scale` times the standard deviation of what the writer puts out.

    One deviation a writer, over all corrupt prompts (the clean ones where there are none),
    positions and widths; the noise comes from the seed and the prompt's place among all.
    """

    name: str = "noise"
    needs_corrupt: ClassVar[bool] = False
    scale: Amount = 3.0

    def make(self, references: References, seed: int) -> Any:
        """See AblationChoice.make."""
        return Noisy("noise", False, scale=self.scale, seed=seed)


@dataclass(frozen=True, eq=False)
class Noisy(Ablation):
    """The clean output and noise."""

    scale: float = 1.0
    seed: int = 0
    deviation: Writers | None = None

    def fit(self, runs: Iterable[Writers]) -> Ablation:
        """The deviations of all runs, heads' before W_O."""
        count, total, square = power_sums(runs)
        dtype = total.W_O[0].dtype

        def deviation(sums: Tensor, squares: Tensor) -> Tensor:
            n = count * sums.shape[-1]
            mean, mean_square = (x.sum(-1, keepdim=True) / n for x in (sums, squares))
            return (mean_square - mean**2).clamp(min=0).sqrt().to(dtype).expand_as(sums)

        return replace(self, deviation=total.with_(square, deviation))

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        """See Ablation.of."""
        assert self.deviation is not None  # fitted first
        drawn = [torch.Generator().manual_seed(self.seed * SEED_STEP + row) for row in rows]

        def noisy(x: Tensor, deviation: Tensor) -> Tensor:
            shape = *x.shape[:-3], *x.shape[-2:]
            noise = torch.stack([torch.randn(shape, generator=g) for g in drawn], dim=-3)
            return x + self.scale * deviation * noise.to(x)

        return clean.with_(self.deviation, noisy)
