"""The search for roles as lines of tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from discovery.experiments.feature_search import Found, Noised, Step
from discovery.scrubbing.score import Recovered


def found_lines(found: Found) -> str:
    """The ladder, its last refused step, and the null family."""
    lines = ["claims | loss | recovered % | interval | gain | interval", " | ".join(["---"] * 6)]
    lines += [_step(step, "+ ") for step in found.steps]
    if found.refused:
        lines.append(_step(found.refused, "refused: "))
    if found.trivial:
        lines.append(f"left out, being the label: {', '.join(found.trivial)}")
    if found.null:
        values = 100 * found.null_scores
        lines.append(
            f"{found.null.members} other features on the same parts: recovered mean"
            f" {values.mean():.1f} %, 95th percentile {np.percentile(values, 95):.1f} %, maximum"
            f" {values.max():.1f} %; the found roles rank {found.null.rank}, p {found.null.p:.3f}"
        )
    return "\n".join(lines)


def _step(step: Step, sign: str) -> str:
    loss = f"{step.recovered.scrubbed_loss:.4f}"
    cells = (f"{sign}{step.part} {step.feature}", loss, *_share(step.recovered), *_share(step.gain))
    return " | ".join(cells)


def _share(score: Recovered) -> tuple[str, str]:
    return f"{100 * score.value:.1f}", f"{100 * score.low:.1f} to {100 * score.high:.1f}"


def noised_lines(noised: Sequence[Noised]) -> str:
    """Percent recovered with one part noised and everything else exact."""
    names = list(noised[0].features)
    lines = [
        " | ".join(("one part noised", "random", "interval", *names)),
        " | ".join(["---"] * (3 + len(names))),
    ]
    for one in noised:
        shares = (f"{100 * one.features[name]:.1f}" for name in names)
        lines.append(" | ".join((one.part, *_share(one.random), *shares)))
    return "\n".join(lines)
