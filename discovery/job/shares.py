"""What a share of the model's effect is a share of: one yardstick, in words, and when it has none.

share = (circuit - empty) / (model - empty), of means over prompts. The empty circuit has every edge
cut, and its edges carry what the ablation says; whoever prints a share prints both ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

SURE = 2.0  # standard errors that a difference of two signs must be away from 0

CARRIED = {  # by ablation: what the cut edges of the empty circuit carry
    "other": "another prompt's values",
    "resample": "the paired corrupt prompt's values",
    "mean": "means over prompts",
    "zero": "zeros",
    "noise": "noise on their own values",
    "optimal": "the constants that hurt least",
}


def zero_point(ablation: str) -> str:
    """What 0 % is."""
    return f"every edge cut, carrying {carried(ablation)}"


def carried(ablation: str) -> str:
    """What cut edges carry."""
    return CARRIED.get(ablation, f"what {ablation} makes")


def yardstick(ablation: str) -> str:
    """Both ends of the scale."""
    return f"0% = {zero_point(ablation)}; 100% = the model"


def why_undefined(model: Sequence[float], empty: Sequence[float], eps: float) -> str | None:
    """Why nothing can be a share of model less empty circuit, or None if something can.

    Both are a metric's values, one a prompt; eps is their dtype's relative rounding. A difference
    within rounding is none; and where the empty circuit is better on some prompts and worse on
    others, the mean difference must be sure not to be 0.
    """
    gaps = [a - b for a, b in zip(model, empty, strict=True)]
    rounding = max(1e-6, eps) * max(1.0, *map(abs, model), *map(abs, empty))
    mean = fmean(gaps)
    if abs(mean) <= rounding:
        return "model and empty circuit do not differ by more than rounding"
    below, above = sum(gap < -rounding for gap in gaps), sum(gap > rounding for gap in gaps)
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    if below and above and abs(mean) <= SURE * error:
        return (
            f"model less empty circuit is {mean:.3g} with a standard error of {error:.2g}, above 0"
            f" on {above} prompts and below on {below}"
        )
    return None
