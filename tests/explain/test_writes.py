"""What nodes write: exact sums, slow twins, laws of patched tokens, and a part as it is asked."""

from dataclasses import replace

import families
import numpy as np
import planted
import pytest
import torch
import two_variables as toy

from acdc.data import floats
from acdc.live import run_live
from acdc.metrics import LOGIT_DIFF
from discovery.explanation import direct
from discovery.explanation.figures import beyond_zero
from discovery.explanation.writes import lens, positions
from discovery.explanation.writes import part as writes
from discovery.heads.roles import attributed_logits
from discovery.settings.explanation import Writes

EXACT = dict(rtol=0, atol=1e-9)


@pytest.fixture(scope="module", params=["gpt2", "llama", "pythia", "attention_only"])
def bench(request):
    return planted.bench(families.view(request.param), planted.prompts())


# ---- direct effects ------------------------------------------------------------------------------


def test_input_heads_mlps_and_biases_sum_to_the_logit_difference(bench):
    found = direct.direct_effects(bench.data)
    assert found.writers.shape == (len(bench.graph.writers), bench.n)
    np.testing.assert_allclose(found.writers.sum(0) + found.biases, found.total, **EXACT)
    measured = bench.data.values(LOGIT_DIFF, lambda forward: forward.clean.logits)
    np.testing.assert_allclose(found.total, measured, **EXACT)


def test_without_wrong_answers_the_vocabulary_is_what_is_compared_with():
    some = replace(planted.prompts(), wrong=((),) * 12)
    data = planted.bench(families.view("gpt2"), some).data
    found = direct.direct_effects(data)
    np.testing.assert_allclose(found.writers.sum(0) + found.biases, found.total, **EXACT)
    logits = torch.cat([forward.clean.logits for forward in data])
    right = torch.stack([row[i[0]] for row, i in zip(logits, some.answers, strict=True)])
    np.testing.assert_allclose(found.total, floats(right - logits.mean(-1)), **EXACT)


def test_tokens_written_are_the_mean_of_each_prompts_attributed_logits(bench):
    some = [0, 1, bench.graph.head(1, 2)]
    found = direct.written(bench.data, some)
    for row, writer in zip(found, some, strict=True):
        each = [
            attributed_logits(bench.data.model, f.clean.writers[writer][:, -1],
                              f.clean.streams[-1][:, -1])
            for f in bench.data
        ]  # fmt: skip
        torch.testing.assert_close(row, torch.cat(each).mean(0), **EXACT)


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_neurons_and_the_output_bias_sum_to_their_mlp(family):
    data = planted.bench(families.view(family), planted.prompts()).data
    model, graph = data.model, data.graph
    neurons = direct.neuron_effects(data, 1)
    bias = model.blocks[1].mlp.b_out
    gradients = torch.cat([direct.answer_gradient(f) for f in data])
    own = 0.0 if bias is None else floats(gradients @ bias)
    whole = direct.direct_effects(data).writers[graph.mlp(1)]
    np.testing.assert_allclose(neurons.sum(1) + own, whole, **EXACT)


def test_value_vectors_write_what_their_mlp_does_without_its_bias():
    model = families.view("llama")  # no biases
    data = planted.bench(model, planted.prompts()).data
    every = list(range(model.blocks[1].mlp.W_out.shape[0]))
    vectors = direct.neurons_written(data, 1, every).sum(0)
    torch.testing.assert_close(vectors, direct.written(data, [data.graph.mlp(1)])[0], **EXACT)


def test_the_strongest_mlps_are_those_with_the_strongest_edge():
    model = families.view("llama")
    graph, some = model.graph(), planted.prompts()
    kept = graph.mask(["m0->logits", "a0.h1->m1", "m1->logits"])
    one = planted.subject(model, some, some, kept)
    scores = one.circuit.scores.copy()
    scores[graph.edge("a0.h1->m1")] = 5.0
    one = replace(one, circuit=replace(one.circuit, scores=scores))
    assert one.strongest_mlps(1) == [1]
    assert one.strongest_mlps(9) == [0, 1]
    assert one.circuit.strength[graph.mlp(1)] == one.circuit.strength[graph.head(0, 1)] == 5.0


# ---- the lens ------------------------------------------------------------------------------------


def test_the_last_lens_is_the_model(bench):
    found = lens.logit_lens(bench.data)
    assert found.difference.shape == (bench.graph.n_layers + 1, bench.n)
    logits = torch.cat([forward.clean.logits for forward in bench.data])
    for row, (ids, own) in enumerate(zip(bench.data.prompts.answers, logits, strict=True)):
        order = own.argsort(descending=True).tolist()
        assert found.rank[-1, row] == 1 + order.index(ids[0])
        assert found.probability[-1, row] == pytest.approx(own.softmax(-1)[ids[0]].item())
    np.testing.assert_allclose(found.difference[-1], bench.model.score, **EXACT)


def test_the_first_lens_sees_the_embedding_alone():
    data = planted.bench(families.view("llama"), planted.prompts()).data
    x = data.model.embed(data.prompts.clean)[:, -1]
    expected = direct.right_less_wrong(data.prompts, data.model.unembed(x))
    np.testing.assert_allclose(lens.logit_lens(data).difference[0], floats(expected), **EXACT)


# ---- tokens patched ------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
def test_all_positions_patched_is_the_circuit_with_no_edge_out_of_the_input(bench, ablation):
    here = planted.bench(bench.data.model, bench.data.prompts, ablation)
    mask = planted.mask(bench.graph)
    found = positions.position_effects(here, mask, {"0": (0,) * 12}, quiet=True)
    cut = mask.copy()
    cut[0] = False
    expected = here.circuit(mask).score - here.circuit(cut).score
    np.testing.assert_allclose(found.whole, expected, **EXACT)
    assert np.abs(expected).max() > 1e-3


def test_one_position_patched_is_that_token_replaced(bench):
    """As edges carry the corrupt prompt, which differs from the patched one nowhere else."""
    mask, marks = planted.mask(bench.graph), bench.data.prompts.marks
    found = positions.position_effects(bench, mask, dict(marks), quiet=True)
    for name, effects in zip(found.places, found.effects, strict=True):
        scores = []
        for forward in bench.data:
            tokens, rows = forward.prompts.clean.clone(), torch.arange(len(forward.prompts))
            at = list(forward.prompts.marks[name])
            tokens[rows, at] = forward.prompts.corrupt[rows, at]
            final = run_live(forward.model, forward.graph, tokens, mask, forward.cuts)
            scores.append(floats(bench.score_of(forward, forward.model.unembed(final))))
        np.testing.assert_allclose(
            effects, bench.circuit(mask).score - np.concatenate(scores), **EXACT
        )


def test_a_token_that_is_not_changed_brings_nothing():
    some = planted.prompts()
    corrupt = some.clean.clone()
    corrupt[:, 2] = some.corrupt[:, 2]
    here = planted.bench(families.view("gpt2"), replace(some, corrupt=corrupt))
    found = positions.position_effects(
        here, planted.mask(here.graph), positions.all_places(some), quiet=True
    )
    assert np.abs(found.effects[[0, 1, 3, 4, 5]]).max() < 1e-9 < np.abs(found.effects[2]).max()
    np.testing.assert_allclose(found.effects[2], found.whole, **EXACT)
    assert positions.strongest_places(here, planted.mask(here.graph), 1) == [2]


def test_marks_gather_positions_and_the_rest_is_unmarked():
    some = planted.prompts()
    effects = np.random.default_rng(0).normal(size=(6, 12))
    found = positions.by_mark(effects, replace(some, marks={**some.marks, "x": some.marks["a"]}))
    assert list(found) == ["a = x", "b", "end", "unmarked"]
    for row in range(12):
        assert found["a = x"][row] == effects[some.marks["a"][row], row]
    np.testing.assert_allclose(sum(found.values()), effects.sum(0))


def test_a_position_with_several_names_is_counted_once():
    """Position 2 is named twice in the first prompt, 1 in the second: by hand."""
    at, effects = np.array([[2, 0], [2, 1], [1, 1]]), np.array([[5.0, 1.0], [5.0, 2.0], [0.5, 2.0]])
    found = positions.PositionEffects(["a", "b", "1"], at, effects, np.ones(2))
    assert found.alone().tolist() == [5.5, 3.0]


def test_shares_of_marks_that_coincide_and_of_some_positions_are_said_as_such():
    """A model that is linear in its tokens, of which v and w matter, at 0 and 1: 100% by hand."""

    def prompts(n, seed):
        marks = {"v": (0,) * n, "also": (0,) * (n - 1) + (4,)}
        return replace(toy.prompts(n, seed), marks=marks)

    one = toy.subject(32, prompts=prompts)
    for most, who in ((48, "tokens"), (2, "the marked ones and 2 of the 5 positions")):
        (said, *_), _ = writes._positions(one, Writes(positions=most), one.rng("x"))
        assert f"one by one, {who}" in said and "explain 100% [100%, 100%] of it" in said


def test_what_is_told_as_most_is_picked_on_the_other_half(monkeypatch):
    """On the test half later nodes write more, on the choosing half earlier ones."""
    model, some = families.view("llama"), planted.prompts()
    one = planted.subject(model, some, some)
    n, noise = len(one.graph.writers), np.random.default_rng(0).normal(0, 0.01, 12)
    size = np.linspace(1, 5, n)[:, None] + noise
    made = {
        id(bench.data): direct.Direct(values, noise, values.sum(0) + noise)
        for bench, values in ((one.choose, size[::-1]), (one.test, size))
    }
    monkeypatch.setattr(writes, "direct_effects", lambda data: made[id(data)])
    says, _ = writes._direct(one, one.rng("x"))
    assert told_nodes(says, "Most for") == [one.graph.writers[w] for w in one.nodes[:3]]


def told_nodes(says, start):
    (line,) = [s for s in says if s.startswith(start)]
    return [part.split()[0] for part in line.partition(": ")[2].split("; ")]


# ---- the part ------------------------------------------------------------------------------------


def test_beyond_zero_by_hand():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.normal(3, 1, 30), rng.normal(0, 1, 30), np.zeros(30), np.full(30, 2.0)])
    assert beyond_zero(rows, 0.05).tolist() == [True, False, False, True]


@pytest.mark.parametrize("most", [48, 2])
def test_the_part_says_what_it_measured(most):
    model = families.view("llama", torch.float32)
    kept = model.graph().mask(["input->a0.h1<v>", "a0.h1->m1", "input->m1", "m1->logits",
                               "input->a1.h2<q>", "a1.h2->logits"])  # fmt: skip
    one = planted.subject(model, planted.prompts(seed=1), planted.prompts(seed=2), kept)
    asked = Writes(tokens=2, mlps=1, vectors=3, positions=most)
    assert writes.check(one, asked) is None
    section = writes.explain(one, asked, {})
    if most == 2:
        assert section == writes.explain(one, asked, {})  # bit for bit
    rows = {row["node"]: row["logits"]["value"] for row in section.found["direct"]}
    total = direct.direct_effects(one.test.data).total.mean()
    assert sum(rows.values()) == pytest.approx(total, rel=1e-4)
    assert section.says[0].startswith("Nodes outside the circuit write")
    assert [row["after"] for row in section.found["lens"]] == ["embedding", "layer 0", "layer 1"]
    assert len(section.found["tokens"]) == len(one.head_nodes)
    assert len(section.found["vectors"]) == 3
    named = {row["token"].split()[0] for row in section.found["positions"]}
    assert named == {"a", "b", "end", "unmarked"} if most == 48 else named > {"a", "b", "end"}
    assert all(picture.svg.startswith("<svg") for picture in section.pictures)


def test_an_empty_circuit_is_refused_in_a_sentence():
    model = families.view("llama")
    some = planted.prompts()
    one = planted.subject(model, some, some, model.graph().legal & False)
    assert writes.check(one, Writes()) == "the circuit has no nodes but the input"


@pytest.mark.parametrize("right", [True, False])
def test_the_answers_of_a_prompt_are_looked_for_among_its_own_top_tokens(right):
    data = planted.bench(families.view("gpt2"), planted.prompts()).data
    found = direct.on_top(data, 3, 20, right)
    prompts, expected = data.prompts, []
    for row, ids in enumerate(prompts.answers if right else prompts.wrong):
        one = direct.written(data.take([row]), [3])[0]
        expected.append(float(min((one > one[i]).sum().item() for i in ids) < 20))
    assert found.tolist() == expected and 0 < found.mean() < 1
