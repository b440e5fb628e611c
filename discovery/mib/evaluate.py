"""MIB's evaluation of scores (Mueller et al. 2025, arXiv 2504.13151): ten sizes, CPR, CMD.

Circuits of 0.1 to 100 % of the edges are cut out of the scores (acdc/selection.py), pruned fully,
and run with the cut edges carrying the corrupt run; the logit difference is averaged over the
prompts first, and the ratio taken then (acdc/curve.py). Scores are positive where the edge helps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.curve import Curve, FaithfulnessCurves, faithfulness_curves
from acdc.data import Data
from acdc.graph import Graph
from acdc.memory import Shape, plan
from acdc.metrics import LOGIT_DIFF
from acdc.selection import Rule, select
from discovery.job.build import task_prompts
from discovery.mib import norms
from discovery.mib.cuts import cut_edges
from discovery.mib.scores import read_scores
from discovery.settings.run import MibSettings

WHO = "circuits mib evaluate"  # needs corrupt prompts, in messages


@dataclass(frozen=True)
class Evaluated:
    """Curves of both rankings, and the circuits on them."""

    graph: Graph
    n_prompts: int
    curves: FaithfulnessCurves
    circuits: dict[str, list[Circuit]]  # by ranking, smallest first


def evaluate(settings: MibSettings, data: Data) -> Evaluated:
    """The configured scores on these prompts; InputError where the two do not fit."""
    scores = read_scores(Path(settings.scores), data.graph)
    scores = -scores if settings.helpful == "negative" else scores
    graph = replace(data.graph, joint=False)  # their pruning knows no norm that joins heads
    theirs = settings.post_norm == "ignored" and data.graph.joint
    run = norms.run if theirs else None
    with torch.no_grad():
        curves = faithfulness_curves(data, LOGIT_DIFF, scores, settings.rule, cut_in=graph, run=run)
    return Evaluated(graph, len(data), curves, circuits(graph, scores, settings.rule, curves))


def prompts_of(settings: MibSettings, loaded: LoadedModel) -> Data:
    """The task's prompts, cut edges carrying what is asked for."""
    task = settings.task
    prompts = task_prompts(task, loaded, settings.seed, LOGIT_DIFF.needs, WHO)
    LOGIT_DIFF.check(prompts)
    model, tokens = loaded.model, sum(prompts.lengths)
    longest = prompts.clean.shape[1]
    shape = Shape(model, len(prompts), longest, prompts.has_corrupt, 0, tokens)
    how = plan(shape, "runs", settings.memory_gib)
    ablation = cut_edges(settings.cut, model, prompts)
    return Data(
        model, model.graph(), prompts, ablation, how.part, how.hold, how.batch_bytes, how.host
    )


def circuits(
    graph: Graph, scores: NDArray[np.float64], rule: Rule, curves: FaithfulnessCurves
) -> dict[str, list[Circuit]]:
    """Of each ranking, those that were measured."""
    return {
        curve.ranking: [
            select(graph, scores, point.requested, curve.ranking, rule).circuit
            for point in curve.points
        ]
        for curve in (curves.signed, curves.absolute)
    }


def as_json(found: Evaluated, settings: MibSettings) -> dict[str, Any]:
    """mib.json: what was asked, both curves, and which areas MIB's tables take."""
    curves = found.curves
    return {
        "scores": settings.scores,
        "helpful": settings.helpful,
        "rule": curves.rule,
        "cut": settings.cut,
        "post_norm": settings.post_norm,
        "prompts": found.n_prompts,
        "edges": found.graph.n_edges,
        "model": curves.model,
        "empty": curves.empty,
        "cpr": curves.cpr,
        "cmd": curves.cmd,
        **{one.ranking: _curve(one, found) for one in (curves.signed, curves.absolute)},
    }


def as_arrays(found: Evaluated) -> bytes:
    """circuits.npz: of each ranking [sizes, writers, readers], which edges were kept."""
    out = BytesIO()
    kept = {name: np.stack([one.mask for one in own]) for name, own in found.circuits.items()}
    np.savez_compressed(out, allow_pickle=False, **kept)
    return out.getvalue()


def _curve(curve: Curve, found: Evaluated) -> dict[str, Any]:
    points = [
        {
            "share": point.share, "requested": point.requested, "edges": point.n_edges,
            "metric": point.metric, "faithfulness": point.faithfulness,
        }
        for point in curve.points
    ]  # fmt: skip
    return {"cpr": curve.cpr, "cmd": curve.cmd, "average": curve.average, "points": points}


def table(found: Evaluated) -> list[dict[str, Any]]:
    """A row a size, both rankings side by side."""
    signed, absolute = found.curves.signed.points, found.curves.absolute.points
    return [
        {
            "% of edges": f"{100 * a.share:g}",
            "asked": a.requested,
            "edges, signed": a.n_edges,
            "f, signed": round(a.faithfulness, 4),
            "edges, absolute": b.n_edges,
            "f, absolute": round(b.faithfulness, 4),
        }
        for a, b in zip(signed, absolute, strict=True)
    ]


def says(found: Evaluated) -> list[str]:
    """The areas, and what each is."""
    both = found.curves.signed, found.curves.absolute
    rows = [
        f"{one.ranking + ' scores':16}  CPR {one.cpr:.4f}  CMD {one.cmd:.4f}"
        f"  average {one.average:.4f}"
        for one in both
    ]
    return [*rows, f"MIB's tables: CPR {found.curves.cpr:.4f} (signed; higher is better, no upper"
            f" bound), CMD {found.curves.cmd:.4f} (absolute; 0 is best)"]  # fmt: skip
