"""Every particular family: windows, positions, caps, experts, norms after a sublayer.

Each is a tiny random instance; views are in float64 and compared with the literal twin, which
tests/acdc/twin.py reads beside each family's own code, and with Hugging Face's logits.
"""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch
from twin import Twin
from twin import run as literal

from acdc.ablation import RESAMPLE
from acdc.attribution import eap
from acdc.backward import BACKWARD
from acdc.bridge import from_module
from acdc.data import Data
from acdc.forward import layers, trace
from acdc.gradient import MaskedRun
from acdc.masked import masked_run
from acdc.metrics import LOGIT_DIFF, METRICS
from acdc.model import Experts
from acdc.search import Guide, Order, acdc
from discovery.flow.scores import _composition, readers_by_stream
from discovery.flow.shares import flow_graph
from discovery.heads import roles

LENGTH = 5  # windows are of 3
THRESHOLD = 0.003  # nats
UNGROUPED = ("gptj", "gptneo", "bloom")
JOINT = ("gemma2", "gemma3", "olmo2", "olmo3")  # a norm follows their heads
pytestmark = pytest.mark.unchecked  # types of tests of the pieces and of explain are

EVERY = [
    (family, kv)
    for family in families.PARTICULAR
    for kv in ("per_query_head", "per_group")
    if kv == "per_query_head" or family not in UNGROUPED
]
IDS = ["-".join(case) for case in EVERY]


def setup(family, kv="per_query_head"):
    model = families.view(family)
    return families.run(model, model.graph(kv), families.prompts(n=2, length=LENGTH))


def masks(graph):
    noise = np.random.default_rng(3).random(graph.legal.shape)
    return [graph.legal & (noise < share) for share in (0.9, 0.5, 0.15)]


def close(ours, theirs, atol=1e-10):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize("family", families.PARTICULAR)
def test_logits_are_hugging_faces(family):
    """To what its own norms and softmax, in float32 whatever the dtype, allow."""
    module = families.particular(family).double()
    tokens = families.prompts(n=2, length=12).clean
    with torch.no_grad():
        theirs = module(tokens).logits[:, -1]
        ours = trace(from_module(module, None, family).model, tokens).logits
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("family, kv", EVERY, ids=IDS)
def test_all_kept_is_the_model_none_kept_the_corrupted_run_all_else_the_twin(family, kv):
    forward = setup(family, kv)
    graph, model, tokens = forward.graph, forward.model, forward.prompts.clean
    close(forward.run(graph.legal), trace(model, tokens).logits)
    close(forward.run(np.zeros_like(graph.legal)), trace(model, forward.prompts.corrupt).logits)
    slow = Twin(model, graph, forward.prompts, "resample", "kl")
    for mask in [graph.legal, *masks(graph)]:
        _, wanted = literal(model, graph, tokens, mask, slow.abl)
        close(masked_run(forward, mask), wanted)
        close(forward.run(mask), wanted)
        everything = torch.ones(mask.shape, dtype=torch.float64)
        close(MaskedRun(forward, everything, mask).logits.detach(), wanted)
    close(forward.run(graph.legal, at="answer"), forward.clean.logits)


class Dense(Twin):
    """The twin with its runs by the definition, which the literal one is compared with above."""

    def value(self, mask):
        forward = families.run(self.model, self.graph, self.prompts)
        return (
            forward.bound(METRICS[self.metric]).of_logits(masked_run(forward, mask)).mean().item()
        )


@pytest.mark.parametrize("family, kv", EVERY, ids=IDS)
@pytest.mark.quick(*("-".join(c) for c in EVERY if c[1] == "per_group" or c[0] in UNGROUPED))
def test_the_search_decides_as_its_twin(family, kv):
    model, prompts = families.view(family), families.prompts(n=2, length=LENGTH)
    graph = model.graph(kv)
    whole = kv == "per_group" and family in (*JOINT, "gpt_oss", "mixtral")
    start = graph.legal if whole else masks(graph)[1]  # of half the edges
    mask, _, wanted, value = Dense(model, graph, prompts, "resample", "kl").search(
        THRESHOLD, "layer", False, start=start
    )
    data = Data(model, graph, prompts, RESAMPLE)
    order, guide = Order(reader_order="layer", gates=False), Guide(start=start)
    steps = list(acdc(data, METRICS["kl"], THRESHOLD, order, None, guide))
    tests = [t for step in steps for t in step.tests]
    assert [(t.name(graph), t.kept) for t in tests] == [(name, kept) for name, _, kept in wanted]
    effects = np.array([t.effect for t in tests])
    np.testing.assert_allclose(effects, [effect for _, effect, _ in wanted], rtol=0, atol=1e-9)
    assert (steps[-1].mask == mask).all() and 0 < mask.sum() < start.sum()
    assert steps[-1].metric == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("family, kv", EVERY, ids=IDS)
def test_edge_attribution_is_the_gradient_of_the_mask(family, kv):
    forward = setup(family, kv)
    graph = forward.graph
    mask = torch.tensor(graph.legal, dtype=torch.float64, requires_grad=True)
    loss = -forward.bound(LOGIT_DIFF).of_logits(masked_run(forward, mask)).mean()
    (slope,) = torch.autograd.grad(loss, mask)
    scores = eap(Data(forward.model, graph, forward.prompts), LOGIT_DIFF)
    wanted = np.where(graph.legal, -slope.numpy(), 0.0)
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=1e-9)
    assert np.count_nonzero(scores) > graph.n_edges / 2


@pytest.mark.parametrize("family, kv", EVERY, ids=IDS)
def test_a_masked_runs_gradient_is_the_definitions(family, kv):
    forward = setup(family, kv)
    within = torch.tensor(masks(forward.graph)[0])
    noise = torch.rand(within.shape, dtype=torch.float64, generator=torch.manual_seed(0))
    mask = (noise * within).requires_grad_()
    bound = forward.bound(METRICS["kl"])
    (wanted,) = torch.autograd.grad(bound.of_logits(masked_run(forward, mask)).sum(), mask)
    run = MaskedRun(forward, mask, within.numpy())
    close(run.gradient(bound.of_logits(run.logits)), wanted * within, atol=1e-9)


@pytest.mark.parametrize("rules", ["gim", "relp"])
@pytest.mark.parametrize("family", ["gemma2", "olmoe", "gpt_oss"])
def test_rules_change_gradients_and_no_value(family, rules):
    forward = setup(family)
    ruled = BACKWARD[rules].of(forward.model)
    data = Data(ruled, forward.graph, forward.prompts)
    assert torch.equal(data[0].clean.logits, forward.clean.logits)
    scores = eap(data, LOGIT_DIFF)
    plain = eap(Data(forward.model, forward.graph, forward.prompts), LOGIT_DIFF)
    assert np.isfinite(scores).all() and np.abs(scores - plain).max() > 1e-3


@pytest.mark.parametrize("family", families.PARTICULAR)
def test_what_a_state_is_made_of_sums_to_one(family):
    forward = setup(family)
    model, tokens = forward.model, forward.prompts.clean
    right = [[1]] * len(tokens)
    flow = flow_graph(model, tokens, right=right)
    one = torch.ones(())
    attention = flow.heads.sum((3, 4)) + flow.resid + flow.constant
    attention = attention + flow.mlp if flow.parallel else attention
    close(attention, one.to(attention).expand_as(attention))
    assert flow.parallel or ((flow.mlp + flow.skip - 1).abs() < 1e-10).all()
    uncapped = replace(model, logit_cap=None)
    logits = trace(uncapped, tokens).logits[:, 1]
    close(flow.logit.value, logits)  # of a capped model: before the cap
    close(flow.logit.flat().sum(1), logits)
    run = trace(model, tokens)
    for readers in readers_by_stream(forward.graph):
        shares, nobody, _ = _composition(model, forward.graph, run, readers[0])
        close(shares.sum(0) + nobody, torch.ones_like(nobody))


@pytest.mark.parametrize("family", families.PARTICULAR)
def test_heads_roles_add_up(family):
    """What all writers and constants add to the logits is the logits, before a cap."""
    model, tokens = families.view(family), families.prompts(n=2, length=LENGTH).clean
    run = trace(model, tokens)
    final, outs = run.streams[-1][:, -1], run.writers.dense()[:, :, -1]
    biases = sum((b.attn.b_O for b in model.blocks if b.attn.b_O is not None), 0 * final[0])
    constant = model.ln_final.bias if model.ln_final.bias is not None else 0 * final[0]
    added = roles.attributed_logits(model, torch.cat([outs, biases.expand_as(outs[:1])]), final)
    added = added.sum(0) + constant @ model.W_U + (0 if model.b_U is None else model.b_U)
    plain = replace(model, logit_cap=None).unembed(final)
    close(added - added.mean(-1, keepdim=True), plain - plain.mean(-1, keepdim=True))
    own, against = roles.copying(model, 1, 0, range(20))
    assert 0 <= own <= 1 and 0 <= against <= 1


# ---- what the particulars do, by hand ------------------------------------------------------------


@pytest.mark.parametrize("family", families.PARTICULAR)
def test_which_families_group_keys_and_which_have_a_norm_after_their_heads(family):
    graph = families.view(family).graph()
    assert (graph.n_kv_heads == 4, graph.joint) == (family in UNGROUPED, family in JOINT)


@pytest.mark.parametrize("family", JOINT)
def test_shares_of_a_run_sum_to_its_normed_attention(family):
    """And each is a linear part of it: z W_O without the norm, over the root mean square."""
    model, tokens = families.view(family), families.prompts(n=2, length=LENGTH).clean
    run = trace(model, tokens)
    for i, layer in enumerate(layers(model, tokens)):
        first = run.writers.graph.head(i, 0)
        heads = run.writers.take(range(first, first + model.n_heads))
        close(heads.sum(0), layer.between - layer.before)
        norm = model.blocks[i].attn.norm
        weight = (model.blocks[i].attn.W_O / norm.W_O)[0, 0]
        square = ((layer.between - layer.before) / weight).pow(2).mean(-1)
        assert (square < 1).all() and (square > 0.99).all()  # eps takes the rest


@pytest.mark.parametrize("family", JOINT)
def test_what_one_head_reads_moves_the_others_there(family):
    """So its edges count as theirs do, even where nothing reads it."""
    forward = setup(family)
    graph = forward.graph
    mask = graph.legal.copy()
    mask[graph.head(1, 0)] = False  # nobody reads a1.h0 ...
    cut = mask.copy()
    cut[0, graph.reader(1, "v", 0)] = False  # ... but it reads on
    assert (forward.run(mask) - forward.run(cut)).abs().max() > 1e-4
    assert all(len(r.shapes) == 4 for r in graph.readers if r.part in "qkv")


def test_a_window_hides_what_lies_before_it():
    model = families.view("mistral_window")
    q = k = torch.ones(2, 6, 8, dtype=torch.float64)
    pattern = model.pattern(0, [0, 1], q, k)
    wanted = [[1 / min(t + 1, 3) * (t - 3 < s <= t) for s in range(6)] for t in range(6)]
    close(pattern, torch.tensor([wanted, wanted], dtype=torch.float64))
    close(model.pattern(0, [0, 1], q[:, -1:], k), pattern[:, -1:])


def test_sinks_take_attention_and_give_nothing():
    model = families.view("gpt_oss")
    zero = torch.zeros(4, 1, 8, dtype=torch.float64)
    pattern = model.pattern(1, list(range(4)), zero, torch.zeros(4, 5, 8).double())
    sinks = model.blocks[1].attn.sinks.exp()
    close(pattern, (1 / (5 + sinks))[:, None, None].expand(4, 1, 5))
    close(model.pattern(1, 2, zero[2], torch.zeros(5, 8).double()), pattern[2])


def test_an_expert_sees_the_tokens_that_chose_it():
    eye = torch.eye(2, dtype=torch.float64)
    scales = torch.tensor([1.0, 10.0])[:, None, None].double()
    both = eye.expand(2, 2, 2)
    experts = Experts(eye, None, 1, True, both, None, both, None, scales * eye, None, torch.relu)
    x = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).double()
    close(experts(x), torch.tensor([[9.0, 1.0], [10.0, 40.0]]).double())  # relu(x) x, times scale
    soft = replace(experts, renormalise=False)(x)
    close(soft, experts(x) * x.softmax(-1).amax(-1, keepdim=True))
    close(experts(x[None]), experts(x)[None])


def test_layers_share_their_tables():
    model = families.view("gemma3")
    tables = [b.attn.rotary.cos for b in model.blocks]
    assert not torch.equal(*tables)  # local and global layers turn at different speeds
    first, second = (b.attn.rotary.cos for b in families.view("olmo2").blocks)
    assert first is second
