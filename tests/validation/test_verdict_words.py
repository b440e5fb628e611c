"""The verdict by its three words, and what is advised, from figures made by hand."""

import pytest

from discovery.statistics.intervals import Interval
from discovery.validation.decision import (
    decide,
    figure,
    is_complete,
    next_steps,
    random_alone,
    random_outside,
)
from discovery.validation.verdicts import lead, said, scale

BANDS = {
    "alone": {"yes": (0.92, 0.98), "partly": (0.6, 0.8), "no": (0.1, 0.2)},
    "outside": {"yes": (0.6, 0.9), "partly": (0.2, 0.4), "no": (0.0, 0.05)},
    "needed": {"yes": (0.92, 1.0), "partly": (0.6, 0.8), "no": (0.1, 0.2)},
}
WIDE = (0.05, 0.95)


def made(**words):
    figures = []
    for name, bands in BANDS.items():
        low, high = bands.get(words.get(name, ""), WIDE)
        share = Interval((low + high) / 2, low, high, 0.95, 80, "")
        figures.append(figure(name, share, {"random": 0.1, "not run": None}))
    return decide(figures)


@pytest.mark.parametrize("alone, outside, verdict", [
    ("yes", "no", "holds"), ("yes", "partly", "holds in part"), ("yes", "yes", "holds in part"),
    ("yes", "", "not decided"), ("partly", "no", "holds in part"), ("no", "no", "does not hold"),
    ("no", "", "does not hold"), ("", "no", "not decided"),
])  # fmt: skip
def test_the_verdict_follows_from_the_words(alone, outside, verdict):
    for needed in ("yes", "no", ""):
        found = made(alone=alone, outside=outside, needed=needed)
        assert found.verdict == verdict
        assert found.word("alone") == (alone or "not decided")
        assert found.figures[0].baselines == {"random": 0.1}


def test_a_knock_out_that_sets_circuit_and_model_apart_takes_the_verdict_back():
    figures = made(alone="yes", outside="no", needed="yes").figures
    verdicts = {whole: decide(figures, whole).verdict for whole in (True, False, None)}
    assert verdicts == {True: "holds", False: "holds in part", None: "holds"}
    bad = made(alone="no", outside="no", needed="yes").figures
    assert decide(bad, False).verdict == "does not hold"


@pytest.mark.parametrize("low, high, whole", [
    (-0.1, 0.1, True), (0.5, 0.9, False), (-0.9, -0.5, False), (0.1, 0.5, None), (None, None, None),
])  # fmt: skip
def test_a_gap_is_judged_by_a_fifth_of_the_effect(low, high, whole):
    gap = Interval(0.0, low, high, 0.95, 20, "")
    assert is_complete(gap, 2.0) is whole and is_complete(gap, -2.0) is whole


def test_what_takes_over_is_named():
    gap = vars(Interval(-1.0, -1.5, -0.8, 0.95, 20, ""))
    found = validation(alone="yes", outside="no", needed="yes")
    found["completeness"] = {"worst_gap": gap, "worst": {"nodes": ["a0.h1", "m0"]}}
    (step,) = next_steps(found, RUN, "runs/one")
    assert step.startswith("With a0.h1, m0 knocked out, circuit and model part")
    assert "circuits explain run=runs/one parts=[backups]" in step


def validation(stable=(0.6, 0.7), error_share=0.7, **words):
    return {
        "decision": made(**words).to_json(), "zero": "every edge cut", "n_prompts": 80,
        "n_edges": 9,
        "circuit_values": {"error_share": error_share}, "spare": ["a0.h1->logits", "m0->logits"],
        "stability": {"low": list(stable)}, "completeness": None,
        "model_values": {"score": 2.0}, "empty_values": {"score": 0.0},
    }  # fmt: skip


RUN = {"error_share": 0.72, "splits": {"search": {"n": 8}}, "threshold": 0.2, "target": None,
       "n_edges_total": 50}  # fmt: skip


def test_of_a_good_circuit_nothing_is_advised():
    good = validation(alone="yes", outside="no", needed="yes")
    assert next_steps(good, RUN) == []
    assert lead({**good, "next": []})[0] == "The circuit holds"


@pytest.mark.parametrize("run, words, advice", [
    ({}, {"alone": "no"}, "make it larger, method.threshold=0.1."),
    ({"threshold": None, "n_edges_requested": 30}, {"alone": "partly"}, "method.n_edges=50."),
    ({"target": 0.8}, {"alone": "partly"}, "target=0.9."),
    ({"error_share": 0.95}, {"alone": "no"}, "95% on the prompts it was searched on and 70%"),
    ({"error_share": 0.95}, {"alone": "no"}, "task.n=64"),
    ({}, {"outside": "partly"}, "parts=[backups]"),
    ({}, {"needed": "partly"}, "2 of 9 edges can each be spared (a0.h1->logits, m0->logits)"),
    ({}, {"needed": "no"}, "method.start=runs/one"),
    ({}, {"outside": ""}, "prompts=160"),
])  # fmt: skip
def test_what_is_advised(run, words, advice):
    words = {"alone": "yes", "outside": "no", "needed": "yes"} | words
    (step,) = next_steps(validation(**words), {**RUN, **run}, "runs/one")
    assert advice in step


@pytest.mark.parametrize("own, new, advice", [
    (0.91, 0.91, "was searched by kl and recovers 91% of KL on new prompts, but not logit_diff"),
    (0.91, 0.91, "metric=logit_diff, or make it larger, target=0.95."),
    (0.95, 0.80, "95% of KL on the prompts it was searched on and 80% on new ones"),
    (0.30, 0.29, "It leaves out parts that matter: make it larger, target=0.95."),
])  # fmt: skip
def test_shares_of_two_metrics_are_not_compared(own, new, advice):
    run = {**RUN, "error_share": own, "kl_share": own, "metric": "kl", "target": 0.9}
    found = validation(alone="partly", outside="no", needed="yes", error_share=0.58)
    found["circuit_values"]["kl_share"] = new
    (step,) = next_steps({**found, "score": "logit_diff"}, run)
    assert advice in step


def test_no_share_is_less_than_nothing_by_rounding():
    one = figure("outside", Interval(-0.001, -0.004, 0.02, 0.95, 80, ""), {"random": -0.002})
    assert said(vars(one) | {"share": vars(one.share)}) == "no: 0% [0%, 2%]"
    assert scale(vars(one), {"zero": "every edge cut"}).endswith("random 0%")


def test_an_edge_set_of_its_prompts():
    found = validation(alone="yes", outside="no", needed="yes", stable=(0.2, 0.3, 0.9))
    (step,) = next_steps(found, RUN)
    assert "depends on the 8 prompts of the search: 33% of the edges" in step
    assert "task.n=64" in step and "circuits consensus" in step


def test_random_circuits_are_on_the_same_scale():
    import numpy as np

    model, empty = np.array([4.0, 2.0]), np.zeros(2)
    both = np.array([model, empty])  # one circuit that is the model, one that is nothing
    assert random_alone(both, model, empty) == random_outside(both, model, empty) == 0.5
    assert random_alone(both, model, model) is None
