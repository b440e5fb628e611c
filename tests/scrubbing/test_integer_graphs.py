"""Graphs of two or three integer nodes whose scrubbed loss is known on paper.

Inputs are independent, uniform on 0..9; the data are the full grid. E|U - V| of two such integers
is 3.3, E U is 4.5, and of two with equal parity E|U - V| is 3.2.
"""

import numpy as np
import pytest

from discovery.scrubbing.computation import Computation, Node
from discovery.scrubbing.engine import scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Agree, Exact, Unconditioned

DRAWS = 400


def grid(fields):
    """Columns x0, x1, ... of all combinations of 0..9."""
    return np.indices((10,) * fields).reshape(fields, -1)


def field(column):
    return Node(("input",), lambda rows: column[rows])


def graph(output, **nodes):
    """C = output of the other nodes, in their order; each a column of the data or a Node."""
    made = {k: v if isinstance(v, Node) else field(v) for k, v in nodes.items()}
    reads = output.__code__.co_varnames[: output.__code__.co_argcount]
    made["C"] = Node(reads, output)
    size = next(len(v) for v in nodes.values() if not isinstance(v, Node))
    return Computation(made, "C", size)


def top(*children, sampler=None, **options):
    return Claim("C", sampler or Exact(), children, **options)


def losses(computation, hypothesis, label, draws=DRAWS, seed=0):
    """|output - label| [reference, draw], each datum a reference."""
    references = np.arange(computation.size)
    done = scrub(computation, hypothesis, references, np.random.default_rng(seed), draws)
    return np.abs(done.output - label[:, None])


def assert_mean(found, expected):
    """Within five standard errors over the draws, which must be a sharp statement."""
    error = found.std() / np.sqrt(found.size)
    assert error < 0.004 * max(expected, 1)
    assert found.mean() == pytest.approx(expected, abs=5 * error)


x0, x1 = grid(2)


def add(A, B):
    return A + B


@pytest.mark.parametrize("by_label", [False, True])
def test_1_true_hypothesis_is_exact(by_label):
    label = 2 * x0 + 3 * x1
    made = graph(add, A=2 * x0, B=3 * x1)
    root = Agree(label) if by_label else Exact()
    claims = top(Claim("A", Agree(x0)), Claim("B", Agree(x1)), sampler=root)
    assert (losses(made, claims, label) == 0).all()


def test_2_explicit_inputs():
    made = graph(add, A=x0, B=x1)
    inputs = [Claim(n, Agree(x), (Claim("input", Agree(x)),)) for n, x in (("A", x0), ("B", x1))]
    assert (losses(made, top(*inputs), x0 + x1) == 0).all()


def test_3_a_feature_leaks_along_the_residual_path():
    nodes = {"A": Node(("u", "v"), lambda u, v: u + v), "u": x0, "v": x1}
    made = graph(lambda A, v: A + v, **nodes)
    claims = top(Claim("u", Agree(x0), path=("A",)), Claim("v", Agree(x1)))
    assert (losses(made, top(), x0 + 2 * x1, draws=1) == 0).all()
    assert_mean(losses(made, claims, x0 + 2 * x1), 3.3)


def test_4_an_unclaimed_part_matters():
    made = graph(add, A=2 * x0, B=3 * x0)
    assert_mean(losses(made, top(Claim("A", Agree(x0))), 5 * x0), 9.9)


@pytest.mark.parametrize("weight, expected", [(1, 4.5), (0.001, 0.0045)])
def test_5_6_a_part_carries_more_than_claimed(weight, expected):
    made = graph(add, A=2 * x0 + weight * x1, B=3 * x1)
    found = losses(made, top(Claim("A", Agree(x0)), Claim("B", Agree(x1))), 2 * x0 + 3 * x1)
    assert_mean(found / weight, expected / weight)


def test_7_cancelling_terms():
    u, v, w = grid(3)
    made = graph(add, A=u + w, B=v - w)
    claims = top(Claim("A", Agree(u)), Claim("B", Agree(v)))
    assert (losses(made, top(), u + v, draws=1) == 0).all()
    assert_mean(losses(made, claims, u + v, draws=100), 3.3)


def test_8_swapped_features():
    a, b, label = 2 * x0 + x1, x0 + 2 * x1, 3 * x0 + 3 * x1
    made = graph(add, A=a, B=b)
    pairs = [np.abs(a[b == b[i]][:, None] + b[a == a[i]] - label[i]).mean() for i in range(len(x0))]
    assert np.mean(pairs) == pytest.approx(4.6, abs=0.05)
    found = losses(made, top(Claim("A", Agree(b)), Claim("B", Agree(a))), label, draws=2000)
    assert_mean(found, np.mean(pairs))


def test_9_correlated_paths_are_drawn_independently():
    made = graph(add, A=x0, B=2 * x0)
    assert_mean(losses(made, top(Claim("A", Agree(x0))), 3 * x0), 6.6)


def test_10_others_random_or_exact():
    made, label = graph(add, A=2 * x0, B=3 * x1), 2 * x0 + 3 * x1
    claim = Claim("A", Agree(x0))
    assert_mean(losses(made, top(claim), label), 9.9)
    assert (losses(made, top(claim, others=Exact()), label) == 0).all()


def test_11_unclaimed_parts_share_their_datum():
    made = graph(lambda y, A, B: y + A - B, A=x0, B=x0, y=x1)
    assert (losses(made, top(Claim("y", Agree(x1))), x1) == 0).all()
    assert_mean(losses(made, top(Claim("y", Agree(x1)), per_parent=True), x1), 3.3)


def test_12_the_same_feature_twice_is_two_draws():
    even = Agree(x0 % 2)
    made = graph(lambda A, B: A - B, A=x0, B=x0)
    assert_mean(losses(made, top(Claim("A", even), Claim("B", even)), 0 * x0), 3.2)
    nodes = {"A": x0, "B": x0, "both": Node(("A", "B"), lambda a, b: np.stack([a, b], 1))}
    merged = graph(lambda both: both[:, 0] - both[:, 1], **nodes)
    assert (losses(merged, top(Claim("both", even)), 0 * x0) == 0).all()


def test_13_the_chain_of_references():
    made = graph(lambda A: A, A=x0)
    claims = top(Claim("A", Agree(x0 % 2), (Claim("input", Agree(x0)),)))
    assert_mean(losses(made, claims, x0), 3.2)


def test_exact_everywhere_is_the_model_bit_for_bit():
    a, b = np.sin(x0 + 0.1 * x1), np.cos(x0 * x1)
    made = graph(add, A=a, B=b)
    claims = top(Claim("A", Exact()), others=Exact())
    assert np.array_equal(losses(made, claims, 0 * x0), np.abs(a + b)[:, None].repeat(DRAWS, 1))


def test_unconditioned_root_is_the_baseline():
    made = graph(add, A=x0, B=0 * x0)
    assert_mean(losses(made, top(sampler=Unconditioned()), x0), 3.3)


def test_merging_unclaimed_parts_changes_no_draw():
    split = graph(lambda y, A, B: y + A * B, A=x0, B=x1, y=x1)
    product = Node(("input",), lambda rows: x0[rows] * x1[rows])
    merged = graph(lambda y, AB: y + AB, y=x1, AB=product)
    claim = top(Claim("y", Agree(x1)))
    assert np.array_equal(losses(split, claim, x0), losses(merged, claim, x0))
