"""Which models are let in, and the errors of those that are not."""

from dataclasses import replace

import families
import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from acdc.bridge import check_identities, from_bridge, from_module, load_pretrained
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


@pytest.mark.parametrize(
    "config, reason",
    [
        (hf.Gemma2Config(num_key_value_heads=2, head_dim=8, **families.SIZES), "norm after"),
        (
            hf.MistralConfig(num_key_value_heads=2, sliding_window=4, **families.SIZES),
            "sliding-window",
        ),
        (hf.MistralConfig(num_key_value_heads=2, sliding_window=32, **families.SIZES), None),
        (hf.OlmoConfig(**families.SIZES), "a norm without weight"),
        (hf.Olmo2Config(num_key_value_heads=2, **families.SIZES), ""),
        (hf.GraniteConfig(num_key_value_heads=2, residual_multiplier=0.5, **families.SIZES), ""),
        (hf.PhiConfig(**{**families.SIZES, "partial_rotary_factor": 0.5}), None),
    ],
    ids=["gemma2", "mistral-window", "mistral-whole", "olmo", "olmo2", "granite", "phi"],
)
def test_other_architectures_work_or_are_refused_by_name(config, reason):
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    families.randomise(module)
    if reason is None:
        assert from_module(module, None, "other").model.n_heads == 4
        return
    with pytest.raises(InputError, match=f"model 'other'.*{reason}"):
        from_module(module, None, "other")


@pytest.mark.parametrize(
    "field, value, reason",
    [
        ("attn_scores_soft_cap", 50.0, "soft-capped attention scores"),
        ("output_logits_soft_cap", 30.0, "soft-capped logits"),
        ("attention_dir", "bidirectional", "attention that is not causal"),
        ("num_experts", 8, "several experts"),
    ],
)
def test_what_a_random_batch_may_not_show_is_refused_by_its_settings(field, value, reason):
    bridge = families.load("gpt2").bridge
    from_bridge(bridge, None, "gpt2")
    setattr(bridge.cfg, field, value)
    with pytest.raises(InputError, match=f"has {reason}; not supported"):
        from_bridge(bridge, None, "gpt2")


def test_a_cap_that_is_not_set_is_no_cap():
    bridge = families.load("gpt2").bridge
    bridge.cfg.attn_scores_soft_cap = bridge.cfg.output_logits_soft_cap = None
    from_bridge(bridge, None, "gpt2")


@pytest.mark.parametrize("place", ["ln1_post", "ln2_post"])
def test_either_norm_after_a_writer_is_refused(place):
    bridge = families.load("gpt2").bridge
    setattr(bridge.blocks[0], place, torch.nn.Identity())
    with pytest.raises(InputError, match="has a norm after attention or MLP"):
        from_bridge(bridge, None, "gpt2")


@pytest.mark.parametrize("n_ctx, known", [(4000, 4000), (5000, 4096)])
def test_rotary_tables_are_as_long_as_the_context_but_4096_at_most(n_ctx, known):
    config = hf.LlamaConfig(**{**families.SIZES, "max_position_embeddings": n_ctx})
    model = from_module(hf.LlamaForCausalLM(config), None, "llama").model
    assert model.n_ctx == len(model.cos) == len(model.sin) == known


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
    monkeypatch.setattr("acdc.bridge._attention_scale", lambda attn, cfg: 0.1)
    with pytest.raises(InputError, match=r"identity 'writers sum.*layer 0 by \d.*allowed"):
        families.load("gpt2")
