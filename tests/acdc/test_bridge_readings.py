"""What is read of a bridge, field by field, and the borders of what is let in."""

import math
from types import SimpleNamespace as Has

import families
import pytest
import torch
import transformers as hf

from acdc import bridge as module
from acdc import particulars
from acdc.bridge import from_module, read_bridge
from acdc.errors import InputError
from acdc.forward import trace


class Whatever:
    pass


class SomeRMSNorm(Whatever):
    pass


@pytest.mark.parametrize(
    "kind, uses_rms, offset, wanted",
    [
        (torch.nn.LayerNorm, False, False, "layer"),
        (torch.nn.LayerNorm, True, False, "layer"),
        (SomeRMSNorm, False, False, "rms"),
        (SomeRMSNorm, True, True, "rms"),
        (Whatever, True, False, "rms"),
        (Whatever, False, False, "layer"),
    ],
)
def test_norms(kind, uses_rms, offset, wanted):
    inner = kind(3) if kind is torch.nn.LayerNorm else kind()
    inner.weight, inner.bias = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), None
    cfg = Has(uses_rms_norm=uses_rms, rmsnorm_uses_offset=offset, eps=0.25)
    for wrapped in (inner, Has(original_component=inner)):
        found = module._read_norm(wrapped, cfg)
        assert (found.kind, found.bias) == (wanted, None)
        assert found.weight.tolist() == [w + offset for w in (1.0, 2.0, 3.0)]
        assert not found.weight.requires_grad
    if kind is not torch.nn.LayerNorm:
        assert found.eps == 0.25
        inner.variance_epsilon = 0.5
        assert module._read_norm(inner, cfg).eps == 0.5
        inner.eps = 0.125
        assert module._read_norm(inner, cfg).eps == 0.125
    inner.bias = torch.nn.Parameter(torch.zeros(3))
    assert module._read_norm(inner, cfg).bias.tolist() == [0, 0, 0]
    inner.weight = None
    if kind is torch.nn.LayerNorm:  # OLMo's
        assert module._read_norm(inner, cfg).weight is None
        return
    with pytest.raises(AttributeError, match=f"without weight .{kind.__name__}"):
        module._read_norm(inner, cfg)


def test_the_scale_of_attention_is_the_modules_own_else_the_configurations():
    cfg = Has(attn_scale=4.0, d_head=9)
    assert module._attention_scale(Has(scaling=0.5), cfg, Has()) == 0.5
    assert module._attention_scale(Has(original_component=Has(scaling=2)), cfg, Has()) == 2.0
    assert module._attention_scale(Has(original_component=Has()), cfg, Has()) == 0.25
    for none in (0.0, -1.0):
        cfg = Has(attn_scale=none, d_head=9)
        assert module._attention_scale(Has(), cfg, Has()) == pytest.approx(1 / 3)
    assert module._attention_scale(Has(), Has(attn_scale=0.5, d_head=9), Has()) == 2.0


@pytest.mark.unchecked
def test_the_architectures_name():
    gpt2 = families.load("gpt2").bridge
    assert module._architecture(gpt2) == "GPT2LMHeadModel"
    assert module._architecture(Has(cfg=Has(architecture="Own"), original_model=1)) == "Own"
    for cfg in (Has(architecture=None), Has()):
        assert module._architecture(Has(cfg=cfg, original_model=Whatever())) == "Whatever"


def test_only_gemma_scales_its_embedding():
    for family in families.FAMILIES:
        scale = families.load(family).model.embed_scale
        assert scale == (math.sqrt(32) if family == "gemma" else 1.0)


@pytest.mark.parametrize("config, size", [
    ({"sliding_window": 31}, 31), ({"sliding_window": 32}, None), ({"sliding_window": 33}, None),
    ({"sliding_window": None}, None), ({"sliding_window": 0}, None), ({}, None),
    ({"sliding_window": 5, "use_sliding_window": False}, None),
    ({"sliding_window": 5, "use_sliding_window": True}, 5),
    ({"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}, None),
    ({"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}, 5),
    ({"window_size": 7, "attention_layers": ["global", "local"]}, 7),
    ({"window_size": 7, "attention_layers": ["local", "global"]}, None),
])  # fmt: skip
def test_a_window_counts_if_its_layer_uses_it_and_it_is_shorter_than_the_context(config, size):
    assert particulars.window(Has(**config), 1, 32) == size


def table(model):
    return model.blocks[1].attn.rotary


@pytest.mark.parametrize("family, n_ctx", [("llama", 4096), ("gpt2", 5000)])
def test_rotary_tables_end_at_4096_positions(family, n_ctx):
    if family == "llama":
        sizes = families.SIZES | {"max_position_embeddings": 5000}
        built = hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **sizes))
    else:
        built = hf.GPT2LMHeadModel(
            hf.GPT2Config(n_layer=1, n_head=4, n_embd=32, vocab_size=50, n_positions=5000)
        )
    families.randomise(built)
    model = from_module(built, None, family).model
    assert model.n_ctx == n_ctx
    assert (model.W_pos is None) == (family == "llama") == (model.blocks[0].attn.rotary is not None)
    if family == "llama":
        assert table(model).cos.shape == table(model).sin.shape == (4096, 8)
    loaded = families.load("llama")
    short = loaded.model
    assert short.n_ctx == 32 and len(table(short).cos) == len(table(short).sin) == 32
    with torch.device("meta"):  # they are where the weights are, wherever that is
        again = module.read_bridge(loaded.bridge, "again")
    assert torch.equal(table(again).cos, table(short).cos)


def test_a_float32_copy_is_the_corner_of_the_whole():
    sizes = families.SIZES | {"num_hidden_layers": 3, "vocab_size": 600, "pad_token_id": 599}
    whole = hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **sizes)).to(torch.bfloat16)
    copied = module._first_layers(whole)
    assert (copied.config.num_hidden_layers, copied.config.vocab_size) == (2, 512)
    assert copied.config.pad_token_id is None and whole.config.pad_token_id == 599
    assert copied.dtype == torch.float32 and len(copied.model.layers) == 2
    theirs = whole.state_dict()
    for name, own in copied.state_dict().items():
        corner = theirs[name][: own.shape[0]]
        assert torch.equal(own, corner.float()), name
    small = module._first_layers(families.BUILDERS["llama"]().to(torch.bfloat16), layers=1)
    assert (small.config.num_hidden_layers, small.config.vocab_size) == (1, families.VOCAB)
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = hf.Qwen2Config(num_key_value_heads=2, layer_types=kinds, **sizes)
    assert module._first_layers(hf.Qwen2ForCausalLM(config)).config.layer_types == kinds[:2]


def test_a_bias_of_zeros_is_none():
    for family in ("gpt2", "llama"):
        loaded = families.load(family)
        assert loaded.model.b_U is None
        assert (loaded.d_vocab, loaded.n_ctx) == (families.VOCAB, 32)
    phi = hf.PhiForCausalLM(hf.PhiConfig(**families.SIZES, partial_rotary_factor=0.5))
    families.randomise(phi)
    loaded = from_module(phi, None, "phi")
    assert torch.equal(loaded.model.b_U, phi.lm_head.bias)
    with torch.no_grad():
        phi.lm_head.bias.zero_()
    found = read_bridge(loaded.bridge, "x")
    assert (found.name, found.b_U) == ("x", None)


@pytest.mark.unchecked
@pytest.mark.parametrize("dtype, share", [
    (torch.float64, 1e-4), (torch.float32, 1e-4), (torch.bfloat16, 5e-2), (torch.float16, 1e-2),
])  # fmt: skip
def test_an_identity_holds_up_to_a_share_of_the_largest_value(dtype, share):
    check = module._Check(Has(name="m", dtype=dtype))
    theirs = torch.tensor([[0.0, -8.0, 2.0]], dtype=torch.float64)
    ours = theirs.clone()
    ours[0, 2] += 8 * share * 0.999
    check("this", 1, ours, theirs)
    for sign in (1, -1):
        ours = theirs.clone()
        ours[0, 2] += sign * 8 * share * 1.001
        with pytest.raises(InputError, match="'m' does not qualify: identity 'this' fails at lay"):
            check("this", 1, ours, theirs)
    tiny = torch.full((1, 3), 1e-6 * share * 0.9, dtype=torch.float64)
    check("this", 1, tiny, tiny * 0)
    with pytest.raises(InputError, match="fails at layer 3 by"):
        check("this", 3, 2 * tiny, tiny * 0)
    with pytest.raises(InputError, match=r"'this', layer 2: shapes \(1, 3\) and \(3,\)"):
        check("this", 2, ours, theirs[0])
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="NaN or infinite values at layer 0"):
            check("this", 0, theirs * value, theirs)


def test_half_precision_is_tried_in_float32_first_under_its_own_name(monkeypatch):
    built = hf.GraniteForCausalLM(
        hf.GraniteConfig(num_key_value_heads=2, residual_multiplier=0.99, **families.SIZES)
    )
    families.randomise(built)
    monkeypatch.setattr(particulars, "residual_scale", lambda config: 1.0)
    with pytest.raises(InputError, match="model 'mine' does not qualify"):
        from_module(built.to(torch.bfloat16), None, "mine")
    plain = families.BUILDERS["llama"]()
    families.randomise(plain)
    assert from_module(plain.to(torch.bfloat16), None, "mine").model.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["mixtral", "olmo3", "gemma2"])
def test_families_of_all_kinds_are_read_in_half_precision(family):
    """Tokens that rounding sends to other experts do not count (Mixtral), nor a table's dtype."""
    loaded = from_module(families.particular(family).to(torch.bfloat16), None, family)
    assert {w.dtype for w in (loaded.model.W_U, loaded.model.blocks[0].attn.W_O)} == {
        torch.bfloat16
    }
    assert trace(loaded.model, families.prompts().clean).logits.dtype == torch.bfloat16


@pytest.mark.unchecked
def test_of_tokens_that_go_to_experts_half_must_agree():
    theirs = torch.ones(1, 5, 3)
    ours = theirs.clone()
    ours[0, :2] += 9
    check = module._Check(Has(name="m", dtype=torch.bfloat16), most=True)
    check("this", 0, ours, theirs)
    ours[0, 2] += 9
    with pytest.raises(InputError, match="identity 'this' fails at layer 0 by 9 "):
        check("this", 0, ours, theirs)
    ours[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        check("this", 0, ours, theirs)
