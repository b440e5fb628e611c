"""Scores split over pairs: exact in sum for every family, and by hand where it is planted."""

import pytest
import torch
from families import FAMILIES, prompts, run, view
from toys import F64
from trained import q_composition

from acdc.ablation import ABLATIONS
from acdc.data import Data
from acdc.prompts import Prompts
from discovery.explanation.attention.pairs import Look, pair_scores, sources
from discovery.heads.attention import head_pattern


def looks_of(forward, generator):
    """Every prompt from another position to random weights of the keys before it."""
    n, n_pos = len(forward.prompts), forward.n_pos
    query = torch.tensor([n_pos - 1, 2, 4])[:n]
    weights = torch.rand(n, n_pos, generator=generator, dtype=torch.float64) - 0.3
    return Look(query, weights * (torch.arange(n_pos) <= query[:, None]))


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_add_up_to_the_scores_that_the_softmax_sees(family):
    model = view(family)
    forward = run(model, model.graph(), prompts(3))
    look = looks_of(forward, torch.Generator().manual_seed(0))
    for layer in (0, 1):
        splits = pair_scores(forward, layer, [(head, look) for head in range(4)])
        for head, split in enumerate(splits):
            assert split.shape[2] == split.shape[1] == len(sources(model, forward.graph, layer))
            log_pattern = head_pattern(forward, layer, head).clamp(min=1e-300).log()
            for row in range(3):
                at = int(look.query[row])
                weights = look.weights[row, : at + 1]
                weights = weights - weights.mean()  # a contrast: the softmax's sum drops out
                (own,) = pair_scores(
                    forward.piece(range(row, row + 1)), layer,
                    [(head, Look(look.query[row : row + 1], pad(weights, forward.n_pos)))],
                )  # fmt: skip
                wanted = float(weights @ log_pattern[row, at, : at + 1])
                assert float(own.sum()) == pytest.approx(wanted, abs=1e-9)
                assert own.abs().max() > 1e-3
            assert torch.isfinite(split).all()


def pad(weights, n_pos):
    return torch.cat([weights, weights.new_zeros(n_pos - len(weights))])[None]


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "qwen3", "pythia"])
def test_a_pair_is_the_product_of_its_two_sides(family):
    """With the norms' scales held, scores are bilinear: a pair is the product of its two sides."""
    model = view(family)
    forward = run(model, model.graph(), prompts(3))
    look = looks_of(forward, torch.Generator().manual_seed(1))
    (split,) = pair_scores(forward, 1, [(1, look)])
    attn, ln = model.blocks[1].attn, model.blocks[1].ln1
    whole, writers = forward.clean.streams[2], forward.clean.writers
    names = sources(model, forward.graph, 1)
    u, w = "a0.h1", "a0.h3"

    def side(x, part, index):
        """One writer's q or k by hand, positions turned in by the model's own rotation."""
        if ln.kind == "layer":
            x, scale = x - x.mean(-1, keepdim=True), whole.var(-1, keepdim=True, correction=0)
        else:
            scale = whole.pow(2).mean(-1, keepdim=True)
        x = x / (scale + ln.eps).sqrt() * ln.weight @ getattr(attn, f"W_{part.upper()}")[index]
        norm = attn.q_norm if part == "q" else attn.k_norm
        if norm.kind == "rms":
            block = model.blocks[1]
            y = block.ln1(whole) @ getattr(attn, f"W_{part.upper()}")[index]
            x = x / (y.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
        return model.rotate(1, x, slice(0, forward.n_pos))

    q, k = side(writers[2], "q", 1), side(writers[4], "k", model.kv_head(1))
    for row in range(3):
        scores = q[row, look.query[row]] @ k[row].T * attn.scale
        wanted = float(scores @ look.weights[row])
        assert float(split[row, names.index(u), names.index(w)]) == pytest.approx(wanted, abs=1e-9)
        assert abs(wanted) > 1e-6


def test_a_query_that_another_head_wrote_is_seen_by_hand():
    model = q_composition()
    tokens = torch.tensor([[0, 1, 1, 2], [3, 3, 3, 2]])
    some = Prompts(tokens, tokens, ((0,), (0,)), ((1,), (1,)), 3)
    (forward,) = Data(model, model.graph(), some, ABLATIONS["resample"], 2)
    end = torch.tensor([3, 3])
    one_hot = torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0]], dtype=F64)
    (split,) = pair_scores(forward, 1, [(0, Look(end, one_hot))])
    assert sources(model, forward.graph, 1) == ["input", "a0.h0", "constant"]
    wanted = torch.zeros(2, 3, 3, dtype=F64)
    wanted[0, 1, 0], wanted[1, 1, 0] = 2.0 * 2 / 4, 2.0 * 3 / 4  # scale x share of the token
    torch.testing.assert_close(split, wanted)
