"""Laws of the view's own functions, apart from any circuit."""

import families
import pytest
import torch

from acdc.model import Norm

view = families.view


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("weight", [None, 1 + 0.1 * vectors(8)], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", ["layer", "rms", "none"])
def test_shares_of_the_summands_and_the_bias_add_up_to_the_norm(kind, weight):
    parts = vectors(5, 3, 8, seed=1)
    bias = vectors(8, seed=2) if kind == "layer" else None
    norm = Norm(kind, weight if kind != "none" else None, bias, eps=0.3)
    shares = sum(norm.share(part, parts.sum(0)) for part in parts)
    total = shares if bias is None else shares + bias
    torch.testing.assert_close(total, norm(parts.sum(0)), atol=1e-12, rtol=0)


def test_a_norm_without_eps_makes_the_mean_square_one():
    for kind in ("layer", "rms"):
        squares = Norm(kind)(vectors(3, 8)).pow(2).mean(-1)
        torch.testing.assert_close(squares, torch.ones_like(squares), atol=1e-12, rtol=0)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_one_heads_projection_is_its_place_in_the_lists(family, part):
    """On own inputs, shared or without a batch, and on the last positions of a longer text."""
    model = view(family)
    heads = list(range(model.n_heads if part == "q" else model.n_kv_heads))
    own = vectors(len(heads), 2, 3, model.d_model)
    for x in (own, own[:1], own[:, 0]):
        together = model.project(1, part, heads, x, 5)
        for i, head in enumerate(heads):
            alone = model.project(1, part, head, x[i % len(x)], 5)
            torch.testing.assert_close(alone, together[i], atol=1e-12, rtol=0)
    longer = torch.cat([vectors(2, 2, model.d_model, seed=3), own[0]], dim=1)
    whole = model.project(1, part, 1, longer, 5)
    torch.testing.assert_close(
        whole[:, -3:], model.project(1, part, 1, own[0], 5), atol=1e-12, rtol=0
    )


def test_attention_is_causal_and_sums_to_one_whatever_axes_stand_before():
    model = view("gpt2")
    q, k = vectors(2, 3, 5, 8), vectors(2, 3, 5, 8, seed=1)
    whole = model.pattern(0, [1, 0], q, k)
    torch.testing.assert_close(whole.sum(-1), torch.ones(2, 3, 5, dtype=torch.float64))
    assert not whole.triu(1).any() and whole.tril().count_nonzero() == 2 * 3 * 15
    torch.testing.assert_close(model.pattern(0, 1, q[0, 0], k[0, 0]), whole[0, 0])
    torch.testing.assert_close(model.pattern(0, [1, 0], q[..., -2:, :], k), whole[..., -2:, :])
    torch.testing.assert_close(model.pattern(0, [1, 0], q[..., -1:, :], k), whole[..., -1:, :])


def test_a_layer_without_an_mlp_has_no_mlp_output():
    with pytest.raises(ValueError, match="layer 1 has no MLP"):
        view("attention_only").mlp_out(1, vectors(1, 32))
