"""What explains a circuit, in models whose heads share a norm, whose logits are capped, of experts.

Each shortcut against the patched forward, of which tests/acdc/test_families.py has the twin.
"""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import bias_streams, stream_of, trace
from acdc.masked import masked_run
from discovery.explanation.attention.pairs import Look, pair_scores
from discovery.explanation.backups.knocked import clean_ending, knocked_out
from discovery.explanation.direct import direct_effects, mlp_of, neuron_effects
from discovery.explanation.features.sites import site_at, site_of_node
from discovery.explanation.paths.patching import patched
from discovery.explanation.variables.intervene import Change, Part, Place, logits_of
from discovery.scrubbing.transformer import transformer

JOINT = ("gemma2", "olmo2")
SOME = (*JOINT, "gpt_oss", "mistral_window")


def setup(family, n=3):
    model = families.view(family)
    return families.run(model, model.graph(), families.prompts(n=n, length=5))


def close(ours, theirs, atol=1e-10):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize("family", SOME)
@pytest.mark.parametrize("name", ["a0.h1<q>", "a0.h2<k>", "a1.h0<v>", "a1.h3<q>", "m0", "logits"])
def test_a_reader_patched_alone_is_all_its_edges_cut(family, name):
    forward = setup(family)
    graph = forward.graph
    reader = graph.reader_index[name]
    info, mask = graph.readers[reader], graph.legal.copy()
    mask[:, reader] = False
    place = stream_of(graph, info.layer, info.part)
    change = forward.cuts.streams[place] - forward.clean.streams[place]
    close(patched(forward, {reader: change[None]})[0], masked_run(forward, mask))


@pytest.mark.parametrize("family", SOME)
def test_nodes_knocked_out_are_their_edges_cut(family):
    forward = setup(family)
    graph, clean = forward.graph, clean_ending(forward)
    for out in ([0], [graph.head(0, 1)], [graph.head(0, 0), graph.head(1, 2), graph.mlp(1)]):
        mask = graph.legal.copy()
        mask[out] = False
        close(knocked_out(forward, out, clean).logits, masked_run(forward, mask))


@pytest.mark.parametrize("family", SOME)
def test_a_run_without_changes_is_the_clean_one(family):
    forward = setup(family)
    rows, tokens = torch.tensor([2, 0]), torch.tensor([[3, 4], [5, 6]])
    part = Part(forward.model, forward.clean, range(3))
    change = [Change(Place("stream 0", "stream", 0), None, lambda value, which: value)]
    x = part.changed(rows, change, torch.arange(2))
    found = logits_of(forward.model, x[:, -1], tokens)
    close(found, forward.clean.logits[rows].gather(1, tokens))


@pytest.mark.parametrize("family", SOME)
def test_a_scrubbed_model_whose_claims_change_nothing_is_the_model(family):
    model, prompts = families.view(family), families.prompts(n=3, length=5)
    named = ("input", "a0.h1", "a1.h2", "m0")
    computation = transformer(model, model.graph(), prompts, named)
    computation = replace(computation, stored={
        name: look for name, look in computation.stored.items() if name.startswith("rest")
    })  # fmt: skip
    rows, plain = np.array([2, 0, 2]), trace(model, prompts.clean)
    close(computation.run("logits", rows), plain.logits[rows])
    for name in named:
        close(computation.run(name, rows), plain.writers[model.graph().writer_index[name]][rows])


@pytest.mark.parametrize("family", JOINT)
def test_pruning_takes_nothing_from_a_circuit_whose_heads_share_a_norm(family):
    forward = setup(family)
    graph, fewer = forward.graph, 0
    for seed in range(4):
        mask = graph.legal & (np.random.default_rng(seed).random(graph.legal.shape) < 0.08)
        pruned = Circuit(graph, mask, np.zeros(mask.shape)).pruned().mask
        fewer += int(mask.sum() - pruned.sum())
        close(forward.run(pruned), forward.run(mask))
    assert fewer > 0


@pytest.mark.parametrize("family", JOINT)
def test_a_circuit_file_says_that_heads_share_a_norm(family):
    graph = families.view(family).graph()
    circuit = Circuit(graph, graph.legal, np.zeros(graph.legal.shape))
    assert Circuit.from_json(circuit.to_json()).graph == graph


@pytest.mark.parametrize("family", [*SOME, "olmoe"])
def test_a_score_is_the_sum_of_its_pairs(family):
    """Before a cap and ALiBi, which no pair of writers is behind."""
    forward = setup(family)
    model, n = forward.model, forward.n_pos
    x = forward.clean.streams[2]
    q = model.project(1, "q", 1, x, n)
    k = model.project(1, "k", model.kv_head(1), x, n)
    wanted = (q[:, -1:] @ k.mT)[:, 0, 2] * model.blocks[1].attn.scale
    weights = torch.zeros(3, n, dtype=torch.float64)
    weights[:, 2] = 1
    look = Look(torch.full((3,), n - 1), weights)
    (found,) = pair_scores(forward, 1, [(1, look)])
    close(found.sum((1, 2)), wanted)


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "granite"])
def test_neurons_add_up_to_their_mlp_and_nodes_to_the_answer_before_the_cap(family):
    forward = setup(family)
    data = Data(forward.model, forward.graph, forward.prompts)
    direct = direct_effects(data)
    assert direct.writers.sum(0) + direct.biases == pytest.approx(direct.total, abs=1e-9)
    own = neuron_effects(data, 1).sum(1)
    writer = forward.graph.mlp(1)
    assert own == pytest.approx(direct.writers[writer], abs=1e-9)  # none has a bias there
    assert bias_streams(forward.model).abs().max() == 0


def test_experts_have_no_neurons_of_all_tokens_and_a_head_no_output_before_the_norm():
    with pytest.raises(ValueError, match="layer 1 has no MLP of neurons"):
        mlp_of(setup("mixtral"), 1)
    model = families.view("gemma2")
    with pytest.raises(InputError, match="hook_z.*a norm follows the sum of this model's heads"):
        site_at(model, model.graph(), "blocks.1.attn.hook_z", 0)
    assert site_of_node(model, model.graph(), "a1.h0").node == model.graph().head(1, 0)
