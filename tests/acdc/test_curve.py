"""Faithfulness curves: MIB's areas by hand, both ends of every curve, what is recorded."""

import dataclasses
import json

import families
import numpy as np
import pytest
from test_parity import parity_model, parity_prompts

from acdc.attribution import eap_ig, random_scores
from acdc.curve import SHARES, areas, faithfulness_curves
from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import METRICS
from acdc.prompts import Prompts
from acdc.selection import greedy, top_n


@pytest.fixture(scope="module")
def case():
    model = parity_model()
    data, metric = Data(model, model.graph(), parity_prompts()), METRICS["logit_diff"]
    return data, metric, eap_ig(data, metric, 5)


@pytest.mark.parametrize(
    "faithfulness, cpr, cmd",
    [
        ([0.0] * 9 + [1.0], 0.25, 0.749),  # MIB's "Random" row
        ([1.0] * 10, 0.999, 0.0),
        ([0.0] * 10, 0.0, 0.999),
        ([2.0] * 10, 1.998, 0.999),
        (list(SHARES), (1 - 1e-6) / 2, 0.999 - (1 - 1e-6) / 2),
    ],
)
def test_areas_by_hand(faithfulness, cpr, cmd):
    assert areas(SHARES, faithfulness) == (pytest.approx(cpr), pytest.approx(cmd))


def test_a_run_of_ones_own_takes_the_place_of_the_patched_one(case):
    data, metric, scores = case
    asked = []

    def run(forward, mask):
        asked.append(int(mask.sum()))
        return forward.clean.logits if mask.any() else forward.corrupt.logits

    found = faithfulness_curves(data, metric, scores, run=run)
    for curve in (found.signed, found.absolute):
        assert sum(point.n_edges > 0 for point in curve.points) >= 5
        for point in curve.points:
            assert point.faithfulness == pytest.approx(float(point.n_edges > 0))
    assert len(asked) == 1 + 2 * len(SHARES) and asked[0] == 0


def test_points_are_the_circuits_of_the_scores(case):
    data, metric, scores = case
    for rule, pick in (("top_n", top_n), ("greedy", greedy)):
        found = faithfulness_curves(data, metric, scores, rule)
        assert found.model == pytest.approx(2.794410, abs=5e-7)
        assert found.empty == pytest.approx(-1.838989, abs=5e-7)
        for curve in (found.signed, found.absolute):
            assert [p.share for p in curve.points] == list(SHARES)
            assert [p.requested for p in curve.points] == [0, 0, 0, 1, 2, 5, 11, 22, 55, 110]
            for point in curve.points:
                circuit = pick(data.graph, scores, point.requested, curve.ranking).circuit
                value = data.circuits(metric, [circuit.mask]).mean()
                assert point.n_edges == circuit.n_edges and point.metric == pytest.approx(value)
                share = (value + 1.838989) / (2.794410 + 1.838989)
                assert point.faithfulness == pytest.approx(share, abs=1e-6)
            f = [p.faithfulness for p in curve.points]
            assert f[0] == 0 and f[-1] == pytest.approx(1)
            assert (curve.cpr, curve.cmd) == areas(SHARES, f)
        assert (found.cpr, found.cmd) == (found.signed.cpr, found.absolute.cmd)
        assert (found.signed.ranking, found.absolute.ranking) == ("signed", "absolute")
        assert found.signed.points != found.absolute.points
    by_rule = [faithfulness_curves(data, metric, scores, r).signed for r in ("top_n", "greedy")]
    assert by_rule[0] != by_rule[1]


def test_the_known_points(case):
    point = faithfulness_curves(*case).absolute.points[7]
    assert (point.share, point.requested, point.n_edges) == (0.2, 22, 20)
    assert point.metric == pytest.approx(1.859443, abs=5e-7)


def test_kl_runs_from_empty_to_model_too(case):
    data, _, scores = case
    found = faithfulness_curves(data, METRICS["kl"], scores)
    assert found.empty == pytest.approx(1.379090, abs=5e-7) and found.model == pytest.approx(0)
    assert 0 < found.signed.points[7].faithfulness < 1


def test_better_scores_beat_noise(case):
    data, metric, scores = case
    noise = [faithfulness_curves(data, metric, random_scores(data.graph, s)) for s in range(5)]
    ours = faithfulness_curves(data, metric, scores)
    assert all(ours.cpr > n.cpr and ours.cmd < n.cmd for n in noise)


def test_json_holds_everything(case):
    found = faithfulness_curves(*case, shares=(0.1, 0.5))
    data = json.loads(json.dumps(found.to_json()))
    assert data["cpr"] == found.cpr and data["cmd"] == found.cmd and data["unit"] == "logits"
    assert data["signed"]["points"][1] == dataclasses.asdict(found.signed.points[1])
    assert data["absolute"]["ranking"] == "absolute" and data["rule"] == "top_n"
    assert (data["metric"], data["model"], data["empty"]) == (
        "logit_diff", found.model, found.empty
    )  # fmt: skip


def test_one_share_has_a_point_and_no_area(case):
    for share in (0.001, 0.3, 1.0):
        found = faithfulness_curves(*case, shares=(share,))
        assert (found.cpr, found.cmd, len(found.signed.points)) == (0, 0, 1)


@pytest.mark.parametrize("shares", [(), (0.0, 1.0), (0.5, 0.2), (0.2, 0.2), (0.5, 1.5)])
def test_shares_must_increase_within_the_graph(case, shares):
    with pytest.raises(InputError, match="shares"):
        faithfulness_curves(*case, shares=shares)


def test_a_metric_that_tells_nothing_apart_is_refused():
    model, p = families.view("gpt2"), families.prompts()
    same = Prompts(p.clean, p.clean, p.answers, p.wrong, 5)
    data, metric = Data(model, model.graph(), same), METRICS["logit_diff"]
    with pytest.raises(InputError, match="alike"):
        faithfulness_curves(data, metric, np.zeros(data.graph.legal.shape))
