"""What is read of a model: all of its weights or none, its own tokenizer, a hub or an answer."""

import json
import time

import families
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from test_settings import settings

from acdc import pretrained
from acdc.bridge import from_module, load_pretrained
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from discovery.heads.describe import describe_heads
from discovery.job.build import load_model


@pytest.fixture(params=["tied", "untied"])
def saved(request, tmp_path):
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        num_key_value_heads=2, tie_word_embeddings=request.param == "tied", **families.SIZES
    )
    module = hf.LlamaForCausalLM(config)
    families.randomise(module)
    module.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder):
    return load_pretrained(str(folder), torch.float32, "cpu")


def spoil(folder, weights=lambda w: w, **config):
    """Rewrite the folder with other weights, other fields of config.json, or both."""
    file = folder / "model.safetensors"
    save_file(weights(load_file(file)), file, metadata={"format": "pt"})
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | config))


def test_tied_or_not_a_whole_folder_loads_the_same_weights_twice(saved):
    one, two = (load(saved).plain_logits(torch.arange(6)[None]) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "model.module."])
def test_names_with_a_prefix(saved, prefix):
    spoil(saved, lambda w: {prefix + key: value for key, value in w.items()})
    with pytest.raises(InputError, match=f"missing .* unexpected .*take the prefix '{prefix}' off"):
        load(saved)


def without(part):
    return lambda w: {key: value for key, value in w.items() if part not in key}


@pytest.mark.parametrize("weights, config, message", [
    (without("layers.1."), {}, r"9 missing \(model.layers.1.input_layernorm.weight, .* 6 more\)$"),
    (without("layers.1.mlp"), {}, r"3 missing \(model.layers.1.mlp.down_proj.weight, .*up_proj"),
    (without("norm.weight"), {}, "5 missing"),
    (lambda w: w | {"model.layers.0.extra": torch.zeros(1)}, {}, r"1 unexpected \(model.layers.0"),
    (lambda w: w, {"num_hidden_layers": 3}, r"9 missing \(model.layers.2"),
    (lambda w: w, {"num_hidden_layers": 1}, r"9 unexpected \(model.layers.1"),
    (lambda w: w, {"intermediate_size": 40}, r"6 of another .*\[32, 48\] instead of \[32, 40\]"),
], ids=["layer", "mlp", "norms", "extra", "config-more", "config-fewer", "shape"])  # fmt: skip
def test_weights_that_do_not_fit_are_named(saved, weights, config, message):
    spoil(saved, weights, **config)
    with pytest.raises(
        InputError, match=f"weights and config.json do not fit: {message}"
    ) as caught:
        load(saved)
    assert "\n" not in str(caught.value)


def test_a_head_is_missing_only_where_it_is_not_tied(saved):
    spoil(saved, without("lm_head"))
    if json.loads((saved / "config.json").read_text())["tie_word_embeddings"]:
        load(saved)
    else:
        with pytest.raises(InputError, match=r"1 missing \(lm_head.weight\)$"):
            load(saved)


def test_masks_that_old_checkpoints_hold_are_no_fault(saved):
    spoil(saved, lambda w: w | {"model.layers.0.attn.masked_bias": torch.zeros(1)})
    load(saved)


@pytest.mark.parametrize("fields", [{}, {"bos": False}])
def test_the_tokenizer_is_left_as_it_was_read(saved, make_tokenizer, fields):
    tokenizer = make_tokenizer(["The cat"], **fields)
    tokenizer.save_pretrained(saved)
    found = load(saved).tokenizer
    assert found.bos_token == tokenizer.bos_token and found.eos_token is None
    assert found.pad_token is None and len(found) == len(tokenizer)


def test_prompts_are_tried_before_weights_are_read(saved):
    (saved / "model.safetensors").write_bytes(b"")

    def check(outline):
        assert (outline.tokenizer, outline.d_vocab, outline.n_ctx) == (None, families.VOCAB, 32)
        raise InputError("these prompts")

    with pytest.raises(InputError, match="these prompts"):
        load_pretrained(str(saved), torch.float32, "cpu", check=check)


def test_a_faulty_prompt_file_is_told_before_the_weights_are_read(saved, tmp_path):
    (saved / "model.safetensors").write_bytes(b"")
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"clean_ids": [99], "corrupt_ids": [1]}\n{"clean": "a", "corrupt": "b"}\n')
    chosen = settings("model=hf", f"model.name={saved}", "task=pairs", f"task.path={path}")
    with pytest.raises(
        InputError, match=r"(?s)line 1: .*99, outside .* 0\.\.49.*line 2: .* no token"
    ):
        load_model(chosen)


def test_heads_of_a_model_whose_tokenizer_has_a_bos_without_an_embedding(saved, make_tokenizer):
    words = " ".join(chr(65 + i // 26) + chr(97 + i % 26) for i in range(60))
    make_tokenizer([words]).save_pretrained(saved)
    loaded = load(saved)
    loaded.tokenizer.add_special_tokens({"bos_token": "<new>"})
    assert loaded.tokenizer.bos_token_id >= families.VOCAB
    prompts = families.prompts()
    data = Data(loaded.model, loaded.model.graph(), prompts)
    circuit = Circuit(data.graph, data.graph.legal, data.graph.legal * 1.0)
    heads = describe_heads(circuit, data, loaded, seed=0)["heads"]
    assert len(heads) == 8 and all("induction" in head["scores"] for head in heads.values())


def refuse_connections(monkeypatch, error):
    asked = []

    def fail(url, timeout):
        asked.append(url)
        raise error

    monkeypatch.setattr(pretrained.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", fail)
    return asked


def test_a_hub_that_is_away_is_asked_once(monkeypatch):
    asked = refuse_connections(monkeypatch, ConnectionError("no route to it"))
    began = time.monotonic()
    with pytest.raises(
        InputError, match="'nobody/nothing' .* reached .no route to it.; give a loc"
    ):
        load("nobody/nothing")
    assert len(asked) == 1 and time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["/nowhere/at/all", "a/b/c", "./model", "no spaces"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(InputError, match="there is no such folder, and it is no hub id"):
        load(name)


def test_a_slow_hub_is_there(monkeypatch):
    class ReadTimeout(Exception):
        pass

    refuse_connections(monkeypatch, ReadTimeout())
    assert pretrained.why_unreachable("nobody/nothing") is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", families.BUILDERS)
def test_half_precision_lets_in_what_float32_does(family, dtype):
    module = families.BUILDERS[family]()
    families.randomise(module)
    assert from_module(module.to(dtype), None, family).model.dtype == dtype


class Scaled(hf.LlamaForCausalLM):
    """What MLPs and heads put out is less than their weights say, by a multiplier in no config."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            for part in (layer.mlp.down_proj, layer.self_attn.o_proj):
                part.register_forward_hook(lambda module, inputs, out: 0.98 * out)


Scaled.__name__ = "LlamaForCausalLM"


def test_half_precision_hides_no_multiplier():
    module = Scaled(hf.LlamaConfig(num_key_value_heads=2, **families.SIZES))
    families.randomise(module)
    with pytest.raises(InputError, match="does not qualify"):
        from_module(module.to(torch.bfloat16), None, "scaled")


def test_weights_that_are_no_numbers():
    module = families.BUILDERS["llama"]()
    families.randomise(module)
    module.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite values at layer 1"):
        from_module(module, None, "llama")


def test_an_assertion_of_the_library_is_told_in_words():
    config = hf.GPTNeoXConfig(attention_bias=False, **families.SIZES)
    with pytest.raises(InputError, match="GPTNeoXForCausalLM .*AssertionError at 'assert .*bias"):
        from_module(hf.GPTNeoXForCausalLM(config), None, "neox")
