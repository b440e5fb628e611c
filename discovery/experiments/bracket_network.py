"""The balanced-bracket classifier of causal scrubbing (Chan et al. 2022): its forward pass.

A bidirectional transformer with pre-LayerNorm, ReLU and biases. It reads START, the brackets, END
and PAD, and answers at position 0 with two logits, unbalanced and balanced. All is in the tensors'
dtype and on their device; a row vector times a weight. Knows no features, hypotheses or files but
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm

from acdc.errors import InputError

START, PAD, END, OPEN, CLOSE = range(5)
EPS = 1e-5  # of every LayerNorm
MASKED = -1e5  # score of a padded key before the softmax
FOLDER = Path(__file__).parent / "weights" / "brackets"  # by scripts/train_brackets.py

Stream = Float[Tensor, "batch pos d_model"]
Padded = Bool[Tensor, "batch pos"]


@dataclass(frozen=True)
class Norm:
    """LayerNorm's scale and shift."""

    w: Float[Tensor, " d_model"]
    b: Float[Tensor, " d_model"]

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return layer_norm(x, self.w.shape, self.w, self.b, EPS)


@dataclass(frozen=True)
class Layer:
    """One block: heads side by side, then an MLP."""

    ln1: Norm
    ln2: Norm
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "head d_head"]
    b_V: Float[Tensor, "head d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_O: Float[Tensor, " d_model"]
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"]

    def attention(
        self,
        head: int,
        query: Float[Tensor, "batch query d_model"],
        key: Float[Tensor, "batch pos d_model"],
        padded: Padded,
    ) -> Float[Tensor, "batch query pos"]:
        """Attention of a head, from queries and keys after LayerNorm."""
        q = query @ self.W_Q[head] + self.b_Q[head]
        k = key @ self.W_K[head] + self.b_K[head]
        scores = q @ k.transpose(1, 2) / sqrt(k.shape[-1])
        return scores.masked_fill(padded[:, None], MASKED).softmax(-1)

    def moved(
        self, head: int, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """What a head writes where it attends to x (after LayerNorm) alone; without b_O."""
        return (x @ self.W_V[head] + self.b_V[head]) @ self.W_O[head]

    def head(
        self, head: int, stream: Stream, padded: Padded, at: slice = slice(None)
    ) -> Float[Tensor, "batch query d_model"]:
        """Output of a head at the positions `at`, without b_O."""
        x = self.ln1(stream)
        return self.attention(head, x[:, at], x, padded) @ self.moved(head, x)

    def mlp(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Output of the MLP; x is the stream before its LayerNorm."""
        return (self.ln2(x) @ self.W_in + self.b_in).relu() @ self.W_out + self.b_out


@dataclass(frozen=True)
class BracketNetwork:
    """The weights."""

    W_E: Float[Tensor, "token d_model"]
    W_pos: Float[Tensor, "pos d_model"]
    layers: tuple[Layer, ...]
    ln_final: Norm
    W_U: Float[Tensor, "d_model 2"]
    b_U: Float[Tensor, " 2"]

    @property
    def n_heads(self) -> int:
        """In every layer."""
        return len(self.layers[0].W_Q)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of what is added up in the residual stream: embed, 0.0, 0.1, m0, 1.0, ..."""
        names = ["embed"]
        for layer in range(len(self.layers)):
            names += [f"{layer}.{head}" for head in range(self.n_heads)] + [f"m{layer}"]
        return tuple(names)

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Stream:
        """Token row plus position row."""
        return self.W_E[tokens] + self.W_pos[: tokens.shape[1]]

    def logit_difference(self, final: Float[Tensor, "batch d_model"]) -> Float[Tensor, " batch"]:
        """Balanced minus unbalanced, in logits, from the last stream at position 0."""
        logits = self.ln_final(final) @ self.W_U + self.b_U
        return logits[:, 1] - logits[:, 0]

    def run(self, tokens: Int[Tensor, "batch pos"]) -> Run:
        """The whole forward pass."""
        padded = tokens == PAD
        stream = self.embed(tokens)
        terms, streams = [stream[:, 0]], []
        for layer in self.layers:
            streams.append(stream)
            heads = [layer.head(head, stream, padded) for head in range(len(layer.W_Q))]
            middle = stream + sum(heads) + layer.b_O
            mlp = layer.mlp(middle)
            stream = middle + mlp
            terms += [part[:, 0] for part in (*heads, mlp)]
        z = self.logit_difference(stream[:, 0])
        return Run(z, torch.stack(terms, 1), tuple(streams))


@dataclass(frozen=True)
class Run:
    """What a forward pass computed."""

    z: Float[Tensor, " batch"]  # logit difference
    terms: Float[Tensor, "batch term d_model"]  # at position 0; the last stream less all b_O
    streams: tuple[Stream, ...]  # into each layer


def load_brackets(path: Path = FOLDER) -> BracketNetwork:
    """Read a safetensors file, or `model.safetensors` in a folder; float32 on the CPU.

    Names are `embed.W_E`, `pos_embed.W_pos`, `blocks.L.` with `ln1.w`, `attn.W_Q`, ...,
    `mlp.W_in`, ..., `ln_final.w`, `unembed.W_U`, and likewise the biases; others are ignored.
    Raises InputError if the file cannot be read or a tensor is missing.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        t = {name: tensor.detach() for name, tensor in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is no readable safetensors file: {error}") from error
    count = len({name.split(".")[1] for name in t if name.startswith("blocks.")})

    def norm(name: str) -> Norm:
        return Norm(t[f"{name}.w"], t[f"{name}.b"])

    def layer(name: str) -> Layer:
        attention = ("W_Q", "W_K", "W_V", "b_Q", "b_K", "b_V", "W_O", "b_O")
        own = {key: t[f"{name}.attn.{key}"] for key in attention}
        own |= {key: t[f"{name}.mlp.{key}"] for key in ("W_in", "b_in", "W_out", "b_out")}
        return Layer(ln1=norm(f"{name}.ln1"), ln2=norm(f"{name}.ln2"), **own)

    try:
        return BracketNetwork(
            W_E=t["embed.W_E"],
            W_pos=t["pos_embed.W_pos"],
            layers=tuple(layer(f"blocks.{index}") for index in range(count)),
            ln_final=norm("ln_final"),
            W_U=t["unembed.W_U"],
            b_U=t["unembed.b_U"],
        )
    except KeyError as error:
        raise InputError(f"{file} holds no tensor {error}: not a bracket classifier") from error


def tokenize(strings: Sequence[str], positions: int = 42) -> Int[np.ndarray, "string pos"]:
    """START, the brackets, END, then PAD; InputError for other characters or too long strings."""
    if not len(strings):
        raise InputError("strings: at least one is needed")
    tokens = np.full((len(strings), positions), PAD)
    tokens[:, 0] = START
    for row, string in enumerate(strings):
        if not 1 <= len(string) <= positions - 2 or set(string) - {"(", ")"}:
            raise InputError(
                f"string {row + 1} is {string[:60]!r}: allowed are 1 to {positions - 2} of ( and )"
            )
        tokens[row, 1 : len(string) + 1] = [OPEN if c == "(" else CLOSE for c in string]
        tokens[row, len(string) + 1] = END
    return tokens
