"""From a live TransformerBridge to our frozen view, with the identities that the method needs.

With acdc/native.py the only importer of TransformerLens (4.3: everything is a TransformerBridge
around a Hugging Face or native module). Loading checks on one random batch, before
anything is searched, that heads sum to the attention output, that writers sum to the residual
stream, and that our own forward gives the bridge's logits; a model that fails is refused with the
identity, the layer and the size of the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers.activations import ACT2FN

from acdc.errors import InputError, first_line
from acdc.forward import stream_of, trace
from acdc.model import MLP, Attention, Block, Model, Norm
from acdc.pretrained import Outline, read_outline, read_weights

# largest error allowed in an identity, as a share of the largest value in it
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
EXACT = (torch.float32, torch.float64)  # dtypes in which the identities tell families apart


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be searched."""

    model: Model
    bridge: TransformerBridge
    tokenizer: Any  # a Hugging Face tokenizer as it was read, or None

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return self.model.d_vocab

    @property
    def n_ctx(self) -> int:
        """Longest prompt."""
        return self.model.n_ctx

    @torch.inference_mode()
    def plain_logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """One plain forward pass of the bridge, which may lie elsewhere than the model."""
        return self.bridge(tokens.to(self.bridge.W_E.device)).to(tokens.device)

    def offloaded(self, device: torch.device | str) -> LoadedModel:
        """The model on a device that is too small for it; see Model.offloaded."""
        return replace(self, model=self.model.offloaded(device))


def load_pretrained(
    name: str,
    dtype: torch.dtype,
    device: str,
    label: str | None = None,
    check: Callable[[Outline], None] | None = None,
    revision: str | None = None,
    offload: bool = False,
) -> LoadedModel:
    """Any causal language model by hub id or local folder, in evaluation mode.

    `label` is what it is called from then on (default: `name`). `check` sees tokenizer and sizes
    before the weights are read, and may refuse. `revision` is a branch, tag or commit of a hub id.
    With `offload` the MLPs' weights stay in the host's memory; see Model.offloaded.

    InputError if it cannot be read, weights are missing, its architecture is unknown to
    TransformerLens, an identity fails, or the device is too small.
    """
    outline = read_outline(name, revision)
    if check is not None:
        check(outline)
    module = read_weights(outline, dtype)
    if offload:
        return from_module(module, outline.tokenizer, label or name).offloaded(device)
    _check_room(module, torch.device(device), label or name)
    return from_module(module.to(device), outline.tokenizer, label or name)


def _check_room(module: Any, device: torch.device, name: str) -> None:
    """InputError for weights that are more than a card has free."""
    if device.type != "cuda":
        return
    needed = sum(w.numel() * w.element_size() for w in module.parameters())
    free = torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise InputError(
            f"device={device}: the weights of {name!r} take {needed / 2**30:.2f} GiB,"
            f" {free / 2**30:.2f} are free; take model.offload=true, which leaves the MLPs' weights"
            " in the host's memory, or a smaller model.dtype"
        )


def from_module(module: Any, tokenizer: Any, name: str) -> LoadedModel:
    """Wrap a Hugging Face module (which is changed in place) and check it.

    The bridge never sees the tokenizer: it would give it a BOS and other tokens, of which the model
    knows nothing.
    """
    architecture = type(module).__name__
    module = module.eval().requires_grad_(False)
    if module.dtype not in EXACT:
        _check_in_float32(module, name)
    try:
        bridge = build_bridge_from_module(
            module, architecture, hf_config=module.config, tokenizer=None
        )
    except Exception as error:
        raise InputError(
            f"model {name!r}: architecture {architecture} is not supported by TransformerLens:"
            f" {first_line(error)}"
        ) from error
    return from_bridge(bridge, tokenizer, name)


def _check_in_float32(module: Any, name: str) -> None:
    """Try the identities on a float32 copy of the first layers and tokens.

    The tolerance that half precision needs is wide enough to hide a family's multiplier of 0.98.
    """
    try:
        copied = _first_layers(module)
    except Exception as error:
        raise InputError(
            f"model {name!r}: {module.dtype} hides what the identities look for, and a float32 copy"
            f" cannot be made ({first_line(error)}); use dtype=float32"
        ) from error
    from_module(copied, None, name)


def _first_layers(module: Any, layers: int = 2, tokens: int = 512) -> Any:
    """A float32 model of the same configuration and weights, cut to a few layers and tokens."""
    config = deepcopy(module.config)
    config.num_hidden_layers = min(layers, config.num_hidden_layers)
    config.vocab_size = min(tokens, config.vocab_size)
    config.pad_token_id = None  # may lie beyond
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = kinds[: config.num_hidden_layers]
    copied = type(module)(config).float()
    weights = module.state_dict()
    corners = {
        key: weights[key][tuple(slice(n) for n in own.shape)].to(own)
        for key, own in copied.state_dict().items()
    }
    copied.load_state_dict(corners)
    return copied.to(module.device)


@torch.no_grad()  # not inference_mode: gradients must be able to pass the rotary tables
def from_bridge(bridge: TransformerBridge, tokenizer: Any, name: str) -> LoadedModel:
    """Read a bridge into a Model and check the identities; InputError if it does not qualify."""
    try:
        model = read_bridge(bridge, name)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"model {name!r}: {_architecture(bridge)} is not a plain pre-norm decoder:"
            f" {first_line(error)}"
        ) from error
    check_identities(bridge, model)
    return LoadedModel(model, bridge, tokenizer)


def read_bridge(bridge: TransformerBridge, name: str) -> Model:
    """The frozen view of a bridge's weights (shared, not copied)."""
    cfg = bridge.cfg
    _refuse_known_misfits(bridge, name)
    rotary = cfg.positional_embedding_type == "rotary"
    cos, sin = _rotary_tables(bridge) if rotary else (None, None)
    has_pos = not rotary and cfg.positional_embedding_type is not None
    b_U = getattr(bridge, "b_U", None)
    return Model(
        name=name,
        n_heads=cfg.n_heads,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        parallel=bool(cfg.parallel_attn_mlp),
        n_ctx=min(cfg.n_ctx, 4096) if rotary else cfg.n_ctx,
        embed_scale=_embed_scale(bridge),
        W_E=bridge.W_E.detach(),
        W_pos=bridge.W_pos.detach() if has_pos else None,
        cos=cos,
        sin=sin,
        blocks=tuple(_read_block(bridge, layer) for layer in range(cfg.n_layers)),
        ln_final=_read_norm(bridge.ln_final, cfg),
        W_U=bridge.W_U.detach(),
        b_U=None if b_U is None or not b_U.any() else b_U.detach(),
    )


def _refuse_known_misfits(bridge: TransformerBridge, name: str) -> None:
    """Features that a short random batch would not show, or that break additivity outright."""
    cfg, block = bridge.cfg, bridge.blocks[0]
    reasons = {
        "a norm after attention or MLP, so writers do not add to the stream": any(
            hasattr(block, n) for n in ("ln1_post", "ln2_post")
        ),
        "soft-capped attention scores": (cfg.attn_scores_soft_cap or -1) > 0,
        "soft-capped logits": (cfg.output_logits_soft_cap or -1) > 0,
        "attention that is not causal": cfg.attention_dir != "causal",
        "local (sliding-window) attention": _window(bridge) is not None,
        "several experts": bool(cfg.num_experts),
    }
    for reason, holds in reasons.items():
        if holds:
            raise InputError(f"model {name!r}: {_architecture(bridge)} has {reason}; not supported")


def _window(bridge: TransformerBridge) -> int | None:
    """The sliding window, if any layer uses one that is shorter than the context."""
    config = getattr(bridge.original_model, "config", None)
    window = getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", True)
    return window if window and used and window < bridge.cfg.n_ctx else None


def _architecture(bridge: TransformerBridge) -> str:
    return str(getattr(bridge.cfg, "architecture", None) or type(bridge.original_model).__name__)


def _embed_scale(bridge: TransformerBridge) -> float:
    return math.sqrt(bridge.cfg.d_model) if _architecture(bridge) == "GemmaForCausalLM" else 1.0


def _rotary_tables(bridge: TransformerBridge) -> tuple[Tensor, Tensor]:
    """cos and sin [pos, rotary] as the model itself computes them, whatever its scaling."""
    modules = [m for n, m in bridge.original_model.named_modules() if n.endswith("rotary_emb")]
    if not modules:
        raise AttributeError("no rotary_emb module found")
    positions = torch.arange(min(bridge.cfg.n_ctx, 4096), device=bridge.W_E.device)[None]
    cos, sin = modules[0](bridge.W_E.new_zeros(1), positions)
    return cos[0], sin[0]


def _read_norm(module: Any, cfg: Any) -> Norm:
    inner = getattr(module, "original_component", module)
    weight, bias = getattr(inner, "weight", None), getattr(inner, "bias", None)
    eps = next(
        (getattr(inner, n) for n in ("eps", "variance_epsilon") if hasattr(inner, n)), cfg.eps
    )
    if weight is None:
        raise AttributeError(f"a norm without weight ({type(inner).__name__})")
    if isinstance(inner, torch.nn.LayerNorm) or not getattr(cfg, "uses_rms_norm", False):
        kind = "layer" if "RMS" not in type(inner).__name__ else "rms"
    else:
        kind = "rms"
    weight = weight.detach() + 1 if cfg.rmsnorm_uses_offset else weight.detach()
    return Norm(kind, weight, None if bias is None else bias.detach(), float(eps))


def _read_block(bridge: TransformerBridge, layer: int) -> Block:
    block, cfg = bridge.blocks[layer], bridge.cfg
    attn = block.attn
    qk = {
        part: _read_norm(getattr(attn, f"{part}_norm"), cfg)
        if hasattr(attn, f"{part}_norm")
        else Norm("none")
        for part in ("q", "k")
    }
    has_mlp = hasattr(block, "mlp") and not getattr(cfg, "attn_only", False)
    return Block(
        ln1=_read_norm(block.ln1, cfg),
        attn=Attention(
            W_Q=_weight(attn, "W_Q"),
            W_K=_weight(attn, "W_K"),
            W_V=_weight(attn, "W_V"),
            W_O=_weight(attn, "W_O"),
            b_Q=_tensor(attn, "b_Q"),
            b_K=_tensor(attn, "b_K"),
            b_V=_tensor(attn, "b_V"),
            b_O=_tensor(attn, "b_O"),
            q_norm=qk["q"],
            k_norm=qk["k"],
            scale=_attention_scale(attn, cfg),
        ),
        ln2=_read_norm(getattr(block, "ln2", block.ln1), cfg) if has_mlp else None,
        mlp=_read_mlp(block.mlp, cfg) if has_mlp else None,
    )


def _attention_scale(attn: Any, cfg: Any) -> float:
    own = getattr(getattr(attn, "original_component", attn), "scaling", None)
    if own is not None:
        return float(own)
    return 1.0 / cfg.attn_scale if cfg.attn_scale > 0 else 1.0 / math.sqrt(cfg.d_head)


def _read_mlp(mlp: Any, cfg: Any) -> MLP:
    if cfg.act_fn not in ACT2FN:
        raise AttributeError(f"activation {cfg.act_fn!r} is unknown")
    return MLP(
        W_in=_weight(mlp, "W_in"),
        b_in=_tensor(mlp, "b_in"),
        W_gate=_tensor(mlp, "W_gate"),
        b_gate=_tensor(mlp, "b_gate"),
        W_out=_weight(mlp, "W_out"),
        b_out=_tensor(mlp, "b_out"),
        act=ACT2FN[cfg.act_fn],
    )


def _weight(module: Any, name: str) -> Tensor:
    value = _tensor(module, name)
    if value is None:
        raise AttributeError(f"{type(module).__name__} has no {name}")
    return value


def _tensor(module: Any, name: str) -> Tensor | None:
    value = getattr(module, name, None)
    return None if value is None else value.detach()


def check_identities(bridge: TransformerBridge, model: Model) -> None:
    """Compare our forward with the bridge's on a random batch; InputError names what differs."""
    generator = torch.Generator().manual_seed(0)
    length = min(8, model.n_ctx)
    tokens = torch.randint(0, model.d_vocab, (2, length), generator=generator).to(model.device)
    names = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_post"]
    wanted = [f"blocks.{i}.{n}" for i in range(len(model.blocks)) for n in names]
    logits, cache = bridge.run_with_cache(tokens, names_filter=wanted)
    own, graph = trace(model, tokens), model.graph()
    check = _Check(model)
    for i, block in enumerate(model.blocks):
        get = lambda name, i=i: cache[f"blocks.{i}.{name}"]  # noqa: E731
        heads = torch.einsum("bshe,hed->bsd", get("attn.hook_z"), block.attn.W_O)
        heads = heads if block.attn.b_O is None else heads + block.attn.b_O
        check("heads sum to the attention output", i, heads, get("hook_attn_out"))
        pre, post = own.streams[2 * i], own.streams[2 * i + 2]
        check("writers sum to the residual stream", i, pre, get("hook_resid_pre"))
        check("writers sum to the residual stream", i, post, get("hook_resid_post"))
    check("own forward = the bridge's logits", len(model.blocks), own.logits, logits[:, -1])
    biases = [b.attn.b_O for b in model.blocks if b.attn.b_O is not None]
    last = own.streams[stream_of(graph, graph.n_layers, "logits")]
    everything = own.writers.total(range(len(graph.writers)))
    check("writers sum to the last stream", graph.n_layers, everything + sum(biases), last)


class _Check:
    """Refuses two tensors that differ by more than the dtype's tolerance."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, identity: str, layer: int, ours: Tensor, theirs: Tensor) -> None:
        if ours.shape != theirs.shape:
            raise InputError(
                f"model {self.model.name!r} does not qualify: {identity!r}, layer {layer}: shapes"
                f" {tuple(ours.shape)} and {tuple(theirs.shape)}"
            )
        error = (ours - theirs).abs().max().item()
        if not math.isfinite(error):
            raise InputError(
                f"model {self.model.name!r} does not qualify: NaN or infinite values at layer"
                f" {layer}, in its weights or out of {self.model.dtype}'s range"
            )
        limit = TOLERANCE.get(self.model.dtype, 1e-2) * max(theirs.abs().max().item(), 1e-6)
        if not error <= limit:
            raise InputError(
                f"model {self.model.name!r} does not qualify: identity {identity!r} fails at layer"
                f" {layer} by {error:.3g} (allowed {limit:.3g})"
            )
