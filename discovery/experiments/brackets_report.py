"""The bracket experiments as lines of a table and as plain values for JSON."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from acdc.errors import InputError
from discovery.experiments.brackets import (
    CLAIM_1,
    HEADS,
    ROLES,
    SWAPPED,
    Result,
    baseline,
    losses,
    rank_among_roles,
)
from discovery.experiments.brackets_graph import BracketData
from discovery.scrubbing.score import constant_guess_loss, retained, variance_explained
from discovery.statistics.against_random import NullRank

COLUMNS = (
    "experiment", "loss", "recovered %", "interval", "published %", "calibrated %", "H(f)",
    "H(f), label known", "RMS", "> 1 nat %", "smallest class",
)  # fmt: skip
HEADER = " | ".join(COLUMNS) + "\n" + " | ".join("---" for _ in COLUMNS)
NULL_KEYS = {"1b": CLAIM_1, "swapped": SWAPPED, "trivial": ("balanced",) * 3}


def read_strings(path: Path) -> list[str]:
    """One string a line, plain or gzipped by its name; InputError if there is no such text."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="ascii") as file:
            return str(file.read()).split()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"strings={str(path)!r} cannot be read: {error}") from error


def row(result: Result) -> str:
    """The result as a line of the table; losses and information in nats."""
    score, kept = result.recovered, result.retained
    cells = (
        result.name,
        f"{score.scrubbed_loss:.4f} ± {score.scrubbed_error:.4f}",
        f"{100 * score.value:.1f}",
        f"{100 * score.low:.1f} to {100 * score.high:.1f}",
        "" if result.published is None else f"{result.published:g}",
        f"{100 * result.calibrated.information:.0f}",
        f"{kept.information:.3f}" if kept else "",
        f"{kept.beyond_label:.3f}" if kept else "",
        f"{result.effect.rms:.2f}",
        f"{100 * result.effect.share_1_nat:.1f}",
        "" if result.smallest_class is None else str(result.smallest_class),
    )
    return " | ".join(cells)


def data_facts(data: BracketData) -> dict[str, Any]:
    """Size, zero points, and what each feature keeps and explains of each head's direct term."""
    terms = {
        head: data.terms[data.string, data.network.terms.index(head)].numpy() for head in HEADS
    }
    unbalanced = data.labels == 0
    features = {}
    for name in (*ROLES, "balanced"):
        feature = data.features[name]
        features[name] = {
            **asdict(retained(feature, data.labels)),
            "variance_explained": {h: variance_explained(t, feature) for h, t in terms.items()},
            "variance_explained_unbalanced": {
                h: variance_explained(t[unbalanced], feature[unbalanced]) for h, t in terms.items()
            },
        }
    return {
        "strings": data.size,
        "balanced": float(data.labels.mean()),
        "model_loss": float(losses(data.z, data.labels).mean()),
        "baseline_loss": float(baseline(data).mean()),
        "constant_guess_loss": constant_guess_loss(data.labels),
        "features": features,
    }


def data_lines(facts: Mapping[str, Any]) -> str:
    """`data_facts` for the eye."""
    lines = [
        f"{facts['strings']} strings, {100 * facts['balanced']:.1f} % balanced; loss of the model"
        f" {facts['model_loss']:.6f}, with the logits of a random string"
        f" {facts['baseline_loss']:.4f}, of a constant guess {facts['constant_guess_loss']:.4f}",
        "",
        "feature | H(f) | H(f), label known | "
        + " | ".join(f"R² {h}, of unbalanced" for h in HEADS),
        " | ".join("---" for _ in range(3 + len(HEADS))),
    ]
    for name, one in facts["features"].items():
        shares = [
            f"{one['variance_explained'][h]:.2f}, {one['variance_explained_unbalanced'][h]:.2f}"
            for h in HEADS
        ]
        kept = (f"{one['information']:.3f}", f"{one['beyond_label']:.3f}")
        lines.append(" | ".join((name, *kept, *shares)))
    return "\n".join(lines)


def null_facts(
    scores: Mapping[tuple[str, ...], float], results: Sequence[Result]
) -> dict[str, NullRank]:
    """Ranks of claim 1, the swapped and the trivial roles among the other assignments."""
    found = {result.name: result.recovered.value for result in results}
    return {name: rank_among_roles(scores, found[name], roles) for name, roles in NULL_KEYS.items()}


def null_lines(scores: Mapping[tuple[str, ...], float], ranks: Mapping[str, NullRank]) -> str:
    """The family of role assignments, and who stands where in it."""
    values = 100 * np.array(list(scores.values()))
    lines = [
        f"{len(values)} assignments of {', '.join(ROLES)} to {', '.join(HEADS)}: recovered"
        f" mean {values.mean():.1f} %, median {np.median(values):.1f} %,"
        f" {values.min():.1f} to {values.max():.1f} %"
    ]
    lines += [
        f"{name}: rank {one.rank} against {one.members} others, p {one.p:.3f}"
        for name, one in ranks.items()
    ]
    return "\n".join(lines)
