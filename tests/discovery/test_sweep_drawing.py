"""A sweep's figures: axes that fit the values, intervals within what can be."""

import math

import numpy as np
import pytest
from test_sweep_points import member

from discovery.sweeps.drawing import POSSIBLE, draw_front, draw_overlap, near_one, reach
from discovery.sweeps.drawing import _missing as missing
from discovery.sweeps.drawing import _present as present
from discovery.sweeps.points import Mean, points


def test_an_interval_ends_where_no_value_can_lie():
    wide = Mean(0.25, -0.75, 1.25)
    bounds = [POSSIBLE["kl"], POSSIBLE["prob_diff"], (-math.inf, math.inf)]
    found = [np.array(reach(wide, one)).ravel().tolist() for one in bounds]
    assert found == [[0.25, 1.0], [1.0, 0.75], [1.0, 1.0]]
    assert reach(Mean(0.5, None, None), POSSIBLE["kl"]) is None


@pytest.mark.parametrize("shares, near", [
    ([0.5, 0.99], True), ([0.8, 0.9], False), ([-0.5, 0.99], False), ([0.9, 1.02], False),
    ([0.5, 1.0], False), ([], False),
])  # fmt: skip
def test_shares_are_spread_by_what_is_missing_where_that_spans_a_decade(shares, near):
    assert near_one(shares) is near


def test_the_axis_of_shares_and_back():
    shares = np.array([0.0, 0.5, 0.9, 0.99, 0.999])
    assert missing(shares)[[0, 2, 3, 4]].tolist() == pytest.approx([0, 1, 2, 3])
    assert present(missing(shares)) == pytest.approx(shares)


def test_both_figures_are_drawn_whatever_the_values(tmp_path):
    spread = [member(f"{n}_x", n, f, size=1 / n) for n, f in ((10, 0.5), (100, 0.95), (900, 0.998))]
    flat = [member("0_x", 0, None), member("9_x", 9, 1.1, size=0.2)]
    sizes = set()
    for number, runs in enumerate((spread, flat)):
        folder = tmp_path / str(number)
        folder.mkdir()
        sizes.add(draw_front(folder, points(runs), "a sweep").stat().st_size)
        assert (folder / "pareto.svg").stat().st_size > 5000
    assert len(sizes) == 2
    values = np.array([[1.0, np.nan], [np.nan, 1.0]])
    assert draw_overlap(tmp_path, ["a", "b"], values).stat().st_size > 2000
