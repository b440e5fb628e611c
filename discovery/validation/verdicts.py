"""From figures to sentences: what holds of a circuit, what does not, and what is not decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from discovery.statistics.decision import BORDERS
from discovery.statistics.intervals import Interval
from discovery.validation.decision import GOOD, TOLERATED, is_complete
from discovery.validation.rungs import NONE, OWN

BESIDE = ("minimality", "stability", "inputs agree")  # what the whole model does not have either

# {cut}: cut edges carrying what the run's ablation says; {other}: the same on another prompt
QUESTIONS = {
    "equivalence": "as often better than the model as worse, {cut}",
    "mean equivalence": "as good as the model on average, {cut}",
    "independence": "outside the circuit nothing of the model's score is left beyond what the empty"
    " circuit knows, {cut}",
    "sufficiency": "closer to the model than nine in ten random circuits of its size, {cut}",
    "sufficiency among likely circuits": "closer to the model than nine in ten circuits of its size"
    " whose paths are drawn by |attribution|, {cut}",
    "sufficiency among its shape on other heads": "closer to the model than nine in ten circuits of"
    " its shape with the heads of each layer permuted, {cut}",
    "partial necessity": "its removal hurts more than that of nine in ten random circuits, {cut}",
    "resampled sufficiency among random circuits": "closer to the model than nine in ten random"
    " circuits of its size, {other}",
    "resampled sufficiency among its shape on other heads": "closer to the model than nine in ten"
    " circuits of its shape with the heads of each layer permuted, {other}",
}
OTHER = "cut edges carrying another prompt's values"
LIKELY, SHAPE = "circuits of its size along likely paths", "circuits of its shape on other heads"
SAYS = {  # of what is shown to hold, and of what is shown to fail
    "equivalence": (
        "On single prompts it does as well as the model.",
        "On single prompts it does worse than the model, or better, more often than by chance."),
    "mean equivalence": (
        "On average it does as well as the model.",
        "On average it does worse than the model, or better."),
    "independence": (
        "Outside the circuit the model's answer is lost.",
        "Outside the circuit part of the model's answer is still there."),
    "sufficiency": (
        "It comes closer to the model than random circuits of its size.",
        "Random circuits of its size come as close to the model."),
    "sufficiency among likely circuits": (
        f"It comes closer to the model than {LIKELY}.",
        f"As close to the model come {LIKELY}."),
    "sufficiency among its shape on other heads": (
        f"It comes closer to the model than {SHAPE}.",
        f"As close to the model come {SHAPE}."),
    "partial necessity": (
        "Cutting it out of the model hurts more than cutting out random circuits.",
        "Cutting random circuits out of the model hurts as much."),
    "resampled sufficiency among random circuits": (
        "With all else resampled it comes closer to the model than random circuits of its size.",
        "With all else resampled random circuits of its size come as close to the model."),
    "resampled sufficiency among its shape on other heads": (
        f"With all else resampled it comes closer to the model than {SHAPE}.",
        f"With all else resampled {SHAPE} come as close to the model."),
    "completeness": (
        "Circuit and model react alike to every knock-out that was tried.",
        "A knock-out sets circuit and model apart."),
    "stability": (
        "Every edge is found again on other draws of the prompts.",
        "Some edges are found on some draws of the prompts only."),
    "minimality of edges": (
        "Every edge matters more than edges of random paths do.",
        "Some edges matter as little as edges of random paths."),
    "minimality of nodes": (
        "Every node matters more than nodes of random paths do.",
        "Some nodes matter as little as nodes of random paths."),
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """One property of the circuit."""

    name: str  # of the test
    question: str  # what holds if it holds
    holds: bool | None  # None: not decided
    figures: str  # statistic, p with n and correction, or the interval
    counted: bool = True  # whether the whole model has it; else it is told beside the count

    @property
    def says(self) -> str:
        """The answer as a sentence."""
        feature = self.name.partition(",")[0]
        alike = (
            f"With {feature} the circuit does better than by chance: it reads these features.",
            f"With {feature} the circuit does no better than with the values shuffled.",
        )
        holds, fails = SAYS.get(self.name, alike)
        if self.holds is None:
            return f"Open: {holds[0].lower()}{holds[1:]}"
        return holds if self.holds else fails


def verdicts(validation: Mapping[str, Any]) -> list[Verdict]:
    """Every test's answer, completeness and stability among them, what counts first."""
    cut = f"cut edges carrying {validation['cut_edges_carry']}"
    out = [_of_test(test, cut) for test in validation["tests"]]
    if validation["completeness"] is not None:
        out.append(_of_completeness(validation))
    if validation["stability"] is not None:
        out.append(_of_stability(validation["stability"]))
    out = [replace(one, counted=not one.name.startswith(BESIDE)) for one in out]
    return sorted(out, key=lambda one: not one.counted)


def lead(validation: Mapping[str, Any]) -> list[str]:
    """The verdict, a line for each of the three figures, and what to do next."""
    found = validation["decision"]
    lines = [heading(found["verdict"])]
    for one in found["figures"]:
        lines.append(f"  {one['question']} {said(one)}; {scale(one, validation)}")
    return lines + [f"  next: {step}" for step in validation["next"]]


def in_words(validation: Mapping[str, Any], found: Sequence[Verdict]) -> dict[str, Any]:
    """What validation.json says beside its numbers, so that whoever shows it needs no words.

    `headline`; the `decision` with its `heading`, and of each figure what is `said`, its `scale`,
    the `borders` of its words and whether it is `good` (None: neither); the `verdicts` with what
    each `says`.
    """
    decision = validation["decision"]
    figures = [
        {**one, "said": said(one), "scale": scale(one, validation), "good": _good(one),
         "borders": BORDERS[one["name"]]}
        for one in decision["figures"]
    ]  # fmt: skip
    return {
        "headline": headline(validation, found),
        "decision": {**decision, "heading": heading(decision["verdict"]), "figures": figures},
        "verdicts": [vars(one) | {"says": one.says} for one in found],
    }


def _good(one: Mapping[str, Any]) -> bool | None:
    return one["word"] == GOOD[one["name"]] if one["word"] in ("yes", "no") else None


def heading(verdict: str) -> str:
    """The verdict as a sentence."""
    return "Not decided" if verdict == "not decided" else f"The circuit {verdict}"


def said(one: Mapping[str, Any]) -> str:
    """The word for a figure, and its share with the interval."""
    share = one["share"]
    if share is None:
        return "not asked"
    if share["estimate"] is None:
        return f"not decided: {share['undefined']}"
    limits = (
        "" if share["low"] is None else f" [{_percent(share['low'])}, {_percent(share['high'])}]"
    )
    return f"{one['word']}: {_percent(share['estimate'])}{limits}"


def scale(one: Mapping[str, Any], validation: Mapping[str, Any]) -> str:
    """What a figure's 0 % and 100 % are, and its baselines."""
    ends = {
        "alone": f"0% = {validation['zero']}, 100% = the model",
        "outside": f"0% = {validation['zero']}, 100% = as far from that as the model is",
        "needed": "share of its edges that change the score by 1% of what cutting all does",
    }
    known = [f"{name} {_percent(value)}" for name, value in one["baselines"].items()]
    return ", ".join([ends[one["name"]], *known])


def headline(validation: Mapping[str, Any], found: Sequence[Verdict]) -> str:
    """The figures that matter most on one named scale, and how many of how many tests hold."""
    paired, *others = validation["scrubbing"]
    shared = {row["inputs"]: row for row in others if row["resampled"] == "shared"}
    counted = [v for v in found if v.counted]
    passed, failed = (sum(v.holds is answer for v in counted) for answer in (True, False))
    return (
        f"Of the model's {validation['score']} (0% = {validation['zero']}; 100% = the model) the"
        f" circuit keeps {_share(paired)} when its cut edges carry just that"
        f" ({alike(validation['circuit_values'])}; the model's accuracy"
        f" {validation['model_values']['accuracy']:.0%}), and"
        f" {_share(shared[OWN])} when they carry another prompt's values, which alone, without a"
        f" circuit, give {_share(shared[NONE])}."
        f" {passed} of {len(counted)} properties that the whole model has are shown to hold,"
        f" {failed} are shown to fail, {len(counted) - passed - failed} are not decided."
    )


def alike(found: Mapping[str, Any]) -> str:
    """Two-sided measures in words, on the scale of the shares."""
    shares = {"prompt by prompt": "error_share", "of KL": "kl_share"}
    words = [
        f"{name} undefined" if found[key] is None else f"{name} {_percent(found[key])}"
        for name, key in shares.items()
    ]
    r = found["correlation"]
    words.append("correlation undefined" if r is None else f"correlation {r:.2f}")
    return ", ".join([*words, f"accuracy {found['accuracy']:.0%}"])


def left_out(validation: Mapping[str, Any]) -> list[str]:
    """A sentence for each part that was not done: what, why, and how to ask for it."""
    return [
        f"Not done: {one['part']}"
        + ("" if one["minutes"] is None else f", about {one['minutes']:g} minutes")
        + f"; ask with {one['ask']}."
        for one in validation["left_out"]
    ]


def _percent(value: float) -> str:
    """A share in whole percent; what rounds to nothing has no sign."""
    return f"{round(value, 2) + 0.0:.0%}"


def _share(row: Mapping[str, Any]) -> str:
    found = row["recovered"]
    if found is None:
        return "an undefined share (model and empty circuit do not surely differ)"
    return f"{_percent(found['value'])} [{_percent(found['low'])}, {_percent(found['high'])}]"


def interval(found: Mapping[str, Any], digits: int = 2) -> str:
    """An interval in words; why, where there is none."""
    if found["estimate"] is None:
        return found["undefined"]
    low, high = found["low"], found["high"]
    limits = "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{found['estimate']:.{digits}f}{limits}"


def _of_test(test: Mapping[str, Any], cut: str) -> Verdict:
    name = str(test["name"])
    for kind in ("edge", "node"):
        if name == f"minimality of {kind}s":
            return _of_minimality(test, kind)
    question = QUESTIONS.get(name) or f"better than 19 in 20 others: {name}"
    question = question.format(cut=cut, other=OTHER)
    if test["p_value"] is None:
        return Verdict(name, question, None, test["extra"].get("undefined", "undefined"))
    return Verdict(name, question, test["holds"], _p(test))


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
    span = validation["model_values"]["score"] - validation["empty_values"]["score"]
    holds = is_complete(Interval(**gap), span)
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
