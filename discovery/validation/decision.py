"""What a reader decides by: three figures with their baselines, one verdict, what to do next.

All from validation.json's own numbers and the record of the run; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from discovery.statistics import decision as shares
from discovery.statistics.decision import Question, Word
from discovery.statistics.intervals import Interval
from discovery.validation.bench import Floats

ASKED: dict[Question, str] = {
    "alone": "Does the circuit do the task alone, on new prompts?",
    "outside": "Does the rest of the model do it without the circuit?",
    "needed": "Is every part of the circuit needed?",
}
GOOD: dict[Question, Word] = {"alone": "yes", "outside": "no", "needed": "yes"}
TOLERATED = 0.2  # of what the model does beyond the empty circuit: the gap of a complete circuit
GAP = 0.05  # between the prompts of the search and new ones, from which the former are too few
FOUND_AGAIN = 0.5  # share of edges that are stable, below which the edge set is one of the prompts
ENOUGH = 64  # prompts to search on


@dataclass(frozen=True)
class Figure:
    """One question, its share, and what it is to be compared with."""

    name: Question
    word: Word
    share: Interval | None  # None: it was not measured
    baselines: Mapping[str, float] = field(default_factory=dict)  # by name, on the same scale

    @property
    def question(self) -> str:
        """In words."""
        return ASKED[self.name]


@dataclass(frozen=True)
class Decision:
    """What the three figures come to."""

    verdict: str  # holds, holds in part, does not hold, not decided
    figures: tuple[Figure, ...]

    def word(self, name: Question) -> Word:
        """What is said to one of the questions."""
        return next(one.word for one in self.figures if one.name == name)

    def to_json(self) -> dict[str, Any]:
        """For validation.json."""
        return {
            "verdict": self.verdict,
            "figures": [asdict(one) | {"question": one.question} for one in self.figures],
        }


def figure(name: Question, share: Interval | None, baselines: Mapping[str, float | None]) -> Figure:
    """The figure with its word; baselines that are None were not measured."""
    known = {key: value for key, value in baselines.items() if value is not None}
    said: Word = "not decided" if share is None else shares.word(name, share)
    return Figure(name, said, share, known)


def is_complete(gap: Interval, span: float) -> bool | None:
    """Whether the worst knock-out leaves circuit and model alike; None: not decided.

    `gap` is of circuit less model under it, `span` of model less empty circuit.
    """
    if gap.low is None or gap.high is None:
        return None
    least = TOLERATED * abs(span)
    if max(abs(gap.low), abs(gap.high)) < least:
        return True
    return False if gap.low > least or gap.high < -least else None


def decide(figures: Sequence[Figure], whole: bool | None = None) -> Decision:
    """The verdict: what the circuit does alone, as far as what is outside does not do it too.

    `whole` is `is_complete` of the worst knock-out, None where none was tried: a circuit that lacks
    a backup does the task alone, and differs from the model once something is gone.

    Whether every part is needed does not change it: a circuit with parts to spare is true, and
    larger than it must be.
    """
    words = {one.name: one.word for one in figures}
    if words["alone"] == "no":
        verdict = "does not hold"
    elif words["alone"] == "not decided":
        verdict = "not decided"
    elif words["alone"] == "partly" or words["outside"] in ("partly", "yes"):
        verdict = "holds in part"
    else:
        verdict = "holds" if words["outside"] == "no" else "not decided"
    if verdict == "holds" and whole is False:
        verdict = "holds in part"
    return Decision(verdict, tuple(figures))


def random_alone(kept: Floats, model: Floats, empty: Floats) -> float | None:
    """`alone` of random circuits, [circuits, prompts], together; None where it is not defined."""
    whole = float(np.abs(empty - model).mean())
    return None if whole == 0 else 1 - float(np.abs(kept - model).mean()) / whole


def random_outside(removed: Floats, model: Floats, empty: Floats) -> float | None:
    """`outside` of random circuits, likewise."""
    whole = float(np.abs(model - empty).mean())
    return None if whole == 0 else float(np.abs(removed - empty).mean()) / whole


# ---- what to do next -----------------------------------------------------------------------------


def next_steps(
    validation: Mapping[str, Any], run: Mapping[str, Any], folder: str = "FOLDER"
) -> list[str]:
    """What would change the verdict, most important first; `run` is result.json.

    None of them where everything is as it should be.
    """
    words = {one["name"]: one["word"] for one in validation["decision"]["figures"]}
    steps = []
    if words["alone"] in ("no", "partly"):
        steps.append(_grow(validation, run))
    if words["alone"] != "no" and words["outside"] in ("partly", "yes"):
        steps.append(
            "The rest of the model does part of the task by itself: look for backups with"
            f" circuits explain run={folder} parts=[backups], and make the circuit larger"
            f" ({_larger(run)})."
        )
    if words["alone"] == "yes" and (apart := _apart(validation, run, folder)) is not None:
        steps.append(apart)
    if (depends := _depends_on_its_prompts(validation, run)) is not None:
        steps.append(depends)
    if "not decided" in (words["alone"], words["outside"]):
        n = validation["n_prompts"]
        steps.append(f"{n} prompts leave it open: validate on more, prompts={2 * n}.")
    if words["needed"] in ("no", "partly"):
        steps.append(_shrink(validation, folder))
    if words["needed"] == "not decided" and not _measured(validation, "needed"):
        steps.append("Whether every part is needed was not asked: budget=15m.")
    return steps


def _measured(validation: Mapping[str, Any], name: str) -> bool:
    figures = validation["decision"]["figures"]
    return any(one["name"] == name and one["share"] is not None for one in figures)


def _apart(validation: Mapping[str, Any], run: Mapping[str, Any], folder: str) -> str | None:
    """What the worst knock-out shows, where it sets circuit and model apart."""
    found = validation["completeness"]
    span = validation["model_values"]["score"] - validation["empty_values"]["score"]
    if found is None or is_complete(Interval(**found["worst_gap"]), span) is not False:
        return None
    gone = ", ".join(found["worst"]["nodes"][:4]) or "nothing"
    return (
        f"With {gone} knocked out, circuit and model part: the circuit lacks what takes over in the"
        f" model. See what does, circuits explain run={folder} parts=[backups], and make it larger"
        f" ({_larger(run)})."
    )


def _grow(validation: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Where it falls short alone: of what it was searched by, or only of what it is judged by."""
    score = validation.get("score")
    other = run.get("metric", score) != score
    share, of = ("kl_share", " of KL") if other else ("error_share", "")
    own, new = run.get(share), validation["circuit_values"].get(share)
    if own is not None and new is not None and own - new > GAP:
        n = run["splits"]["search"]["n"] if "splits" in run else None
        more = ENOUGH if n is None else max(ENOUGH, 2 * n)
        return (
            f"It recovers {own:.0%}{of} on the prompts it was searched on and {new:.0%} on new"
            f" ones: search on more, task.n={more}."
        )
    if other and new is not None and new >= shares.BORDERS["alone"][1]:
        return (
            f"It was searched by {run['metric']} and recovers {new:.0%} of KL on new prompts, but"
            f" not {score} prompt by prompt: search by that, metric={score}, or make it larger,"
            f" {_larger(run)}."
        )
    return f"It leaves out parts that matter: make it larger, {_larger(run)}."


def _larger(run: Mapping[str, Any]) -> str:
    """The field of this method that makes the circuit larger, and a value for it."""
    threshold, asked = run.get("threshold"), run.get("n_edges_requested")
    if run.get("target") is not None and run["target"] < 0.99:
        return f"target={(1 + run['target']) / 2:.3g}"
    if threshold:
        return f"method.threshold={threshold / 2:.3g}"
    if asked:
        return f"method.n_edges={min(2 * asked, run.get('n_edges_total', 2 * asked))}"
    return "target=0.95, or a smaller threshold, or more edges"


def _depends_on_its_prompts(validation: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    found = validation["stability"]
    if found is None or not found["low"]:
        return None
    stable = sum(low > 0.5 for low in found["low"]) / len(found["low"])
    if stable >= FOUND_AGAIN:
        return None
    n = run.get("splits", {}).get("search", {}).get("n")
    on = "its prompts" if n is None else f"the {n} prompts"
    more = ENOUGH if n is None else max(ENOUGH, 2 * n)
    return (
        f"This edge set depends on {on} of the search: {stable:.0%} of the edges are surely found"
        f" again on others. Search with task.n={more}, or take what agrees: circuits consensus."
    )


def _shrink(validation: Mapping[str, Any], folder: str) -> str:
    named = validation["spare"]
    some = ", ".join(named[:3]) + (", …" if len(named) > 3 else "")
    return (
        f"{len(named)} of {validation['n_edges']} edges can each be spared ({some}): search within"
        f" the circuit, circuits discover method=acdc method.start={folder}."
    )
