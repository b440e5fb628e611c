"""The induction experiment as lines of a table."""

from __future__ import annotations

from discovery.experiments.induction import Rung
from discovery.experiments.induction_heads import Heads, HeadScores

COLUMNS = ("claim", "loss", "recovered %", "interval", "published %")
HEADER = " | ".join(COLUMNS) + "\n" + " | ".join("---" for _ in COLUMNS)


def row(rung: Rung) -> str:
    """The score as a line of the table; the loss is in nats a counted position."""
    score = rung.recovered
    cells = (
        rung.name,
        f"{score.scrubbed_loss:.4f} ± {score.scrubbed_error:.4f}",
        f"{100 * score.value:.1f}",
        f"{100 * score.low:.1f} to {100 * score.high:.1f}",
        "" if rung.published is None else f"{rung.published:g}",
    )
    return " | ".join(cells)


def head_lines(heads: Heads, scores: HeadScores) -> str:
    """Which heads the claims speak of, and their attention."""

    def listed(layer: int, which: tuple[int, ...], attention: str) -> str:
        found = getattr(scores, attention)[layer]
        return ", ".join(f"{layer}.{head} {found[head]:.2f}" for head in which) or "none"

    return "\n".join(
        (
            f"previous-token head: {listed(0, (heads.previous,), 'previous')}",
            f"heads on the last three tokens: {listed(0, heads.near, 'near')}",
            f"heads on the current token and its repeats: {listed(0, heads.same, 'same')}",
            f"induction heads, one node: {listed(1, heads.induction, 'induction')}",
        )
    )
