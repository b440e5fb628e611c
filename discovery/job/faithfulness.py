"""How good a circuit is, two-sided: on the prompts of the search, and on others.

Every figure comes from a fresh, dense run of the circuit, no state of a search carried over; the
search's own value is compared with it, and a difference beyond rounding is a defect, not a result.
A mean can be right by errors that cancel, so beside faithfulness, a ratio of means, stand the
shares of KL and of the error of single prompts that the circuit takes away, and accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.data import Data, floats
from acdc.forward import PatchedForward
from acdc.metrics import KL, LOGIT_DIFF, Metric, correct, top1
from acdc.prompts import Prompts
from acdc.share import correlation, share_kept
from discovery.job.shares import why_undefined

# how far a search in this dtype may be from the fresh run, as a share of the metric's scale; in
# float32 sums over streams with activations in the thousands have parted by 1.1e-4
DRIFT = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
NO_CORRUPT = "the task has no corrupt prompts"
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A circuit on some prompts. Means over them, in the metric's unit and sign.

    Shares are of what the empty circuit (every edge cut) is away from the model: 1 = the model, 0 =
    no better than the empty circuit, below 0 = worse; None where they divide by nothing.
    """

    n: int  # prompts
    model: float
    circuit: float | None = None  # None: without corrupt prompts nothing is cut
    empty: float | None = None
    faithfulness: float | None = None  # (circuit - empty) / (model - empty): errors cancel in it
    undefined: str | None = None  # why faithfulness is None
    error_share: float | None = None  # 1 - mean error / that of the empty circuit, prompt by prompt
    kl_share: float | None = None  # the same of KL(model || circuit)
    correlation: float | None = None  # of the metric over prompts, circuit with model (Pearson)
    scores: Mapping[str, Mapping[str, float]] | None = None  # of "model", "circuit", "empty"

    @property
    def share(self) -> float | None:
        """The lower of the two-sided shares: what the circuit can be said to recover."""
        shares = [s for s in (self.error_share, self.kl_share) if s is not None]
        return min(shares, default=None)


def measure(data: Data, metric: Metric, mask: NDArray[np.bool_]) -> Measured:
    """Model, circuit and empty circuit on all prompts, a part at a time."""
    values = _joined(data, [_of_part(f, metric, mask, _can_cut(data)) for f in data])
    scores = {run: _task_scores(values, run) for run in ("model", "circuit", "empty")}
    scores = {run: own for run, own in scores.items() if own}
    model = values["model"]
    if not _can_cut(data):
        return Measured(len(data), float(model.mean()), undefined=NO_CORRUPT, scores=scores)
    circuit, empty = values["circuit"], values["empty"]
    why = why_undefined(model.tolist(), empty.tolist(), torch.finfo(data.model.dtype).eps)
    span = float(model.mean() - empty.mean())
    return Measured(
        n=len(data),
        model=float(model.mean()),
        circuit=float(circuit.mean()),
        empty=float(empty.mean()),
        faithfulness=float(circuit.mean() - empty.mean()) / span if why is None else None,
        undefined=why,
        error_share=_share(values, "error"),
        kl_share=_share(values, "kl"),
        correlation=correlation(circuit, model),
        scores=scores,
    )


def _can_cut(data: Data) -> bool:
    return data.prompts.has_corrupt or not data.ablation.needs_corrupt


def _of_part(
    forward: PatchedForward, metric: Metric, mask: NDArray[np.bool_], cuts: bool
) -> dict[str, Values]:
    """[prompts] each: what `measure` makes its means of."""
    logits = {"model": forward.clean.logits}
    if cuts:
        logits |= {"circuit": forward.run(mask), "empty": forward.run(np.zeros_like(mask))}
    bound, kl, found = forward.bound(metric), forward.bound(KL), dict[str, Values]()
    for run, own in logits.items():
        found[run], found[f"{run} error"] = floats(bound.of_logits(own)), floats(bound.error(own))
        found[f"{run} kl"] = floats(kl.of_logits(own))
        for name, hits in _hits(forward.prompts, own).items():
            found[f"{run} {name}"] = hits
    return found


def _share(values: Mapping[str, Values], name: str) -> float | None:
    circuit, empty = (float(values[f"{run} {name}"].mean()) for run in ("circuit", "empty"))
    return share_kept(circuit, empty)


def evaluate(
    data: Data, metric: Metric, mask: NDArray[np.bool_], searched: float | None
) -> Measured:
    """`measure`, and RuntimeError if `searched` is not what a fresh run of the circuit gives.

    `searched` is the value that a search ended with (None: the method names none).
    """
    found = measure(data, metric, mask)
    if searched is None or found.circuit is None or found.empty is None:
        return found
    scale = max(1.0, abs(found.model), abs(found.empty), abs(found.circuit))
    if abs(found.circuit - searched) > DRIFT.get(data.model.dtype, 1e-2) * scale:
        raise RuntimeError(
            f"the search says {metric.name} {searched}, a fresh run of its circuit"
            f" {found.circuit}: this is a defect, please report it"
        )
    return found


def _joined(data: Data, parts: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """By prompt; an answer of several tokens is right if all of them are."""
    hits = ("accuracy", "top1")
    return {
        name: data.join([p[name] for p in parts], of=np.minimum if name.endswith(hits) else np.add)
        for name in parts[0]
    }


def task_values(data: Data, run: Callable[[PatchedForward], torch.Tensor]) -> dict[str, Values]:
    """[prompts] each, of any run of the parts.

    Accuracy and top1 (0 or 1), logit_diff (logits), where answers are named.
    """
    return _joined(data, data.each(lambda forward: _hits(forward.prompts, run(forward))))


def _hits(prompts: Prompts, logits: torch.Tensor) -> dict[str, Values]:
    if not prompts.has_answers:
        return {}
    values = {
        "accuracy": np.array(correct(prompts, logits), np.float64),
        "top1": np.array(top1(prompts, logits), np.float64),
    }
    if prompts.has_wrong:
        values["logit_diff"] = floats(LOGIT_DIFF.bind(prompts, logits).of_logits(logits))
    return values


def task_scores(data: Data, run: Callable[[PatchedForward], torch.Tensor]) -> dict[str, float]:
    """Means of `task_values`."""
    return {name: float(v.mean()) for name, v in task_values(data, run).items()}


def _task_scores(values: Mapping[str, Values], run: str) -> dict[str, float]:
    names = ("accuracy", "top1", "logit_diff")
    return {n: float(values[f"{run} {n}"].mean()) for n in names if f"{run} {n}" in values}


def as_fields(found: Measured) -> dict[str, Any]:
    """For result.json, on the prompts of the search."""
    return {
        "metric_clean": found.model,
        "metric_empty": found.empty,
        "metric_circuit": found.circuit,
        "faithfulness": found.faithfulness,
        "faithfulness_undefined": found.undefined,
        "error_share": found.error_share,
        "kl_share": found.kl_share,
        "scores": {run: dict((found.scores or {}).get(run, {})) for run in ("model", "circuit")},
    }
