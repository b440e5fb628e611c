"""Models trained to compute as a small program says, so that their circuit is known.

`scripts/train_truth.py` makes them: every edge of the graph was swapped in training, and only the
true ones may change the answer, as the program says. Weights lie in weights/NAME beside this file:
config.json and model.safetensors as acdc/native.py takes them, case.json with what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from acdc.errors import InputError
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.truth.case import SEARCHED, Case
from discovery.truth.trained.network import model_of
from discovery.truth.trained.programs import PROGRAMS, Program

FOLDER = Path(__file__).parent / "weights"
N = SEARCHED + 200  # pairs of prompts of a case
DRAWN = 256  # at a time, of which those are pairs whose answers differ


def cases(seed: int) -> Iterator[Case]:
    """Every shipped model in float64, on pairs drawn by the seed; clean and corrupt differ."""
    for name, program in PROGRAMS.items():
        yield case(name, program, seed)


def case(name: str, program: Program, seed: int, folder: Path = FOLDER) -> Case:
    """One of them; InputError if its files are missing or cannot be read."""
    model = load(name, folder).to(torch.float64)
    graph = model.graph()
    return Case(
        name=name, model=model, graph=graph, prompts=pairs(program, seed),
        edges=graph.mask(program.edges), ablation="resample", metric="logit_diff",
        why=f"{program.says} Trained with every edge swapped at random: the answer follows the"
        " program for the true ones, q, k and v told apart, and the others must not change it.",
        source="scripts/train_truth.py, after Gupta et al. 2024 (arXiv:2407.14494)",
    )  # fmt: skip


def load(name: str, folder: Path = FOLDER) -> Model:
    """A model as it was written, in float32; InputError if a file is missing or cannot be read."""
    own = folder / name
    try:
        config = json.loads((own / "config.json").read_text())["config"]
        return model_of(name, config, load_file(own / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{own} does not hold a readable model: {error!r}") from error


def pairs(program: Program, seed: int, n: int = N) -> Prompts:
    """n pairs of prompts with different answers: the corrupt one is drawn as the clean one is.

    Of a seed fewer are the first of more.
    """
    generator = torch.Generator().manual_seed(seed)
    clean, corrupt = list[torch.Tensor](), list[torch.Tensor]()
    while sum(map(len, clean)) < n:
        drawn, other = (program.draw(DRAWN, generator) for _ in range(2))
        differ = program.answers(drawn) != program.answers(other)
        clean.append(drawn[differ])
        corrupt.append(other[differ])
    own, other = torch.cat(clean)[:n], torch.cat(corrupt)[:n]
    answers, wrong = (
        tuple((int(token),) for token in program.answers(rows)) for rows in (own, other)
    )
    return Prompts(own, other, answers, wrong, program.n_pos - 1)
