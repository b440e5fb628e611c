"""Methods on truth sets: the table by hand, the command, and what is refused."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from acdc.circuit import Circuit
from acdc.circuit_files import tensors
from acdc.errors import InputError
from acdc.graph import Graph
from discovery.methods.greedy import ACDC
from discovery.methods.method import Method
from discovery.methods.scores import EAPIG, Random, Scoring
from discovery.truth import bench
from discovery.truth.compiled import cases as compiled_cases
from discovery.truth.constructed import cases


@cache
def case_of(name, ablation="resample", seed=0):
    return next(c for c in cases(seed) if (c.name, c.ablation) == (name, ablation))


class Knows(Scoring):
    """The truth as scores, or its opposite, with noise of rounding's size."""

    sign: float = 1.0

    def scores(self, data, metric, seed):
        true = case_of("and").edges
        noise = np.random.default_rng(0).normal(size=true.shape)
        return np.where(true == (self.sign > 0), 1.0, 1e-15 * noise) * data.graph.legal


def test_the_truth_itself_agrees_and_its_opposite_does_not():
    right, wrong = (bench.judged("x", case_of("and"), Knows(sign=s), 0) for s in (1.0, -1.0))
    assert (right.edges.auroc, right.edges.precision, right.nodes.auroc) == (1, 1, 1)
    assert wrong.edges.auroc == wrong.edges.precision == 0
    assert right.n_true == 5 and right.n_edges == case_of("and").graph.n_edges


def test_rounding_ranks_nothing():
    case = case_of("and")
    scores = np.where(case.edges, 0.0, 1e-17) * case.graph.legal
    scores[0, 0] = 1.0
    edges, _ = bench.agreements(bench.Answer(scores), case)
    false = int(case.graph.legal.sum() - case.edges.sum())
    one_above = 0.5 * (1 - 1 / false)  # (0, 0) to (1/false, 0), then straight to (1, 1)
    assert not case.edges[0, 0] and edges.auroc == pytest.approx(one_above)


def test_exact_search_finds_what_a_chain_of_needs_is_made_of():
    for name in ("induction", "and", "mover", "lookup"):
        found = bench.judged("constructed", case_of(name), ACDC(), 0)
        assert found.edges == found.nodes == bench.Agreement(1.0, 1.0, 1.0)


def test_exact_search_finds_one_branch_of_an_or():
    """Of five edges two are the other branch's: a greedy search cuts it, and nothing changes."""
    case = case_of("or")
    found = bench.judged("constructed", case, ACDC(), 0)
    assert found.edges.pessimistic == pytest.approx(3 / 5)
    assert found.edges.auroc == pytest.approx((3 / 5 + 1) / 2)
    assert bench.judged("constructed", case, EAPIG(n_edges=1), 0).edges.auroc == 1


def test_what_only_overshoots_is_found_and_a_model_of_true_nodes_has_no_node_roc():
    """Less what is closed: without it the balance is too high, which a signed search would take."""
    compiled = {(c.name, c.ablation): c for c in compiled_cases(0)}
    found = bench.judged("compiled", compiled["balance", "zero"], ACDC(), 0)
    assert found.edges.auroc == 1
    one = bench.judged("compiled", compiled["count", "zero"], ACDC(), 0)
    assert one.nodes is None and one.edges is not None and not one.why_not
    (row,) = bench.rows([one], 0)
    assert row["node AUROC"] is None and row["edge AUROC"] is not None


def test_a_threshold_of_ones_own_is_one_circuit():
    assert len(bench.answer(ACDC(threshold=0.1), case_of("or"), 0).circuits) == 1


def test_what_does_not_work_is_told_and_not_counted():
    found = [bench.judged("constructed", case_of("or", "zero"), m, 0) for m in
             (EAPIG(n_edges=1), Random(n_edges=1), Method(name="mine"))]  # fmt: skip
    assert [one.edges is None for one in found] == [True, False, True]
    assert "zero input" in found[0].why_not and "neither scores" in found[2].why_not
    table = bench.rows(found, 0)
    assert [row["cases"] for row in table] == [0, 1, 0] and table[0]["edge AUROC"] is None
    assert len(bench.refused(found)) == 2


def test_medians_are_over_circuits_and_draws():
    one = bench.judged("constructed", case_of("and"), Random(n_edges=1), 0)
    aurocs = {"a": (0.2, 0.4), "b": (0.6, 0.6, 0.9)}
    found = [
        replace(one, case=name, edges=replace(one.edges, auroc=value))
        for name, values in aurocs.items()
        for value in values
    ]
    (row,) = bench.rows(found, 0)
    assert row["edge AUROC"].startswith("0.600 [") and row["cases"] == 5
    assert [r["random"] for r in bench.by_circuit(found)] == ["0.300", "0.600"]


def test_no_truth_under_these_ablations():
    with pytest.raises(InputError, match="ablations=.*noise.*or under zero"):
        bench.every_case(["constructed"], ["noise"], 1)
    with pytest.raises(InputError, match="circuits=.*nor.*lookup under mean"):
        bench.every_case(["constructed"], ["zero"], 1, ["nor"])
    (one,), missing = bench.every_case(["constructed"], ["zero"], 1, ["or"])
    assert one[2].name == "or" and not missing


def test_a_set_that_is_not_here_is_skipped_with_a_sentence(monkeypatch):
    def away(*_):
        raise InputError("model.name='gpt2': not here")

    monkeypatch.setattr("discovery.models.choices.HFModel.load", away)
    found, (sentence,) = bench.every_case(["published", "constructed"], ["zero"], 1, ["or"])
    assert [case.name for _, _, case in found] == ["or"]
    assert sentence.startswith("sets=published needs GPT-2 small")
    with pytest.raises(InputError, match="sets=published needs GPT-2 small"):
        bench.every_case(["published"], ["zero"], 1)


def test_the_command(here, tmp_path):
    words = [
        'methods=[acdc,"eap_ig method.steps=3",random]',
        "sets=[constructed]",
        "ablations=[resample]",
        "seeds=1",
    ]
    code, out, err = here("truth.py", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "truth.json").read_text())
    rows = {row["method"]: row for row in found["table"]}
    assert rows["acdc"]["edge AUROC"].startswith("1.000")
    assert list(rows) == ["acdc", "eap_ig", "random"] and "| or | 0.800 | 1.000 |" in out
    assert len(found["cases"]) == 15 and len(found["why"]) == len(found["circuits"]) == 5
    assert (tmp_path / "run" / "truth.png").stat().st_size > 1000


def test_files_from_elsewhere_are_methods(here, tmp_path):
    """Of a folder each circuit has its own: the truth as scores, and four of five true edges."""
    mine, other = tmp_path / "mine", Graph(1, 1, 1, 8)
    mine.mkdir()
    true, less = case_of("or"), case_of("and")
    scores = Circuit(
        true.graph,
        np.zeros_like(true.edges),
        np.cumsum(true.edges).reshape(true.edges.shape) * true.edges * 1.0,
    )
    (mine / "or.json").write_text(json.dumps(scores.to_json()))
    mask = less.edges.copy()
    mask[tuple(np.argwhere(mask)[0])] = False
    (mine / "and.pt").write_bytes(tensors(Circuit(less.graph, mask).to_json()))
    ranks = np.where(other.legal, np.arange(other.legal.size).reshape(other.legal.shape), 0.0)
    alien = Circuit(other, np.zeros_like(other.legal), ranks)
    (tmp_path / "alien.json").write_text(json.dumps(alien.to_json()))
    code, out, err = here(
        "truth.py", "methods=[]", f"files=[{mine},{tmp_path / 'alien.json'}]", "sets=[constructed]",
        "ablations=[resample]", "seeds=1", "circuits=[or,and,lookup]",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "truth.json").read_text())["cases"]
    edges = {(one["case"], one["method"]): one["edges"] for one in found}
    assert edges["or", "mine"]["auroc"] == edges["or", "mine"]["precision"] == 1
    by_chance = 1 / (less.graph.n_edges - 4)  # the fifth place goes to any of the others
    wanted = {"auroc": 0.9, "pessimistic": 0.8, "precision": (4 + by_chance) / 5}
    assert edges["and", "mine"] == pytest.approx(wanted)
    assert ("lookup", "mine") not in edges and edges["lookup", "alien.json"] is None
    assert "not tried  alien.json (resample): " in out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("sets=[nowhere]", ["sets", "'nowhere'", "constructed"]),
        ("ablations=[nose]", ["ablation", "'nose'", "resample"]),
        ("methods=[]", ["methods"]),
        ("methods=[nonesuch]", ["nonesuch", "eap_ig"]),
        ("seeds=0", ["seeds=0", "greater"]),
        ("files=[nowhere]", ["files=", "nowhere", "neither a file nor a folder"]),
    ],
)
def test_bad_input_is_one_sentence(word, says, here, tmp_path):
    code, _, err = here("truth.py", word, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 2 and err.count("\n") == 1 and all(s in err for s in says), err
