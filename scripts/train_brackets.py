"""Train the balanced-bracket classifier that the package ships.

A string is START, brackets, END. The network (three layers of two bidirectional heads and an MLP,
pre-LayerNorm, sin/cos positions) reads its verdict at position 0. Most strings are drawn as in the
causal-scrubbing posts (Chan et al. 2022): even length from 2 to 40, fair brackets, a balanced
string nine times as likely. The rest, `HARD` of each batch, have as many `(` as `)`, so that only
the order decides: half of them shuffled, a quarter balanced, a quarter balanced and then two
characters exchanged.

    python scripts/train_brackets.py             # writes the folder that the package ships

Needs a quarter of an hour on one CPU core, and uses no more, so that the number of cores does not
change the rounding: same seed, same weights, at least on one kind of machine. Knows nothing of
roles.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, layer_norm, linear, relu
from tqdm import tqdm

from discovery.experiments.bracket_network import EPS, FOLDER, MASKED, PAD
from discovery.experiments.bracket_strings import (
    LONGEST,
    Strings,
    blocks_of_strings,
    draw_strings,
    is_balanced,
    lengths,
    pieces,
    tokens_of,
)
from discovery.runs.json_files import write_bytes, write_json

LAYERS, HEADS, D_MODEL, D_HEAD, D_MLP = 3, 2, 56, 28, 56
POSITIONS = LONGEST + 2
BATCH, PARTS = 256, 4  # a batch is cut into parts of like length, so that short strings stay short
HARD_BLOCK = 4096  # such strings drawn at once
HARD = 64  # strings per batch with as many `(` as `)`
LEARNING_RATE, WEIGHT_DECAY, WARM_UP_STEPS = 2e-3, 0.01, 200
HELD_OUT = 100_000  # fresh strings for the closing figures, from a seed that training never uses


def hard_strings(generator: np.random.Generator) -> Iterator[Strings]:
    """Yield blocks of strings with as many `(` as `)`.

    Half are shuffled, a quarter balanced, a quarter balanced and then two characters exchanged.
    A shuffled string turned to begin after its first lowest depth is balanced (the cycle lemma).
    """
    inside = np.arange(LONGEST)
    while True:
        length = lengths(HARD_BLOCK, generator)[:, None]
        rank = generator.random((len(length), LONGEST)) + (inside >= length)
        rank = rank.argsort(axis=1).argsort(axis=1)
        strings = np.where(inside >= length, 0, np.where(rank < length // 2, 1, -1)).astype(np.int8)
        kind = generator.integers(0, 4, (len(length), 1))
        lowest = np.where(inside < length, strings.cumsum(axis=1, dtype=int), LONGEST)
        turn = np.where(kind >= 2, lowest.argmin(axis=1, keepdims=True) + 1, 0)
        order = np.where(inside < length, (inside + turn) % length, inside)
        strings = np.take_along_axis(strings, order, axis=1)
        pair = (generator.random((len(length), 2)) * length).astype(int)
        exchanged = np.take_along_axis(strings, pair[:, ::-1], axis=1)
        swapped = strings.copy()
        np.put_along_axis(swapped, pair, exchanged, axis=1)
        yield np.where(kind == 3, swapped, strings)


def model_input(strings: Strings) -> Int[Tensor, "string pos"]:
    """Return token ids, padded to the longest of these strings."""
    width = int(np.abs(strings).sum(axis=1).max()) + 2
    return torch.from_numpy(tokens_of(strings)[:, :width])


def positions() -> Float[Tensor, "pos d_model"]:
    """Return the fixed table of Vaswani et al. 2017: sine in even columns, cosine in odd ones."""
    rate = 10_000 ** (-np.arange(0, D_MODEL, 2) / D_MODEL)
    angle = np.arange(POSITIONS)[:, None] * rate
    table = np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(POSITIONS, D_MODEL)
    return torch.from_numpy(table.astype(np.float32))


def untrained(generator: torch.Generator) -> dict[str, Tensor]:
    """Return start weights by name: Gaussian with variance one over fan-in, biases zero."""

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-2])

    weights = {"embed.W_E": torch.randn(5, D_MODEL, generator=generator) / 2}
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        for norm in ("ln1", "ln2"):
            weights |= _norm(f"{block}{norm}")
        for name in "QKV":
            weights[f"{block}attn.W_{name}"] = matrix(HEADS, D_MODEL, D_HEAD)
            weights[f"{block}attn.b_{name}"] = torch.zeros(HEADS, D_HEAD)
        weights[f"{block}attn.W_O"] = matrix(HEADS, D_HEAD, D_MODEL)
        weights[f"{block}attn.b_O"] = torch.zeros(D_MODEL)
        weights[f"{block}mlp.W_in"] = matrix(D_MODEL, D_MLP)
        weights[f"{block}mlp.b_in"] = torch.zeros(D_MLP)
        weights[f"{block}mlp.W_out"] = matrix(D_MLP, D_MODEL)
        weights[f"{block}mlp.b_out"] = torch.zeros(D_MODEL)
    return (
        weights
        | _norm("ln_final")
        | {
            "unembed.W_U": matrix(D_MODEL, 2),
            "unembed.b_U": torch.zeros(2),
        }
    )


def _norm(name: str) -> dict[str, Tensor]:
    return {f"{name}.w": torch.ones(D_MODEL), f"{name}.b": torch.zeros(D_MODEL)}


def attention(
    weights: dict[str, Tensor], name: str, x: Float[Tensor, "string pos d_model"], padded: Tensor
) -> Float[Tensor, "string pos d_model"]:
    """Return the summed output of one layer's heads."""
    q, k, v = (
        torch.einsum("spd,hde->shpe", x, weights[f"{name}.W_{which}"])
        + weights[f"{name}.b_{which}"][:, None]
        for which in "QKV"
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(D_HEAD)
    pattern = scores.masked_fill(padded[:, None, None], MASKED).softmax(dim=-1)
    out = torch.einsum("shpe,hed->spd", pattern @ v, weights[f"{name}.W_O"])
    return out + weights[f"{name}.b_O"]


def logit_difference(
    weights: dict[str, Tensor], table: Tensor, tokens: Int[Tensor, "string pos"]
) -> Float[Tensor, " string"]:
    """Return the logit of "balanced" minus that of "unbalanced", read at position 0."""
    padded = tokens == PAD
    x = weights["embed.W_E"][tokens] + table[: tokens.shape[1]]

    def norm(name: str) -> Tensor:
        return layer_norm(x, (D_MODEL,), weights[f"{name}.w"], weights[f"{name}.b"], EPS)

    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        x = x + attention(weights, f"{block}.attn", norm(f"{block}.ln1"), padded)
        mlp = f"{block}.mlp"
        hidden = linear(norm(f"{block}.ln2"), weights[f"{mlp}.W_in"].T, weights[f"{mlp}.b_in"])
        x = x + linear(relu(hidden), weights[f"{mlp}.W_out"].T, weights[f"{mlp}.b_out"])
    logits = norm("ln_final")[:, 0] @ weights["unembed.W_U"] + weights["unembed.b_U"]
    return logits[:, 1] - logits[:, 0]


def train(weights: dict[str, Tensor], steps: int, seed: int) -> None:
    """Train in place with AdamW: short warm-up, then half a cosine down to zero."""
    table = positions()
    common = pieces(blocks_of_strings(np.random.default_rng([seed, 0])), BATCH - HARD)
    hard = pieces(hard_strings(np.random.default_rng([seed, 1])), HARD)
    parameters = [tensor.requires_grad_() for tensor in weights.values()]
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )

    def rate(step: int) -> float:
        return min((step + 1) / WARM_UP_STEPS, (1 + math.cos(math.pi * step / steps)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    progress = tqdm(range(steps), unit="step", mininterval=5)
    for step in progress:
        batch = np.concatenate([next(common), next(hard)])
        batch = batch[np.abs(batch).sum(axis=1).argsort(kind="stable")]
        optimizer.zero_grad()
        total = 0.0
        for part in np.split(batch, PARTS):
            label = torch.from_numpy(is_balanced(part)).float()
            z = logit_difference(weights, table, model_input(part))
            loss = binary_cross_entropy_with_logits(z, label) / PARTS
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            progress.set_postfix(loss=f"{total:.5f} nats")


@torch.inference_mode()
def facts(weights: dict[str, Tensor], seed: int) -> dict[str, Any]:
    """Return the closing figures on held-out strings of the posts' distribution."""
    strings = draw_strings(HELD_OUT, np.random.default_rng([seed, 2]))
    table, label = positions(), is_balanced(strings)
    parts = np.array_split(strings, HELD_OUT // 1000)
    z = torch.cat([logit_difference(weights, table, model_input(part)) for part in parts])
    loss = binary_cross_entropy_with_logits(z, torch.from_numpy(label).float()).item()
    right = (z > 0).numpy() == label
    return {
        "strings": HELD_OUT,
        "loss_nats": loss,
        "accuracy": float(right.mean()),
        "wrong_balanced": int((~right & ~label).sum()),
        "wrong_unbalanced": int((~right & label).sum()),
    }


def write(weights: dict[str, Tensor], folder: Path, training: dict[str, Any]) -> None:
    """Write `model.safetensors` (float32) and `config.json`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    content = save(named | {"pos_embed.W_pos": positions()})
    config = {"n_layers": LAYERS, "n_heads": HEADS, "d_model": D_MODEL, "d_head": D_HEAD}
    config |= {"d_mlp": D_MLP, "n_ctx": POSITIONS, "d_vocab": 5}
    recipe = {"batch": BATCH, "hard": HARD, "learning_rate": LEARNING_RATE}
    recipe |= {"weight_decay": WEIGHT_DECAY, "warm_up_steps": WARM_UP_STEPS}
    sha256 = hashlib.sha256(content).hexdigest()
    fields = {"sha256": sha256, "config": config, "recipe": recipe, "training": training}
    write_bytes(folder / "model.safetensors", content)
    write_json(folder / "config.json", fields)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write")
    parser.add_argument("--steps", type=int, default=6500, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="decides start weights and data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    weights = untrained(torch.Generator().manual_seed(given.seed))
    began = time.monotonic()
    train(weights, given.steps, given.seed)
    seconds = round(time.monotonic() - began)
    figures = facts(weights, given.seed)
    write(weights, given.out, {"seed": given.seed, "steps": given.steps, "held_out": figures})
    print(f"{given.steps} steps in {seconds} s; {HELD_OUT} held-out strings:")
    print(f"loss {figures['loss_nats']:.6f} nats, accuracy {100 * figures['accuracy']:.3f}%")
    print(f"written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
