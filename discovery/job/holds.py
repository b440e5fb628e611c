"""Whether a circuit does its task on prompts that it was not found on, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from discovery.job.faithfulness import Measured
from discovery.tasks.choices import Part

DOES = 0.9  # share recovered, and of the model's accuracy, from which a circuit does the task
PARTLY = 0.5
Verdict = Literal["does the task", "does part of the task", "does not do the task", "not known"]
GAP = 0.05  # between search and test from which prompts are too few


def holds(found: Mapping[Part, Measured]) -> str:
    """What the figures come to; for whom it does not hold, what to do.

    Judged by the lower of the two-sided shares (KL, error of single prompts) and by accuracy as a
    share of the model's, on the test prompts, or on those of the search where none are held out.
    """
    part = _judged(found)
    own, word = found[part], verdict(found)
    share, accuracy = own.share, _accuracy(own)
    if share is None:
        return f"nothing can be said of it: {own.undefined or 'every edge cut changes nothing'}"
    where = f"{own.n} new prompts" if part == "test" else f"the {own.n} prompts of the search"
    says = f"on {where} it recovers {round(share, 2) + 0.0:.0%} of what cutting every edge changes"
    if accuracy is not None:
        says += f" and {accuracy:.0%} of the model's accuracy"
    advice = "" if word == "does the task" else f"; {_advice(found)}"
    return f"the circuit {word}: {says}{advice}{_unseen(part)}"


def verdict(found: Mapping[Part, Measured]) -> Verdict:
    """The same in a word, to sort runs by."""
    own = found[_judged(found)]
    share, accuracy = own.share, _accuracy(own)
    if share is None:
        return "not known"
    if min(share, 1.0 if accuracy is None else accuracy) >= DOES:
        return "does the task"
    return "does part of the task" if share >= PARTLY else "does not do the task"


def _judged(found: Mapping[Part, Measured]) -> Part:
    return "test" if "test" in found else "search"


def _accuracy(found: Measured) -> float | None:
    scores = found.scores or {}
    model, circuit = (scores.get(name, {}).get("accuracy") for name in ("model", "circuit"))
    return circuit / model if model and circuit is not None else None


def _unseen(part: Part) -> str:
    return "" if part == "test" else "; no prompts were held out, so of others nothing is known"


def gap(found: Mapping[Part, Measured]) -> float | None:
    """Share on the prompts of the search less that on the test prompts."""
    if "test" not in found or found["test"].share is None or found["search"].share is None:
        return None
    return found["search"].share - found["test"].share


def _advice(found: Mapping[Part, Measured]) -> str:
    over = gap(found)
    if over is not None and over > GAP:
        n = found["search"].n
        return f"on its own {n} it is {over:.0%} more, so take more of them: task.n={2 * n}"
    reached = found["search"].share or 0.0
    target = next(t for t in (DOES, 0.95, 0.99) if t == 0.99 or round(reached, 2) < t)
    return f"ask for more: target={target:g}, a smaller threshold, or more edges"
