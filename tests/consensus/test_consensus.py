"""Circuits on halves, a second circuit, and the command, on the embedded model."""

import json

import families
import numpy as np
import pytest
from test_settings import AS_PUBLISHED, settings

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.metrics import METRICS
from acdc.share import Share
from discovery.choices.fields import checked
from discovery.consensus.circuits import circuits
from discovery.consensus.core import core, halves
from discovery.consensus.runs import consensus, says
from discovery.consensus.second import beside
from discovery.consensus.settings import ConsensusSettings
from discovery.job.pipeline import discover
from discovery.methods import last
from discovery.methods.greedy import ACDC
from discovery.methods.scores import EAP, Random

view = families.view
ASKED = {
    "pairs": 4, "times": [1], "orders": True, "q": 0.2, "second": True, "margin": 0.05, "seed": 0,
    "device": None,
    "threads": None,
}  # fmt: skip


def setup(n=8):
    model = view("llama")
    data = Data(model, model.graph("per_group"), families.prompts(n, length=4), part=2)
    return data, METRICS["logit_diff"]


def test_means_of_prompts_and_full_runs_agree():
    """The fast way, scores once a prompt, and the slow one: the method on each half."""
    data, metric = setup()
    rows, method = halves(8, 3, np.random.default_rng(0)), EAP(n_edges=20)
    quick = list(circuits(method, data, metric, rows, [0] * 6))
    for mask, chosen in zip(quick, rows, strict=True):
        slow = last(method.find(data.take(chosen), metric, 0)).mask
        assert (mask == slow).all() and 0 < mask.sum() <= 20
    assert len({m.tobytes() for m in quick}) > 1


def test_several_sizes_join():
    data, metric = setup()
    rows, search = [[0, 1, 2, 3]], ACDC(threshold=0.02)
    (joined,) = circuits(search, data, metric, rows, [5], (0.5, 2.0))
    each = [last(ACDC(threshold=t).find(data.take(rows[0]), metric, 5)).mask for t in (0.04, 0.01)]
    assert (joined == (each[0] | each[1])).all() and (each[0] != each[1]).any()


@pytest.mark.slow
def test_orders_are_drawn_by_the_seeds():
    data, metric = setup()
    search = ACDC(threshold=0.05, sender_heads="random")
    found = list(circuits(search, data, metric, [[0, 1, 2, 3]] * 6, range(6)))
    assert len({m.tobytes() for m in found}) > 1
    again = list(circuits(search, data, metric, [[0, 1, 2, 3]] * 6, range(6)))
    assert all((a == b).all() for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("method", [EAP(n_edges=10), ACDC(threshold=0.1)])
def test_a_second_circuit_shares_no_edge(method, tmp_path):
    """Beside one edge nearly all is left; beside everything nothing is."""
    data, metric = setup()
    first = np.zeros_like(data.graph.legal)
    first[0, 0] = True  # input into the first query
    found = beside(method, data, metric, 0, first, data, tmp_path, 0.1)
    assert found.first == pytest.approx(Share(data, metric).of(first))
    assert found.mask is not None and not (found.mask & first).any()
    assert found.share == pytest.approx(Share(data, metric).of(found.mask))
    assert found.share >= found.first - 0.1
    none = beside(method, data, metric, 0, data.graph.legal, data, tmp_path, 0.1)
    assert none.mask is None and none.first == pytest.approx(1) and none.others == pytest.approx(0)


def test_scores_that_a_run_has_are_not_made_again(tmp_path, monkeypatch):
    words = [*AS_PUBLISHED, "method=eap", "metric=logit_diff", "method.n_edges=12"]
    words += ["task.n=8", "tune=8", "test=8"]
    discover(settings(*words), tmp_path / "run", [], print)
    asked, made = {**ASKED, "margin": 0.99}, []
    whole = consensus(tmp_path / "run", checked(ConsensusSettings, asked), lambda text: None)
    monkeypatch.setattr("discovery.consensus.runs._ranks", lambda folder: False)
    scores = EAP.scores

    def counted(self, data, metric, seed):
        made.append(len(data))
        return scores(self, data, metric, seed)

    monkeypatch.setattr(EAP, "scores", counted)
    again = consensus(tmp_path / "run", checked(ConsensusSettings, asked), lambda text: None)
    assert made == [*[1] * 8, 8] and again["second"] == whole["second"]  # once more, for nothing
    assert whole["second"]["n_edges"] is not None


def test_sizes_are_multiplied():
    assert EAP(n_edges=10).times(1.5).n_edges == 15
    assert ACDC(threshold=0.1).times(2.0).threshold == 0.05
    assert ACDC(budget=0.1).times(0.5).budget == 0.2
    assert ACDC(threshold=0.1).times(1.0) == ACDC(threshold=0.1)
    with pytest.raises(InputError, match="give threshold or budget"):
        ACDC().times(2.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found") / "run"
    words = [*AS_PUBLISHED, "method.threshold=0.05", "task.n=16", "tune=16", "test=16"]
    discover(settings(*words), folder, [], print)
    return folder


def test_a_run_and_its_consensus(run):
    found = consensus(run, checked(ConsensusSettings, ASKED), lambda text: None)
    written = json.loads((run / "consensus" / "consensus.json").read_text())
    assert written == json.loads(json.dumps(found)) and (run / "consensus/circuit.png").exists()
    kept = Circuit.load(run / "consensus" / "circuit.json")
    assert kept.edges and set(kept.edges) == {e["edge"] for e in found["edges"] if e["core"]}
    assert found["n_core"] == kept.n_edges and found["n_circuits"] == 8 == len(found["sizes"])
    by_name = {e["edge"]: e for e in found["edges"]}
    masks = np.array([[i < 8 * e["frequency"] for e in by_name.values()] for i in range(8)])
    assert masks.sum() == sum(found["sizes"])  # every inclusion is written down
    assert all(e["low"] <= e["frequency"] <= e["high"] for e in by_name.values())
    own = Circuit.load(run / "circuit.json").edges
    assert {e for e, about in by_name.items() if about["in_circuit"]} == set(own)
    assert found["second"]["others"] < 0.5 < found["second"]["first"]
    lines = " ".join(says(found))
    assert "no second circuit" in lines and "core:" in lines and "Jaccard" in lines
    again = consensus(run, checked(ConsensusSettings, ASKED), lambda text: None)
    assert again == found


def test_no_core_is_said(run):
    found = consensus(run, checked(ConsensusSettings, {**ASKED, "q": 0.001}), lambda text: None)
    assert found["n_core"] == 0 and any("core: none" in line for line in says(found))
    assert core(np.zeros((2, 3), bool), 0.5).size == 0


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("pairs", 2, "pairs=2"),
        ("q", 0, "q=0"),
        ("q", 1, "q=1"),
        ("times", [], "times"),
        ("times", [0], "times"),
        ("margin", 1.0, "margin=1.0"),
        ("nothing", 1, "nothing"),
    ],
)
def test_what_cannot_be_asked(field, value, words):
    with pytest.raises(InputError, match=words):
        checked(ConsensusSettings, {**ASKED, field: value})


def test_runs_that_cannot_agree(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        consensus(tmp_path / "none", checked(ConsensusSettings, ASKED), print)
    folder = tmp_path / "run"
    discover(settings(*AS_PUBLISHED, "method=random", "method.n_edges=9"), folder, [], print)
    assert not Random(n_edges=9).asks_prompts
    with pytest.raises(InputError, match="does not look at prompts"):
        consensus(folder, checked(ConsensusSettings, ASKED), print)
