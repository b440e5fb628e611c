"""From figures to sentences: what holds of a circuit, what does not, and what is not decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from discovery.rungs import NONE, OWN

TOLERATED = 0.2  # of what the model does beyond the empty circuit: the gap that completeness allows

QUESTIONS = {
    "equivalence": "as good as the model on the typical prompt",
    "mean equivalence": "as good as the model on average",
    "non-equivalence": "no worse and no better than the model (Shi et al.'s weaker test)",
    "independence": "nothing about the model's score left outside the circuit",
    "sufficiency": "closer to the model than nine in ten random circuits of its size",
    "partial necessity": "its removal hurts more than that of nine in ten random circuits",
    "resampled score among random circuits": "under resampling better than 19 in 20 random"
    " circuits of its size",
    "resampled score among the same shape on other heads": "under resampling better than 19 in 20"
    " circuits of its shape with the heads of each layer permuted",
}


@dataclass(frozen=True)
class Verdict:
    """One property of the circuit."""

    name: str  # of the test
    question: str  # what holds if it holds
    holds: bool | None  # None: not decided
    figures: str  # statistic, p with n and correction, or the interval


def verdicts(validation: Mapping[str, Any]) -> list[Verdict]:
    """Every test's answer, completeness and stability among them, in the report's order."""
    tests = list(validation["tests"])
    edges, nodes = tests[-2:]
    out = [_of_test(test) for test in tests[:-2]]
    out += [_of_minimality(edges, "edge"), _of_minimality(nodes, "node")]
    out.append(_of_completeness(validation))
    if validation["stability"] is not None:
        out.append(_of_stability(validation["stability"]))
    return out


def headline(validation: Mapping[str, Any], found: Sequence[Verdict]) -> str:
    """The figures that matter most on one named scale, and how many of how many tests hold."""
    passed, failed = (sum(v.holds is answer for v in found) for answer in (True, False))
    paired, *others = validation["scrubbing"]
    shared = {row["inputs"]: row for row in others if row["resampled"] == "shared"}
    return (
        f"Of the model's {validation['score']} (0% = {validation['zero']}; 100% = the model) the"
        f" circuit keeps {_share(paired)} when its cut edges carry just that, and"
        f" {_share(shared[OWN])} when they carry another prompt's values, which alone, without a"
        f" circuit, give {_share(shared[NONE])}."
        f" {passed} of {len(found)} properties are shown to hold, {failed} are shown to fail,"
        f" {len(found) - passed - failed} are not decided."
    )


def _share(row: Mapping[str, Any]) -> str:
    found = row["recovered"]
    if found is None:
        return "an undefined share (model and empty circuit do not surely differ)"
    return f"{found['value']:.0%} [{found['low']:.0%}, {found['high']:.0%}]"


def interval(found: Mapping[str, Any], digits: int = 2) -> str:
    """An interval in words; why, where there is none."""
    if found["estimate"] is None:
        return found["undefined"]
    low, high = found["low"], found["high"]
    limits = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{found['estimate']:.{digits}f}{limits}"


def _of_test(test: Mapping[str, Any]) -> Verdict:
    name = str(test["name"])
    question = QUESTIONS.get(name) or f"better than 19 in 20 others: {name}"
    if test["p_value"] is None:
        return Verdict(test["name"], question, None, test["extra"].get("undefined", "undefined"))
    return Verdict(test["name"], question, test["holds"], _p(test))


def _p(test: Mapping[str, Any]) -> str:
    correction = "" if test["correction"] == "none" else f", {test['correction']}"
    statistic = "" if test["statistic"] is None else f"statistic {test['statistic']:.3g}, "
    against = test["extra"].get("p_opposite")
    other = "" if against is None else f" (the opposite: {against:.2g})"
    return f"{statistic}p = {test['p_value']:.2g}{other}, n = {test['n']}{correction}"


def _of_minimality(test: Mapping[str, Any], kind: str) -> Verdict:
    question = f"every {kind} matters more than nine in ten of random paths'"
    if test["p_value"] is None:
        return Verdict(f"minimality of {kind}s", question, None, test["extra"]["undefined"])
    surplus = test["extra"]["superfluous_bh"]
    named = ", ".join(surplus[:8]) + (", ..." if len(surplus) > 8 else "")
    figures = f"{len(surplus)} of {len(test['extra']['edges'])} not needed"
    figures += (f": {named}" if surplus else "") + f" ({_p(test)})"
    return Verdict(f"minimality of {kind}s", question, test["holds"], figures)


def _of_completeness(validation: Mapping[str, Any]) -> Verdict:
    found, worst = validation["completeness"], validation["completeness"]["worst"]
    gap = found["worst_gap"]
    span = abs(validation["model_values"]["score"] - validation["empty_values"]["score"])
    holds = None
    if gap["low"] is not None:
        inside = max(abs(gap["low"]), abs(gap["high"])) < TOLERATED * span
        outside = gap["low"] > TOLERATED * span or gap["high"] < -TOLERATED * span
        holds = True if inside else False if outside else None
    nodes = ", ".join(worst["nodes"][:8]) + (", ..." if len(worst["nodes"]) > 8 else "")
    figures = (
        f"worst K found ({found['evaluations']} sets tried): {{{nodes}}};"
        f" F(C without K) - F(M without K) = {interval(gap)} {validation['unit']}"
        f" on prompts it was not chosen on"
    )
    question = (
        f"no knock-out parts circuit and model by more than {TOLERATED:.0%} of what the model has"
        f" above the circuit of no edges ({validation['zero']})"
    )
    return Verdict("completeness", question, holds, figures)


def _of_stability(found: Mapping[str, Any]) -> Verdict:
    stable = sum(low > 0.5 for low in found["low"])
    lost = any(high < 0.5 for high in found["high"])
    holds = True if stable == len(found["low"]) else False if lost else None
    least, median, largest = found["jaccard"]
    phi = "undefined" if found["phi"] is None else f"{found['phi']:.2f}"
    figures = (
        f"{stable} of {len(found['low'])} edges surely in most of {found['resamples']} resamples'"
        f" circuits; Jaccard {least:.2f} to {largest:.2f}, median {median:.2f}; Nogueira {phi}"
    )
    return Verdict("stability", "every edge is found again on resampled prompts", holds, figures)
