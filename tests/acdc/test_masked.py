"""The definition against the twin: any mask, any family, numbers between 0 and 1."""

from functools import partial

import families
import numpy as np
import pytest
import torch
import twin
from test_incremental import EVERY, IDS

from acdc.ablation import ABLATIONS
from acdc.data import Data
from acdc.forward import stream_of, trace
from acdc.masked import Record, masked_run, masked_values
from acdc.metrics import METRICS


@pytest.mark.parametrize("family, kv", EVERY, ids=IDS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_masked_run_is_its_twins(family, kv, ablation):
    model, prompts = families.view(family), families.prompts(n=2, length=4)
    graph = model.graph(kv)
    forward = families.run(model, graph, prompts, ablation)
    slow = twin.Twin(model, graph, prompts, ablation, "kl")
    noise = np.random.default_rng(3).random(graph.legal.shape)
    for mask in (graph.legal, graph.legal & (noise < 0.5), graph.legal & (noise < 0.1)):
        _, wanted = twin.run(model, graph, prompts.clean, mask, slow.abl)
        torch.testing.assert_close(masked_run(forward, mask), wanted, atol=1e-10, rtol=0)
        junk = np.where(graph.legal, mask, 7.0)  # where there is no edge nothing is read
        torch.testing.assert_close(masked_run(forward, junk), wanted, atol=1e-10, rtol=0)


def test_numbers_between_mix_what_the_reader_gets():
    """Into `logits`, where the input itself can be written down."""
    model, prompts = families.view("attention_only"), families.prompts(n=2, length=4)
    graph = model.graph()
    forward, last = families.run(model, graph, prompts), len(graph.readers) - 1
    mask = torch.tensor(graph.legal, dtype=torch.float64)
    mask[0, last], mask[3, last] = 0.25, -1.5
    clean, cut = forward.clean.writers.dense(), forward.ablated.dense()
    x = forward.clean.streams[-1] + 0.75 * (cut[0] - clean[0]) + 2.5 * (cut[3] - clean[3])
    torch.testing.assert_close(
        masked_run(forward, mask), model.unembed(x[:, -1]), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize("family", ["llama", "pythia"])
def test_what_a_run_that_keeps_all_passes_on_its_way_is_the_models(family):
    """Attention, what writers put out, and what the readers see that were asked for."""
    model, prompts = families.view(family), families.prompts(n=2, length=4)
    forward, graph = families.run(model, model.graph(), prompts), model.graph()
    some = {graph.reader(*r) for r in ((0, "q", 3), (1, "k", 1), (1, "mlp"), (2, "logits"))}
    record = Record(frozenset(some))
    masked_run(forward, graph.legal, record)
    assert record.inputs.keys() == some
    for reader, x in record.inputs.items():
        info = graph.readers[reader]
        wanted = forward.clean.streams[stream_of(graph, info.layer, info.part)]
        torch.testing.assert_close(x, wanted, atol=1e-12, rtol=0)
    close = partial(torch.testing.assert_close, atol=1e-12, rtol=0)
    close(torch.stack(record.z), forward.clean.writers.z)
    close(torch.stack(record.rest), forward.clean.writers.rest)
    patterns = record.patterns
    wanted = trace(model, prompts.clean).patterns
    assert len(patterns) == 2
    for ours, plain in zip(patterns, wanted, strict=True):
        torch.testing.assert_close(ours, plain.transpose(0, 1), atol=1e-12, rtol=0)
        assert ours.shape == (4, 2, 4, 4)


def test_values_come_part_by_part_and_gradients_flow_to_the_mask():
    model, prompts = families.view("gpt2"), families.prompts(n=5, length=4)
    data, metric = Data(model, model.graph(), prompts, part=2), METRICS["logit_diff"]
    mask = torch.tensor(data.graph.legal, dtype=torch.float64, requires_grad=True)
    values = list(masked_values(data, metric, mask))
    assert [len(v) for v in values] == [2, 2, 1]
    wanted = data.values(metric, lambda f: f.clean.logits)
    np.testing.assert_allclose(torch.cat(values).detach().numpy(), wanted, rtol=0, atol=1e-10)
    torch.cat(values).sum().backward()
    assert (mask.grad.numpy()[data.graph.legal] != 0).all()
