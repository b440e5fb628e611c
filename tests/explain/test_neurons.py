"""Neurons and heads: planted tunings, hand-made patterns, and a part as it is asked."""

from dataclasses import replace

import families
import numpy as np
import planted
import pytest
import torch

from acdc.forward import trace
from acdc.model import MLP
from discovery.explanation.neurons import part as neurons
from discovery.explanation.neurons import tuning
from discovery.heads.attention import head_pattern
from discovery.settings.explanation import Neurons

FEW = Neurons(mlps=2, top=3, permutations=19)


def slow_eta(values, labels):
    """By the definition, a neuron and a label at a time."""
    out = []
    for v in values.T:
        between = sum(
            (labels == k).sum() * (v[labels == k].mean() - v.mean()) ** 2 for k in set(labels)
        )
        total = ((v - v.mean()) ** 2).sum()
        out.append(between / total if total else 0.0)
    return np.array(out)


def eta(values, labels):
    return tuning.explained(values, labels, np.random.default_rng(0), 1).share


def test_eta_squared_is_its_definition():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(3, 2, (50, 4)), rng.integers(0, 5, 50)
    values[:, 3] = 7.0
    np.testing.assert_allclose(eta(values, labels), slow_eta(values, labels), atol=1e-12)
    assert eta(values, labels)[3] == 0
    assert eta(labels[:, None].astype(float), labels)[0] == pytest.approx(1)


def test_what_is_planted_is_explained_beyond_chance_and_noise_is_not():
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 6, (40, 9))
    labels = tuning.labels([tokens])
    token, pair, place = labels["token"], labels["token pair"], labels["position"]
    assert len(token) == len(pair) == len(place) == 40 * 8
    values = np.stack(
        [
            rng.normal(size=6)[token],
            rng.normal(size=36)[pair],
            rng.normal(size=9)[place],
            rng.normal(size=320),
        ],
        axis=1,
    )
    values += 0.05 * rng.normal(size=values.shape)
    found = {
        kind: tuning.explained(values, own, np.random.default_rng(2), 19)
        for kind, own in labels.items()
    }
    high = {kind: (one.beyond > 0.9).tolist() for kind, one in found.items()}
    assert high["token"] == [True, False, False, False]
    assert high["token pair"] == [True, True, False, False]  # it tells the token too
    assert high["position"] == [False, False, True, False]
    noise = [abs(one.beyond[3]) for one in found.values()]
    assert max(noise) < 0.15 and found["token pair"].share[3] > 0.05  # which chance explains
    assert found["token"].goes_by(0.5).tolist() == high["token"]
    least = replace(found["token"], highest=np.ones(4))  # as if one draw had explained all
    assert not least.goes_by(0.5).any()


def test_labels_are_of_neighbours_and_leave_the_first_position_out():
    labels = tuning.labels([np.array([[5, 6, 7]]), np.array([[8, 6, 7]])])
    assert labels["token"].tolist() == [6, 7, 6, 7]
    assert labels["position"].tolist() == [1, 2, 1, 2]
    a, b, c, d = labels["token pair"].tolist()
    assert b == d and len({a, b, c}) == 3


def test_where_labels_hardly_come_twice_nothing_is_said():
    rng = np.random.default_rng(3)
    found = tuning.explained(rng.normal(size=(30, 2)), np.arange(30), rng, 19)
    assert np.isnan(found.beyond).all()


# ---- MLPs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_hidden_is_what_w_out_reads_and_gates_are_its_nonlinearity(family):
    mlp = families.view(family).blocks[0].mlp
    x = torch.randn(5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b_in = 0 if mlp.b_in is None else mlp.b_in
    linear = x @ mlp.W_in + b_in
    gates = mlp.act(linear if mlp.W_gate is None else x @ mlp.W_gate)
    torch.testing.assert_close(mlp.gates(x), gates)
    hidden = gates if mlp.W_gate is None else gates * linear
    torch.testing.assert_close(mlp.hidden(x), hidden)
    bias = 0 if mlp.b_out is None else mlp.b_out
    torch.testing.assert_close(mlp(x), hidden @ mlp.W_out + bias)


def relu_model():
    """GPT-2's shape with a ReLU MLP in layer 1: neuron 0 is dead, neuron 1 always open."""
    model = families.view("gpt2")
    mlp = model.blocks[1].mlp
    b_in, W_in = torch.zeros_like(mlp.b_in), mlp.W_in.clone()
    W_in[:, :2] = 0.0
    b_in[:2] = torch.tensor([-1.0, 1.0])
    some = MLP(W_in, b_in, None, None, mlp.W_out, mlp.b_out, torch.relu)
    return replace(model, blocks=(model.blocks[0], replace(model.blocks[1], mlp=some)))


def test_a_neuron_that_never_opens_is_dead():
    data = planted.bench(relu_model(), planted.prompts()).data
    alive = neurons.opened(data, 1)
    assert not alive[0] and alive[1]
    values = np.concatenate(neurons.activations(data, 1))
    assert values.shape == (12, 6, len(alive))
    np.testing.assert_array_equal(alive, (values > 0).any((0, 1)))


# ---- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "pythia"])
def test_a_heads_pattern_is_that_of_the_traced_run(family):
    bench = planted.bench(families.view(family), planted.prompts())
    for forward in bench.data:
        whole = trace(forward.model, forward.prompts.clean).patterns
        for layer, head in ((0, 1), (1, 3)):
            torch.testing.assert_close(head_pattern(forward, layer, head), whole[layer][:, head])


def test_sink_and_retrieval_of_patterns_by_hand():
    some = replace(
        families.prompts(2), clean=planted.tokens([7, 8, 7, 1], [2, 3, 4, 9]),
        corrupt=planted.tokens([7, 8, 7, 1], [2, 3, 4, 9]), answers=((7,), (4,)), answer_position=3,
    )  # fmt: skip
    pattern = torch.zeros(2, 4, 4, dtype=torch.float64)
    pattern[:, torch.arange(4), 0] = 1.0
    assert neurons.sink(pattern).tolist() == [1.0, 1.0]
    pattern[1, 3] = torch.tensor([0.5, 0.2, 0.3, 0.0])
    mass, hit, uniform = neurons.attended(some, pattern)
    assert mass.tolist() == [1.0, pytest.approx(0.3)]
    assert hit.tolist() == [1.0, 0.0] and uniform.tolist() == [0.5, 0.25]
    assert neurons.sink(pattern)[1].item() == pytest.approx((1 + 1 + 0.5) / 3)
    assert neurons.attended(replace(some, answers=((7,), (5,))), pattern) is None


# ---- the part ------------------------------------------------------------------------------------


def test_the_part_says_what_it_measured():
    one = planted.subject(relu_model(), planted.prompts(seed=1), planted.prompts(seed=2))
    assert neurons.check(one, FEW) is None
    section = neurons.explain(one, FEW, {})
    assert section == neurons.explain(one, FEW, {})  # bit for bit
    rows = {row["MLP"]: row for row in section.found["mlps"]}
    assert list(rows) == ["m0", "m1"] and rows["m1"]["dead"] >= 1
    assert len(section.found["neurons"]) == 6
    assert len(section.found["heads"]) == len(one.head_nodes)
    assert section.says[0].split(" of the 6")[0].isdigit()
    assert all(row["sink"]["value"] > 0 for row in section.found["heads"])


def test_without_mlps_the_heads_are_left_and_without_both_nothing():
    model, some = families.view("attention_only"), planted.prompts()
    section = neurons.explain(planted.subject(model, some, some), FEW, {})
    assert section.says[0] == "The circuit has no MLPs of neurons." and section.found["heads"]
    empty = planted.subject(model, some, some, model.graph().legal & False)
    assert neurons.check(empty, FEW) == "the circuit has neither heads nor MLPs of neurons"


def test_a_layer_without_an_mlp_is_refused():
    data = planted.bench(families.view("attention_only"), planted.prompts()).data
    with pytest.raises(ValueError, match="layer 1 has no MLP"):
        neurons.activations(data, 1)
