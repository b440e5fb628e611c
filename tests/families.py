"""Tiny random models of every supported family: two layers, four heads, seeded, no downloads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import transformers as hf

from acdc.ablation import ABLATIONS, Ablation
from acdc.bridge import LoadedModel, from_bridge, from_module
from acdc.data import Data
from acdc.forward import PatchedForward
from acdc.graph import Graph
from acdc.model import Model
from acdc.prompts import Prompts

VOCAB, LENGTH = 50, 6
SIZES: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    vocab_size=VOCAB, max_position_embeddings=32,
)  # fmt: skip


def _gpt2() -> Any:
    cfg = hf.GPT2Config(n_layer=2, n_head=4, n_embd=32, vocab_size=VOCAB, n_positions=32)
    return hf.GPT2LMHeadModel(cfg)


def _llama() -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **SIZES))


def _qwen2() -> Any:
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(num_key_value_heads=2, **SIZES))


def _qwen3() -> Any:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(num_key_value_heads=2, head_dim=8, **SIZES))


def _pythia() -> Any:
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(use_parallel_residual=True, **SIZES))


def _gemma() -> Any:
    return hf.GemmaForCausalLM(hf.GemmaConfig(num_key_value_heads=2, head_dim=8, **SIZES))


HEADS: dict[str, Any] = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
GROUPS: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
EXPERTS: dict[str, Any] = dict(num_experts_per_tok=2, experts_implementation="eager")
SMALL: dict[str, Any] = dict(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCAB, n_positions=32)

# the particular families: window, positions, caps, experts, norms after a sublayer
PARTICULAR: dict[str, Callable[[], Any]] = {
    "mistral_window": lambda: hf.MistralConfig(sliding_window=3, **GROUPS),
    "gptj": lambda: hf.GPTJConfig(rotary_dim=4, **SMALL),
    "gptneo": lambda: hf.GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=3, vocab_size=VOCAB, max_position_embeddings=32, intermediate_size=48,
    ),
    "phi3": lambda: hf.Phi3Config(sliding_window=3, pad_token_id=0, **GROUPS),
    "stablelm": lambda: hf.StableLmConfig(qk_layernorm=True, **GROUPS),
    "granite": lambda: hf.GraniteConfig(
        residual_multiplier=0.5, embedding_multiplier=2.0, logits_scaling=3.0,
        attention_multiplier=0.3, **GROUPS,
    ),
    "bloom": lambda: hf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCAB),
    "falcon": lambda: hf.FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCAB,
    ),
    "cohere": lambda: hf.CohereConfig(logit_scale=2.0, **GROUPS),
    "olmo": lambda: hf.OlmoConfig(**GROUPS),
    "mixtral": lambda: hf.MixtralConfig(num_local_experts=4, **EXPERTS, **GROUPS),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        num_experts=4, moe_intermediate_size=16, **EXPERTS, **HEADS
    ),
    "olmoe": lambda: hf.OlmoeConfig(num_experts=4, pad_token_id=0, **EXPERTS, **GROUPS),
    "gpt_oss": lambda: hf.GptOssConfig(
        num_local_experts=4, sliding_window=3, pad_token_id=0, **EXPERTS, **HEADS
    ),
    "gemma2": lambda: hf.Gemma2Config(
        sliding_window=3, attn_logit_softcapping=2.0, final_logit_softcapping=5.0, **HEADS
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        sliding_window=3, layer_types=["sliding_attention", "full_attention"], **HEADS
    ),
    "olmo2": lambda: hf.Olmo2Config(pad_token_id=0, **GROUPS),
    "olmo3": lambda: hf.Olmo3Config(sliding_window=3, pad_token_id=0, **GROUPS),
}  # fmt: skip


def particular(family: str) -> Any:
    """A tiny module of a particular family, in evaluation mode."""
    config = PARTICULAR[family]()
    module = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(module)
    return module


def _attention_only() -> LoadedModel:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        d_model=32, d_head=8, n_layers=2, n_heads=4, n_ctx=32, d_vocab=VOCAB, attn_only=True,
        normalization_type="LN", seed=0, init_weights=True,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config).eval()
    randomise(bridge)
    return from_bridge(bridge, None, "attention_only")


def randomise(module: torch.nn.Module) -> None:
    """Weights large enough that edges matter: norms near 1, the rest of standard deviation 0.3."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            is_norm = p.ndim == 1 and name.endswith("weight")
            p.copy_(1 + 0.2 * noise if is_norm else 0.3 * noise)


class Broken(Ablation):
    """Cut edges carry no number."""

    def of(self, clean, corrupt, rows):
        return clean.map(lambda x: x * float("nan"))


def run(model: Model, graph: Graph, some: Prompts, ablation: str = "resample") -> PatchedForward:
    """Both runs of some prompts, all in one part."""
    return Data(model, graph, some, ABLATIONS[ablation], len(some))[0]


BUILDERS = {
    "gpt2": _gpt2, "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "pythia": _pythia,
    "gemma": _gemma,
}  # fmt: skip
FAMILIES = (*BUILDERS, "attention_only")


def load(family: str) -> LoadedModel:
    """A tiny model of a family, checked as any user's model is."""
    if family == "attention_only":
        return _attention_only()
    if family in PARTICULAR:
        return from_module(particular(family), None, family)
    module = BUILDERS[family]()
    randomise(module)
    return from_module(module, None, family)


@cache
def view(family: str, dtype: torch.dtype = torch.float64) -> Model:
    """The frozen view of a tiny model, in float64; made once, so its tensors are left alone."""
    return load(family).model.to(dtype)


def prompts(n: int = 3, length: int = LENGTH, seed: int = 0) -> Prompts:
    """Random clean and corrupt tokens with one right and two wrong answers each."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (2, n, length), generator=generator)
    answers = tuple((int(t),) for t in torch.randint(0, 25, (n,), generator=generator))
    wrong = tuple((30 + i % 10, 40 + i % 10) for i in range(n))
    return Prompts(ids[0], ids[1], answers, wrong, length - 1)
