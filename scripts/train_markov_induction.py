"""Train the two-layer attention-only network of the induction experiment.

It learns the language of `discovery.experiments.markov_text`: next-token prediction on fresh texts,
AdamW, warm-up and half a cosine. A small penalty on the size of each head (a group lasso) keeps the
work in few heads that attend sharply, where many would share it. The closing figures say what
scrubbing presupposes: that the loss where a text repeats itself lies well below that of a bigram
model, and which heads attend to the previous token or to what followed the earlier occurrence of
the current token.

    python scripts/train_markov_induction.py     # writes the folder that the package ships

Needs six minutes on one CPU core, and uses no more, so that the number of cores does not change
the rounding: same seed, same weights, at least on one kind of machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from discovery.experiments.induction_heads import bigram_table, head_scores, sources
from discovery.experiments.markov_text import VOCABULARY, texts
from discovery.experiments.two_layer import FOLDER, TwoLayer
from discovery.runs.json_files import write_bytes, write_json

HEADS, D_MODEL, D_HEAD, LENGTH = 4, 128, 32, 64
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP_STEPS = 32, 3e-3, 0.05, 200
HEAD_PENALTY = 8e-3  # nats per unit of a head's norm
BLOCK, COUNTED = 4096, 20_000  # texts drawn at once; texts that the bigram model counts
HELD_OUT = 1000  # fresh texts for the closing figures, from a seed that training never uses


def untrained(generator: torch.Generator) -> TwoLayer:
    """Return start weights: Gaussian with variance one over fan-in."""

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def heads() -> Tensor:
        return drawn(2, HEADS, D_MODEL, D_HEAD) / math.sqrt(D_MODEL)

    return TwoLayer(
        embed=drawn(VOCABULARY, D_MODEL) / math.sqrt(D_MODEL),
        positions=drawn(LENGTH, D_MODEL) / 4,
        query=heads(),
        key=heads(),
        value=heads(),
        out=drawn(2, HEADS, D_HEAD, D_MODEL) / math.sqrt(HEADS * D_HEAD) / 2,
        scale=torch.ones(3, D_MODEL),
        shift=torch.zeros(3, D_MODEL),
        unembed=drawn(D_MODEL, VOCABULARY) / math.sqrt(D_MODEL),
    )


def batches(generator: np.random.Generator) -> Iterator[Tensor]:
    """Yield batches of texts of `LENGTH` + 1 tokens."""
    while True:
        yield from torch.from_numpy(texts(BLOCK, LENGTH + 1, generator)).split(BATCH)


def head_norms(network: TwoLayer) -> Float[Tensor, "2 head"]:
    """Return the norm of each head's value and output weights together."""
    return (network.value.square().sum((2, 3)) + network.out.square().sum((2, 3))).sqrt()


def train(network: TwoLayer, steps: int, seed: int) -> None:
    """Train in place."""
    data = batches(np.random.default_rng([seed, 0]))
    parameters = [getattr(network, field.name).requires_grad_() for field in fields(network)]
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )

    def rate(step: int) -> float:
        return min((step + 1) / WARM_UP_STEPS, (1 + math.cos(math.pi * step / steps)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    progress = tqdm(range(steps), unit="step", mininterval=5)
    for step in progress:
        tokens = next(data)
        loss = cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        (loss + HEAD_PENALTY * head_norms(network).sum()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f} nats")


@torch.inference_mode()
def facts(network: TwoLayer, seed: int) -> dict[str, Any]:
    """Return the closing figures on held-out texts.

    Repeats are positions where the last earlier follower of the current token follows again. The
    bigram model counts other texts.
    """
    tokens = texts(HELD_OUT, LENGTH + 1, np.random.default_rng([seed, 1]))
    now, following = tokens[:, :-1], tokens[:, 1:]
    log_p = network(torch.from_numpy(now)).log_softmax(-1).numpy()
    loss = -np.take_along_axis(log_p, following[..., None], -1)[..., 0]
    counted = texts(COUNTED, LENGTH + 1, np.random.default_rng([seed, 2]))
    bigram = -np.log(bigram_table(counted)[now, following])
    source = sources(now)
    repeat = (source > 0) & (np.take_along_axis(tokens, source.clip(0), 1) == following)
    scores = head_scores(network, tokens)
    return {
        "texts": HELD_OUT,
        "loss_nats": float(loss.mean()),
        "loss_at_repeats_nats": float(loss[repeat].mean()),
        "bigram_loss_nats": float(bigram.mean()),
        "bigram_loss_at_repeats_nats": float(bigram[repeat].mean()),
        "attention": {field.name: getattr(scores, field.name).tolist() for field in fields(scores)},
    }


def write(network: TwoLayer, folder: Path, training: dict[str, Any]) -> None:
    """Write `model.safetensors` (float32) and `config.json`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save({f.name: getattr(network, f.name).detach() for f in fields(network)})
    recipe = {"batch": BATCH, "length": LENGTH, "learning_rate": LEARNING_RATE}
    recipe |= {"weight_decay": WEIGHT_DECAY, "warm_up_steps": WARM_UP_STEPS}
    recipe |= {"head_penalty_nats": HEAD_PENALTY}
    sha256 = hashlib.sha256(content).hexdigest()
    write_bytes(folder / "model.safetensors", content)
    write_json(folder / "config.json", {"sha256": sha256, "recipe": recipe, "training": training})


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write")
    parser.add_argument("--steps", type=int, default=4000, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="decides start weights and data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = untrained(torch.Generator().manual_seed(given.seed))
    began = time.monotonic()
    train(network, given.steps, given.seed)
    seconds = round(time.monotonic() - began)
    figures = facts(network, given.seed)
    write(network, given.out, {"seed": given.seed, "steps": given.steps, **figures})
    print(f"{given.steps} steps in {seconds} s; {HELD_OUT} held-out texts:")
    for name, value in figures.items():
        print(name, json.dumps(value))
    print(f"written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
