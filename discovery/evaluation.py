"""How good a circuit is.

Every figure comes from a fresh, dense run of the circuit, no state of a search carried over; the
search's own value is compared with it, and a difference beyond rounding is a defect, not a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from acdc.forward import PatchedForward
from acdc.graph import Circuit
from acdc.metrics import Metric, accuracy, make_metric, top1
from acdc.prompts import Prompts
from discovery.shares import why_undefined

# how far a search in this dtype may be from the fresh run, as a share of the metric's scale; in
# float32 sums over streams with activations in the thousands have parted by 1.1e-4
DRIFT = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2}


def evaluate(
    forward: PatchedForward, metric: Metric, circuit: Circuit, searched: float | None
) -> dict[str, Any]:
    """Metric of model, circuit and empty circuit (its own unit and sign), and the task's scores.

    faithfulness = (circuit - empty) / (model - empty): 0 = the corrupted run, 1 = the full model;
    None where that divides by nothing, and `faithfulness_undefined` says why. Without corrupt
    prompts `resample` changes nothing, so empty circuit and circuit are None. RuntimeError if
    `searched`, the value that a search ended with (None: the method names none), is not what a
    fresh run gives.
    """
    if forward.ablation == "resample" and not forward.prompts.has_corrupt:
        return {
            "metric_clean": metric.of_logits(forward.clean.logits).double().mean().item(),
            "metric_corrupt": None,
            "metric_circuit": None,
            "faithfulness": None,
            "faithfulness_undefined": "the task has no corrupt prompts",
            "model": task_scores(forward.prompts, forward.clean.logits),
            "circuit": {},
        }
    logits = forward.run(circuit.mask)
    empty = forward.run(np.zeros_like(circuit.mask))
    values = {
        "metric_clean": metric.of_logits(forward.clean.logits).double().mean().item(),
        "metric_corrupt": metric.of_logits(empty).double().mean().item(),
        "metric_circuit": metric.of_logits(logits).double().mean().item(),
    }
    span = values["metric_clean"] - values["metric_corrupt"]
    model, none = (metric.of_logits(run).tolist() for run in (forward.clean.logits, empty))
    why = why_undefined(model, none, torch.finfo(empty.dtype).eps)
    drift = 0.0 if searched is None else abs(values["metric_circuit"] - searched)
    scale = max(1.0, *(abs(v) for v in values.values()))
    if drift > DRIFT.get(forward.model.dtype, 1e-2) * scale:
        raise RuntimeError(
            f"the search says {metric.name} {searched}, a fresh run of its circuit"
            f" {values['metric_circuit']}: this is a defect, please report it"
        )
    part = values["metric_circuit"] - values["metric_corrupt"]
    return {
        **values,
        "faithfulness": part / span if why is None else None,
        "faithfulness_undefined": why,
        "model": task_scores(forward.prompts, forward.clean.logits),
        "circuit": task_scores(forward.prompts, logits),
    }


def task_scores(prompts: Prompts, logits: torch.Tensor) -> dict[str, float]:
    """accuracy, top1 (shares) and logit_diff (logits), as far as the task names answers."""
    scores: dict[str, float | None] = {
        "accuracy": accuracy(prompts, logits),
        "top1": top1(prompts, logits),
    }
    if prompts.has_answers and prompts.has_wrong:
        metric = make_metric("logit_diff", prompts, logits)
        scores["logit_diff"] = metric.of_logits(logits).mean().item()
    return {name: value for name, value in scores.items() if value is not None}
