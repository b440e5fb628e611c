"""Train the default model: two attention-only layers that continue a repeated segment.

Each sequence is random tokens, all different, except that one segment comes twice. Start, length
and distance of the two copies vary from sequence to sequence, so no head can solve it by looking
back a fixed number of positions; the model has to find the earlier occurrence of the current token
and copy what followed it (an induction head, Olsson et al. 2022, arXiv:2209.11895). The loss is
taken only where that is possible: from the second token of the second copy on. A small penalty on
the size of each head (a group lasso) keeps the work in few heads, so that there is a clear answer
to find.

    python scripts/train_induction.py            # writes the folder that the package ships
    python scripts/train_induction.py --out ckpt --checkpoints 21 # and ckpt/step-0000, ...: how it
                                                 # comes about: circuits arise checkpoints=ckpt

Needs minutes on one CPU core, and uses no more, so that the number of cores does not change the
rounding: same seed, same weights, at least on one kind of machine. Knows nothing of circuits.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from acdc.native import TransformerBridge, native_weights, untrained_bridge
from discovery.models.induction import FOLDER
from discovery.runs.json_files import write_bytes, write_json

CONFIG: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 8,
    "d_model": 128,
    "d_head": 32,
    "n_ctx": 64,
    "d_vocab": 128,
    "attn_only": True,
    "normalization_type": "LN",
    "positional_embedding_type": "standard",
}
LONGEST_SEGMENT = 32  # tokens; the shortest is 2
BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP_STEPS = 32, 3e-3, 0.1, 100
WHOLE = 0.7  # share of sequences with two whole copies; a run with none grew no previous-token head
HEAD_PENALTY = 4e-3  # nats per unit of a head's norm
HELD_OUT = 2000  # fresh sequences for the closing figures, from a seed that training never uses
CLEAR = 0.5  # an attention score above this names a head


@dataclass(frozen=True)
class Repeats:
    """Sequences with one repeated segment, and what follows at each position."""

    tokens: Int[Tensor, "batch pos"]
    following: Int[Tensor, "batch pos"]  # the token after this position: the right answer
    source: Int[Tensor, "batch pos"]  # where that token stood before; 0 where not predictable
    predictable: Bool[Tensor, "batch pos"]  # the token that follows is known from the first copy


def repeats(batch: int, generator: torch.Generator) -> Repeats:
    """Draw sequences of `n_ctx` + 1 tokens, all different but for the second copy of a segment."""
    length = CONFIG["n_ctx"] + 1
    drawn = torch.rand(batch, CONFIG["d_vocab"], generator=generator).argsort(dim=1)[:, :length]
    whole, late = _whole(batch, length, generator), _late(batch, length, generator)
    pick = torch.rand(batch, generator=generator) < WHOLE
    segment, second, gap = (torch.where(pick, a, b) for a, b in zip(whole, late, strict=True))
    distance = (segment + gap)[:, None]
    position = torch.arange(length)[None]
    copied = (position >= second[:, None]) & (position < (second + segment)[:, None])
    tokens = drawn.gather(1, torch.where(copied, position - distance, position))
    predictable = copied[:, :-1] & copied[:, 1:]
    source = (position[:, :-1] - distance + 1) * predictable
    return Repeats(tokens[:, :-1], tokens[:, 1:], source, predictable)


def _whole(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw length of segment, start of second copy and gap [batch]: both copies fit in."""
    segment = 2 + _up_to(torch.full((batch,), LONGEST_SEGMENT - 2), generator)
    start = _up_to(length - 2 * segment, generator)
    gap = _up_to(length - 2 * segment - start, generator)
    return segment, start + segment + gap, gap


def _late(batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the same three: the second copy begins anywhere, half the time right after the first.

    The end may cut it. So the last positions are trained as well.
    """
    second = 2 + _up_to(torch.full((batch,), length - 4), generator)
    segment = 2 + _up_to(second.clamp(max=LONGEST_SEGMENT) - 2, generator)
    gap = _up_to(second - segment, generator) * _up_to(torch.ones(batch).long(), generator)
    return segment, second, gap


def _up_to(highest: Int[Tensor, " batch"], generator: torch.Generator) -> Int[Tensor, " batch"]:
    return (torch.rand(len(highest), generator=generator) * (highest + 1)).long()


def loss_of(bridge: TransformerBridge, data: Repeats) -> Float[Tensor, ""]:
    """Return the mean cross-entropy at predictable positions, in nats."""
    at = data.predictable
    return cross_entropy(bridge(data.tokens)[at], data.following[at])


def head_norms(bridge: TransformerBridge) -> Float[Tensor, "layer head"]:
    """Return the norm of each head's value and output weights together; 0 is a head that is off."""

    def norms(attn: Any) -> Float[Tensor, " head"]:
        return (attn.W_V.square().sum((1, 2)) + attn.W_O.square().sum((1, 2))).sqrt()

    return torch.stack([norms(block.attn) for block in bridge.blocks])


def train(
    bridge: TransformerBridge, steps: int, seed: int,
    seen: Callable[[int], None] = lambda step: None,
) -> None:  # fmt: skip
    """Train in place with AdamW: short warm-up, then linear decay to zero.

    `seen` is told how many steps are done, 0 to all of them, and may look at the bridge.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    optimizer = torch.optim.AdamW(
        bridge.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )

    def rate(step: int) -> float:
        return min((step + 1) / WARM_UP_STEPS, 1 - step / steps)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    progress = tqdm(range(steps), unit="step", mininterval=1)
    for step in progress:
        seen(step)
        loss = loss_of(bridge, repeats(BATCH, generator))
        optimizer.zero_grad()
        (loss + HEAD_PENALTY * head_norms(bridge).sum()).backward()
        torch.nn.utils.clip_grad_norm_(bridge.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            progress.set_postfix(loss=f"{loss.item():.4f} nats")
    seen(steps)


def accuracy(bridge: TransformerBridge, data: Repeats) -> float:
    """Return the share of predictable positions whose next token has the highest logit."""
    right = bridge(data.tokens).argmax(-1) == data.following
    return right[data.predictable].float().mean().item()


def attention_scores(bridge: TransformerBridge, data: Repeats) -> dict[str, list[list[float]]]:
    """Return per layer and head the mean attention to two places, between 0 and 1.

    "previous_token": from each position to the one before. "induction": from each predictable
    position to the one after the earlier occurrence of its token.
    """
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(CONFIG["n_layers"])]
    _, cache = bridge.run_with_cache(data.tokens, names_filter=names)
    scores: dict[str, list[list[float]]] = {"previous_token": [], "induction": []}
    row, query = data.predictable.nonzero(as_tuple=True)
    for name in names:
        pattern = cache[name]  # [batch, head, query, key]
        scores["previous_token"].append(pattern.diagonal(-1, 2, 3).mean((0, 2)).tolist())
        found = pattern[row, :, query, data.source[row, query]].mean(0)
        scores["induction"].append(found.tolist())
    return scores


def keys_without(bridge: TransformerBridge, head: int) -> list[tuple[str, Callable[..., Any]]]:
    """Return hooks that take a layer-0 head out of what the keys of layer 1 read, and no more."""
    seen: dict[str, Tensor] = {}
    writer, reader = bridge.blocks[0].attn, bridge.blocks[1].attn

    def remember_output(z: Tensor, hook: Any) -> None:
        seen["output"] = z[:, :, head] @ writer.W_O[head]

    def remember_stream(stream: Tensor, hook: Any) -> None:
        seen["stream"] = stream

    def rewrite(keys: Tensor, hook: Any) -> Tensor:
        read = bridge.blocks[1].ln1.original_component(seen["stream"] - seen["output"])
        return torch.einsum("bpd,hde->bphe", read, reader.W_K) + reader.b_K

    return [
        ("blocks.0.attn.hook_z", remember_output),
        ("blocks.1.hook_resid_pre", remember_stream),
        ("blocks.1.attn.hook_k", rewrite),
    ]


@torch.inference_mode()
def facts(bridge: TransformerBridge, seed: int) -> dict[str, Any]:
    """Return the closing figures on held-out sequences: loss, accuracy, attention, mechanism."""
    data = repeats(HELD_OUT, torch.Generator().manual_seed(seed + 2))
    scores = attention_scores(bridge, data)
    first = scores["previous_token"][0]
    with bridge.hooks(fwd_hooks=keys_without(bridge, first.index(max(first)))):
        without = accuracy(bridge, data)
    return {
        "loss_nats": loss_of(bridge, data).item(),
        "accuracy": accuracy(bridge, data),
        "accuracy_without_previous_token_head_in_keys": without,
        "attention": scores,
        "head_norms": head_norms(bridge).tolist(),
    }


def named_heads(figures: dict[str, Any]) -> list[str]:
    """Return one line per kind and layer that lists the heads above `CLEAR`; "off": norm near 0."""

    def described(layer: int, row: list[float]) -> str:
        off = [" (off)" if norm < 0.05 else "" for norm in figures["head_norms"][layer]]
        clear = [f"a{layer}.h{h} {s:.3f}{off[h]}" for h, s in enumerate(row) if s > CLEAR]
        return ", ".join(clear) or "none"

    return [
        f"layer {layer}, {kind}: {described(layer, row)}"
        for kind, layers in figures["attention"].items()
        for layer, row in enumerate(layers)
    ]


def write(bridge: TransformerBridge, folder: Path, training: dict[str, Any]) -> None:
    """Write `model.safetensors` (float32) and `config.json`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "model.safetensors", save(native_weights(bridge)))
    write_json(folder / "config.json", {"config": CONFIG, "training": training})


def checkpoint_writer(
    bridge: TransformerBridge, folder: Path, count: int, steps: int, seed: int
) -> Callable[[int], None]:
    """What writes `count` checkpoints at even distances, the untrained and the last one included.

    Each is a folder step-N, which model=induction model.folder=... takes.
    """
    places = {round(i * steps / max(1, count - 1)) for i in range(count)}

    def write_it(step: int) -> None:
        if step in places:
            name = f"step-{step:0{len(str(steps))}}"
            write(bridge, folder / name, {"seed": seed, "steps": steps, "step": step})

    return write_it


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="decides start weights and data")
    parser.add_argument(
        "--checkpoints", type=int, default=0, help="so many folders step-N within --out besides"
    )
    given = parser.parse_args()
    if given.checkpoints and given.out == FOLDER:
        parser.error("--checkpoints needs --out: the package ships the last weights alone")
    torch.set_num_threads(1)
    bridge = untrained_bridge({**CONFIG, "seed": given.seed})
    began = time.monotonic()
    seen = checkpoint_writer(bridge, given.out, given.checkpoints, given.steps, given.seed)
    train(bridge, given.steps, given.seed, seen)
    seconds = round(time.monotonic() - began)
    figures = facts(bridge, given.seed)
    write(bridge, given.out, {"seed": given.seed, "steps": given.steps, **figures})
    print(f"{given.steps} steps in {seconds} s; {HELD_OUT} held-out sequences:")
    print(f"loss {figures['loss_nats']:.5f} nats, accuracy {figures['accuracy']:.4f}")
    without = figures["accuracy_without_previous_token_head_in_keys"]
    print(f"accuracy without the previous-token head in the keys of layer 1: {without:.4f}")
    print("\n".join(named_heads(figures)))
    print(f"written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
