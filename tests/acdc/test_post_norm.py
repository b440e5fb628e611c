"""Scores of heads whose sum is normed: their share, or what they put out before the norm."""

from collections.abc import Sequence
from functools import partial

import families
import numpy as np
import pytest
import torch
import twin

from acdc.ablation import ABLATIONS, Ablation
from acdc.attribution import clean_corrupted, eap, eap_ig
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import before_norm, trace
from acdc.metrics import METRICS
from acdc.writers import Writers
from discovery.methods.scores import EAP, EAPIG, EAPIGActivations

METRIC = METRICS["logit_diff"]
METHODS = [eap, partial(eap_ig, steps=2), clean_corrupted]


def data(family, ablation="resample"):
    model = families.view(family)
    return Data(model, model.graph(), families.prompts(5), ABLATIONS[ablation], part=2)


def by_hand(model, tokens, layer, head):
    """z W_O of one head, from the stream of a plain run."""
    x = trace(model, tokens).streams[2 * layer]
    return twin.head_output(model, layer, head, x, x, x) @ model.blocks[layer].attn.norm.W_O[head]


class AsInput(Ablation):
    """The embedding's change is what a head adds before the norm that follows the heads."""

    name = "a head as input"

    def __init__(self, some: Data, layer: int, head: int, zero: bool) -> None:
        self.zero = zero
        self.before = partial(by_hand, some.model, layer=layer, head=head)
        self.prompts = {rows: some.prompts.take(rows) for rows in some.groups}

    def of(self, clean: Writers, corrupt: Writers, rows: Sequence[int]) -> Writers:
        own = self.prompts[tuple(rows)]
        change = self.before(own.corrupt) * (0 if self.zero else 1) - self.before(own.clean)
        rest = torch.cat([clean.rest[:1] + change, clean.rest[1:]])
        return Writers(clean.graph, clean.W_O, clean.z, rest)


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_with_the_norm_ignored_a_heads_change_meets_the_gradient_behind_it(family, ablation):
    some = data(family, ablation)
    graph, found = some.graph, eap(some, METRIC, post_norm="ignored")
    share, heads = eap(some, METRIC), list[int]()
    for layer in range(graph.n_layers):
        for head in range(graph.n_heads):
            writer = graph.head(layer, head)
            as_input = eap(some.under(AsInput(some, layer, head, ablation == "zero")), METRIC)
            expected = np.where(graph.legal[writer], as_input[0], 0.0)
            np.testing.assert_allclose(found[writer], expected, rtol=0, atol=1e-9)
            heads.append(writer)
    others = np.setdiff1d(np.arange(len(graph.writers)), heads)
    assert (found[others] == share[others]).all()
    assert np.abs(found[heads] - share[heads]).max() > 0.1 * np.abs(share[heads]).max()


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "llama"])
def test_before_the_norm_a_heads_share_times_its_scale(family):
    model, tokens = families.view(family), families.prompts(3).clean
    plain, before = trace(model, tokens).writers, before_norm(model, tokens)
    assert torch.equal(before.rest, plain.rest)
    for layer, block in enumerate(model.blocks):
        z = before.z[layer]
        scaled = z if block.attn.norm is None else z * block.attn.norm.scale(z)
        torch.testing.assert_close(scaled, plain.z[layer], rtol=0, atol=1e-12)
    assert (family == "llama") == torch.equal(before.z, plain.z)


@pytest.mark.parametrize("method", METHODS)
def test_where_no_norm_follows_it_changes_nothing(method):
    some = data("llama")
    assert (method(some, METRIC, post_norm="ignored") == method(some, METRIC)).all()


def test_what_is_made_from_all_prompts_is_refused():
    with pytest.raises(InputError, match="^post_norm=ignored with ablation=mean: what cut edges"):
        eap(data("gemma2", "mean"), METRIC, post_norm="ignored")


@pytest.mark.parametrize("method", [EAP, EAPIG])
def test_methods_ask_for_it_and_say_so(method):
    some, ignored = data("gemma2"), method(n_edges=5, post_norm="ignored")
    scores = eap if method is EAP else partial(eap_ig, steps=5)
    assert (ignored.scores(some, METRIC, 0) == scores(some, METRIC, post_norm="ignored")).all()
    plain = method(n_edges=5)
    assert (plain.scores(some, METRIC, 0) == scores(some, METRIC)).all()
    assert ignored.label == f"{plain.label}, post_norm=ignored"
    assert "post_norm" not in EAPIGActivations.model_fields
