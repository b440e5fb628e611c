"""Families of models: which are read, how exactly, at what price; which are refused, in what words.

    python scripts/model_families.py     # two Markdown tables, in a minute on one core

Of each family a model of two layers with random weights, large enough that its parts matter. The
error is the largest difference of a logit from Hugging Face's own, as a share of the largest logit.
The price of EAP-IG (5 steps, clean and corrupted run included) is the median of ratios to plain
passes of the same batch beside it; at these sizes it is mostly that of calling functions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from acdc.attribution import eap_ig
from acdc.bridge import LoadedModel, from_bridge, from_module
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import trace
from acdc.metrics import LOGIT_DIFF
from acdc.native import untrained_bridge
from acdc.prompts import Prompts
from discovery.show.tables import markdown

VOCAB, PROMPTS, LENGTH, REPEATS = 50, 16, 6, 7
SIZES: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    vocab_size=VOCAB, max_position_embeddings=32, initializer_range=0.2, pad_token_id=0,
)  # fmt: skip
GROUPS: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
HEADS: dict[str, Any] = {**GROUPS, "head_dim": 8}
NATIVE: dict[str, Any] = dict(
    d_model=32, d_head=8, n_layers=2, n_heads=4, n_ctx=32, d_vocab=VOCAB, attn_only=True,
    normalization_type="LN",
)  # fmt: skip
ATTENTION_ONLY = "attention only"

CONFIGS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: hf.GPT2Config(
        n_layer=2, n_head=4, n_embd=32, vocab_size=VOCAB, n_positions=32, initializer_range=0.2
    ),
    "Llama": lambda: hf.LlamaConfig(**GROUPS),
    "Mistral": lambda: hf.MistralConfig(sliding_window=None, **GROUPS),
    "Qwen2": lambda: hf.Qwen2Config(**GROUPS),
    "Qwen3": lambda: hf.Qwen3Config(**HEADS),
    "Gemma 1": lambda: hf.GemmaConfig(**HEADS),
    "Pythia (GPT-NeoX)": lambda: hf.GPTNeoXConfig(use_parallel_residual=True, **SIZES),
    "Phi": lambda: hf.PhiConfig(**{**SIZES, "partial_rotary_factor": 0.5}),
    "Gemma 2": lambda: hf.Gemma2Config(**HEADS),
    "Gemma 3": lambda: hf.Gemma3TextConfig(**HEADS),
    "Mistral, short window": lambda: hf.MistralConfig(sliding_window=4, **GROUPS),
    "Mixtral": lambda: hf.MixtralConfig(num_local_experts=2, **GROUPS),
    "OLMo": lambda: hf.OlmoConfig(**SIZES),
    "OLMo 2": lambda: hf.Olmo2Config(**GROUPS),
    "Granite": lambda: hf.GraniteConfig(residual_multiplier=0.5, **GROUPS),
}
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
    module: Any = hf.AutoModelForCausalLM.from_config(
        CONFIGS[family](), attn_implementation="eager"
    )
    module = module.to(dtype).eval()
    name, logits = type(module).__name__, module(tokens(0)).logits[:, -1]
    return from_module(module, None, family), name, logits


def error(family: str, dtype: torch.dtype) -> float:
    """The largest difference of a logit, as a share of the largest."""
    loaded, _, theirs = load(family, dtype)
    ours = trace(loaded.model, tokens(0)).logits
    return float((ours - theirs).abs().max() / theirs.abs().max())


def price(loaded: LoadedModel) -> float:
    """EAP-IG in plain passes."""
    answers, wrong = [(1,)] * PROMPTS, [(2,)] * PROMPTS
    prompts = Prompts(tokens(0), tokens(1), tuple(answers), tuple(wrong), LENGTH - 1)
    graph, ratios = loaded.model.graph(), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        loaded.plain_logits(prompts.clean)
        middle = time.perf_counter()
        eap_ig(Data(loaded.model, graph, prompts), LOGIT_DIFF, 5)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(ratios[1:])


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
        read.append(
            {
                "family": family,
                "class": f"`{name}`",
                "float32": f"{error(family, torch.float32):.0e}",
                "float64": f"{error(family, torch.float64):.0e}",
                "edges": loaded.model.graph().n_edges,
                "EAP-IG": f"{price(loaded):.0f}",
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
