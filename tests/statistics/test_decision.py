"""The three shares by hand, and how often their words are wrong where the truth is known."""

import numpy as np
import pytest

from discovery.statistics.decision import BORDERS, alone, needed, outside, word
from discovery.statistics.intervals import Interval

RNG = np.random.default_rng


def found(low, high):
    return Interval((low + high) / 2, float(low), float(high), 0.95, 10, "")


def test_the_shares_by_hand():
    model, empty = np.array([4.0, 2.0]), np.array([0.0, 0.0])
    assert alone(np.array([3.0, 2.0]), model, empty, RNG(0)).estimate == pytest.approx(5 / 6)
    # errors of opposite sign: the mean is right, the share is not 1
    assert alone(np.array([5.0, 1.0]), model, empty, RNG(0)).estimate == pytest.approx(4 / 6)
    assert outside(np.array([-1.0, 0.5]), model, empty, RNG(0)).estimate == pytest.approx(0.25)
    changes = np.array([[1.0, 0.0], [0.02, 0.02], [0.0, 0.0]])  # 1 % of the effect, 3, is .03
    own = needed(changes, np.abs(model - empty), RNG(0))
    # twice the first prompt: one of three (1 >= .04); twice the second: another (.02 >= .02)
    assert own.estimate == own.low == own.high == pytest.approx(1 / 3)


def test_model_and_empty_circuit_are_the_ends():
    rng = RNG(1)
    model, empty = rng.normal(3, 1, 50), rng.normal(0, 1, 50)
    for own, share in ((model, 1.0), (empty, 0.0)):
        exact = alone(own, model, empty, RNG(0))
        assert (exact.estimate, exact.low, exact.high) == (share, share, share)
        assert outside(own, model, empty, RNG(0)).estimate == share
    nothing = alone(model, model, model, RNG(0))
    assert nothing.low is None and word("alone", nothing) == "not decided"
    same = needed(np.ones((2, 50)), np.zeros(50), RNG(0))
    assert same.estimate is None and "changes nothing" in same.undefined


def test_a_word_needs_the_whole_interval():
    assert [word("alone", found(*ends)) for ends in (
        (0.9, 1.0), (0.95, 1.3), (0.5, 0.89), (-2.0, 0.4), (0.4, 0.6), (0.89, 0.95), (0.1, 0.99)
    )] == ["yes", "yes", "partly", "no", "not decided", "not decided", "not decided"]  # fmt: skip
    assert [word("outside", found(*ends)) for ends in ((0, 0.09), (0.1, 0.4), (0.5, 2))] == [
        "no", "partly", "yes",
    ]  # fmt: skip


@pytest.mark.parametrize("question", ["alone", "outside"])
@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.quick("0-alone", "1-outside")
def test_on_a_border_a_word_is_wrong_as_rarely_as_the_level_says(question, border):
    """100 tasks of 100 prompts whose true share is a border's; either word beside it is an error
    of one tail, 2.5 %, of which BCa's own error makes some more."""
    rng, said, share = RNG(border), [], BORDERS[question][border]
    for _ in range(100):
        model, empty = rng.normal(3, 1, 100), rng.normal(0, 0.5, 100)
        whole = np.abs(model - empty)
        part = rng.beta(2, 2, 100) * 2 * (1 - share if question == "alone" else share)
        if question == "alone":
            own = alone(model + part * whole * rng.choice([-1, 1], 100), model, empty, rng)
        else:
            own = outside(empty + part * whole, model, empty, rng)
        said.append(word(question, own))
    beside = {0: ("no", "partly"), 1: ("partly", "yes")}[border]
    for one in beside:
        assert said.count(one) <= 7  # binomial(100, .025): 1 % have more
    assert set(said) <= {*beside, "not decided"} and said.count("not decided") >= 88


@pytest.mark.parametrize("share, expected", [(0.97, "yes"), (0.7, "partly"), (0.2, "no")])
def test_between_the_borders_the_word_is_said(share, expected):
    rng, said = RNG(5), []
    for _ in range(50):
        model, empty = rng.normal(3, 1, 100), rng.normal(0, 0.5, 100)
        error = rng.uniform(0, 2, 100) * (1 - share) * np.abs(model - empty)
        said.append(word("alone", alone(model - error, model, empty, rng)))
    assert said.count(expected) >= 49


def test_most_edges_that_matter_on_every_prompt_are_told_from_those_that_never_do():
    rng = RNG(2)
    changes = np.concatenate([rng.uniform(0.5, 1, (19, 40)), np.zeros((1, 40))])
    own = needed(changes, np.ones(40), rng)
    assert own.estimate == own.low == own.high == pytest.approx(0.95)
    assert word("needed", own) == "yes"
    none = needed(np.zeros((5, 40)), np.ones(40), rng)
    assert word("needed", none) == "no"
