"""Laws of the engine: draws, paths, batches, tables, and what it refuses."""

import numpy as np
import pytest
import torch
from test_integer_graphs import add, field, graph, grid, top

from acdc.errors import InputError
from discovery.scrubbing.computation import Computation, Node
from discovery.scrubbing.engine import scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Agree, Exact, Fixed, Unconditioned, class_ids

x0, x1 = grid(2)
ALL = np.arange(100)


def run(computation, hypothesis, seed=0, **options):
    return scrub(computation, hypothesis, ALL, np.random.default_rng(seed), **options)


def diamond():
    """C = m * 100 + s, where m reads s too: s has a direct path and one through m."""
    nodes = {
        "s": field(x0),
        "t": field(x1),
        "m": Node(("s", "t"), lambda s, t: s * 10 + t),
        "C": Node(("m", "s"), lambda m, s: m * 100 + s),
    }
    return Computation(nodes, "C", 100)


def digits(output):
    """s through m, t through m, s direct."""
    return output // 1000, output // 100 % 10, output % 10


def test_paths_are_told_apart():
    direct = digits(run(diamond(), top(Claim("s", Exact())), draws=5).output)
    assert (direct[2] == x0[:, None]).all() and (direct[0] != x0[:, None]).any()
    through = digits(run(diamond(), top(Claim("s", Exact(), path=("m",))), draws=5).output)
    assert (through[0] == x0[:, None]).all() and (through[2] != x0[:, None]).any()
    every = digits(run(diamond(), top(Claim("s", Exact(), path=(...,))), draws=5).output)
    assert (every[0] == x0[:, None]).all() and (every[2] == x0[:, None]).all()
    assert (every[1] != x1[:, None]).any()
    around = run(diamond(), top(Claim("s", Exact(), path=(...,), avoid=("m",))), draws=5).output
    assert np.array_equal(around, run(diamond(), top(Claim("s", Exact())), draws=5).output)


def test_one_claim_on_all_paths_is_one_draw():
    s_in_m, _, s = digits(run(diamond(), top(Claim("s", Unconditioned(), path=(...,)))).output)
    assert np.array_equal(s_in_m, s)
    two = top(Claim("s", Unconditioned()), Claim("s", Unconditioned(), path=("m",), name="s in m"))
    s_in_m, _, s = digits(run(diamond(), two).output)
    assert (s_in_m != s).mean() == pytest.approx(0.9, abs=0.1)


def test_what_is_beside_a_path_comes_from_the_datum_of_the_others():
    done = run(diamond(), top(Claim("s", Exact(), path=("m",))))
    _, t, s = digits(done.output[:, 0])
    others = done.others["C"][0, :, 0]
    assert np.array_equal(t, x1[others]) and np.array_equal(s, x0[others])


def test_together_is_one_draw_and_apart_is_not():
    made = graph(lambda A, B: A - B, A=x0, B=x0)
    both = [Unconditioned("one"), Unconditioned("one")]
    claims = [Claim(n, s) for n, s in zip("AB", both, strict=True)]
    assert (run(made, top(*claims)).output == 0).all()
    mixed = top(Claim("A", Unconditioned("one")), others=Unconditioned("one"))
    assert (run(made, mixed).output == 0).all()
    apart = top(Claim("A", Unconditioned()), Claim("B", Unconditioned()))
    assert (run(made, apart).output != 0).any()


def test_fixed_is_one_example():
    made = graph(add, A=x0, B=100 * x1)
    claims = top(Claim("A", Exact()), Claim("B", Fixed(37)))
    assert np.array_equal(run(made, claims).output[:, 0], x0 + 700)


def test_draws_depend_on_the_seed_alone():
    made = graph(add, A=2 * x0, B=3 * x1)
    claims = top(Claim("A", Agree(x0 % 3)))
    one, again, small = (run(made, claims, draws=3, batch=b) for b in (1000, 1000, 7))
    for other in (again, small):
        assert np.array_equal(one.output, other.output)
        assert np.array_equal(one.data["C/A"], other.data["C/A"])
    assert not np.array_equal(one.output, run(made, claims, seed=1, draws=3).output)


def test_draws_agree_uniformly_with_the_reference_included():
    made, parity = graph(lambda A: A, A=x0 * 10 + x1), x0 % 2
    done = run(made, top(Claim("A", Agree(parity))), draws=2000)
    drawn = done.data["C/A"]
    assert (parity[drawn] == parity[:, None]).all()
    counts = np.bincount(drawn.ravel(), minlength=100)
    assert counts.min() > 0.9 * 2000 and counts.max() < 1.1 * 2000
    assert (drawn == ALL[:, None]).mean() == pytest.approx(1 / 50, abs=0.002)


def test_vector_features_are_compared_by_row():
    rows = np.stack([x0 % 2, x1 % 5], 1)
    assert np.array_equal(class_ids(rows), x0 % 2 * 5 + x1 % 5)
    assert np.array_equal(class_ids(torch.tensor(rows)), x0 % 2 * 5 + x1 % 5)


def test_class_sizes_are_reported():
    made = graph(add, A=x0, B=x1)
    single = np.where(ALL < 3, ALL, 99)
    done = run(made, top(Claim("A", Agree(single)), Claim("B", Agree(x1))), draws=2)
    assert done.classes["C/A"].smallest == 1 and done.classes["C/A"].alone == 6
    assert done.classes["C/B"].smallest == 10 and done.classes["C/B"].alone == 0
    assert done.classes["C/B"].mean == 10 and "C" not in done.classes
    assert done.smallest_class == 1 and done.alone == 6


def test_tables_and_torch_give_the_same():
    made = diamond()
    claims = top(Claim("t", Agree(x1 % 2), path=("m",)), Claim("s", Agree(x0 % 2)))
    expected = run(made, claims, draws=2).output
    assert np.array_equal(
        run(made.tabulated(["s", "m"], batch=30), claims, draws=2).output, expected
    )
    nodes = {**made.nodes, "s": field(torch.tensor(x0)), "t": field(torch.tensor(x1))}
    torched = Computation(nodes, "C", 100)
    assert np.array_equal(run(torched, claims, draws=2).output, expected)
    assert np.array_equal(run(torched.tabulated("s"), claims, draws=2).output, expected)


def test_measure_sees_the_references():
    made, claims = graph(add, A=x0, B=x1), top(Claim("A", Agree(x0)))
    whole = run(made, claims, draws=3)
    less = run(made, claims, draws=3, batch=11, measure=lambda out, rows: out - x0[rows])
    assert np.array_equal(less.output, whole.output - x0[:, None])


def test_among_restricts_what_is_drawn():
    made, low = graph(lambda A: A, A=x0), x0 < 5
    done = run(made, top(Claim("A", Agree(x0 % 5, among=low))), draws=9)
    assert np.array_equal(done.output, np.repeat(x0 % 5, 9).reshape(100, 9))


TWICE = (Claim("A", Exact()), Claim("A", Exact(), name="again"))
BELOW = (Claim("m", Exact()), Claim("t", Exact(), path=("m",)))


@pytest.mark.parametrize(
    "hypothesis, words",
    [
        (Claim("A", Exact()), ["claim A", "root", "'C'"]),
        (Claim("C", Exact(), path=("A",)), ["claim C", "no path"]),
        (top(Claim("Z", Exact())), ["C/Z", "no node 'Z'"]),
        (top(Claim("A", Exact(), path=("Y",))), ["C/A", "no node 'Y'"]),
        (top(Claim("A", Exact(), path=("B",))), ["C/A", "'B' - 'A'", "leads up from 'C'"]),
        (top(Claim("input", Exact())), ["C/input", "leads up"]),
        (top(Claim("A", Exact(), (Claim("B", Exact()),))), ["C/A/B", "leads up from 'A'"]),
        (top(Claim("A", Exact()), Claim("A", Exact())), ["C/A", "twice"]),
        (top(*TWICE), ["C/again", "claimed by C/A already"]),
        (
            top(Claim("A", Exact()), Claim("input", Exact(), path=("A",))),
            ["C/input", "'A' is claimed by C/A already"],
        ),
        (top(Claim("A", Exact(), avoid=("A",), path=(...,))), ["C/A", "avoid"]),
        (
            top(Claim("A", Exact(), (Claim("input", Exact(), (Claim("A", Exact()),)),))),
            ["C/A/input", "nothing lies above"],
        ),
        (top(Claim("A", Agree(x0[:7]))), ["C/A", "feature has 7 rows", "100"]),
        (top(Claim("A", Agree(np.where(x0 == 1, np.nan, x0)))), ["C/A", "NaN"]),
        (top(Claim("A", Agree(np.zeros((100, 2, 2))))), ["C/A", "(100, 2, 2)"]),
        (top(Claim("A", Agree(x0, among=x0 > 0))), ["C/A", "row 0"]),
        (top(Claim("A", Exact()), others=Fixed(100)), ["claim C", "row=100"]),
    ],
)
def test_hypotheses_that_do_not_fit_are_refused_before_anything_runs(hypothesis, words):
    def fail(*values):
        raise AssertionError("ran")

    nodes = {"A": Node(("input",), fail), "B": Node(("input",), fail), "C": Node(("A", "B"), fail)}
    with pytest.raises(InputError) as error:
        run(Computation(nodes, "C", 100), hypothesis)
    assert all(word in str(error.value) for word in words), error.value


def test_a_path_through_a_claimed_node_is_claimed_already():
    for claims in (BELOW, (Claim("m", Exact()), Claim("s", Exact(), path=(...,)))):
        with pytest.raises(InputError, match="'m' is claimed by C/m already"):
            run(diamond(), top(*claims))
    run(diamond(), top(Claim("m", Exact()), Claim("s", Exact(), path=(...,), avoid=("m",))))


@pytest.mark.parametrize(
    "nodes, output, words",
    [
        ({"A": Node(("A",), abs)}, "A", ["circle"]),
        ({"A": Node(("B",), abs), "B": Node(("A",), abs)}, "A", ["circle"]),
        ({"A": Node(("Z",), abs)}, "A", ["'A'", "no parent 'Z'"]),
        ({"A": Node((), abs)}, "A", ["'A'", "parents"]),
        ({"A": Node(("input",), abs)}, "B", ["'B'"]),
        ({"input": Node(("input",), abs)}, "input", ["'input'"]),
    ],
)
def test_graphs_that_are_none_are_refused(nodes, output, words):
    with pytest.raises(InputError) as error:
        Computation(nodes, output, 3)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"references": np.array([100])}, ["references", "0..99"]),
        ({"references": np.array([], int)}, ["references"]),
        ({"references": np.array([0.5])}, ["references"]),
        ({"draws": 0}, ["draws=0"]),
        ({"batch": 0}, ["batch=0"]),
    ],
)
def test_bad_arguments(change, words):
    given = {"references": ALL, "draws": 1, "batch": 5, **change}
    made = graph(add, A=x0, B=x1)
    with pytest.raises(InputError) as error:
        scrub(made, top(), generator=np.random.default_rng(0), **given)
    assert all(word in str(error.value) for word in words)


def test_a_node_that_loses_the_batch_is_named():
    with pytest.raises(InputError, match="node 'C'.*first axis"):
        run(graph(lambda A: A.sum(), A=x0), top())
