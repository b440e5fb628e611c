"""The search for roles: on a computation whose roles are known, and on the published network."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.experiments.bracket_network import load_brackets, tokenize
from discovery.experiments.bracket_problem import bracket_problem
from discovery.experiments.brackets_graph import prepare
from discovery.experiments.feature_search import Problem, noising, search
from discovery.scrubbing.computation import Computation, Node

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CIRCUIT_DISCOVERY_DATA", ROOT.parent / "shared" / "data")) / "parens"
BITS = np.array(list(np.ndindex(2, 2, 2)) * 50)  # x0, x1, x2


def losses(z, labels):
    return np.logaddexp(0, np.where(labels == 1, -z, z))


def known(terms: dict[str, np.ndarray], combine=lambda *values: sum(values), **given) -> Problem:
    """A logit made of `terms` [datum] for the label "x0 and x1"."""
    nodes = {
        name: Node(("input",), lambda rows, v=values: v[rows]) for name, values in terms.items()
    }
    nodes["z"] = Node(tuple(terms), combine)
    labels = BITS[:, 0] & BITS[:, 1]
    z = combine(*terms.values())
    baseline = np.where(labels, losses(z, 1 + 0 * labels).mean(), losses(z, 0 * labels).mean())
    features = {"x0": BITS[:, 0], "x1": BITS[:, 1], "x2": BITS[:, 2], "label": labels}
    fields = {
        "parts": tuple(terms), "features": features, "labels": labels, "baseline": baseline,
        "measure": lambda z, rows: losses(z, labels[rows]),
    }  # fmt: skip
    return Problem(Computation(nodes, "z", len(BITS)), **fields | given)


def two_terms(**given) -> Problem:
    """Part a carries x0 and b, half as much, x1; c carries nothing that the label depends on."""
    x0, x1, x2 = BITS.T
    return known({"c": 0.01 * x2, "b": 4.0 * x1 - 3, "a": 8.0 * x0 - 6}, **given)


def test_search_finds_the_roles_that_are_there():
    found = search(two_terms(), np.arange(400), seed=0)
    assert found.roles == {"a": "x0", "b": "x1"}
    assert found.refused is not None and found.refused.part == "c"
    assert found.refused.gain.low <= 0
    assert found.steps[-1].recovered.value == pytest.approx(1, abs=1e-3)


def test_the_label_is_no_role():
    problem = two_terms()
    assert problem.trivial == ("label",)
    assert problem.candidates == ("x0", "x1", "x2")


def test_gains_add_up_to_what_is_recovered():
    steps = search(two_terms(), np.arange(400), seed=1).steps
    total = sum(step.gain.value for step in steps)
    assert total == pytest.approx(steps[-1].recovered.value, abs=1e-9)


def test_null_family_is_all_other_roles_of_the_parts_found():
    found = search(two_terms(), np.arange(400), seed=0)
    assert len(found.null_scores) == 3**2 - 1
    assert found.null is not None and found.null.rank == 1
    assert found.null.p == pytest.approx(1 / 9)


def test_same_seed_same_search():
    first, second = (search(two_terms(), np.arange(400), seed=3) for _ in range(2))
    assert first.steps == second.steps
    assert (first.null_scores == second.null_scores).all()


def test_nothing_found_where_nothing_is_carried():
    noise = np.random.default_rng(0).normal(size=400)
    labels = BITS[:, 0] & BITS[:, 1]
    z = 6.0 * labels - 3  # the only part that tells is not among those searched
    problem = known({"noise": 0.01 * noise, "rest": z}, parts=("noise",))
    found = search(problem, np.arange(400), seed=0)
    assert found.steps == () and found.null is None
    assert found.refused is not None and found.refused.part == "noise"


def test_parts_that_only_tell_together_are_missed_both_ways():
    x0, x1, _ = BITS.T
    z = 8.0 * (x0 & x1) - 4

    def either(a, b, c):
        """The middle one: two that agree decide."""
        return np.sort(np.stack([a, b, c]), axis=0)[1]

    problem = known({"a": z, "b": z, "c": z}, either)
    by_part = {one.part: one for one in noising(problem, np.arange(400), seed=0)}
    assert [by_part[part].random.value for part in "abc"] == pytest.approx([1, 1, 1], abs=1e-9)
    assert search(problem, np.arange(400), seed=0).roles == {}
    together = problem.denoised({"a": "label", "b": "label"}, np.arange(400), (0,))
    assert problem.score(together, np.arange(400), (0,)).value == pytest.approx(1, abs=1e-9)


def test_noising_asks_one_part_at_a_time():
    by_part = {one.part: one for one in noising(two_terms(), np.arange(400), seed=0)}
    assert by_part["a"].features["x0"] == pytest.approx(1, abs=1e-9)
    assert by_part["a"].random.value < by_part["b"].random.value < by_part["c"].random.value
    assert by_part["c"].random.value == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"parts": ("a", "d")}, "'d'"),
        ({"parts": ()}, "at least 1 part"),
        ({"features": {"label": BITS[:, 0] & BITS[:, 1]}}, "not the label"),
        ({"baseline": np.zeros(3)}, "baseline"),
        ({"features": {"x0": BITS[:9, 0]}}, "x0"),
    ],
)
def test_a_wrong_problem_is_refused_before_anything_runs(given, word):
    with pytest.raises(InputError, match=word):
        two_terms(**given)


def test_too_few_references_are_refused():
    with pytest.raises(InputError, match="references"):
        search(two_terms(), np.arange(3), seed=0)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the published network in {DATA}")
@pytest.mark.slow
def test_search_finds_claim_1_on_the_published_network():
    strings = gzip.decompress((DATA / "strings.txt.gz").read_bytes()).decode().split()[:3000]
    data = prepare(load_brackets(DATA / "weights.safetensors"), tokenize(strings))
    problem = bracket_problem(data)
    found = search(problem, np.arange(3000), seed=0, limit=3)
    assert list(found.roles.items()) == [
        ("2.1", "horizon"), ("2.0", "count_start"), ("1.0", "count_start"),
    ]  # fmt: skip
    assert found.steps[-1].recovered.value == pytest.approx(0.933, abs=0.025)
    assert found.trivial == ("balanced",)
    by_part = {one.part: one for one in noising(problem, np.arange(1000), seed=0)}
    assert by_part["1.0"].random.value > 0.98 and by_part["2.0"].random.value > 0.97
