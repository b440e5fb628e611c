"""Sparse autoencoders: x = sum of a few features' directions + bias + what is left, the error.

    f = act((x - b_dec) W_enc + b_enc)        x = f W_dec + b_dec + error

Files are SAELens' (a folder of cfg.json and sae_weights.safetensors); `standard` with ReLU,
`jumprelu` and `topk` are read. Training here is small: top-k (Gao et al. 2024, arXiv:2406.04093),
features that never fire moved to what is explained worst (as Bricken et al. 2023 resample).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from acdc.errors import InputError
from discovery.runs.json_files import write_bytes, write_json

CFG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
BATCH, RATE = 256, 1e-2
REVIVALS = (0.2, 0.4, 0.6)  # shares of the training after which dead features are moved
Kind = Literal["standard", "jumprelu", "topk"]


@dataclass(frozen=True, eq=False)
class SAE:
    """One sparse autoencoder of one site."""

    W_enc: Float[Tensor, "width feature"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature width"]
    b_dec: Float[Tensor, " width"]
    kind: Kind
    hook: str  # SAELens' hook_name
    head: int | None = None  # SAELens' hook_head_index
    centred: bool = True  # b_dec is taken off what is encoded
    threshold: Float[Tensor, " feature"] | None = None  # of jumprelu
    k: int = 0  # of topk

    @property
    def width(self) -> int:
        """Numbers that it reads."""
        return self.W_dec.shape[1]

    @property
    def n_features(self) -> int:
        """Size of the dictionary."""
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "*n width"]) -> Float[Tensor, "*n feature"]:
        """Activations of the features, 0 or more."""
        before = (x - self.b_dec if self.centred else x) @ self.W_enc + self.b_enc
        active = before.relu()
        if self.kind == "jumprelu":
            assert self.threshold is not None  # it has one
            return active * (before > self.threshold)
        if self.kind == "topk":
            top = active.topk(self.k, -1)
            return torch.zeros_like(active).scatter(-1, top.indices, top.values)
        return active

    def decode(self, features: Float[Tensor, "*n feature"]) -> Float[Tensor, "*n width"]:
        """The features' part of x, with the bias."""
        return features @ self.W_dec + self.b_dec

    def to(self, like: Tensor) -> SAE:
        """The same in another tensor's dtype and on its device."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        own = {n: getattr(self, n) for n in names}
        return replace(self, **{n: None if t is None else t.to(like) for n, t in own.items()})


def variance_explained(x: Float[Tensor, "n width"], error: Float[Tensor, "n width"]) -> float:
    """1 - |error|^2 / |x - mean of x|^2, both summed; 1 is all, below 0 worse than the mean."""
    whole = (x - x.mean(0)).double().square().sum()
    return float(1 - error.double().square().sum() / whole) if whole > 0 else float("nan")


# ---- files -------------------------------------------------------------------------------------


def read_sae(folder: Path | str) -> SAE:
    """A folder in SAELens' layout.

    InputError for files that are missing or unreadable, shapes that do not fit each other, and
    what is not supported (gated ones, inputs that are normalised, other activation functions).
    """
    folder = Path(folder)
    try:
        cfg: Any = json.loads((folder / CFG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        about = {**cfg, **(cfg.get("meta") or {}), **(cfg.get("metadata") or {})}
    except (OSError, ValueError, AttributeError, TypeError, SafetensorError) as error:
        raise InputError(f"sae={folder}: no SAELens folder ({CFG}, {WEIGHTS}): {error}") from None
    try:
        return _made(about, {name: t.float() for name, t in tensors.items()})
    except KeyError as error:
        raise InputError(f"sae={folder}: {error.args[0]} is missing") from None
    except InputError as error:
        raise InputError(f"sae={folder}: {error}") from None


def _made(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SAE:
    kind = _kind(about)
    W_enc, b_enc, W_dec, b_dec = (tensors[n] for n in ("W_enc", "b_enc", "W_dec", "b_dec"))
    threshold = tensors["threshold"] if kind == "jumprelu" else None
    _check_shapes(W_dec, W_enc=W_enc, b_enc=b_enc, b_dec=b_dec, threshold=threshold)
    if kind == "topk" and about.get("rescale_acts_by_decoder_norm"):
        size = W_dec.norm(dim=-1)
        W_enc, b_enc, W_dec = W_enc * size, b_enc * size, W_dec / size[:, None]
    k = _k(about, len(W_dec)) if kind == "topk" else 0
    hook, head = about.get("hook_name") or about["hook_point"], about.get("hook_head_index")
    centred = bool(about.get("apply_b_dec_to_input", True))
    return SAE(W_enc, b_enc, W_dec, b_dec, kind, str(hook), None if head is None else int(head),
               centred, threshold, k)  # fmt: skip


def _check_shapes(W_dec: Tensor, **others: Tensor | None) -> None:
    """InputError unless all fit the decoder."""
    if W_dec.ndim != 2:
        raise InputError(f"W_dec has shape {list(W_dec.shape)}, it must be [feature, width]")
    n, width = W_dec.shape
    wanted = {"W_enc": [width, n], "b_enc": [n], "b_dec": [width], "threshold": [n]}
    for name, tensor in others.items():
        if tensor is not None and list(tensor.shape) != wanted[name]:
            raise InputError(f"{name} has shape {list(tensor.shape)}, W_dec wants {wanted[name]}")


def _kind(about: Mapping[str, Any]) -> Kind:
    kind = about.get("architecture", "standard")
    function = about.get("activation_fn_str") or about.get("activation_fn") or "relu"
    if kind == "standard" and function == "topk":
        kind = "topk"
    if kind not in ("standard", "jumprelu", "topk"):
        raise InputError(f"architecture={kind!r}: supported are standard, jumprelu, topk")
    if kind == "standard" and function != "relu":
        raise InputError(f"activation_fn_str={function!r}: supported are relu and topk")
    normalised = about.get("normalize_activations") or "none"
    if normalised != "none":
        raise InputError(f"normalize_activations={normalised!r}: supported is none")
    if about.get("finetuning_scaling_factor"):
        raise InputError("finetuning_scaling_factor is not supported")
    return kind


def _k(about: Mapping[str, Any], n_features: int) -> int:
    k = about.get("k") or (about.get("activation_fn_kwargs") or {}).get("k")
    if not isinstance(k, int) or not 1 <= k <= n_features:
        raise InputError(f"k={k!r}: a topk keeps 1 to {n_features} features")
    return k


def write_sae(sae: SAE, folder: Path | str, **about: Any) -> None:
    """SAELens' layout; `about` goes into the metadata (model_name, ...)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    where = {"hook_name": sae.hook, "hook_head_index": sae.head, **about}
    cfg = {
        "architecture": sae.kind, "d_in": sae.width, "d_sae": sae.n_features, "dtype": "float32",
        "device": "cpu", "apply_b_dec_to_input": sae.centred, "normalize_activations": "none",
        **({"k": sae.k} if sae.kind == "topk" else {}), **where, "metadata": where,
    }  # fmt: skip
    tensors = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    data = save({n: t.detach().float().cpu().contiguous() for n, t in tensors.items()})
    write_bytes(folder / WEIGHTS, data)
    write_json(folder / CFG, cfg)


# ---- training ----------------------------------------------------------------------------------


def train_sae(
    x: Float[Tensor, "n width"], hook: str, head: int | None = None, *, n_features: int = 256,
    active: int = 8, steps: int = 1500, seed: int = 0,
) -> SAE:  # fmt: skip
    """A top-k autoencoder of these outputs: squared error, Adam, directions of length 1.

    `active` features are kept at a time. Same x and seed, same SAE. Needs no gradient mode.
    ValueError without at least two different rows.
    """
    mean = x.mean(0)
    scale = (x - mean).square().mean().sqrt()
    if not len(x) or not scale > 0:
        raise ValueError("nothing to train on: all outputs are the same")
    generator = torch.Generator().manual_seed(seed)
    data = ((x - mean) / scale).float().cpu()
    with torch.inference_mode(False), torch.enable_grad():
        parameters = _start(data.shape[1], n_features, generator)
        trained = _descend(data.clone(), parameters, min(active, n_features), steps, generator)
    W_enc, b_enc, W_dec, b_dec = (p.detach() for p in trained)
    made = SAE(W_enc, b_enc * scale.float().cpu(), W_dec, b_dec * scale.float().cpu(), "topk",
               hook, head, k=min(active, n_features))  # fmt: skip
    return replace(made, b_dec=made.b_dec + mean.float().cpu()).to(x)


def _start(width: int, n_features: int, generator: torch.Generator) -> list[Tensor]:
    """Random directions; the encoder is the decoder's transpose."""
    W_dec = _unit(torch.randn(n_features, width, generator=generator))
    parameters = [W_dec.T.clone(), torch.zeros(n_features), W_dec, torch.zeros(width)]
    return [p.requires_grad_() for p in parameters]


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-8)


def _descend(
    data: Tensor, parameters: list[Tensor], k: int, steps: int, generator: torch.Generator
) -> list[Tensor]:
    W_enc, b_enc, W_dec, b_dec = parameters
    optimizer = torch.optim.Adam(parameters, lr=RATE, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 2 * (1 - step / steps))
    )
    fired = torch.zeros(len(W_dec), dtype=torch.bool)
    turns = [round(steps * share) for share in REVIVALS]
    for step in tqdm(range(steps), unit="step", desc="sae", leave=False, dynamic_ncols=True):
        x = data[torch.randint(len(data), (min(BATCH, len(data)),), generator=generator)]
        features = SAE(W_enc, b_enc, W_dec, b_dec, "topk", "", k=k).encode(x)
        error = x - (features @ W_dec + b_dec)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        decay.step()
        with torch.no_grad():
            W_dec.copy_(_unit(W_dec))
            fired |= (features > 0).any(0)
            if step in turns:
                _revive(parameters, x, error, ~fired)
                fired[:] = False
    return parameters


def _revive(parameters: list[Tensor], x: Tensor, error: Tensor, dead: Tensor) -> None:
    """Turn features that did not fire to the rows that are explained worst."""
    W_enc, b_enc, W_dec, _ = parameters
    worst = error.square().sum(-1).argsort(descending=True)[: int(dead.sum())]
    places = dead.nonzero()[: len(worst), 0]
    W_dec[places] = _unit(error[worst])
    W_enc[:, places] = W_dec[places].T
    b_enc[places] = 0
