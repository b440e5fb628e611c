"""What would make a run's result mean something else than it says, in sentences for the user.

Nothing here is an error: the run goes on.
"""

from __future__ import annotations

import torch

from acdc.ablation import Resample
from acdc.bridge import LoadedModel
from acdc.data import Data
from acdc.metrics import Metric
from acdc.prompts import Prompts

NEAR = 3.0  # a threshold below so many times the rounding is near it
WIDER = {"bfloat16": "float32", "float16": "float32", "float32": "float64"}


@torch.inference_mode()
def doubts(loaded: LoadedModel, data: Data, metric: Metric, threshold: float | None) -> list[str]:
    """Of a method on prepared prompts; `threshold` is in the metric's unit, if there is one."""
    found = [_equal_prompts(data.prompts)]
    if threshold is not None:
        found += [_small_effect(data, metric, threshold), _coarse(loaded, data, metric, threshold)]
    return [sentence for sentence in found if sentence]


def _equal_prompts(prompts: Prompts) -> str:
    """Prompts on which no edge can matter."""
    equal = int((prompts.clean == prompts.corrupt).all(1).sum())
    if not 0 < equal < len(prompts):  # all: there are no corrupt prompts, which is said elsewhere
        return ""
    return (
        f"{equal} of {len(prompts)} prompts are clean = corrupt up to the answer: on them no edge"
        " matters, so every effect is diluted"
    )


def _small_effect(data: Data, metric: Metric, threshold: float) -> str:
    """A corruption that does less in all than one edge would have to."""
    if not isinstance(data.ablation, Resample) or not data.prompts.has_corrupt:
        return ""
    clean = data.values(metric, lambda forward: forward.clean.logits).mean()
    corrupt = data.values(metric, lambda forward: forward.corrupt.logits).mean()
    if abs(corrupt - clean) >= threshold:
        return ""
    return (
        f"all edges together change {metric.name} by {abs(corrupt - clean):.3g} {metric.unit}, less"
        f" than the threshold {threshold:g} asks of one; use a lower threshold"
    )


def _coarse(loaded: LoadedModel, data: Data, metric: Metric, threshold: float) -> str:
    noise = rounding(loaded, data, metric)
    if threshold >= NEAR * noise:
        return ""
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    wider = f"model.dtype={WIDER[dtype]} or " if dtype in WIDER else ""
    return (
        f"in {dtype} rounding moves {metric.name} by about {noise:.2g} {metric.unit} and the"
        f" threshold is {threshold:g}, so some edges are kept or cut by chance; use {wider}a larger"
        " threshold"
    )


def rounding(loaded: LoadedModel, data: Data, metric: Metric) -> float:
    """How far rounding moves the mean of the metric, in its unit: of no edge, on the clean prompts.

    Two parts, added on each prompt: the metric in the model's dtype against float64, from the same
    logits (a model's KL with itself, which should be 0); and in float64, our logits against those
    of the bridge's own pass, which adds in another order. Errors of prompts are taken as
    independent. Measured against the same weights in float32 arithmetic, the effects of single
    edges are off by 0.2 to 3 times this.
    """
    errors = []
    for forward in data.apart():
        own, prompts = forward.clean.logits, forward.prompts
        exact = metric.bind(prompts, own.double())
        true = exact.of_logits(own.double())
        other = loaded.plain_logits(prompts.clean)[:, -1].double()
        error = (forward.bound(metric).of_logits(own).double() - true).abs()
        errors.append(error + (exact.of_logits(other) - true).abs())
    return (torch.cat(errors).square().sum().sqrt() / len(data)).item()
