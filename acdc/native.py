"""Small transformers from a config and a dict of tensors, with no Hugging Face model behind them.

TransformerLens calls these models "native". A bridge registers one parameter under several names,
so its `state_dict` holds duplicates and misses keys on the way back; here every parameter has one
name, the bridge's own (`embed.weight`, `blocks.0.attn.q.weight`, ...), and loading is strict in
both directions. Weights keep torch's layout: a linear layer is [out, in], heads lie side by side
in q, k, v (out) and o (in).

This module and `acdc.bridge` are the only importers of transformer_lens. It knows no files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.native import boot

from acdc.errors import InputError

# the native module's names -> the bridge's names
_PUBLIC = {"tok_embed": "embed", "pos": "pos_embed", "layers": "blocks"}
_PUBLIC |= {"ln_out": "ln_final", "head": "unembed"}


def native_bridge(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> TransformerBridge:
    """Return a native bridge with these weights, on the CPU, in eval mode and frozen.

    `config` holds fields of `TransformerBridgeConfig`; attention-only models, MLPs (gated or not),
    grouped-query heads, standard or rotary positions all work. `weights` holds one tensor per
    parameter, named and shaped as by `native_weights`; values are copied and cast to the config's
    dtype (default float32). The caller's random state is left alone.

    Raises InputError if the config has an unknown or impossible field, or if a tensor is missing,
    left over or of the wrong shape.
    """
    bridge = untrained_bridge(config)
    parameters = _named_parameters(bridge)
    _check_names(parameters.keys(), weights.keys())
    with torch.no_grad():
        for name, parameter in parameters.items():
            _check_shape(name, parameter.shape, weights[name].shape)
            parameter.copy_(weights[name])
    return bridge.eval().requires_grad_(False)


def untrained_bridge(config: Mapping[str, Any]) -> TransformerBridge:
    """Return a native bridge with random weights, in train mode; `config["seed"]` decides them.

    Raises InputError as `native_bridge` does for the config.
    """
    try:
        settings = TransformerBridgeConfig(**{"seed": 0, "init_weights": True, **config})
        return boot(settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"native model config {dict(config)} is not usable: {error}") from error


def native_weights(bridge: TransformerBridge) -> dict[str, Tensor]:
    """Return a copy of every parameter, by its one public name; the inverse of `native_bridge`.

    Raises InputError if the bridge is not a native one as trained (compatibility mode rewrites
    weights into places that this format does not have).
    """
    if bridge.cfg.architecture != "TransformerLensNative":
        raise InputError(f"architecture {bridge.cfg.architecture!r} is not TransformerLensNative")
    if bridge.compatibility_mode:
        raise InputError("weights in compatibility mode are processed; take them before it")
    return {name: p.detach().clone() for name, p in _named_parameters(bridge).items()}


def _named_parameters(bridge: TransformerBridge) -> dict[str, nn.Parameter]:
    """Return each parameter once (`named_parameters` drops the duplicates), by public name."""
    return {_public_name(name): p for name, p in bridge.original_model.named_parameters()}


def _public_name(name: str) -> str:
    first, _, rest = name.replace("_original_component.", "").partition(".")
    return f"{_PUBLIC.get(first, first)}.{rest}"


def _check_names(expected: Any, found: Any) -> None:
    missing, extra = sorted(expected - found), sorted(found - expected)
    if missing or extra:
        raise InputError(
            f"the weights do not fit the config: missing tensors {missing}, unknown tensors {extra}"
        )


def _check_shape(name: str, expected: torch.Size, found: torch.Size) -> None:
    if expected != found:
        raise InputError(f"tensor {name!r} has shape {list(found)}, the config {list(expected)}")
