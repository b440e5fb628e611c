"""How many edges a method needs to recover a share of the model: its price at equal faithfulness.

Sizes are chosen on the tuning prompts, two-sided (acdc/share.py); what is told of
the circuits is measured on the test prompts, which had no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.metrics import Metric
from acdc.share import Share, lower
from discovery.job.faithfulness import measure
from discovery.methods import Found, Method, Scoring, last, shown
from discovery.methods.choosing import choose, in_words, shares_by_size, smallest

Row = dict[str, Any]


@dataclass(frozen=True)
class Needed:
    """What a method needs for a target, and the circuit of which that is said."""

    row: Row
    circuit: Circuit
    score: str  # what its scores are, in words


def of_scores(
    method: Scoring, data: Data, metric: Metric, seed: int, scores: NDArray[np.float64],
    targets: Sequence[float], tune: Data, test: Data,
) -> Iterator[Needed]:  # fmt: skip
    """One a target, the smallest first: the fewest of the best edges that reach it.

    `edges` is None where no circuit of the method's reached the target on the tuning prompts; the
    same of `edges for KL`, where only KL is asked.
    """
    most, by_size = (
        data.graph.n_edges,
        shares_by_size(method, data.graph, scores, seed, Share(tune, metric)),
    )
    for target in sorted(targets):
        size, share = smallest(lambda n: lower(by_size(n)), most, target)
        for_kl = smallest(lambda n: by_size(n).get("kl", 0.0), most, target)
        sized = method.model_copy(update={"n_edges": size})
        circuit = Circuit(data.graph, choose(sized, data.graph, scores, seed).circuit.mask, scores)
        row = _row(method, target, circuit.mask, share, metric, test)
        row["edges for KL"] = for_kl[0] if for_kl[1] >= target else None
        yield Needed(row, circuit, in_words(method, metric))


def of_searches(
    method: Method, data: Data, metric: Metric, seed: int, targets: Sequence[float], tune: Data,
    test: Data,
) -> Iterator[tuple[Found, Needed]]:  # fmt: skip
    """As `of_scores`, each circuit found on its own."""
    for target in sorted(targets):
        start = time.perf_counter()
        steps = method.reach(data, metric, seed, target, tune)
        found = last(shown(steps, data.graph.n_edges, f"{method.label}, target {target:g}"))
        seconds = round(time.perf_counter() - start, 1)
        row = _row(method, target, found.mask, found.counts["tune_share"], metric, test)
        tqdm.write(
            f"{method.label}, target {target:g}: {row['edges']} edges, on the test prompts"
            f" error share {row['error share']}, KL share {row['KL share']}; {seconds} s"
        )
        row |= {"edges for KL": None, "seconds": seconds}
        yield found, Needed(row, Circuit(data.graph, found.mask, found.scores), found.score)


def of_circuit(method: Method, found: Found, metric: Metric, tune: Data, test: Data) -> Needed:
    """Of a circuit whose size was not chosen for a target."""
    share = Share(tune, metric).of(found.mask)
    row = _row(method, None, found.mask, share, metric, test)
    circuit = Circuit(test.graph, found.mask, found.scores)
    return Needed({**row, "edges for KL": None}, circuit, found.score)


def _row(
    method: Method, target: float | None, mask: NDArray[np.bool_], share: float, metric: Metric,
    test: Data,
) -> Row:  # fmt: skip
    own = measure(test, metric, mask)
    accuracy = (own.scores or {}).get("circuit", {}).get("accuracy")
    return {
        "method": method.label,
        "target": target,
        "edges": int(mask.sum()) if target is None or share >= target else None,
        "tune": round(share, 3),
        "error share": _rounded(own.error_share),
        "KL share": _rounded(own.kl_share),
        "faithfulness": _rounded(own.faithfulness),
        "accuracy": _rounded(accuracy),
        "correlation": _rounded(own.correlation),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
