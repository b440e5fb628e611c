"""A target: reached on prompts that the search did not see, or said why not."""

import json
from itertools import pairwise

import families
import numpy as np
import pytest
from test_settings import settings

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import METRICS
from acdc.selection import best_edges
from acdc.share import Share
from discovery.job import pipeline
from discovery.job.faithfulness import Measured, measure
from discovery.job.holds import gap, holds, verdict
from discovery.job.prepare import prepare
from discovery.methods import Found, last, searching
from discovery.methods.best import Best
from discovery.methods.choosing import fewest, smallest
from discovery.methods.greedy import ACDC
from discovery.methods.learned import Learned
from discovery.methods.scores import EAP, EAPIG

pytestmark = pytest.mark.unchecked
RNG = np.random.default_rng(0)
CONFIGURATIONS = [  # family, metric, target, seed, method
    (
        str(RNG.choice(["gpt2", "llama", "pythia", "attention"])),
        str(RNG.choice(["kl", "logit_diff", "prob_diff"])),
        float(RNG.choice([0.3, 0.6, 0.8, 0.9, 0.97])),
        int(RNG.integers(100)),
        [ACDC(), ACDC(power=1.0), EAPIG(), EAPIG(rule="greedy")][int(RNG.integers(4))],
    )
    for _ in range(20)
]


def data(family, seed=0, n=6):
    model = families.view(family if family in families.FAMILIES else "gpt2")
    prompts = families.prompts(n=2 * n, length=4).with_others(seed)
    graph = model.graph()
    return [Data(model, graph, prompts.take(range(i, i + n))) for i in (0, n)]


@pytest.mark.parametrize("family, metric, target, seed, method", CONFIGURATIONS)
def test_a_target_is_reached_on_prompts_that_the_search_did_not_see(
    family, metric, target, seed, method
):
    search, tune = data(family, seed)
    own = METRICS[metric]
    found = last(method.reach(search, own, seed, target, tune))
    share = measure(tune, own, found.mask).share
    assert found.counts["tune_share"] == pytest.approx(share, abs=1e-9)
    assert share >= target and found.mask.any()


@pytest.mark.parametrize(
    "shares, factors",
    [
        ((0.7, 0.8), [0.9 * 0.2 / 0.3]),  # loses a half more than it may
        ((0.79, 0.81), [0.9 * 0.2 / 0.21]),
        ((0.1, 0.78, 0.9), [0.4, 0.9 * 0.2 / 0.22]),  # far off: no step is larger
    ],
)
def test_a_budget_is_tightened_by_how_far_the_circuit_falls_short(shares, factors, monkeypatch):
    search, tune = data("gpt2")
    told = iter([*shares, *[1.0] * 1000])

    class Yardstick:
        def __init__(self, data, metric):
            pass

        def of(self, mask):
            return next(told)

    monkeypatch.setattr(searching, "Share", Yardstick)
    monkeypatch.setattr(searching, "regrow", lambda *asked: iter(()))
    steps = ACDC().reach(search, METRICS["kl"], 0, 0.8, tune)
    rows = [step.row for step in steps if not isinstance(step, Found) and step.row]
    assert tuple(row["tune_share"] for row in rows if row["reason"] == "ended") == shares
    budgets = [row["budget"] for row in rows]
    used = list(dict.fromkeys(budgets))
    assert used[0] == pytest.approx(
        0.2 * search.errors(METRICS["kl"], [np.zeros_like(search.graph.legal)]).mean()
    )
    assert [b / a for a, b in pairwise(used)] == [pytest.approx(factor) for factor in factors]


@pytest.mark.parametrize(
    "on_search, on_tune, factor",
    [
        (0.94, 0.91, 0.06 / 0.09),  # a third of what it loses on others is not seen
        (0.91, 0.94, 1.0),
        (1.0, 1.0, 1.0),
        (0.98, 0.5, 0.4),  # no step is larger
    ],
)
def test_a_search_from_a_circuit_allows_for_what_it_loses_on_other_prompts(
    on_search, on_tune, factor, monkeypatch
):
    search, tune = data("gpt2")
    told = {id(search): on_search, id(tune): on_tune}
    begun = best_edges(
        search.graph, last(EAPIG(n_edges=60).find(search, METRICS["kl"], 0)).scores, 60
    )

    class Yardstick:
        def __init__(self, data, metric):
            self.share = told[id(data)]

        def of(self, mask):
            return self.share if (mask == begun).all() else 1.0

    monkeypatch.setattr(searching, "Share", Yardstick)
    monkeypatch.setattr(searching, "regrow", lambda *asked: iter(()))
    steps = list(searching.reach(ACDC(), search, METRICS["kl"], 0, 0.8, tune, None, begun))
    first = next(step.row["budget"] for step in steps if not isinstance(step, Found) and step.row)
    whole = search.errors(METRICS["kl"], [np.zeros_like(search.graph.legal)]).mean()
    assert first == pytest.approx(0.2 * whole * factor)


def test_what_is_trimmed_has_the_target_on_the_prompts_of_the_search_too(monkeypatch):
    """Even where the tuning prompts would let everything go."""
    search, tune = data("gpt2")

    class Yardstick(Share):
        def of(self, mask):
            return 1.0 if self.data is tune else super().of(mask)

    monkeypatch.setattr(searching, "Share", Yardstick)
    found = last(ACDC().reach(search, METRICS["kl"], 0, 0.8, tune))
    assert measure(search, METRICS["kl"], found.mask).share >= 0.8
    assert found.counts["tune_share"] == 1.0


def test_more_is_asked_and_more_is_kept():
    search, tune = data("gpt2")
    sizes = [
        int(last(ACDC().reach(search, METRICS["kl"], 0, t, tune)).mask.sum()) for t in (0.2, 0.9)
    ]
    assert 0 < sizes[0] < sizes[1] < search.graph.n_edges


def test_the_same_again_is_the_same_circuit():
    search, tune = data("llama")
    masks = [last(ACDC().reach(search, METRICS["kl"], 0, 0.8, tune)).mask for _ in range(2)]
    assert (masks[0] == masks[1]).all() and masks[0].any()


def test_a_search_may_begin_at_a_guides_best_edges_or_at_a_circuit(tmp_path):
    search, tune = data("gpt2")
    best = EAPIG(n_edges=60).find(search, METRICS["kl"], 0)
    started = ACDC(guide="eap_ig", best=60, threshold=0.01)
    found = last(started.find(search, METRICS["kl"], 0))
    kept = best_edges(search.graph, last(best).scores, 60)
    assert found.mask.any() and not (found.mask & ~kept).any()
    path = tmp_path / "circuit.json"
    path.write_text(json.dumps(Circuit(search.graph, kept).to_json()))
    again = last(ACDC(start=str(tmp_path), threshold=0.01).find(search, METRICS["kl"], 0))
    assert (again.mask == found.mask).all()
    reached = last(ACDC(guide="eap_ig", best=60).reach(search, METRICS["kl"], 0, 0.6, tune))
    assert reached.counts["tune_share"] >= 0.6
    with pytest.raises(InputError, match="start=.*nowhere.*there is no such file"):
        last(ACDC(start="nowhere", threshold=0.01).find(search, METRICS["kl"], 0))


def test_edges_that_came_back_score_what_that_was_worth(monkeypatch):
    monkeypatch.setattr(searching, "ATTEMPTS", 1)  # so that the search falls short
    search, tune = data("gpt2", seed=1)
    *steps, found = ACDC(power=0.0).reach(search, METRICS["kl"], 0, 0.9, tune)
    back = {s.row["reader"] for s in steps if s.row.get("kind") == "back"}
    tests = {row["edge"]: row for s in steps for row in s.edges}
    untested = {e for e in back if e not in tests}
    assert untested  # else this says nothing
    for name in back:
        edge = search.graph.edge(name)
        assert not found.mask[edge] or found.scores[edge] > 0
    assert all(found.mask[search.graph.edge(e.edge)] == e.kept for e in found.edges)


def test_a_method_that_came_to_a_size_finds_the_same_circuit_by_it():
    search, tune = data("gpt2")
    for method in (EAP(), EAPIG()):
        found = last(method.reach(search, METRICS["logit_diff"], 0, 0.8, tune))
        sized = method.of_size(found.counts)
        assert sized.sized and not method.sized
        again = last(sized.find(search, METRICS["logit_diff"], 0))
        assert (again.mask == found.mask).all()
    budget = last(ACDC().reach(search, METRICS["kl"], 0, 0.8, tune)).counts["budget"]
    assert ACDC().of_size({"budget": budget}).budget == budget


def test_without_size_and_target_a_method_says_what_it_wants():
    search, _ = data("gpt2")
    for method in (ACDC(), EAPIG()):
        with pytest.raises(InputError, match=f"method={method.name}: give .*or ask for a target"):
            last(method.find(search, METRICS["kl"], 0))


def test_the_smallest_size_on_a_path():
    for need in (1, 7, 8, 9, 37, 100):
        assert smallest(lambda n, need=need: float(n >= need), 100, 0.5) == (need, 1.0)
    assert smallest(lambda n: 0.1, 100, 0.5) == (100, 0.1)


def test_share_is_that_of_measure_and_two_sided():
    search, _ = data("llama")
    for metric in (METRICS["kl"], METRICS["logit_diff"]):
        yardstick = Share(search, metric)
        mask = last(EAPIG(n_edges=20).find(search, METRICS["kl"], 0)).mask
        assert yardstick.of(mask) == pytest.approx(measure(search, metric, mask).share, abs=1e-9)
        assert yardstick.of(search.graph.legal) == pytest.approx(1.0, abs=1e-9)
        assert yardstick.of(np.zeros_like(mask)) == pytest.approx(0.0, abs=1e-9)


def measured(share, accuracy=1.0, n=50):
    scores = {run: {"accuracy": 1.0} for run in ("model", "empty")}
    scores["circuit"] = {"accuracy": accuracy}
    return Measured(n, 0.0, 1.0, 2.0, share, None, share, share, None, scores)


def test_what_is_said_of_a_circuit():
    good = {"search": measured(0.97), "test": measured(0.95)}
    assert holds(good).startswith("the circuit does the task: on 50 new prompts it recovers 95%")
    guessing = {"search": measured(0.97), "test": measured(0.95, accuracy=0.6)}
    assert holds(guessing).startswith("the circuit does part of the task") and "60%" in holds(
        guessing
    )
    few = {"search": measured(0.9, n=8), "test": measured(0.3)}
    assert gap(few) == pytest.approx(0.6)
    assert holds(few).startswith("the circuit does not do the task")
    assert holds(few).endswith("task.n=16")
    for own, target in ((0.6, "0.9"), (0.9, "0.95"), (0.94, "0.95"), (0.96, "0.99")):
        short = {"search": measured(own), "test": measured(own, accuracy=0.6)}
        assert f"; ask for more: target={target}," in holds(short)
    alone = {"search": measured(0.95)}
    assert gap(alone) is None and holds(alone).endswith("of others nothing is known")
    nothing = {"search": Measured(3, 1.0, undefined="the task has no corrupt prompts")}
    assert holds(nothing) == "nothing can be said of it: the task has no corrupt prompts"
    words = [verdict(one) for one in (good, guessing, few, alone, nothing)]
    does = "does the task"
    assert words == [does, "does part of the task", "does not do the task", does, "not known"]


@pytest.mark.parametrize("target", [0.6, 0.9])
@pytest.mark.quick("0.6")
def test_the_best_is_no_larger_than_what_was_learnt(target):
    """And says what each stage came to; all reach the target, the smallest is taken."""
    search, tune = data("llama", n=8)
    metric, method = METRICS["kl"], Best(steps=60, again=0)
    learned = last(Learned(steps=60).reach(search, metric, 0, target, tune))
    best = last(method.reach(search, metric, 0, target, tune))
    assert best.counts["n_learned"] == learned.counts["n_edges_requested"]
    assert best.mask.sum() == min(best.counts["n_polished"], learned.mask.sum()) > 0
    assert best.counts["tune_share"] == pytest.approx(Share(tune, metric).of(best.mask))
    assert best.counts["tune_share"] >= target
    sized = method.of_size(best.counts)
    assert isinstance(sized, Learned) and sized.n_edges == best.counts["n_learned"]


@pytest.mark.parametrize("target", [0.6, 0.9])
@pytest.mark.quick("0.6")
def test_it_is_learnt_again_around_the_size_that_was_needed(target):
    """Among the best edges of the first time; what needs fewer is gone on with."""
    search, tune = data("llama", n=8)
    metric, method = METRICS["kl"], Best(steps=40, again=60, most=1)
    first = last(Learned(steps=40).reach(search, metric, 0, target, tune))
    size = first.counts["n_edges_requested"]
    around = method.around(size, search.graph)
    assert (around.n_edges, around.spread) == (size // 2, 2)
    how = around.how(search.graph)
    assert (how.smallest, how.largest) == (size // 2 / 2, 2 * (size // 2))
    steps = around.ranks(search, metric, 1, None, first.scores)
    scores = last(steps).scores
    within = best_edges(search.graph, first.scores, min(8 * size, search.graph.n_edges))
    assert (scores[within] >= 1).all() and (scores[~within] < 1).all()
    found = last(fewest(around, [Found(within, scores, "", True)], search, metric, 0, target, tune))
    *made, best = method.reach(search, metric, 0, target, tune)
    rows = [step.row for step in made if step.row]
    assert [row["step"] for row in rows] == list(range(1, 101))  # counted on
    needed = found.counts["n_edges_requested"]
    if needed < size:
        assert best.counts["n_again"] == needed and (best.mask == found.mask).all()
    else:
        assert "n_again" not in best.counts and (best.mask == first.mask).all()
    assert best.counts["n_learned"] == size and best.counts["tune_share"] >= target


def test_the_best_begins_with_room_and_keeps_the_learnt_one_if_the_search_fails(monkeypatch):
    search, tune = data("llama", n=8)
    metric, begun = METRICS["kl"], []

    def fails(method, few, metric, seed, target, tune, resume, start):
        begun.append((len(few), int(start.sum())))
        counts = {"tune_share": target - 0.1}
        yield Found(start, start * 1.0, "", ranks=False, counts=counts)

    monkeypatch.setattr(searching, "reach", fails)
    learned = last(Learned(steps=60).reach(search, metric, 0, 0.6, tune))
    best = last(Best(steps=60, again=0, room=1.5, polish=4).reach(search, metric, 0, 0.6, tune))
    assert (best.mask == learned.mask).all() and best.counts["tune_share"] >= 0.6
    asked_for = round(1.5 * learned.counts["n_edges_requested"])
    assert begun[0][0] >= 4 and learned.mask.sum() <= begun[0][1] <= asked_for
    begun.clear()
    large = last(Best(steps=60, again=0, most=1).reach(search, metric, 0, 0.6, tune))
    assert not begun and (large.mask == learned.mask).all() and "n_polished" not in large.counts
    with pytest.raises(InputError, match="method=best: ask for a target"):
        next(Best().find(search, metric, 0))


def test_on_a_large_graph_a_search_to_a_target_says_that_it_may_be_hours(monkeypatch):
    asked = [settings("tracking=disabled", "task.n=4", f"method={m}") for m in ("acdc", "learned")]
    jobs = [prepare(one) for one in asked]
    assert "hours" not in pipeline.estimate(asked[0], jobs[0], 0.1)
    monkeypatch.setattr(pipeline, "LARGE", 100)
    assert "it may be hours: method=learned" in pipeline.estimate(asked[0], jobs[0], 0.1)
    assert "hours" not in pipeline.estimate(asked[1], jobs[1], 0.1)


def test_who_learns_of_few_prompts_is_told_that_more_would_do_better():
    few = [settings("tracking=disabled", "task.n=4", f"method={m}") for m in ("acdc", "learned")]
    said = [pipeline.estimate(one, prepare(one), 0.1) for one in few]
    assert "at each of the" not in said[0]
    assert "learned looks at each of the 4 about 300 times" in said[1]
    many = settings("tracking=disabled", "task.n=4", "method=learned", "method.steps=3")
    assert "at each of the" not in pipeline.estimate(many, prepare(many), 0.1)
