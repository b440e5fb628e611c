"""From a live TransformerBridge to our frozen view, with the identities that the method needs.

With acdc/native.py the only importer of TransformerLens (4.3: everything is a TransformerBridge
around a Hugging Face or native module). Loading checks on one random batch, before
anything is searched, that heads sum to the attention output, that writers sum to the residual
stream, and that our own forward gives the bridge's logits; a model that fails is refused with the
identity, the layer and the size of the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from acdc import particulars
from acdc.errors import InputError, first_line
from acdc.forward import layer_of, stream_of, trace
from acdc.model import MLP, NO_NORM, Attention, Block, Experts, HeadsNorm, Model, Norm
from acdc.particulars import Positions, inner
from acdc.pretrained import Outline, read_outline, read_weights

# largest error allowed in an identity, as a share of the largest value in it
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
NORMS = ("ln1", "ln1_post", "ln2", "ln2_post")  # of a block
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

    def spread(self, devices: Sequence[torch.device]) -> LoadedModel:
        """The model over several devices; see Model.spread."""
        return replace(self, model=self.model.spread(devices))


def load_pretrained(
    name: str,
    dtype: torch.dtype,
    device: str,
    label: str | None = None,
    check: Callable[[Outline], None] | None = None,
    revision: str | None = None,
    offload: bool | Literal["cards"] = False,
) -> LoadedModel:
    """Any causal language model by hub id or local folder, in evaluation mode.

    `label` is what it is called from then on (default: `name`). `check` sees tokenizer and sizes
    before the weights are read, and may refuse. `revision` is a branch, tag or commit of a hub id.
    With `offload` the MLPs' weights stay in the host's memory (see Model.offloaded), or go to all
    cards ("cards"; see Model.spread), of which `device` is the first.

    InputError if it cannot be read, weights are missing, its architecture is unknown to
    TransformerLens, an identity fails, or the device is too small.
    """
    outline = read_outline(name, revision)
    if check is not None:
        check(outline)
    devices = cards(device) if offload == "cards" else [torch.device(device)]
    module = read_weights(outline, dtype)
    if offload is True:
        return from_module(module, outline.tokenizer, label or name).offloaded(device)
    _check_room(module, devices, label or name)
    if offload == "cards":
        return from_module(module, outline.tokenizer, label or name).spread(devices)
    return from_module(module.to(device), outline.tokenizer, label or name)


def cards(device: str) -> list[torch.device]:
    """This card and all others; InputError for what is no card, or where there is no other."""
    first = torch.device(device)
    if first.type != "cuda" or torch.cuda.device_count() < 2:
        raise InputError(
            f"model.offload=cards with device={device}: asks for a card, and another one;"
            " model.offload=true leaves MLPs' weights in the host's memory"
        )
    number = first.index or 0
    others = (n for n in range(torch.cuda.device_count()) if n != number)
    return [torch.device("cuda", n) for n in (number, *others)]


def _check_room(module: Any, devices: Sequence[torch.device], name: str) -> None:
    """InputError for weights that are more than the cards have free."""
    needed = sum(w.numel() * w.element_size() for w in module.parameters()) / len(devices)
    for device in (one for one in devices if one.type == "cuda"):
        free = torch.cuda.mem_get_info(device)[0]
        if needed > free:
            raise InputError(
                f"device={device}: the weights of {name!r} take {needed / 2**30:.2f} GiB there,"
                f" {free / 2**30:.2f} are free; take model.offload=true, which leaves the MLPs'"
                " weights in the host's memory, =cards, which puts them on all cards, or a smaller"
                " model.dtype"
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
    if module.dtype == torch.float64 and hasattr(module.config, "_experts_implementation"):
        module.config._experts_implementation = "eager"  # the fast one knows no float64
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
            f"model {name!r}: {_architecture(bridge)} is not a decoder that can be read:"
            f" {first_line(error)}"
        ) from error
    check_identities(bridge, model)
    return LoadedModel(model, bridge, tokenizer)


def read_bridge(bridge: TransformerBridge, name: str) -> Model:
    """The frozen view of a bridge's weights (shared, not copied, but for multipliers)."""
    cfg, config = bridge.cfg, getattr(bridge.original_model, "config", bridge.cfg)
    _refuse_known_misfits(bridge, config, name)
    tabled = cfg.positional_embedding_type in ("rotary", "alibi")
    positions = Positions(bridge.original_model, config, cfg.n_ctx, bridge.W_E)
    b_U, scale = getattr(bridge, "b_U", None), particulars.logit_scale(config)
    blocks = [_read_block(bridge, config, positions, layer) for layer in range(cfg.n_layers)]
    return Model(
        name=name,
        n_heads=cfg.n_heads,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        parallel=bool(cfg.parallel_attn_mlp),
        n_ctx=positions.n if tabled else cfg.n_ctx,
        embed_scale=particulars.embed_scale(getattr(bridge, "embed", None), config),
        W_E=bridge.W_E.detach(),
        W_pos=bridge.W_pos.detach() if cfg.positional_embedding_type == "standard" else None,
        blocks=tuple(blocks),
        ln_final=_read_norm(bridge.ln_final, cfg),
        W_U=_times(bridge.W_U.detach(), scale),
        b_U=None if b_U is None or not b_U.any() else _times(b_U.detach(), scale),
        logit_cap=_cap(cfg.output_logits_soft_cap),
        ln_embed=_read_norm(bridge.embed_ln, cfg) if hasattr(bridge, "embed_ln") else NO_NORM,
    )


def _refuse_known_misfits(bridge: TransformerBridge, config: Any, name: str) -> None:
    """What is no causal decoder of heads and MLPs."""
    cfg = bridge.cfg
    blocks = getattr(bridge, "blocks", ())
    reasons = {
        "an encoder and a decoder": getattr(config, "is_encoder_decoder", False) is True,
        "layers without attention": not all(hasattr(block, "attn") for block in blocks),
        "attention that is not causal": cfg.attention_dir != "causal",
    }
    for reason, holds in reasons.items():
        if holds:
            raise InputError(f"model {name!r}: {_architecture(bridge)} has {reason}; not supported")


def _architecture(bridge: TransformerBridge) -> str:
    return str(getattr(bridge.cfg, "architecture", None) or type(bridge.original_model).__name__)


def _cap(size: float | None) -> float | None:
    return float(size) if size is not None and size > 0 else None


def _times(tensor: Tensor, scale: float) -> Tensor:
    return tensor if scale == 1 else tensor * scale


def _read_norm(module: Any, cfg: Any) -> Norm:
    own = inner(module)
    weight, bias = getattr(own, "weight", None), getattr(own, "bias", None)
    if weight is None and hasattr(own, "norms"):  # one a head (StableLM)
        weight = torch.stack([norm.weight for norm in own.norms])
        own = own.norms[0]
    kind = type(own).__name__
    if weight is None and not kind.endswith("LayerNorm"):  # OLMo's has none
        raise AttributeError(f"a norm without weight ({kind})")
    eps = next((getattr(own, n) for n in ("eps", "variance_epsilon") if hasattr(own, n)), cfg.eps)
    rms = "RMS" in kind or (
        getattr(cfg, "uses_rms_norm", False) and not isinstance(own, torch.nn.LayerNorm)
    )
    if weight is not None:
        weight = weight.detach() + 1 if cfg.rmsnorm_uses_offset else weight.detach()
    bias = None if bias is None else bias.detach()
    return Norm("rms" if rms else "layer", weight, bias, float(eps))


def _read_block(bridge: TransformerBridge, config: Any, positions: Positions, layer: int) -> Block:
    block, cfg = bridge.blocks[layer], bridge.cfg
    scale = particulars.residual_scale(config)
    norms = {n: _read_norm(getattr(block, n), cfg) for n in NORMS if hasattr(block, n)}
    if cfg.parallel_attn_mlp:
        norms.setdefault("ln2", norms["ln1"])
    has_mlp = hasattr(block, "mlp") and not getattr(cfg, "attn_only", False)
    return Block(
        ln1=norms.get("ln1", NO_NORM),
        attn=_read_attention(bridge, config, positions, layer, norms.get("ln1_post", NO_NORM)),
        ln2=norms.get("ln2", NO_NORM) if has_mlp else None,
        mlp=_read_mlp(block.mlp, cfg, config, scale) if has_mlp else None,
        mlp_norm=norms.get("ln2_post", NO_NORM),
    )


def _read_attention(
    bridge: TransformerBridge, config: Any, positions: Positions, layer: int, after: Norm
) -> Attention:
    attn, cfg, kind = bridge.blocks[layer].attn, bridge.cfg, bridge.cfg.positional_embedding_type
    scale, out = _attention_scale(attn, cfg, config), particulars.residual_scale(config)
    W = {name: _weight(attn, f"W_{name}") for name in "QKVO"}
    (q_norm, q_whole), (k_norm, k_whole) = (
        particulars.by_head(_read_norm(getattr(attn, n), cfg), *W[n[0].upper()].shape[::2])
        if hasattr(attn, n)
        else (NO_NORM, False)
        for n in ("q_norm", "k_norm")
    )
    if q_whole != k_whole:
        raise TypeError("a norm over all heads on one of q and k")
    b_O, sinks = _tensor(attn, "b_O"), getattr(inner(attn), "sinks", None)
    if after.kind != "none" and (after.kind != "rms" or after.bias is not None or b_O is not None):
        raise TypeError("a norm after attention with biases")
    weight = after.weight if after.weight is not None else 1.0
    return Attention(
        W_Q=W["Q"],
        W_K=W["K"],
        W_V=W["V"],
        W_O=_times(W["O"] if after.kind == "none" else W["O"] * weight, out),
        b_Q=_tensor(attn, "b_Q"),
        b_K=_tensor(attn, "b_K"),
        b_V=_tensor(attn, "b_V"),
        b_O=None if b_O is None else _times(b_O, out),
        q_norm=q_norm,
        k_norm=k_norm,
        scale=scale,
        qk_whole=q_whole,
        rotary=positions.rotary(layer, attn) if kind == "rotary" else None,
        window=particulars.window(config, layer, positions.n),
        cap=_cap(cfg.attn_scores_soft_cap),
        key_bias=positions.alibi(cfg.n_heads) if kind == "alibi" else None,
        sinks=None if sinks is None else sinks.detach(),
        norm=None if after.kind == "none" else HeadsNorm(W["O"], after.eps),
    )


def _attention_scale(attn: Any, cfg: Any, config: Any) -> float:
    own = getattr(inner(attn), "scaling", None)
    if getattr(config, "model_type", None) == "gpt_neo":
        return 1.0
    if own is not None:
        return float(own)
    return 1.0 / cfg.attn_scale if cfg.attn_scale > 0 else 1.0 / math.sqrt(cfg.d_head)


def _read_mlp(mlp: Any, cfg: Any, config: Any, scale: float) -> MLP | Experts:
    if cfg.num_experts:
        return particulars.experts(mlp, config, scale)
    b_out = _tensor(mlp, "b_out")
    return MLP(
        W_in=_weight(mlp, "W_in"),
        b_in=_tensor(mlp, "b_in"),
        W_gate=_tensor(mlp, "W_gate"),
        b_gate=_tensor(mlp, "b_gate"),
        W_out=_times(_weight(mlp, "W_out"), scale),
        b_out=None if b_out is None else _times(b_out, scale),
        act=particulars.activation(mlp, cfg.act_fn),
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
    """Compare our forward with the bridge's on a random batch; InputError names what differs.

    Each layer from the bridge's own stream before it, so that rounding does not add up over layers:
    32 of them in bfloat16 part by more than any single one could be wrong.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(8, model.n_ctx)
    tokens = torch.randint(0, model.d_vocab, (2, length), generator=generator).to(model.device)
    names = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_post"]
    wanted = [f"blocks.{i}.{n}" for i in range(len(model.blocks)) for n in names]
    logits, cache = bridge.run_with_cache(tokens, names_filter=wanted)
    routed = any(isinstance(block.mlp, Experts) for block in model.blocks)
    check = _Check(model, most=routed and model.dtype not in EXACT)
    stream = model.embed(tokens)
    for i in range(len(model.blocks)):
        get = lambda name, i=i: cache[f"blocks.{i}.{name}"]  # noqa: E731
        z = model.shared_out(i, get("attn.hook_z").movedim(2, 0))
        heads = model.attention_out(i, z)
        check("heads sum to the attention output", i, heads, get("hook_attn_out"))
        check("writers sum to the residual stream", i, stream, get("hook_resid_pre"))
        after, stream = layer_of(model, i, get("hook_resid_pre")).after, get("hook_resid_post")
        check("writers sum to the residual stream", i, after, stream)
    ours = model.unembed(stream[:, -1])
    check("own forward = the bridge's logits", len(model.blocks), ours, logits[:, -1])
    own, graph = trace(model, tokens), model.graph()
    biases = [b.attn.b_O for b in model.blocks if b.attn.b_O is not None]
    last = own.streams[stream_of(graph, graph.n_layers, "logits")]
    everything = own.writers.total(range(len(graph.writers)))
    check("writers sum to the last stream", graph.n_layers, everything + sum(biases), last)


class _Check:
    """Refuses two tensors that differ by more than the dtype's tolerance.

    `most`: half of the tokens must agree. In half precision rounding sends some to other experts.
    """

    def __init__(self, model: Model, most: bool = False) -> None:
        self.model, self.most = model, most

    def __call__(self, identity: str, layer: int, ours: Tensor, theirs: Tensor) -> None:
        if ours.shape != theirs.shape:
            raise InputError(
                f"model {self.model.name!r} does not qualify: {identity!r}, layer {layer}: shapes"
                f" {tuple(ours.shape)} and {tuple(theirs.shape)}"
            )
        errors = (ours - theirs).abs().flatten(0, -2).amax(-1)
        error = (errors.median() if self.most else errors.max()).item()
        if not math.isfinite(errors.max().item()):
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
