"""A two-layer attention-only network whose head outputs split into exact terms.

Positions enter the queries and keys of every layer and nothing else (shortformer, Press et al.
2021, arXiv:2012.15832), so the residual stream before layer 0 is the token embedding alone, and
what a head of layer 0 writes at position t is the sum over s of attention[t, s] times a function of
the token at s. Every step takes its streams as arguments: a caller may feed queries, keys and
values from different inputs. LayerNorm before attention and unembedding; no biases in the heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm

from acdc.errors import InputError

FOLDER = Path(__file__).parent / "weights" / "markov_induction"

Stream = Float[Tensor, "batch pos d_model"]
Pattern = Float[Tensor, "batch head query key"]


@dataclass(frozen=True)
class TwoLayer:
    """The weights, and the steps of the forward pass. Row vectors: y = x W."""

    embed: Float[Tensor, "vocab d_model"]
    positions: Float[Tensor, "n_ctx d_model"]
    query: Float[Tensor, "2 head d_model d_head"]
    key: Float[Tensor, "2 head d_model d_head"]
    value: Float[Tensor, "2 head d_model d_head"]
    out: Float[Tensor, "2 head d_head d_model"]
    scale: Float[Tensor, "3 d_model"]  # LayerNorm of layer 0, layer 1 and the unembedding
    shift: Float[Tensor, "3 d_model"]
    unembed: Float[Tensor, "d_model vocab"]

    @property
    def n_heads(self) -> int:
        return self.query.shape[1]

    def normed(self, norm: int, stream: Stream) -> Stream:
        """Apply LayerNorm 0, 1 (before the attention of that layer) or 2 (before unembedding)."""
        return layer_norm(stream, stream.shape[-1:], self.scale[norm], self.shift[norm])

    def pattern(self, layer: int, queries: Stream, keys: Stream) -> Pattern:
        """Return the causal attention of all heads when these streams give queries and keys."""
        length = queries.shape[1]
        places = self.positions[:length]
        q = torch.einsum("bpd,hde->bhpe", self.normed(layer, queries) + places, self.query[layer])
        k = torch.einsum("bpd,hde->bhpe", self.normed(layer, keys) + places, self.key[layer])
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.query.shape[-1])
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(dim=-1)

    def heads(
        self, layer: int, pattern: Pattern, values: Stream
    ) -> Float[Tensor, "batch head pos d_model"]:
        """Return what each head writes. Linear in `pattern`: masks that add up to 1 split it."""
        mixed = pattern @ self._values(layer, values)
        return torch.einsum("bhpe,hed->bhpd", mixed, self.out[layer])

    def attention(self, layer: int, pattern: Pattern, values: Stream) -> Stream:
        """Return what all heads write together."""
        mixed = (pattern @ self._values(layer, values)).transpose(1, 2)
        return mixed.flatten(2) @ self.out[layer].flatten(0, 1)

    def _values(self, layer: int, values: Stream) -> Float[Tensor, "batch head pos d_head"]:
        return torch.einsum("bpd,hde->bhpe", self.normed(layer, values), self.value[layer])

    def logits(self, stream: Stream) -> Float[Tensor, "batch pos vocab"]:
        return self.normed(2, stream) @ self.unembed

    def __call__(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of the next token."""
        stream = self.embed[tokens]
        for layer in range(2):
            pattern = self.pattern(layer, stream, stream)
            stream = stream + self.attention(layer, pattern, stream)
        return self.logits(stream)


def load_two_layer(folder: Path = FOLDER) -> TwoLayer:
    """Return the network in a folder, on the CPU. Raises InputError if it is unreadable.

    The default is the one that `scripts/train_markov_induction.py` wrote.
    """
    path = folder / "model.safetensors"
    names = [field.name for field in fields(TwoLayer)]
    try:
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} does not hold a readable network: {error!r}") from error
    if sorted(tensors) != sorted(names):
        raise InputError(f"{path} holds the tensors {sorted(tensors)}; needed are {sorted(names)}")
    return TwoLayer(**{name: tensors[name] for name in names})
