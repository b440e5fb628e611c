"""What a search by auto-circuit's ACDC takes, in plain passes: from a few tests a layer.

    python -m venv peer
    peer/bin/pip install auto-circuit==1.0.1 transformer-lens==2.15.4 "transformers<4.50"
    export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592
    peer/bin/python scripts/peer.py    # a random GPT-2 of small's shape, a minute

It tests every edge, one run from the edge's layer on each, so a search is what its tests take; of
some the quickest. The library below it makes each head's q, k, v and result by broadcasting, far
slower than a product of matrices; here they are products (`attend`), and logits are checked to be
the same. MALLOC keeps memory from test to test; without it they take a fifth more. Ours, test for
test, is `python scripts/benchmark.py --forwards --case=CASE`, with "gates": false.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from auto_circuit.utils.ablation_activations import src_ablations
from auto_circuit.utils.graph_utils import patch_mode, patchable_model, set_all_masks
from auto_circuit.utils.tensor_ops import multibatch_kl_div
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2Config, GPT2LMHeadModel

TESTS = 5  # of each layer's edges
PROMPTS, TOKENS = 8, 15
Attention = Any


def attend(attn: Attention, query_input: Tensor, key_input: Tensor, value_input: Tensor) -> Tensor:
    """A layer's attention, each head by its own product: inputs are [batch, pos, head, d_model]."""
    inputs = zip((query_input, key_input, value_input), "QKV", strict=True)
    q, k, v = (
        torch.einsum("bphd,hde->bphe", x, getattr(attn, f"W_{name}")) + getattr(attn, f"b_{name}")
        for x, name in inputs
    )
    scores = torch.einsum("bqhe,bkhe->bhqk", q, k) / attn.attn_scale
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    z = torch.einsum("bhqk,bkhe->bqhe", scores.masked_fill(later, float("-inf")).softmax(-1), v)
    return attn.hook_result(torch.einsum("bphe,hed->bphd", z, attn.W_O)).sum(2) + attn.b_O


def models(asked: argparse.Namespace) -> tuple[GPT2LMHeadModel, HookedTransformer]:
    """A Hugging Face module of random weights, and theirs with the same."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=asked.vocabulary, n_embd=asked.width, n_layer=asked.layers,
        n_head=asked.heads, n_positions=64, initializer_range=0.08,
    )  # fmt: skip
    plain = GPT2LMHeadModel(config).eval()
    own = HookedTransformerConfig(
        n_layers=asked.layers, n_heads=asked.heads, d_model=asked.width, n_ctx=64,
        d_head=asked.width // asked.heads, d_mlp=4 * asked.width, d_vocab=asked.vocabulary,
        act_fn="gelu_new", normalization_type="LN", default_prepend_bos=False, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(own)
    model.load_state_dict(convert_gpt2_weights(plain, own), strict=False)
    for switch in ("attn_result", "split_qkv_input", "hook_mlp_in"):
        getattr(model, f"set_use_{switch}")(True)
    for block in model.blocks:
        attn = block.attn
        attn.forward = lambda query_input, key_input, value_input, attn=attn, **_: attend(
            attn, query_input, key_input, value_input
        )
    return plain, model.eval().requires_grad_(False)


def cpu_seconds(action: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    for name, default in (("layers", 12), ("heads", 12), ("width", 768), ("vocabulary", 50257)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    plain, hooked = models(asked)
    clean, corrupt = torch.randint(0, asked.vocabulary, (2, PROMPTS, TOKENS))
    torch.testing.assert_close(hooked(clean), plain(clean).logits, atol=1e-3, rtol=1e-3)
    model = patchable_model(
        hooked, factorized=True, slice_output="last_seq", separate_qkv=True,
        device=torch.device("cpu"),
    )  # fmt: skip
    ablated, own = src_ablations(model, corrupt), src_ablations(model, clean)
    expected = model(clean)[model.out_slice].log_softmax(-1)
    _, cache = model.run_with_cache(clean)
    streams = [cache[f"blocks.{layer}.hook_resid_pre"].clone() for layer in range(asked.layers)]
    edges: dict[int, list[Any]] = {layer: [] for layer in range(asked.layers)}
    for edge in sorted(model.edges, key=lambda edge: edge.name):
        edges[int(edge.dest.module_name.split(".")[1])].append(edge)

    @torch.inference_mode()
    def test(edge: Any, layer: int) -> float:
        mask = edge.patch_mask(model).data
        mask[edge.patch_idx] = 1.0
        logits = model(streams[layer], start_at_layer=layer, tokens=clean)[model.out_slice]
        mask[edge.patch_idx] = 0.0
        return multibatch_kl_div(logits.log_softmax(-1), expected).item()

    set_all_masks(model, val=0.0)
    passes, total = list[float](), 0.0
    with patch_mode(model, ablated, curr_src_outs=own):
        for layer, its in edges.items():
            some = its[:: len(its) // TESTS][:TESTS]
            each = min(cpu_seconds(lambda e=e, at=layer: test(e, at)) for e in some)
            passes += [cpu_seconds(lambda: plain(clean)) for _ in range(TESTS)]
            total += each * len(its)
            print(f"layer {layer}: {len(its)} edges, {each:.3f} s each", flush=True)
    unit = statistics.median(passes)
    n_edges = sum(len(its) for its in edges.values())
    print(f"{n_edges} tests: {total:.0f} s = {total / unit:.0f} plain passes of {unit:.3f} s")


if __name__ == "__main__":
    main()
