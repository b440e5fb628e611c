"""Rules for gradients: Hugging Face modules with rules written out, laws, hand-worked cases."""

import math
from dataclasses import replace
from functools import partial

import families
import numpy as np
import pytest
import torch
import transformers as hf
from test_attribution import EVERY, METHODS, loss, setup

from acdc.attribution import clean_corrupted, eap, eap_ig, eap_ig_activations
from acdc.backward import BACKWARD, EXACT, Backward, FrozenNorm
from acdc.data import Data
from acdc.forward import trace
from acdc.model import MLP, Attention, Block, Model, Norm

RULES = ("gim", "relp")
F64 = torch.float64
view = families.view


# ---- Hugging Face's modules, what backward returns written out as formulas -----------------------


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.factor, None


class WithoutScale(torch.autograd.Function):
    """A norm; dx = g w / scale, centred if the norm centres."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        centred = x if bias is None else x - x.mean(-1, keepdim=True)
        scale = ((centred**2).mean(-1, keepdim=True) + eps) ** 0.5
        ctx.centres = bias is not None
        ctx.save_for_backward(weight / scale)
        return centred / scale * weight + (0 if bias is None else bias)

    @staticmethod
    def backward(ctx, g):
        g = g * ctx.saved_tensors[0]
        return (g - g.mean(-1, keepdim=True) if ctx.centres else g), None, None, None


class Tempered(torch.autograd.Function):
    """Softmax; ds = p (g - <g, p>) with p at temperature 2."""

    @staticmethod
    def forward(ctx, scores):
        ctx.save_for_backward((scores / 2).softmax(-1))
        return scores.softmax(-1)

    @staticmethod
    def backward(ctx, g):
        (p,) = ctx.saved_tensors
        return p * (g - (g * p).sum(-1, keepdim=True))


class Share(torch.autograd.Function):
    """An activation; dx = g act(x)/x."""

    @staticmethod
    def forward(ctx, x, act):
        y = act(x)
        ctx.save_for_backward(y / x)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0], None


def attention(module, query, key, value, mask, scaling=None, rule="exact", **rest):
    """Hugging Face's interface: [batch, head, pos, d_head] each, out [batch, pos, head, d_head]."""
    if rule == "gim":
        query, key = Scaled.apply(query, 0.25), Scaled.apply(key, 0.25)
        value = Scaled.apply(value, 0.5)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    scores = scores.masked_fill(later, -math.inf)
    pattern = Tempered.apply(scores) if rule == "gim" else scores.softmax(-1)
    return (pattern @ value).transpose(1, 2), pattern


for name in BACKWARD:
    hf.AttentionInterface.register(f"rules_{name}", partial(attention, rule=name))


def ruled(family, rule):
    """A tiny module in float64 under a rule, and (first norm, projections, second norm, MLP)s."""
    module = families.BUILDERS[family]()
    families.randomise(module)
    module = module.double().eval()
    module.set_attn_implementation(f"rules_{rule}")
    stem = module.transformer if family == "gpt2" else module.model
    layers, last = (stem.h, stem.ln_f) if family == "gpt2" else (stem.layers, stem.norm)
    places = []
    for layer in layers:
        if family == "gpt2":
            places.append((layer.ln_1, [layer.attn.c_attn], layer.ln_2, layer.mlp))
            if rule == "relp":
                layer.mlp.act.forward = partial(apply, Share, act=layer.mlp.act.forward)
            continue
        own, mlp = layer.self_attn, layer.mlp
        heads = [own.q_proj, own.k_proj, own.v_proj]
        places.append((layer.input_layernorm, heads, layer.post_attention_layernorm, mlp))
        if rule == "gim":
            for branch in (mlp.gate_proj, mlp.up_proj):
                branch.register_forward_hook(lambda m, x, y: Scaled.apply(y, 0.5))
        if rule == "relp":
            mlp.act_fn.forward = partial(apply, Share, act=mlp.act_fn.forward)
            mlp.down_proj.register_forward_pre_hook(lambda m, x: Scaled.apply(x[0], 0.5))
    for norm in module.modules():
        if "Norm" in type(norm).__name__:
            norm.forward = partial(plain_norm if rule == "exact" else frozen_norm, norm)
    return module, places, last


def apply(function, x, act):
    return function.apply(x, act)


def parts_of(norm):
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return norm.weight, getattr(norm, "bias", None), eps


def frozen_norm(norm, x):
    return WithoutScale.apply(x, *parts_of(norm))


def plain_norm(norm, x):
    """In float64, which Hugging Face's RMSNorm is not."""
    weight, bias, eps = parts_of(norm)
    x = x if bias is None else x - x.mean(-1, keepdim=True)
    y = x / ((x**2).mean(-1, keepdim=True) + eps).sqrt() * weight
    return y if bias is None else y + bias


def reader_gradients(family, rule, data, metric):
    """Gradients of the summed loss at every reader's input, [reader, batch, pos, d_model]."""
    module, places, last = ruled(family, rule)
    forward, d_head = data[0], data.model.blocks[0].attn.W_O.shape[1]
    inputs, outputs = {}, {}

    def see_input(norm, given):
        inputs.setdefault(norm, given[0])

    def see_output(part, given, out):
        outputs.setdefault(part, out)

    for first, heads, second, mlp in places:
        for norm in (first, second):
            norm.register_forward_pre_hook(see_input)
        for part in (*heads, mlp):
            part.register_forward_hook(see_output)
    last.register_forward_pre_hook(see_input)
    logits = module(forward.prompts.clean).logits[:, -1]
    torch.testing.assert_close(logits, forward.clean.logits, atol=1e-10, rtol=0)
    total = metric.sign * forward.bound(metric).of_logits(logits).sum()
    wanted = [inputs[last], *outputs.values()]
    end, *gradients = torch.autograd.grad(total, wanted)
    at = dict(zip(outputs, gradients, strict=True))

    def pull(norm, parts, rows):
        x = inputs[norm].detach().requires_grad_()
        out = torch.cat([part(norm(x)) for part in parts], -1)[..., rows]
        upstream = torch.cat([at[part] for part in parts], -1)[..., rows]
        return torch.autograd.grad(out, x, upstream)[0]

    found = []
    for first, heads, second, mlp in places:
        width = sum(at[part].shape[-1] for part in heads)
        found += [pull(first, heads, slice(i, i + d_head)) for i in range(0, width, d_head)]
        found.append(pull(second, [mlp], slice(None)))
    return torch.stack([*found, end])


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("rule", BACKWARD)
def test_hugging_faces_modules_under_the_rules_give_the_same_scores(family, rule):
    data, metric = setup(family, "per_group")
    for block in data.model.blocks:
        assert block.attn.q_norm.kind == ("rms" if family == "qwen3" else "none")
    gradients = reader_gradients(family, rule, data, metric)
    change = data[0].ablated.dense() - data[0].clean.writers.dense()
    wanted = torch.einsum("wbpd,rbpd->wr", change, gradients) / len(data)
    found = eap(data.with_backward(BACKWARD[rule]), metric)
    np.testing.assert_allclose(found, wanted.numpy() * data.graph.legal, rtol=0, atol=1e-9)
    assert np.abs(found).max() > 0.1
    if rule != "exact":
        assert np.abs(found - eap(data, metric)).max() > 0.1


# ---- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, kv", EVERY, ids=["-".join(c) for c in EVERY])
@pytest.mark.parametrize("rule", RULES)
def test_scores_are_the_gradient_of_the_mask_in_the_model_with_rules(family, kv, rule):
    data, metric = setup(family, kv)
    data = data.with_backward(BACKWARD[rule])
    mask = torch.tensor(data.graph.legal, dtype=F64, requires_grad=True)
    loss(data, metric, mask).backward()
    wanted = -mask.grad.numpy() * data.graph.legal
    np.testing.assert_allclose(eap(data, metric), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_paths_of_one_point_and_of_two_ends(rule):
    plain, metric = setup("llama")
    data = plain.with_backward(BACKWARD[rule])
    ends = eap(data, metric) + eap_ig(data, metric, 1)
    np.testing.assert_allclose(clean_corrupted(data, metric), ends / 2, rtol=0, atol=1e-12)
    assert np.abs(eap_ig(data, metric, 1) - eap_ig(plain, metric, 1)).max() > 0.1
    at_clean = eap_ig_activations(data, metric, 1, "own_writer")
    np.testing.assert_allclose(at_clean, eap(data, metric), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("method", [m for m in METHODS if m != "exact"])
def test_without_any_rule_scores_are_the_plain_ones_to_the_bit(family, method):
    data, metric = setup(family)
    found = METHODS[method](data.with_backward(EXACT), metric)
    assert (found == METHODS[method](data, metric)).all()


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("gradients", [False, True])
def test_values_are_the_models_to_the_bit(family, dtype, gradients):
    model, tokens = view(family, dtype), families.prompts().clean
    every = Backward(True, 3.0, 0.2, 0.3, 0.4, True)
    with torch.set_grad_enabled(gradients):
        plain = trace(model, tokens)
        for rules in (*BACKWARD.values(), every):
            other = trace(rules.of(model), tokens)
            assert torch.equal(other.logits, plain.logits)
            assert torch.equal(other.streams, plain.streams)


def test_under_relp_inputs_times_gradients_add_up_to_the_output():
    """Relevance is conserved where there are no biases: in Llama's MLPs and its last norm."""
    model = BACKWARD["relp"].of(view("llama"))
    x = torch.randn(3, 32, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for part in (partial(model.mlp_out, 1), model.unembed):
        out = part(x)
        upstream = torch.linspace(-1, 1, out.shape[-1], dtype=F64).expand_as(out)
        (gradient,) = torch.autograd.grad(out, x, upstream)
        torch.testing.assert_close(
            (gradient * x).sum(-1), (out * upstream).sum(-1), atol=1e-10, rtol=0
        )


@pytest.mark.parametrize("rule", RULES)
def test_scores_do_not_depend_on_the_parts_or_on_what_is_held(rule):
    data, metric = setup("qwen3", n=3)
    whole = eap(data.with_backward(BACKWARD[rule]), metric)
    apart = Data(data.model, data.graph, data.prompts, data.ablation, part=2, hold=False)
    found = eap(apart.with_backward(BACKWARD[rule]), metric)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)


def test_rules_are_given_once():
    data, _ = setup("gpt2")
    with pytest.raises(ValueError, match="has rules for its gradients already"):
        data.with_backward(EXACT).with_backward(BACKWARD["gim"])


# ---- worked by hand ------------------------------------------------------------------------------


def gradient(function, x, upstream):
    x = torch.tensor(x, dtype=F64, requires_grad=True)
    upstream = torch.tensor(upstream, dtype=F64)
    return torch.autograd.grad(function(x), x, upstream)[0].tolist()


def toy(act=torch.relu, gate=False) -> Model:
    """One head and an MLP of width one, all weights 1, no norms."""
    none, one = Norm("none"), torch.ones(1, 1, dtype=F64)
    attn = Attention(
        one[None], one[None], one[None], one[None], None, None, None, None, none, none, 1.0
    )
    mlp = MLP(one, None, one if gate else None, None, one, None, act)
    return Model(
        name="toy", n_heads=1, n_kv_heads=1, parallel=False, n_ctx=4, embed_scale=1.0, W_E=one,
        W_pos=None, blocks=(Block(none, attn, none, mlp),), ln_final=none,
        W_U=one, b_U=None,
    )  # fmt: skip


def test_a_frozen_norm():
    """(1, 7) has root mean square 5; (1, 3) is (-1, 1) about its mean, of deviation 1."""
    rms = FrozenNorm("rms", torch.tensor([2.0, 1.0], dtype=F64))
    assert gradient(rms, [1.0, 7.0], [1.0, 0.0]) == pytest.approx([2 / 5, 0])
    layer = FrozenNorm("layer", torch.tensor([2.0, 5.0], dtype=F64))
    assert gradient(layer, [1.0, 3.0], [1.0, 0.0]) == pytest.approx([1, -1])
    plain = Norm("layer", torch.tensor([2.0, 5.0], dtype=F64))  # of two numbers: their order only
    assert gradient(plain, [1.0, 3.0], [1.0, 0.0]) == pytest.approx([0, 0], abs=1e-12)


def test_softmax_at_temperature_two():
    """Scores 0 and ln 4: p = (1/5, 4/5), at T = 2 (1/3, 2/3); for g = (1, 0) +-p1 p2 = +-2/9."""
    one, k = torch.ones(1, 1, dtype=F64), [[0.0], [math.log(4)]]
    hot = Backward(temperature=2.0).of(toy())
    assert hot.pattern(0, 0, one, torch.tensor(k, dtype=F64)).tolist() == [
        pytest.approx([0.2, 0.8])
    ]
    of_k = gradient(lambda k: hot.pattern(0, 0, one, k), k, [[1.0, 0.0]])
    assert of_k == [pytest.approx([2 / 9]), pytest.approx([-2 / 9])]
    keys = torch.tensor(k, dtype=F64)
    of_q = gradient(lambda q: hot.pattern(0, 0, q, keys), [[1.0]], [[1.0, 0.0]])
    assert of_q == [pytest.approx([-2 / 9 * math.log(4)])]
    plain = gradient(lambda k: toy().pattern(0, 0, one, k), k, [[1.0, 0.0]])
    assert plain == [pytest.approx([4 / 25]), pytest.approx([-4 / 25])]


@pytest.mark.parametrize("part, factor", [("q", 0.25), ("k", 0.25), ("v", 0.5)])
def test_factors_of_gim(part, factor):
    ours = BACKWARD["gim"].of(toy())
    assert gradient(lambda x: ours.project(0, part, 0, x, 1), [[3.0]], [[8.0]]) == [[8 * factor]]
    assert gradient(lambda x: ours.project(0, part, [0], x, 1), [[[3.0]]], [[[8.0]]]) == [
        [[8 * factor]]
    ]
    relp = BACKWARD["relp"].of(toy())
    assert gradient(lambda x: relp.project(0, part, 0, x, 1), [[3.0]], [[8.0]]) == [[8.0]]


@pytest.mark.parametrize(
    "act, x, slope",
    [
        (torch.nn.functional.gelu, 0.0, 0.5),
        (torch.nn.functional.silu, 0.0, 0.5),
        (hf.activations.ACT2FN["gelu_new"], 0.0, 0.5),
        (torch.nn.functional.silu, math.log(3), 3 / 4),  # the sigmoid
        (torch.nn.functional.gelu, -1.0, 0.158655253931),  # the normal distribution
        (torch.relu, 0.0, 0.0),
        (torch.relu, 2.0, 1.0),
        (torch.relu, -2.0, 0.0),
    ],
)
def test_an_activation_is_its_input_times_a_constant(act, x, slope):
    ours = BACKWARD["relp"].of(toy(act))
    assert gradient(lambda x: ours.mlp_out(0, x), [x], [1.0]) == pytest.approx([slope], abs=1e-12)
    gim = BACKWARD["gim"].of(toy(act))
    own = gradient(act, x, 1.0)
    assert gradient(lambda x: gim.mlp_out(0, x), [x], [1.0]) == pytest.approx([own])


def test_a_gated_product_counts_half():
    """silu(x) x at ln 3, s = 3/4 its sigmoid: 2 x s + x^2 s (1 - s); RelP's is half of 2 x s."""
    x, s = math.log(3), 3 / 4
    model = toy(torch.nn.functional.silu, gate=True)
    exact = 2 * x * s + x**2 * s * (1 - s)
    found = [
        gradient(partial(rules.of(model).mlp_out, 0), [x], [1.0])[0] for rules in BACKWARD.values()
    ]
    assert found == pytest.approx([exact, exact / 2, x * s])


def test_every_norm_is_frozen_and_nothing_else_changes():
    for name in RULES:
        model = BACKWARD[name].of(view("qwen3"))
        norms = [model.ln_final]
        norms += [n for b in model.blocks for n in (b.ln1, b.ln2, b.attn.q_norm, b.attn.k_norm)]
        assert all(isinstance(norm, FrozenNorm) for norm in norms) and len(norms) == 9
    free = replace(BACKWARD["gim"], freeze_norms=False).of(view("qwen3"))
    assert not isinstance(free.ln_final, FrozenNorm)
