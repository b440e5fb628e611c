"""Which models are let in, and the errors of those that are not."""

from dataclasses import replace

import families
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from acdc import bridge
from acdc.bridge import (
    check_identities,
    from_bridge,
    from_module,
    load_pretrained,
    read_bridge,
)
from acdc.errors import InputError


@pytest.fixture
def saved(tmp_path):
    """A model folder without a tokenizer."""
    torch.manual_seed(0)
    config = hf.LlamaConfig(num_key_value_heads=2, **families.SIZES)
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_without_tokenizer_loads(saved):
    loaded = load_pretrained(str(saved), torch.float32, "cpu")
    assert loaded.tokenizer is None and loaded.model.n_kv_heads == 2
    assert loaded.model.graph().n_edges == 110 and loaded.model.graph("per_group").n_edges == 82


def test_a_folders_tokenizer_comes_with_its_model(saved):
    words = {"[UNK]": 0, "one": 1, "two": 2}
    own = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=own).save_pretrained(saved)
    loaded = load_pretrained(str(saved), torch.float32, "cpu", label="mine")
    assert loaded.tokenizer("two one")["input_ids"] == [2, 1] and loaded.model.name == "mine"


def test_float64_is_float64(saved):
    assert load_pretrained(str(saved), torch.float64, "cpu").model.dtype == torch.float64


def test_dropout_is_off():
    module = hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20))
    loaded = from_module(module.train(), None, "gpt2")
    tokens = torch.arange(6)[None]
    assert torch.equal(loaded.plain_logits(tokens), loaded.plain_logits(tokens))


def test_folder_without_weights(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights there"):
        load_pretrained(str(saved), torch.float32, "cpu")


def test_folder_without_config(saved):
    (saved / "config.json").unlink()
    with pytest.raises(InputError, match="no config.json"):
        load_pretrained(str(saved), torch.float32, "cpu")


def test_truncated_weights(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_pretrained(str(saved), torch.float32, "cpu")


def test_unknown_architecture(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="nonesuch"):
        load_pretrained(str(tmp_path), torch.float32, "cpu")


def test_a_mixture_beside_a_shared_expert_is_refused():
    config = hf.Qwen2MoeConfig(
        num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16,
        num_key_value_heads=2, **families.SIZES,
    )  # fmt: skip
    with pytest.raises(InputError, match="'other'.*Qwen2Moe.*experts beside one that all tokens"):
        from_module(hf.Qwen2MoeForCausalLM(config), None, "other")


def test_falcons_alibi_is_refused_since_its_bridge_counts_it_twice():
    """Hugging Face's mask holds it already, and TransformerLens adds it again."""
    config = hf.FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=families.VOCAB,
        alibi=True, multi_query=False, parallel_attn=False,
    )  # fmt: skip
    module = hf.FalconForCausalLM(config)
    families.randomise(module)
    with pytest.raises(InputError, match="identity 'writers sum to the residual stream' fails"):
        from_module(module, None, "other")


def test_attention_of_another_kind_is_refused_by_name():
    config = hf.LlamaConfig(**families.SIZES)
    config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(InputError, match="attention of kind 'chunked_attention' in layer 1"):
        from_module(hf.LlamaForCausalLM(config), None, "other")


def test_what_is_no_decoder_of_heads_and_mlps_is_refused_in_a_sentence():
    mamba = hf.MambaForCausalLM(hf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50))
    with pytest.raises(InputError, match="model 'it': Mamba.* has layers without attention; not"):
        from_module(mamba, None, "it")
    t5 = hf.T5ForConditionalGeneration(
        hf.T5Config(d_model=32, num_layers=2, vocab_size=50, d_kv=8, num_heads=4, d_ff=48)
    )
    with pytest.raises(InputError, match="model 'it': T5.* has an encoder and a decoder; not"):
        from_module(t5, None, "it")
    bridge = families.load("gpt2").bridge
    bridge.cfg.attention_dir = "bidirectional"
    with pytest.raises(InputError, match="has attention that is not causal; not supported"):
        from_bridge(bridge, None, "gpt2")


def test_a_cap_that_is_not_set_is_no_cap():
    bridge = families.load("gpt2").bridge
    for size, cap in ((None, None), (-1.0, None), (2.0, 2.0)):
        bridge.cfg.attn_scores_soft_cap = bridge.cfg.output_logits_soft_cap = size
        found = read_bridge(bridge, "gpt2")
        assert (found.logit_cap, found.blocks[1].attn.cap) == (cap, cap)


def test_a_norm_after_attention_with_biases_is_refused():
    bridge = families.load("gpt2").bridge
    bridge.blocks[0].ln1_post = torch.nn.LayerNorm(32)
    with pytest.raises(InputError, match="a norm after attention with biases"):
        from_bridge(bridge, None, "gpt2")


@pytest.mark.parametrize("n_ctx, known", [(4000, 4000), (5000, 4096)])
def test_rotary_tables_are_as_long_as_the_context_but_4096_at_most(n_ctx, known):
    config = hf.LlamaConfig(**{**families.SIZES, "max_position_embeddings": n_ctx})
    model = from_module(hf.LlamaForCausalLM(config), None, "llama").model
    assert model.n_ctx == len(model.blocks[1].attn.rotary.cos) == known


def test_biases_of_the_unembedding_that_are_zero_are_none():
    """TransformerLens makes up zeros where the model has no such bias."""
    assert families.view("llama").b_U is None
    config = hf.PhiConfig(**{**families.SIZES, "partial_rotary_factor": 0.5})
    module = hf.PhiForCausalLM(config)
    families.randomise(module)
    assert from_module(module, None, "phi").model.b_U.abs().min() > 0


def test_the_scale_of_attention_is_the_models_own():
    ones = {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0}
    config = hf.GraniteConfig(attention_multiplier=0.3, **ones, **families.SIZES)
    model = from_module(hf.GraniteForCausalLM(config), None, "granite").model
    assert model.blocks[1].attn.scale == 0.3
    assert families.view("llama").blocks[1].attn.scale == 8**-0.5


def test_an_error_without_words_is_named_by_its_kind(monkeypatch):
    def fail(*_, **__):
        raise ValueError

    monkeypatch.setattr("acdc.bridge.build_bridge_from_module", fail)
    with pytest.raises(
        InputError, match="GPT2LMHeadModel is not supported.*: ValueError at 'raise ValueError'$"
    ):
        families.load("gpt2")


def with_attention(model, layer, **change):
    """The view with something else in one layer's attention."""
    blocks = list(model.blocks)
    attn = blocks[layer].attn
    change = {name: times * getattr(attn, name) for name, times in change.items()}
    blocks[layer] = replace(blocks[layer], attn=replace(attn, **change))
    return replace(model, blocks=tuple(blocks))


@pytest.mark.parametrize(
    "change, identity",
    [
        (lambda m: replace(m, embed_scale=2.0), "writers sum to the residual stream' .* layer 0"),
        (lambda m: with_attention(m, 1, b_O=3), "heads sum to the attention output' .* layer 1"),
        (lambda m: with_attention(m, 0, W_O=2), "heads sum to the attention output' .* layer 0"),
        (lambda m: with_attention(m, 1, W_V=2), "writers sum to the residual stream' .* layer 1"),
        (lambda m: replace(m, W_U=2 * m.W_U), "own forward = the bridge's logits\" .* layer 2"),
    ],
)
def test_each_identity_finds_its_own_fault(change, identity):
    loaded = families.load("gpt2")
    check_identities(loaded.bridge, loaded.model)
    with pytest.raises(InputError, match=f"does not qualify: identity .{identity}"):
        check_identities(loaded.bridge, change(loaded.model))


def test_another_shape_breaks_an_identity_too():
    loaded = families.load("gpt2")
    narrow = replace(loaded.model, W_U=loaded.model.W_U[:, 1:])
    with pytest.raises(
        InputError, match=r"bridge's logits.*, layer 2: shapes .2, 4[89]. and .2, 50"
    ):
        check_identities(loaded.bridge, narrow)


def test_a_broken_identity_is_named_with_layer_and_size(monkeypatch):
    monkeypatch.setattr("acdc.bridge._attention_scale", lambda *_: 0.1)
    with pytest.raises(InputError, match=r"identity 'writers sum.*layer 0 by \d.*allowed"):
        families.load("gpt2")


def test_what_each_layer_is_off_by_does_not_add_up(monkeypatch):
    """Both layers round by .8 of what is allowed: one after the other they would be refused."""
    loaded, plain = families.load("gpt2"), bridge.layer_of

    def off(times):
        allowed = bridge.TOLERANCE[loaded.model.dtype]

        def layer_of(model, number, x):
            layer = plain(model, number, x)
            return replace(layer, after=layer.after * (1 + times * allowed))

        monkeypatch.setattr(bridge, "layer_of", layer_of)

    off(0.8)
    check_identities(loaded.bridge, loaded.model)
    off(1.3)
    with pytest.raises(InputError, match="writers sum to the residual stream' fails at layer 0"):
        check_identities(loaded.bridge, loaded.model)
