"""What each role score means, and the rules by which scores suggest a role. Knows no tensor.

`discovery/heads/roles.py` computes the scores; heads.json carries these words beside them, so that
whoever shows one needs no words of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTENDS = 0.4  # mean attention from which a head is said to look there
COPIES = 0.5  # share of tokens copied; IOI's name movers have above 0.95, other heads below 0.2
TOP = 5  # a token is copied if it is among so many largest logits

RANDOM = "random tokens"
DIAGONALS = {  # attention from each token of a random sequence that stands there twice
    "previous token": "attention to the token before, on random tokens twice over",
    "current token": "attention to the token itself, there",
    "first token": "attention to the first token, there",
    "duplicate token": "attention to the token's first occurrence, there (second half)",
    "induction": "attention to what followed the first occurrence, there (second half)",
}
SHARES = {  # from 0 to 1
    **DIAGONALS,
    "answer attention": "attention from the answer position to the right answer in the prompt",
    "wrong attention": "the same to the wrong answer",
    "S2 attention": "attention from the end to the second mention of the subject",
    "copying": f"share of answer tokens among the {TOP} that its value-output path raises most",
    "anti-copying": "the same with the head's output negated",
}
EFFECTS = {  # unit and meaning
    "direct effect": (
        "logits", "what it adds to right answers less wrong ones at the answer position"),
    "attention and writing": (
        "correlation", "of attention to an answer with what is added to its logit"),
    "logit diff through queries": (
        "logits", "fall of the logit difference when its edges into the movers' queries are cut"),
    "movers turned to IO": (
        "attention", "fall of the movers' attention to IO less S1 when those edges are cut"),
}  # fmt: skip

Found = Mapping[str, Mapping[str, float | None]]  # by name: value and, if there is one, low, high


def about() -> dict[str, Any]:
    """The thresholds; in the order of reading each score's unit, meaning, and what it is of."""
    known = {name: ("share", means) for name, means in SHARES.items()} | EFFECTS
    scores = {
        name: {"unit": unit, "means": means, "on": RANDOM if name in DIAGONALS else "task"}
        for name, (unit, means) in known.items()
    }
    return {"attends": ATTENDS, "copies": COPIES, "scores": scores}


def candidates(scores: Found) -> list[str]:
    """Roles that a head's scores suggest.

    A diagonal: above ATTENDS. Mover: looks at the answer (ATTENDS), copies (COPIES), and its direct
    effect is positive beyond doubt (the interval's low end). Negative mover: looks at an answer,
    right or wrong, anti-copies, and its effect is negative beyond doubt. S-inhibition: looks at S2,
    and both of `roles.inhibition_scores` are positive beyond doubt.
    """
    found = [name for name in DIAGONALS if _above(scores, name, ATTENDS)]
    if is_mover(scores):
        found.append("mover")
    looks = any(_above(scores, f"{which} attention", ATTENDS) for which in ("answer", "wrong"))
    if looks and _above(scores, "anti-copying", COPIES) and _below(scores, "direct effect"):
        found.append("negative mover")
    effects = ("logit diff through queries", "movers turned to IO")
    if _above(scores, "S2 attention", ATTENDS) and all(
        _above(scores, e, 0.0, "low") for e in effects
    ):
        found.append("S-inhibition")
    return found


def is_mover(scores: Found) -> bool:
    """Whether the scores make a mover, by the rule of `candidates`."""
    return (
        _above(scores, "answer attention", ATTENDS)
        and _above(scores, "copying", COPIES)
        and _above(scores, "direct effect", 0.0, "low")
    )


def _above(scores: Found, name: str, least: float, bound: str = "value") -> bool:
    value = scores.get(name, {}).get(bound)
    return value is not None and value > least


def _below(scores: Found, name: str) -> bool:
    value = scores.get(name, {}).get("high")
    return value is not None and value < 0
