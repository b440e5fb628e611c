"""The proxy model: its algebra, its runs, and a circuit that variables explain wholly or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import two_variables as toy

from acdc.metrics import LOGIT_DIFF
from discovery.explanation.proxy import part as proxy
from discovery.explanation.section import Section
from discovery.explanation.variables.alignment import Site
from discovery.explanation.variables.intervene import Runs, place
from discovery.settings.explanation import Proxy


@pytest.fixture(scope="module")
def planted():
    return toy.subject(32, chunk=20)


def told(basis):
    f = {"place": "a0.h0", "mark": "end", "basis": basis.T.tolist()}
    return {"variables": Section("", "", (), found={"variables": {"v": f}})}


@pytest.mark.parametrize("columns", [5, 60])
def test_ridge_is_the_penalised_least_squares(columns):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, columns)), rng.standard_normal(40)
    fit = proxy.ridge(x, y, 3.0)
    centred = x - x.mean(0)
    big = np.vstack([centred, np.sqrt(3.0) * np.eye(columns)])
    want = np.linalg.lstsq(big, np.concatenate([y - y.mean(), np.zeros(columns)]), rcond=None)[0]
    np.testing.assert_allclose(fit.weights, want, atol=1e-9)
    np.testing.assert_allclose(fit(x).mean(), y.mean())


def test_columns_by_hand():
    features = {"a": (0, 1, 0), "b": (7, 8, 9)}
    levels = proxy.levels_of(features, 2)
    assert levels == {"a": [0, 1], "b": []}
    x = proxy.raw(features, np.array([0, 1, 2]), np.array([1, 1, 0]), levels)
    assert x.tolist() == [[0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]]
    assert proxy.crossed(x[:, :3]).tolist()[1] == [1] * 6
    assert proxy.crossed(x[:, :3]).tolist()[0] == [0, 1, 0, 0, 0, 0]


def test_sources_are_others_and_each_as_often():
    found = proxy.sources_of(7, 3, np.random.default_rng(0))
    assert found.shape == (3, 7)
    assert (found != np.arange(7)).all()
    assert (np.sort(found, axis=1) == np.arange(7)).all()
    assert all(len(set(column)) == 3 for column in found.T.tolist())


def test_variance_between_equals_by_hand():
    x = np.array([[0.0], [0.0], [1.0], [1.0], [2.0]])
    y = np.array([1.0, 3.0, 10.0, 14.0, 99.0])
    assert proxy.between_equals(x, y) == pytest.approx(((1 + 1 + 4 + 4) / 2) / y.var(ddof=1))
    assert proxy.between_equals(np.arange(5.0)[:, None], y) is None
    assert proxy.between_equals(x, np.ones(5)) is None


def test_a_prompt_is_in_one_fold():
    base = np.tile(np.arange(12), 3)
    fold = proxy.folds(base, np.random.default_rng(0))
    assert (fold.reshape(3, 12) == fold[:12]).all() and set(fold) == {0, 1, 2, 3, 4}


def test_the_outside_carries_the_sources(planted):
    """One prompt at a time: the empty circuit is the source's own run, seen from the base."""
    bench, n = planted.test, 32
    sources = proxy.sources_of(n, 2, np.random.default_rng(0))
    empty = proxy.outside(bench, planted.graph.legal & False, sources)
    logits = torch.cat(bench.data.each(lambda f: f.clean.logits))
    for base, source, score in zip(empty.base, empty.source, empty.score, strict=True):
        one = bench.data.prompts.take([int(base)])
        own = LOGIT_DIFF.bind(one, logits[[source]]).of_logits(logits[[source]])
        assert score == pytest.approx(float(own[0]), abs=1e-9)
    whole = proxy.outside(bench, planted.graph.legal, sources)
    np.testing.assert_allclose(whole.score, np.tile(bench.model.score, 2), atol=1e-9)


def test_swaps_by_hand(planted):
    """The planted v of another prompt takes 4 from the difference, or nothing."""
    bench = planted.test
    sources = proxy.sources_of(32, 2, np.random.default_rng(0))
    site = Site(place(planted.graph, "a0.h0"), "end", toy.rotation()[:, [0]])
    found = proxy.swapped(bench, Runs.of(bench), site, sources)
    v = np.array(bench.data.prompts.features["v"])
    np.testing.assert_allclose(found.score, np.where(v[found.base] == v[found.source], 4, 0),
                               atol=1e-9)  # fmt: skip


def test_variables_explain_their_own_interchange_and_not_the_noises(planted):
    bench, turn = planted.test, toy.rotation()
    sources = proxy.sources_of(bench.n, 4, np.random.default_rng(0))

    def of(basis):
        site = Site(place(planted.graph, "a0.h0"), "end", basis)
        runs = proxy.swapped(bench, Runs.of(bench), site, sources)
        return proxy.unexplained(bench, runs, 8, np.random.default_rng(0), 0.05)

    own = of(turn[:, [0]])
    assert own.share.estimate < 1e-3 and own.least == pytest.approx(0, abs=1e-9)
    mixed = of((turn[:, [0]] + turn[:, [4]]) / np.sqrt(2))  # v and noise, which has no variable
    assert mixed.share.low > 0.3 and mixed.least > 0.3


def test_the_penalty_is_the_one_of_the_least_error_on_other_prompts():
    rng = np.random.default_rng(1)
    x, base = rng.standard_normal((60, 12)), np.arange(60)
    line, noise = x @ rng.standard_normal(12), rng.standard_normal(60)
    for y, penalty in ((line, proxy.PENALTIES[0]), (noise, proxy.PENALTIES[-1])):
        found = proxy.fitted(x, y, base, np.random.default_rng(0))
        np.testing.assert_allclose(found.weights, proxy.ridge(x, y, penalty).weights, atol=1e-12)
    same = proxy.fitted(0 * x, noise, base, np.random.default_rng(0))  # all penalties are equal
    assert not same.weights.any()


def test_a_prompts_runs_are_predicted_by_others_and_a_constant_changes_nothing(planted):
    bench = planted.test
    sources = proxy.sources_of(bench.n, 2, np.random.default_rng(0))
    base, rng = np.tile(np.arange(bench.n), 2), np.random.default_rng(1)
    runs = proxy.Observed(base, sources.ravel(), rng.standard_normal(len(base)))

    def of(score):
        runs_ = replace(runs, score=score)
        return proxy.unexplained(bench, runs_, 8, np.random.default_rng(0), 0.05)

    first, shifted = of(runs.score), of(runs.score + 1000)
    assert shifted.share.estimate == pytest.approx(first.share.estimate, rel=1e-6)
    assert first.share.estimate > 0.9  # there is nothing to predict
    assert first.share.n == bench.n  # prompts are drawn, not runs
    here = proxy.folds(base, np.random.default_rng(0)) == 2
    other = of(np.where(here, -5 * runs.score, runs.score))
    np.testing.assert_allclose(other.told[here], first.told[here], atol=1e-12)
    assert abs(other.told - first.told)[~here].max() > 1e-6


def test_the_section_and_what_cannot_be_asked(planted):
    asked = Proxy(sources=2)
    assert proxy.check(planted, asked) is None
    many = toy.subject(16, prompts=lambda n, seed: replace(
        toy.prompts(n, seed), features={"answer": tuple(a[0] for a in toy.prompts(n, seed).answers)}
    ))  # fmt: skip
    assert proxy.check(many, Proxy(levels=2)) == (
        "every variable has one value, or more than proxy.levels=2"
    )
    section = proxy.explain(planted, asked, told(toy.rotation()[:, [0]]))
    assert list(section.found) == ["outside", "v"]
    assert section.found["v"]["unexplained"] < 0.05
    assert "not defined" in section.says[0]  # the whole model: nothing varies
    assert proxy.explain(planted, asked, told(toy.rotation()[:, [0]])) == section
