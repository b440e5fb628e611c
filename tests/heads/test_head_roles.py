"""Role scores: perfect and uniform patterns, hand-built heads, and the slow twins of the rest."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.forward import layers, trace
from acdc.masked import Record, masked_run
from acdc.metrics import LOGIT_DIFF
from acdc.model import Attention, Block, Model, Norm
from discovery.heads import roles, rules

N = 7


@pytest.fixture(scope="module", params=families.FAMILIES)
def forward(request):
    model = families.view(request.param)
    prompts = families.prompts(n=4)
    marks = {"io": (1, 2, 0, 1), "s1": (0, 1, 2, 2), "s2": (3, 3, 4, 4), "end": (5,) * 4}
    return families.run(model, model.graph(), replace(prompts, marks=marks))


def one_hot(*targets):
    """[1, pos, pos]: query t looks at targets[t] alone."""
    pattern = torch.zeros(1, len(targets), len(targets))
    pattern[0, torch.arange(len(targets)), torch.tensor(targets)] = 1
    return pattern


# ---- position and repetition -------------------------------------------------------------------


@pytest.mark.parametrize("bos", [0, 1])
@pytest.mark.parametrize(
    ("role", "target"),
    [
        ("previous token", lambda t: t - 1),
        ("current token", lambda t: t),
        ("first token", lambda t: 0),
        ("duplicate token", lambda t: t - N),
        ("induction", lambda t: t - N + 1),
    ],
)
def test_the_perfect_pattern_scores_exactly_one(role, target, bos):
    length = bos + 2 * N
    pattern = one_hot(*(max(target(t), 0) for t in range(length)))
    scores = roles.diagonal_scores(pattern, N)
    assert scores[role].tolist() == [1.0]
    others = {k: float(v[0]) for k, v in scores.items() if k != role}
    assert max(others.values()) < 0.7  # short sequences: the beginning looks at token 0


def test_uniform_attention_scores_the_mean_of_one_over_t():
    length = 1 + 2 * N
    pattern = torch.ones(2, length, length).tril()
    pattern = pattern / pattern.sum(-1, keepdim=True)
    scores = roles.diagonal_scores(pattern.double(), N)
    over = {t: 1 / (t + 1) for t in range(length)}
    second = np.mean([over[t] for t in range(1 + N, length)])
    expected = {
        "previous token": np.mean([over[t] for t in range(1, length)]),
        "current token": np.mean(list(over.values())),
        "first token": np.mean(list(over.values())),
        "duplicate token": second,
        "induction": second,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], [value] * 2, rtol=1e-6)


def test_random_tokens_come_twice_and_are_never_special():
    tokens = roles.repeated_tokens(40, 100, seed=3, bos=2, special=[0, 1, 2])
    assert tokens.shape == (roles.SEQUENCES, 1 + 2 * 37)  # no more than the vocabulary has
    assert (tokens[:, 0] == 2).all() and torch.equal(tokens[:, 1:38], tokens[:, 38:])
    assert tokens[:, 1:].min() == 3
    assert all(len(set(row[1:38].tolist())) == 37 for row in tokens)
    assert torch.equal(tokens, roles.repeated_tokens(40, 100, seed=3, bos=2, special=[0, 1, 2]))
    assert not torch.equal(tokens, roles.repeated_tokens(40, 100, seed=4, bos=2, special=[0, 1, 2]))
    assert roles.repeated_tokens(200, 31, seed=0).shape == (roles.SEQUENCES, 30)


# ---- copying and writing -----------------------------------------------------------------------


def copier(sign: float) -> Model:
    """One layer, one head: whatever is attended to is written, times sign, token for token."""
    eye = torch.eye(12, dtype=torch.float64)
    nothing = torch.zeros(1, 12, 12, dtype=torch.float64)
    attention = Attention(
        nothing, nothing, eye[None], sign * eye[None], None, None, None, None,
        Norm("none"), Norm("none"), 1.0,
    )  # fmt: skip
    return Model(
        name="copier", n_heads=1, n_kv_heads=1, parallel=False, n_ctx=12, embed_scale=1.0, W_E=eye,
        W_pos=None, blocks=(Block(Norm("none"), attention, None, None),),
        ln_final=Norm("none"), W_U=eye, b_U=None,
    )  # fmt: skip


def test_a_head_that_copies_copies_and_its_negative_anti_copies():
    assert roles.copying(copier(1.0), 0, 0, range(12)) == (1.0, 0.0)
    assert roles.copying(copier(-1.0), 0, 0, range(12)) == (0.0, 1.0)


def test_direct_attributions_of_all_writers_and_biases_sum_to_the_logits(forward):
    model, run = forward.model, forward.clean
    final = run.streams[-1][:, -1]
    biases = sum((b.attn.b_O for b in model.blocks if b.attn.b_O is not None), torch.zeros(()))
    parts = [*run.writers.dense()[:, :, -1], (final * 0 + biases).to(final)]
    total = sum(roles.attributed_logits(model, part, final) for part in parts)
    constant = torch.zeros_like(run.logits[:1])
    if model.ln_final.bias is not None:
        constant = constant + model.ln_final.bias @ model.W_U
    if model.b_U is not None:
        constant = constant + model.b_U
    expected = run.logits - run.logits.mean(-1, keepdim=True) - (constant - constant.mean())
    torch.testing.assert_close(total, expected, atol=1e-10, rtol=0)


def test_answer_scores_by_hand():
    prompts = families.prompts(n=2, length=3)
    prompts = replace(
        prompts, clean=torch.tensor([[5, 6, 5], [7, 8, 9]]), answers=((5,), (8,)),
        wrong=((6,), (1,)),
    )  # fmt: skip
    pattern = torch.zeros(2, 3, 3)
    pattern[:, -1] = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    added = torch.zeros(2, 50)
    added[0, 5], added[0, 6], added[1, 8], added[1, 1] = 3.0, 1.0, 2.0, 5.0
    scores = roles.answer_scores(prompts, pattern, added)
    np.testing.assert_allclose(scores["answer attention"], [0.8, 0.7], rtol=1e-6)
    assert "wrong attention" not in scores  # token 1 is not in the second prompt
    assert scores["direct effect"].tolist() == [2.0, -3.0]
    # points (attention, logit): (.8, 3), (.2, 1), (.7, 2)
    expected = np.corrcoef([0.8, 0.2, 0.7], [3, 1, 2])[0, 1]
    assert roles.moving([(prompts, pattern, added)]) == pytest.approx(expected, abs=1e-6)
    assert roles.moving([(prompts, pattern, added * 0)]) is None


# ---- S-inhibition ------------------------------------------------------------------------------


def test_inhibition_is_what_the_dense_twin_says(forward):
    graph, movers = forward.graph, [(1, 1), (1, 3), (0, 0)]
    scores = roles.inhibition_scores(forward, 0, 2, movers)
    mask, turned = graph.legal.copy(), []
    for head in (1, 3):  # the mover of layer 0 does not come after
        alone, record = graph.legal.copy(), Record()
        edge = (graph.head(0, 2), graph.reader(1, "q", head))
        mask[edge] = alone[edge] = False
        masked_run(forward, alone, record)
        clean = trace(forward.model, forward.prompts.clean)
        runs = [clean.patterns[1][:, head], record.patterns[1][head]]
        rows = torch.arange(4)
        io, s1 = (list(forward.prompts.marks[m]) for m in ("io", "s1"))
        before, after = (p[rows, -1, io] - p[rows, -1, s1] for p in runs)
        turned.append((before - after).numpy())
    np.testing.assert_allclose(scores["movers turned to IO"], np.mean(turned, 0), atol=1e-10)
    metric = forward.bound(LOGIT_DIFF)
    fall = metric.of_logits(forward.clean.logits) - metric.of_logits(masked_run(forward, mask))
    np.testing.assert_allclose(scores["logit diff through queries"], fall.numpy(), atol=1e-10)
    assert np.abs(fall.numpy()).max() > 1e-4
    assert roles.inhibition_scores(forward, 1, 0, movers) == {}


def test_layers_are_what_a_trace_keeps(forward):
    """Every layer, one at a time, is the whole run's."""
    run = trace(forward.model, forward.prompts.clean)
    for i, layer in enumerate(layers(forward.model, forward.prompts.clean)):
        assert torch.equal(layer.pattern, run.patterns[i])
        assert torch.equal(layer.before, run.streams[2 * i])
        assert torch.equal(layer.after, run.streams[2 * i + 2])


# ---- the rules ---------------------------------------------------------------------------------

MOVER = {
    "answer attention": {"value": 0.7},
    "copying": {"value": 0.9},
    "direct effect": {"value": 1.0, "low": 0.2, "high": 2.0},
}
NEGATIVE = {
    "wrong attention": {"value": 0.7},
    "anti-copying": {"value": 0.9},
    "direct effect": {"value": -1.0, "low": -2.0, "high": -0.1},
}
INHIBITION = {
    "S2 attention": {"value": 0.7},
    "logit diff through queries": {"value": 1.0, "low": 0.2, "high": 2.0},
    "movers turned to IO": {"value": 0.1, "low": 0.05, "high": 0.2},
}


@pytest.mark.parametrize(
    ("scores", "role"),
    [(MOVER, "mover"), (NEGATIVE, "negative mover"), (INHIBITION, "S-inhibition")],
)
def test_a_role_needs_all_its_scores(scores, role):
    assert rules.candidates(scores) == [role]
    for missing in scores:
        assert rules.candidates({k: v for k, v in scores.items() if k != missing}) == []
    for name in scores:
        doubtful = dict.fromkeys(("value", "low", "high"), 0.0)
        assert rules.candidates(scores | {name: doubtful}) == []


def test_a_head_may_have_several_roles_or_none():
    both = rules.candidates(MOVER | {"induction": {"value": 0.5}})
    assert both == ["induction", "mover"]
    assert rules.candidates({"previous token": {"value": 0.3}}) == []
