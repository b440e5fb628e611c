"""A transformer as a computation: exact rewrites, and claims against the patched forward."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.errors import InputError
from acdc.forward import trace
from acdc.live import run_live
from discovery.scrubbing.engine import scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Agree, Exact, Unconditioned
from discovery.scrubbing.transformer import transformer
from discovery.validation.resampling import ResampledCuts

view = families.view
N = 5


def prompts_of():
    marks = {"first": (1, 2, 1, 3, 2), "end": (5,) * N}
    return replace(families.prompts(N), marks=marks)


NAMED = ("input", "a0.h1", "a1.h2")


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_node_is_the_models(family, kv):
    model, prompts = view(family), prompts_of()
    named = [*NAMED, *(["m0", "m1"] if model.graph().has_mlp else [])]
    split = {"a0.h1": ["first", "end"], "input": ["end"]}
    computation = transformer(model, model.graph(kv), prompts, named, split)
    computation = replace(computation, stored={
        name: look for name, look in computation.stored.items() if name.startswith("rest")
    })  # fmt: skip
    rows = np.array([3, 0, 3, 1])
    plain = trace(model, prompts.clean)
    torch.testing.assert_close(
        computation.run("logits", rows), plain.logits[rows], atol=1e-10, rtol=0
    )
    for name in named:
        parts = [n for n in computation.nodes if n == name or n.startswith(f"{name}@")]
        total = sum(computation.run(part, rows) for part in parts)
        expected = plain.writers[model.graph().writer_index[name]][rows]
        torch.testing.assert_close(total, expected, atol=1e-10, rtol=0)


def test_exact_everywhere_is_the_model_and_an_unconditioned_root_another_prompts():
    model, prompts = view("gpt2"), prompts_of()
    computation = transformer(model, model.graph(), prompts, NAMED)
    logits = trace(model, prompts.clean).logits
    claim = Claim("logits", Exact(), (Claim("a1.h2", Exact()),), others=Exact())
    found = scrub(computation, claim, np.arange(N), np.random.default_rng(0))
    np.testing.assert_allclose(found.output[:, 0], logits, atol=1e-10)
    found = scrub(computation, Claim("logits", Unconditioned()), np.arange(N),
                  np.random.default_rng(0))  # fmt: skip
    np.testing.assert_allclose(found.output[:, 0], logits[found.data["logits"][:, 0]], atol=1e-10)


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_a_claim_is_the_circuit_that_it_means(family):
    """a1.h2 direct, its query reading a0.h1, from the reference; all else one other prompt each."""
    model, prompts = view(family), prompts_of()
    graph = model.graph()
    computation = transformer(model, graph, prompts, NAMED)
    whole = Claim("a0.h1", Exact())
    query = Claim("a1.h2<q>", Exact(), (whole,))
    claim = Claim("logits", Exact(), (Claim("a1.h2", Exact(), (query,)),))
    found = scrub(computation, claim, np.arange(N), np.random.default_rng(0))
    mask = graph.mask(["a1.h2->logits", "a0.h1->a1.h2<q>"])
    for reader in graph.head_readers(0, 1):
        mask[: graph.senders[reader], reader] = True
    forward = families.run(model, graph, prompts)

    class Replayed(ResampledCuts):
        """Draws as the engine drew them: k and v of a1.h2 from its own other datum."""

        def key(self, reader):
            return reader, 0

        def _draw(self, reader):
            label = {"q": "logits/a1.h2/a1.h2<q>"}.get(graph.readers[reader].part, "logits/a1.h2")
            label = "logits" if reader == len(graph.readers) - 1 else label
            return torch.as_tensor(found.others[label][0, :, 0])

    cuts = Replayed(forward, "per node", np.random.default_rng(0))
    expected = model.unembed(run_live(model, graph, prompts.clean, mask, cuts))
    np.testing.assert_allclose(found.output[:, 0], expected, atol=1e-10)


def test_claims_on_positions_and_features():
    model, prompts = view("gpt2"), prompts_of()
    split = {"a0.h1": ["end"]}
    computation = transformer(model, model.graph(), prompts, NAMED, split)
    feature = np.array([0, 0, 1, 1, 1])
    claim = Claim("logits", Exact(), (Claim("a0.h1@end", Agree(feature)),))
    found = scrub(computation, claim, np.arange(N), np.random.default_rng(1))
    drawn, other = found.data["logits/a0.h1@end"][:, 0], found.others["logits"][0, :, 0]
    assert (feature[drawn] == feature).all()
    plain = trace(model, prompts.clean)
    writer = model.graph().writer_index["a0.h1"]
    x = plain.streams[-1][other]
    x[:, -1] += plain.writers[writer][drawn][:, -1] - plain.writers[writer][other][:, -1]
    np.testing.assert_allclose(found.output[:, 0], model.unembed(x[:, -1]), atol=1e-10)


@pytest.mark.parametrize(
    "named, split, message",
    [
        (["a7.h0"], {}, "named: 'a7.h0' is no component"),
        (["a0.h1"], {"a0.h2": ["end"]}, "split: 'a0.h2' is not among"),
        (["a0.h1"], {"a0.h1": ["start"]}, "mark no position 'start'; they mark"),
        (["a0.h1"], {"a0.h1": ["end", "end"]}, "share positions"),
    ],
)
def test_refusals(named, split, message):
    model = view("gpt2")
    with pytest.raises(InputError, match=message):
        transformer(model, model.graph(), prompts_of(), named, split)
