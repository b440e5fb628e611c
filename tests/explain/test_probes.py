"""Probes: planted variables are found where they are, noise is not, and chance is exact."""

from dataclasses import replace

import families
import numpy as np
import planted
import pytest
import torch
from scipy import stats

from acdc.data import floats
from acdc.model import Attention, Block, Model, Norm
from acdc.prompts import Prompts
from discovery.explanation.probes import part as probes
from discovery.explanation.probes import probing
from discovery.settings.explanation import Probes

NONE, F64 = Norm("none"), torch.float64
VOCAB = 12
FEW = Probes(nodes=4, layers=2, permutations=199)


def orders(n, draws=199, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(n) for _ in range(draws)])


def classes(fit, test):
    every = np.arange(len(fit)), np.arange(len(test))
    return probing.Split("class", *every, np.array(fit), np.array(test))


# ---- variables -----------------------------------------------------------------------------------


def read(fit, test=None, tokens=None, least=4):
    tokens = np.zeros((len(fit), 3), int) - 1 if tokens is None else np.array(tokens)
    test = fit if test is None else test
    return probing.read_variable(fit, test, tokens, lambda ids: np.eye(50)[ids], least)


def test_classes_tokens_and_numbers_are_told_apart():
    assert read([0, 1] * 8).kind == "class"
    many = list(range(16))
    assert read(many).kind == "number"
    assert read(many, tokens=[[7, 7, v] for v in many]).kind == "token"


def test_rare_classes_are_left_out_and_said_to_be_rare():
    split = read([0] * 9 + [1] * 9 + [2])
    assert split.kind == "class" and split.fit_rows.tolist() == list(range(18))
    assert sorted(set(split.fit.tolist())) == [0, 1]
    assert read([3] * 8) == "it has one value"
    assert read([0, 0, 1, 1, 2, 2]) == "its classes have fewer than 4 prompts"


def test_a_position_that_all_prompts_share_is_told_apart_by_the_wording_before():
    tokens = np.array([[1, 5, 9], [2, 5, 9], [1, 6, 9], [2, 6, 9]])
    at = np.array([2, 2, 2, 2])
    assert len(set(probing.identities(tokens, at, 2))) == 2
    assert probing.identities(tokens, at, 2)[0] == probing.identities(tokens, at, 2)[1]
    assert len(set(probing.identities(tokens, at, 4))) == 4
    assert len(set(probing.identities(tokens, np.array([0, 0, 0, 0]), 9))) == 2  # all there are


def test_control_labels_are_fixed_for_each_token_and_of_the_variables_values():
    rng = np.random.default_rng(0)
    ids = [bytes([i % 7]) for i in range(60)]
    split = classes(rng.integers(0, 2, 60), rng.integers(0, 2, 60))
    other = probing.control(split, ids, ids[::-1], rng)
    for values, kinds in ((other.fit, ids), (other.test, ids[::-1])):
        assert len({(k, v) for k, v in zip(kinds, values.tolist(), strict=True)}) == 7
    assert set(other.fit.tolist()) == {0, 1}
    assert probing.control(split, [b"x"] * 60, [b"x"] * 60, rng) is None


# ---- the probe -----------------------------------------------------------------------------------


def test_inputs_are_standardised_by_what_is_fitted_on_and_never_wider_than_half_of_it():
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(5, 3, (20, 4)), rng.normal(5, 3, (9, 4))
    x[:, 1] = 7.0  # constant where it is fitted on
    a, b = probing.inputs(x, x_test)
    assert a.shape == (20, 3) and b.shape == (9, 3)
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(a.std(0), 1)
    np.testing.assert_allclose(b[:, 0], (x_test[:, 0] - x[:, 0].mean()) / x[:, 0].std())
    assert probing.inputs(rng.normal(size=(20, 64)), x_test @ np.ones((4, 64)))[0].shape[1] == 10
    assert probing.inputs(np.ones((20, 4)), x_test)[0].any() == False  # noqa: E712


def test_a_class_in_one_direction_is_read_and_its_control_is_not():
    rng = np.random.default_rng(1)
    y, y_test = (np.arange(60) % 3 for _ in range(2))
    x, x_test = (rng.normal(size=(60, 40)) + 4 * np.eye(40)[v] for v in (y, y_test))
    found = probing.probe(x, x_test, classes(y, y_test), orders(60))
    assert found.score > 0.9 and found.p == 1 / 200 and found.chosen > 0.8
    random = probing.probe(x, x_test, classes(rng.permutation(y), y_test), orders(60))
    assert random.score < 0.6 and random.p > 0.01


def test_what_is_picked_by_is_the_cross_validated_accuracy():
    """As scikit-learn's own cross-validation has it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    rng = np.random.default_rng(5)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 8)) + np.eye(8)[y]
    found = probing.probe(x, x, classes(y, y), orders(60, 1), penalty=0.1)
    by_itself = cross_val_score(
        LogisticRegression(C=0.1, max_iter=300, tol=1e-3), probing.inputs(x, x)[0], y,
        cv=StratifiedKFold(probing.FOLDS),
    )  # fmt: skip
    assert found.chosen == pytest.approx(by_itself.mean()) and found.penalty == 0.1
    free = probing.probe(x, x, classes(y, y), orders(60, 1))
    assert free.chosen >= found.chosen and free.penalty in probing.PENALTIES


@pytest.mark.parametrize("kind", ["class", "number"])
def test_p_is_the_share_of_permutations_that_do_as_well(kind):
    """Against a loop that measures every order anew."""
    rng = np.random.default_rng(2)
    x, x_test = rng.normal(size=(40, 5)), rng.normal(size=(30, 5))
    y, y_test = x[:, 0] + rng.normal(size=40) * 3, x_test[:, 0] + rng.normal(size=30) * 3
    if kind == "class":
        split = classes((y > 0).astype(int), (y_test > 0).astype(int))
    else:
        split = probing.Split(kind, np.arange(40), np.arange(30), y[:, None], y_test[:, None])
    some = orders(30, 59)
    found = probing.probe(x, x_test, split, some)
    better = 1
    for order in some:
        other = replace(split, test=split.test[order])
        better += probing.probe(x, x_test, other, some[:0], found.penalty).score >= found.score
    assert found.p == better / 60 and 1 / 60 < found.p < 0.9


def test_r2_by_hand_and_worse_than_the_mean_is_below_zero():
    rng = np.random.default_rng(3)
    x, x_test = rng.normal(size=(50, 2)), rng.normal(size=(40, 2))
    y, y_test = x @ [[2.0], [0.5]], x_test @ [[2.0], [0.5]]
    every = np.arange(50), np.arange(40)
    found = probing.probe(x, x_test, probing.Split("number", *every, y, y_test), orders(40))
    assert 0.99 < found.score < 1 and found.p == 1 / 200
    shifted = probing.Split("number", *every, y, -y_test)
    assert probing.probe(x, x_test, shifted, orders(40)).score < 0


@pytest.mark.slow
def test_noise_is_found_no_more_often_than_the_level():
    """25 variables of pure noise, 5 places each: false discoveries in few of them."""
    rng, any_found = np.random.default_rng(4), 0
    for _ in range(25):
        split = classes(rng.permutation(np.arange(24) % 2), rng.permutation(np.arange(24) % 2))
        p = [
            probing.probe(
                rng.normal(size=(24, 3)), rng.normal(size=(24, 3)), split, orders(24), 0.1
            ).p
            for _ in range(5)
        ]
        any_found += (stats.false_discovery_control(p) <= 0.05).any()
    assert any_found <= 4  # of 25 at 5 %: more has probability 0.7 %


# ---- a model of which the only head that writes the variable is known ----------------------------


def one_head_tells() -> Model:
    """Two heads that look everywhere alike; the first moves dimension 0, the second dimension 1.

    Token 0 or 1 at position 0 is the variable (dimension 0 is -1 or 1); all others have dimension
    0 at 0 and noise in dimension 1. What the first head writes goes to dimension 2, the second's to
    dimension 3.
    """
    embedding = torch.zeros(VOCAB, 4, dtype=F64)
    embedding[:2, 0] = torch.tensor([-1.0, 1.0])
    embedding[2:, 1] = torch.linspace(-1, 1, VOCAB - 2, dtype=F64)
    value = torch.zeros(2, 4, 1, dtype=F64)
    value[0, 0, 0] = value[1, 1, 0] = 1.0
    out = torch.zeros(2, 1, 4, dtype=F64)
    out[0, 0, 2] = out[1, 0, 3] = 1.0
    zero = torch.zeros(2, 4, 1, dtype=F64)
    attention = Attention(
        W_Q=zero, W_K=zero, W_V=value, W_O=out, b_Q=None, b_K=None, b_V=None, b_O=None,
        q_norm=NONE, k_norm=NONE, scale=1.0,
    )  # fmt: skip
    return Model(
        name="one", n_heads=2, n_kv_heads=2, parallel=False, n_ctx=8, embed_scale=1.0,
        W_E=embedding, W_pos=None,
        blocks=(Block(NONE, attention, None, None),), ln_final=NONE,
        W_U=torch.eye(4, VOCAB, dtype=F64), b_U=None,
    )  # fmt: skip


def coin_prompts(seed, n=40):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, VOCAB, (n, 5))
    tokens[:, 0] = rng.permutation(np.arange(n) % 2)
    clean = torch.tensor(tokens)
    return Prompts(
        clean, clean.flip(0), ((2,),) * n, ((3,),) * n, 4, marks={"coin": (0,) * n},
        features={
            "coin": tuple(tokens[:, 0].tolist()),
            "noise": tuple(rng.permutation(np.arange(n) % 2).tolist()),
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def told():
    model = one_head_tells()
    subject = planted.subject(model, coin_prompts(0), coin_prompts(1), model.graph().legal)
    assert probes.check(subject, FEW) is None
    return subject, probes.explain(subject, FEW, {})


def test_the_variable_is_read_at_the_head_that_writes_it_and_nowhere_else(told):
    section = told[1]
    coin = {(r["place"], r["position"]): r for r in section.found["probes"]
            if r["variable"] == "coin"}  # fmt: skip
    assert coin["a0.h0", "answer"]["score"] == 1.0
    assert coin["layer 0", "answer"]["score"] == 1.0 == coin["embedding", "coin"]["score"]
    for place in (("a0.h1", "answer"), ("embedding", "answer"), ("a0.h1", "coin")):
        assert coin[place]["p_bh"] > 0.05
    said = " ".join(section.says)
    assert "coin is read best from a0.h0 at answer: accuracy 100%" in said
    assert "answer from layer 0 on" in said


def test_noise_is_said_to_be_nowhere(told):
    _, section = told
    assert section.says[0] == "Nowhere read beyond chance: noise."
    noise = [r for r in section.found["probes"] if r["variable"] == "noise"]
    assert min(r["p_bh"] for r in noise) > 0.05
    assert len(noise) == 8 == section.found["tests"] / 2  # 2 streams and 2 heads, 2 positions


def test_the_part_is_deterministic_and_drawn(told):
    subject, section = told
    assert probes.explain(subject, FEW, {}) == section
    assert len(section.pictures) == 2 and len(section.tables) == 2


def test_states_are_what_nodes_wrote_and_streams_held_at_each_prompts_own_position():
    some = planted.prompts()
    bench = planted.bench(families.view("llama"), some)
    at = probes.positions(bench.data)
    assert list(at) == ["a", "b", "end"]  # the answer is the end
    whole = torch.cat([f.clean.writers[3] for f in bench.data])
    stream = torch.cat([f.clean.streams[2] for f in bench.data])
    for place, expected in ((("node", 3), whole), (("stream", 2), stream)):
        for got, where in zip(probes.states(bench.data, place, list(at.values())), at.values(),
                              strict=True):  # fmt: skip
            np.testing.assert_array_equal(got, floats(expected[torch.arange(12), where]))


def test_what_cannot_be_probed_is_said_before(monkeypatch):
    model, some = families.view("llama"), planted.prompts()
    assert "names no variables" in probes.check(planted.subject(model, some, some), FEW)
    flat = replace(some, features={"flat": (1,) * 12, "few": (0, 0, 1, 1, 2, 2) * 2})
    said = probes.check(planted.subject(model, flat, flat), Probes(least=5))
    assert said.startswith("no variable of the task can be probed on 12 prompts: flat: it has one")
    assert "few: its classes have fewer than 5 prompts" in said
    monkeypatch.setattr(probes, "find_spec", lambda name: None)
    assert "scikit-learn" in probes.check(planted.subject(model, flat, flat), FEW)
