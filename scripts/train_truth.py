"""Train the models whose circuit is known: each is made to compute as its program says.

Strict interchange intervention training (Gupta et al. 2024, arXiv:2407.14494), edge by edge: at
every step each prompt has some edges swapped for those of another prompt, true ones and false ones
by chance, and the model is to say what the program says when the same true edges are swapped. So
what is swapped of the false ones must not matter. One loss, the cross-entropy of that answer.

    python scripts/train_truth.py                   # every program, into the folder that is shipped
    python scripts/train_truth.py sum --out tried   # one of them, elsewhere
    python scripts/train_truth.py --table           # writes that of docs/pages/trained_truth.md

A case is written if every figure of it is at least 99 % on prompts that training never saw; if not,
it is trained again from the start with twice the steps, three times at most. One thread, so that
the number of cores does not change the rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from acdc.graph import Graph
from acdc.native import native_weights, untrained_bridge
from discovery.runs.json_files import write_bytes, write_json
from discovery.truth.trained import FOLDER
from discovery.truth.trained.agreement import ACCEPTED, figures, swap
from discovery.truth.trained.network import config_of, model_of, swapped_logits
from discovery.truth.trained.programs import PROGRAMS, Program

BATCH, LEARNING_RATE, WEIGHT_DECAY, WARM_UP_STEPS = 64, 4e-3, 0.01, 50
PAGE = Path(__file__).parents[1] / "docs" / "pages" / "trained_truth.md"
HELD_OUT = 1000  # fresh prompts for the closing figures
COLUMNS = ("accuracy", "interchange", "edge", "strict", "alone", "mixed")


def cuts(
    graph: Graph, true: Bool[Tensor, "writers readers"], n: int, generator: torch.Generator
) -> Bool[Tensor, "batch writers readers"]:
    """Draw edges to swap in each of n prompts.

    Of the true ones none in a third of the prompts, else all of one writer's, or each by chance; of
    the false ones none, each by chance, or all.
    """

    def choose() -> Tensor:
        return torch.rand(n, 1, 1, generator=generator)

    by_edge = torch.rand(n, *true.shape, generator=generator)
    senders = true.any(1).nonzero()[:, 0]
    sender = senders[torch.randint(len(senders), (n,), generator=generator)]
    whole = (torch.arange(len(true)) == sender[:, None])[:, :, None]
    kind, share = choose(), choose()
    trues = torch.where(kind < 1 / 3, False, torch.where(kind < 2 / 3, whole, by_edge < share))
    false_share = (3 * choose() - 1).clamp(0, 1)
    legal = torch.from_numpy(graph.legal.copy())
    return legal & torch.where(true, trues, by_edge < false_share)


def train(program: Program, steps: int, seed: int) -> dict[str, Tensor]:
    """Native weights of a model that computes as its program says; the same for the same seed."""
    config = config_of(program.n_pos, program.n_tokens)
    weights = native_weights(untrained_bridge({**config, "seed": seed}))
    weights = {name: tensor.requires_grad_(True) for name, tensor in weights.items()}
    generator = torch.Generator().manual_seed(seed + 1)
    graph = model_of("", config, weights).graph()
    true = torch.from_numpy(graph.mask(program.edges))
    optimizer = torch.optim.AdamW(
        list(weights.values()), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, 1 - step / steps)
    )
    for step in range(steps):
        tokens = program.draw(BATCH, generator)
        drawn = swap(program, graph, tokens, cuts(graph, true, BATCH, generator))
        model = model_of("", config, weights)
        logits = swapped_logits(model, drawn.tokens, drawn.source, drawn.cut)
        loss = cross_entropy(logits, drawn.answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step}: {loss.item():.4f} nats", flush=True)
    return {name: tensor.detach() for name, tensor in weights.items()}


def make(name: str, out: Path, steps: int, seed: int) -> bool:
    """Train one case and write its folder, if it is accepted; whether it was."""
    program, began = PROGRAMS[name], time.monotonic()
    weights = train(program, steps, seed)
    seconds = round(time.monotonic() - began)
    generator = torch.Generator().manual_seed(seed + 2)
    config = config_of(program.n_pos, program.n_tokens)
    held_out = program.draw(HELD_OUT, generator)
    found = figures(program, model_of(name, config, weights), held_out, generator)
    accepted = min(found.values()) >= ACCEPTED
    shown = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
    verdict = "" if accepted else ": NOT ACCEPTED"
    print(f"{name}: {steps} steps in {seconds} s, {shown}{verdict}", flush=True)
    if accepted:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        training = {"seed": seed, "steps": steps, "seconds": seconds, "prompts": HELD_OUT}
        write_bytes(folder / "model.safetensors", save(weights))
        write_json(folder / "config.json", {"config": config, "training": training})
        write_json(
            folder / "case.json",
            {"says": program.says, "edges": program.edges, "figures": found, "training": training},
        )
    return accepted


def table(folder: Path) -> str:
    """The cases of a folder in Markdown: true edges, figures in percent, steps and seconds."""
    heads = ("case", "what follows", "true edges", *COLUMNS, "steps", "s")
    lines = [heads, ["---"] * len(heads)]
    for name in PROGRAMS:
        if (folder / name / "case.json").exists():
            case: dict[str, Any] = json.loads((folder / name / "case.json").read_text())
            shares = [f"{100 * case['figures'][column]:.1f}" for column in COLUMNS]
            training = case["training"]
            own = [f"`{name}`", case["says"], str(len(case["edges"])), *shares]
            lines.append([*own, str(training["steps"]), str(training["seconds"])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_table(page: str, lines: str) -> str:
    """A page whose one table is this one."""
    before, *_ = page.partition("\n|")
    after = page.rpartition("|\n")[2]
    return f"{before}\n{lines}\n{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="all if none")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write")
    parser.add_argument(
        "--steps", type=int, default=300, help="training steps, doubled where needed"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides start weights and data")
    parser.add_argument(
        "--table", action="store_true", help="write the page's table, train nothing"
    )
    given = parser.parse_args()
    unknown = [name for name in given.programs if name not in PROGRAMS]
    if unknown:
        parser.error(f"no program {unknown[0]!r}: allowed are {', '.join(PROGRAMS)}")
    if given.table:
        write_bytes(PAGE, with_table(PAGE.read_text(), table(given.out)).encode())
        return 0
    torch.set_num_threads(1)
    done = [
        any(make(name, given.out, given.steps << doubled, given.seed) for doubled in range(4))
        for name in given.programs or PROGRAMS
    ]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
