"""What every test must say of circuits whose answer is known: all, nearly all, none, by chance."""

import numpy as np
import pytest
import torch
from test_settings import settings
from test_validate import validation

from acdc.circuit import Circuit
from discovery.choices.fields import checked
from discovery.job.build import make_ablation, task_prompts
from discovery.job.prepare import load
from discovery.settings.evaluation import FullEvaluation
from discovery.statistics.random_circuits import random_mask
from discovery.validation.budget import Budget
from discovery.validation.held_out import held_out
from discovery.validation.validate import Validator
from discovery.validation.verdicts import headline, left_out, verdicts

pytestmark = pytest.mark.unchecked
SILENT = lambda text: None  # noqa: E731


class Lean(Validator):
    """Without minimality, which does not count and takes most of the time."""

    def _minimality(self, mask, complete, cost, budget):
        return None


class Tried:
    """The embedded model's circuits, validated on the same prompts."""

    def __init__(self, **changes):
        paired = ("metric=kl", "ablation=resample", "method.threshold=0.05", "tune=0", "test=0")
        self.run = settings("tracking=disabled", "task.n=16", *paired)
        self.asked = checked(FullEvaluation, validation() | changes)
        self.loaded = load(self.run)
        self.used = task_prompts(self.run.task, self.loaded, self.run.seed)
        self.prompts = held_out(self.run, self.loaded, [self.used], 80, 1)
        self.graph = self.loaded.model.graph(self.run.graph.kv)

    def validator(self, n_edges, kind=Validator):
        ablation = make_ablation(self.run.ablation, self.run.task, self.loaded, 0)
        graph, most = self.loaded.model.graph(), max(1, n_edges)
        return kind.on(self.asked, self.run, self.loaded, graph, self.prompts, ablation, most)

    def validate(self, mask, search_seconds=0.0, kind=Validator):
        circuit = Circuit(self.graph, mask)
        found = self.validator(circuit.n_edges, kind).validate(
            self.run, circuit, self.used, {}, search_seconds, SILENT
        )
        return found | {"settings": self.asked.model_dump()}

    def counted(self, mask):
        return [v for v in verdicts(self.validate(mask, kind=Lean)) if v.counted]


@pytest.fixture(scope="module")
def tried():
    return Tried()


def less_a_negligible_edge(tried):
    """The whole model less the edge that changes its score least, though it does change it."""
    bench = tried.validator(1).bench
    cuts = []
    with torch.inference_mode():
        for writer, reader in np.argwhere(tried.graph.legal)[::7].tolist():
            mask = tried.graph.legal.copy()
            mask[writer, reader] = False
            change = np.abs(bench.circuit(mask).score - bench.circuit(tried.graph.legal).score)
            if change.max() > 1e-4:
                cuts.append((float(change.mean()), mask))
    least, mask = min(cuts, key=lambda cut: cut[0])
    assert 0 < least < 0.1  # of 15 logits
    return mask


@pytest.mark.parametrize("which", ["whole", pytest.param("less an edge", marks=pytest.mark.slow)])
def test_the_model_passes_all_that_counts(tried, which):
    mask = tried.graph.legal if which == "whole" else less_a_negligible_edge(tried)
    found = tried.counted(mask)
    assert [v.name for v in found if v.holds is not True] == []
    assert len(found) == 10 and "non-equivalence" not in [v.name for v in found]


@pytest.mark.parametrize("size, seed", [
    (10, 0), *(pytest.param(*own, marks=pytest.mark.slow) for own in ((60, 1), (120, 2))),
])  # fmt: skip
def test_a_random_circuit_fails(tried, size, seed):
    """What compares it with the model refutes it; others of its kind may be beaten by chance."""
    mask = random_mask(tried.graph, size, np.random.default_rng(seed))
    found = {v.name: v.holds for v in tried.counted(mask)}
    assert found["equivalence"] is False and found["mean equivalence"] is False
    assert found["completeness"] is not True
    assert sum(holds is True for holds in found.values()) <= 4, found  # of 10


@pytest.mark.slow
def test_no_circuit_at_all_fails(tried):
    found = {v.name: v.holds for v in tried.counted(tried.graph.legal & False)}
    assert [found[n] for n in ("equivalence", "mean equivalence", "independence")] == [False] * 3
    assert not any(found.values())


@pytest.mark.slow
def test_without_a_margin_tiny_differences_are_wins_and_losses(tried):
    """That is what the margin is for: they need not be even."""
    mask = less_a_negligible_edge(tried)
    ties = []
    for one in (tried, Tried(margin=1e-9, budget=1e-4)):
        tests = {t["name"]: t for t in one.validate(mask)["tests"]}
        ties.append(tests["equivalence"]["extra"]["ties"])
    assert ties[0] == 80 and ties[1] < 20


@pytest.mark.slow
def test_one_zero_in_every_sentence(tried):
    mask = random_mask(tried.graph, 10, np.random.default_rng(0))
    found = tried.validate(mask)
    carried = found["cut_edges_carry"]
    for verdict in verdicts(found):
        if verdict.counted and not verdict.name.startswith("resampled"):
            assert carried in verdict.question
    for row in (*found["scrubbing"], *found["faithfulness"]["cells"]):
        assert {"kl_share", "error_share", "correlation", "accuracy"} <= row.keys()
    own = [c for c in found["faithfulness"]["cells"] if c["ablation"] == "resample"]
    assert all(
        c in found["faithfulness"]["cells"][: len(own)] for c in own
    )  # the own question first
    assert len({c["empty"] for c in found["faithfulness"]["cells"]}) == 1
    assert carried in headline(found, verdicts(found))


@pytest.mark.slow
def test_the_budget_leaves_parts_out_and_changes_none(tried):
    mask = random_mask(tried.graph, 10, np.random.default_rng(0))
    everything, little = tried.validate(mask, 1e9), Tried(budget=1e-4).validate(mask)
    assert [one["part"] for one in everything["left_out"]] == ["stability"]
    assert everything["stability"] is None and "budget=" in left_out(everything)[0]
    parts = [one["part"] for one in little["left_out"]]
    assert {"sufficiency", "completeness", "minimality", "resampling per edge"} <= set(parts)
    assert little["completeness"] is little["minimality"] is None
    assert len(left_out(little)) == len(parts)
    tests = {t["name"]: t for t in everything["tests"]}
    assert 0 < len(little["tests"]) < len(tests)
    assert all(tests[t["name"]] == t for t in little["tests"])
    assert len(verdicts(little)) == len(little["tests"])


@pytest.mark.parametrize(
    "asked",
    [pytest.param("iterative", marks=pytest.mark.slow), "learned method.steps=3 method.start=eap"],
)
def test_what_gradients_found_is_found_again(asked):
    """Nothing else in a validation needs them, so they are off in it."""
    method, *more = asked.split()
    words = (f"method={method}", "method.n_edges=20", *more, "ablation=resample", "task.n=4")
    run = settings("tracking=disabled", *words, "metric=logit_diff", "tune=0", "test=0")
    few = Tried(stability={"resamples": 6, "searches": 6})
    mask = random_mask(few.graph, 10, np.random.default_rng(0))
    with torch.inference_mode():
        found = few.validator(10)._stability(
            run, Circuit(few.graph, mask), few.used, 1.0, Budget(1e9, SILENT)
        )
    assert found is not None and found.resamples == 6 and max(found.sizes) <= 20
