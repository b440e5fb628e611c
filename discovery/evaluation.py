"""How good a circuit is.

Every figure comes from a fresh, dense run of the circuit, no state of a search carried over; the
search's own value is compared with it, and a difference beyond rounding is a defect, not a result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from acdc.data import Data
from acdc.graph import Circuit
from acdc.metrics import LOGIT_DIFF, Metric, correct, top1
from acdc.prompts import Prompts
from discovery.shares import why_undefined

# how far a search in this dtype may be from the fresh run, as a share of the metric's scale; in
# float32 sums over streams with activations in the thousands have parted by 1.1e-4
DRIFT = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2}


def evaluate(
    data: Data, metric: Metric, circuit: Circuit, searched: float | None
) -> dict[str, Any]:
    """Metric of model, circuit and empty circuit (its own unit and sign), and the task's scores.

    faithfulness = (circuit - empty) / (model - empty): 0 = the corrupted run, 1 = the full model;
    None where that divides by nothing, and `faithfulness_undefined` says why. Without corrupt
    prompts an ablation that needs them changes nothing, so empty circuit and circuit are None.
    RuntimeError if `searched`, the value that a search ended with (None: the method names none), is
    not what a fresh run gives.
    """
    prompts, clean = data.prompts, data.logits(lambda forward: forward.clean.logits)
    whole = data.values(metric, lambda forward: forward.clean.logits)
    model = float(whole.mean())
    if data.ablation.needs_corrupt and not prompts.has_corrupt:
        return {
            "metric_clean": model,
            "metric_empty": None,
            "metric_circuit": None,
            "faithfulness": None,
            "faithfulness_undefined": "the task has no corrupt prompts",
            "model": task_scores(prompts, clean),
            "circuit": {},
        }
    nothing = np.zeros_like(circuit.mask)
    (none,) = data.circuits(metric, [nothing])
    logits = data.logits(lambda forward: forward.run(circuit.mask))
    found = data.values(metric, lambda forward: logits[forward.rows.start : forward.rows.stop])
    empty, value = float(none.mean()), float(found.mean())
    why = why_undefined(whole.tolist(), none.tolist(), torch.finfo(data.model.dtype).eps)
    drift = 0.0 if searched is None else abs(value - searched)
    scale = max(1.0, abs(model), abs(empty), abs(value))
    if drift > DRIFT.get(data.model.dtype, 1e-2) * scale:
        raise RuntimeError(
            f"the search says {metric.name} {searched}, a fresh run of its circuit {value}: this is"
            " a defect, please report it"
        )
    return {
        "metric_clean": model,
        "metric_empty": empty,
        "metric_circuit": value,
        "faithfulness": (value - empty) / (model - empty) if why is None else None,
        "faithfulness_undefined": why,
        "model": task_scores(prompts, clean),
        "circuit": task_scores(prompts, logits),
    }


def task_scores(prompts: Prompts, logits: torch.Tensor) -> dict[str, float]:
    """accuracy, top1 (shares) and logit_diff (logits), as far as the task names answers."""
    if not prompts.has_answers:
        return {}
    scores = {
        name: sum(hits) / len(prompts)
        for name, hits in (("accuracy", correct(prompts, logits)), ("top1", top1(prompts, logits)))
    }
    if prompts.has_wrong:
        scores["logit_diff"] = LOGIT_DIFF.bind(prompts, logits).of_logits(logits).mean().item()
    return scores
