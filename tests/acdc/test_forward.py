"""Laws of the patched forward on every supported family."""

import families
import pytest
import torch

from acdc.forward import ABLATIONS, PatchedForward, stream_of


@pytest.fixture(scope="module", params=families.FAMILIES)
def loaded(request):
    return families.load(request.param)


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_all_edges_is_the_model_and_none_is_the_corrupted_run(loaded, kv):
    graph, prompts = loaded.model.graph(kv), families.prompts()
    forward = PatchedForward(loaded.model, graph, prompts)
    everything, nothing = graph.legal, graph.legal & False
    for mask, tokens in ((everything, prompts.clean), (nothing, prompts.corrupt)):
        expected = loaded.plain_logits(tokens)[:, -1]
        torch.testing.assert_close(forward.run(mask), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_float64_all_edges_is_exact(loaded, ablation):
    model = loaded.model.to(torch.float64)
    graph = model.graph()
    forward = PatchedForward(model, graph, families.prompts(), ablation)
    full = forward.run(graph.legal)
    torch.testing.assert_close(full, forward.clean.logits, atol=1e-11, rtol=1e-11)
    assert (forward.run(torch.zeros(graph.legal.shape)) - full).abs().max() > 0.1


def test_writers_and_biases_sum_to_every_stream(loaded):
    model = loaded.model.to(torch.float64)
    graph = model.graph()
    run = PatchedForward(model, graph, families.prompts()).clean
    for reader in graph.readers:
        n = graph.writers_before(reader.layer, reader.part)
        biases = [
            b.attn.b_O
            for i, b in enumerate(model.blocks)
            if b.attn.b_O is not None
            and (
                i < reader.layer
                or (i == reader.layer and reader.part == "mlp" and not graph.parallel)
            )
        ]
        total = run.writers[:n].sum(0) + sum(biases)
        stream = run.streams[stream_of(graph, reader.layer, reader.part)]
        torch.testing.assert_close(total, stream, atol=1e-12, rtol=1e-12)
