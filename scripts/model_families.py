"""Families of models: which are read, how exactly, at what price; which are refused, in what words.

    python scripts/model_families.py     # two Markdown tables, in two minutes on one core

Of each family a model of two layers with random weights, large enough that its parts matter. The
error is the largest difference of a logit from Hugging Face's own, as a share of the largest logit,
on prompts longer than its windows. The price of a search (ACDC, KL, resample, threshold 0.01; both
runs included) and of EAP-IG (5 steps, the same) is processor time in plain passes of the same batch
beside it, the median of ratios; at these sizes it is mostly that of calling functions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import transformers as hf

from acdc.attribution import eap_ig
from acdc.bridge import LoadedModel, from_bridge, from_module
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import trace
from acdc.metrics import KL, LOGIT_DIFF
from acdc.native import untrained_bridge
from acdc.prompts import Prompts
from acdc.search import acdc
from discovery.show.tables import markdown

VOCAB, PROMPTS, LENGTH, REPEATS, THRESHOLD = 50, 16, 6, 5, 0.01
SIZES: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    vocab_size=VOCAB, max_position_embeddings=32, initializer_range=0.2, pad_token_id=0,
)  # fmt: skip
GROUPS: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
HEADS: dict[str, Any] = {**GROUPS, "head_dim": 8}
OLD: dict[str, Any] = dict(n_layer=2, n_head=4, n_embd=32, vocab_size=VOCAB, n_positions=32)
FALCON: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=VOCAB,
)  # fmt: skip
EXPERTS: dict[str, Any] = dict(num_experts_per_tok=2, experts_implementation="eager")
MANY: dict[str, Any] = dict(num_experts=4, moe_intermediate_size=16, **EXPERTS)
NATIVE: dict[str, Any] = dict(
    d_model=32, d_head=8, n_layers=2, n_heads=4, n_ctx=32, d_vocab=VOCAB, attn_only=True,
    normalization_type="LN",
)  # fmt: skip
ATTENTION_ONLY = "attention only"

CONFIGS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: hf.GPT2Config(initializer_range=0.2, **OLD),
    "GPT-J": lambda: hf.GPTJConfig(rotary_dim=4, initializer_range=0.2, **OLD),
    "GPT-Neo (local layers)": lambda: hf.GPTNeoConfig(
        num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=3,
        **{k: v for k, v in SIZES.items() if k not in ("num_hidden_layers", "num_attention_heads")},
    ),
    "OPT": lambda: hf.OPTConfig(ffn_dim=48, word_embed_proj_dim=32, init_std=0.2, **SIZES),
    "BLOOM (ALiBi)": lambda: hf.BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, vocab_size=VOCAB, initializer_range=0.2
    ),
    "MPT (ALiBi)": lambda: hf.MptConfig(
        d_model=32, n_layers=2, n_heads=4, vocab_size=VOCAB, max_seq_len=32, initializer_range=0.2
    ),
    "Falcon": lambda: hf.FalconConfig(initializer_range=0.2, **FALCON),
    "Pythia (GPT-NeoX)": lambda: hf.GPTNeoXConfig(use_parallel_residual=True, **SIZES),
    "Phi": lambda: hf.PhiConfig(**{**SIZES, "partial_rotary_factor": 0.5}),
    "Phi-3": lambda: hf.Phi3Config(sliding_window=3, **GROUPS),
    "StableLM": lambda: hf.StableLmConfig(qk_layernorm=True, **GROUPS),
    "StarCoder 2": lambda: hf.Starcoder2Config(**GROUPS),
    "Llama": lambda: hf.LlamaConfig(**GROUPS),
    "SmolLM 3": lambda: hf.SmolLM3Config(no_rope_layers=[1, 0], **GROUPS),
    "Mistral": lambda: hf.MistralConfig(sliding_window=None, **GROUPS),
    "Mistral, short window": lambda: hf.MistralConfig(sliding_window=3, **GROUPS),
    "Qwen2": lambda: hf.Qwen2Config(**GROUPS),
    "Qwen3": lambda: hf.Qwen3Config(**HEADS),
    "Granite": lambda: hf.GraniteConfig(
        residual_multiplier=0.5, embedding_multiplier=2.0, logits_scaling=3.0,
        attention_multiplier=0.3, **GROUPS,
    ),
    "Cohere": lambda: hf.CohereConfig(**GROUPS),
    "GLM": lambda: hf.GlmConfig(**HEADS),
    "Nemotron": lambda: hf.NemotronConfig(**GROUPS),
    "Gemma 1": lambda: hf.GemmaConfig(**HEADS),
    "Gemma 2": lambda: hf.Gemma2Config(sliding_window=3, **HEADS),
    "Gemma 3": lambda: hf.Gemma3TextConfig(
        sliding_window=3, layer_types=["sliding_attention", "full_attention"], **HEADS
    ),
    "OLMo": lambda: hf.OlmoConfig(**GROUPS),
    "OLMo 2": lambda: hf.Olmo2Config(**GROUPS),
    "OLMo 3": lambda: hf.Olmo3Config(sliding_window=3, **GROUPS),
    "Mixtral": lambda: hf.MixtralConfig(num_local_experts=4, **EXPERTS, **GROUPS),
    "Qwen3-MoE": lambda: hf.Qwen3MoeConfig(**MANY, **HEADS),
    "OLMoE": lambda: hf.OlmoeConfig(num_experts=4, **EXPERTS, **GROUPS),
    "gpt-oss": lambda: hf.GptOssConfig(num_local_experts=4, sliding_window=3, **EXPERTS, **HEADS),
    "Qwen2-MoE": lambda: hf.Qwen2MoeConfig(shared_expert_intermediate_size=24, **MANY, **GROUPS),
    "Falcon with ALiBi": lambda: hf.FalconConfig(
        alibi=True, multi_query=False, parallel_attn=False, initializer_range=0.2, **FALCON
    ),
    "Falcon, new decoder": lambda: hf.FalconConfig(
        new_decoder_architecture=True, num_kv_heads=2, **FALCON
    ),
    "Mamba": lambda: hf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=VOCAB),
    "T5": lambda: hf.T5Config(
        d_model=32, num_layers=2, vocab_size=VOCAB, d_kv=8, num_heads=4, d_ff=48
    ),
}  # fmt: skip
FAMILIES = (*CONFIGS, ATTENTION_ONLY)


def tokens(seed: int) -> torch.Tensor:
    """Random prompts [PROMPTS, LENGTH]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCAB, (PROMPTS, LENGTH), generator=generator)


@torch.no_grad()
def load(family: str, dtype: torch.dtype) -> tuple[LoadedModel, str, torch.Tensor]:
    """The model as a user's is loaded, the class that it was, and that class's own last logits.

    InputError if the family is refused.
    """
    torch.manual_seed(0)
    if family == ATTENTION_ONLY:
        bridge = untrained_bridge({**NATIVE, "dtype": dtype}).eval()
        return from_bridge(bridge, None, family), "native", bridge(tokens(0))[:, -1]
    config = CONFIGS[family]()
    if config.is_encoder_decoder:
        module: Any = hf.T5ForConditionalGeneration(config)
        return from_module(module, None, family), "", torch.zeros(0)
    eager = {} if config.model_type == "mamba" else {"attn_implementation": "eager"}
    module = hf.AutoModelForCausalLM.from_config(config, **eager)
    module = module.to(dtype).eval()
    name, logits = type(module).__name__, module(tokens(0)).logits[:, -1]
    return from_module(module, None, family), name, logits


def error(family: str, dtype: torch.dtype) -> float:
    """The largest difference of a logit, as a share of the largest."""
    loaded, _, theirs = load(family, dtype)
    ours = trace(loaded.model, tokens(0)).logits
    return float((ours - theirs).abs().max() / theirs.abs().max())


def prices(loaded: LoadedModel) -> tuple[float, float]:
    """A search and EAP-IG in plain passes."""
    answers, wrong = [(1,)] * PROMPTS, [(2,)] * PROMPTS
    prompts = Prompts(tokens(0), tokens(1), tuple(answers), tuple(wrong), LENGTH - 1)
    graph, clock = loaded.model.graph(), time.process_time
    ratios = list[tuple[float, float]]()
    for _ in range(REPEATS):
        times = [clock()]
        loaded.plain_logits(prompts.clean)
        times.append(clock())
        list(acdc(Data(loaded.model, graph, prompts), KL, THRESHOLD))
        times.append(clock())
        eap_ig(Data(loaded.model, graph, prompts), LOGIT_DIFF, 5)
        times.append(clock())
        plain, search, scores = (b - a for a, b in pairwise(times))
        ratios.append((search / plain, scores / plain))
    first, second = zip(*ratios[1:], strict=True)
    return statistics.median(first), statistics.median(second)


def tables() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """A row for each family that is read, and for each that is refused."""
    read: list[dict[str, object]] = []
    refused: list[dict[str, object]] = []
    for family in FAMILIES:
        try:
            loaded, name, _ = load(family, torch.float32)
        except InputError as reason:
            refused.append({"family": family, "what the user is told": str(reason)})
            continue
        search, scores = prices(loaded)
        read.append(
            {
                "family": family,
                "class": f"`{name}`",
                "float32": f"{error(family, torch.float32):.0e}",
                "float64": f"{error(family, torch.float64):.0e}",
                "edges": loaded.model.graph().n_edges,
                "search": f"{search:.0f}",
                "EAP-IG": f"{scores:.0f}",
            }
        )
    return read, refused


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    read, refused = tables()
    print(f"{markdown(read)}\n{markdown(refused)}")


if __name__ == "__main__":
    main()
