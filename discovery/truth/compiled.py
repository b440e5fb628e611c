"""Circuits by compilation: RASP programs that tracr made transformers of; scripts/make_compiled.py.

Every coordinate of the stream is a direction with a name, such as "tokens:a" or "indices:2". What a
part writes and reads are the directions at which its weights are not 0, so the edges of the program
are read off: a writer is joined to a reader where it writes what the other reads, on a path from
`input` to `logits`. Those are the edges that can matter; which of them do depends on what cut edges
carry: see `mattering`, which was asked once, and is shipped. Attention is causal and the answer is
that of the last position.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from acdc.ablation import ABLATIONS
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.graph import frozen
from acdc.model import MLP, NO_NORM, Attention, Block, Model
from acdc.prompts import Prompts
from discovery.truth.case import SEARCHED, Case

FOLDER = Path(__file__).with_name("programs")
EDGES = "edges.json"  # program -> ablation -> names of its true edges
SOURCE = "compiled by tracr (Lindner et al. 2023), scripts/make_compiled.py"
N = SEARCHED + 200  # prompts
APART = 0.15  # the least by which clean and corrupt differ, where the answer is a number
NOTHING = 1e-6  # what a cut changes of the logits that is rounding (weights are float32's)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Program:
    """What a compiled model computes of a sequence."""

    words: tuple[str, ...]
    length: int
    says: Callable[[Sequence[str]], Any]  # at the last position
    text: str


def _balance(row: Sequence[str]) -> int:
    return row.count("(") - row.count(")")


def _is_balanced(row: Sequence[str]) -> bool:
    return _balance(row) == 0 and all(_balance(row[: i + 1]) >= 0 for i in range(len(row)))


LETTERS, NUMBERS, BRACKETS = tuple("abc"), tuple("12345"), tuple("()")
PROGRAMS: Mapping[str, Program] = {
    "reverse": Program(LETTERS, 5, lambda row: row[0], "the sequence reversed"),
    "place": Program(
        NUMBERS, 5, lambda row: sum(one < row[-1] for one in row),
        "how many numbers are smaller than this one: its place when sorted",
    ),
    "fraction": Program(LETTERS, 5, lambda row: row.count("a") / len(row), "the share of a so far"),
    "brackets": Program(BRACKETS, 6, _is_balanced, "whether the brackets so far are balanced"),
    "balance": Program(
        BRACKETS, 6, lambda row: _balance(row) / len(row),
        "opened less closed brackets so far, as a share of all",
    ),
    "new": Program(
        LETTERS, 5, lambda row: "-" if row[-1] in row[:-1] else row[-1],
        "this token if it has not come before: duplicates removed",
    ),
    "count": Program(LETTERS, 5, lambda row: row.count("a"), "how many a there are so far"),
    "count_spare": Program(
        LETTERS, 5, lambda row: row.count(row[-1]),
        "how often this token has come; whether it is new is computed too, and read, to no effect",
    ),
    "fraction_spare": Program(
        LETTERS, 5, lambda row: row.count("a") / len(row),
        "the share of a so far; that of b is computed too, and counts with weight 0",
    ),
}  # fmt: skip


def cases(seed: int) -> Iterator[Case]:
    """Each program under each ablation; prompts are drawn by seed, models are what they are."""
    for i, (name, program) in enumerate(PROGRAMS.items()):
        model, tokens, outputs = load(name)
        prompts = draw(program, tokens, outputs, np.random.default_rng([seed, i]))
        for ablation in ("resample", "mean", "zero"):
            edges = true_edges(name, ablation)
            why = f"{program.text}; of the edges that the compilation has, those that can matter."
            yield Case(
                name, model, model.graph(), prompts, edges, ablation, "logit_diff", why, SOURCE
            )


# ---- models --------------------------------------------------------------------------------------


@cache
def load(name: str) -> tuple[Model, Mapping[str, int], Mapping[str, int]]:
    """The model in float64, its tokens, and its outputs (value in words -> logit).

    A number as output has the logit "value", which is to be compared with "zero".
    """
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        about = json.loads(file.metadata()["about"])
        weights = {key: file.get_tensor(key).double() for key in file.keys()}  # noqa: SIM118
    names, output = about["directions"], f"{about['output']}:"
    outputs = {d.removeprefix(output): at for at, d in enumerate(names) if d.startswith(output)}
    number = not outputs
    if number:
        outputs = {"value": names.index(about["output"])}
    W_U = torch.zeros(len(names), max(2, len(outputs)), dtype=torch.float64)
    W_U[list(outputs.values()), range(len(outputs))] = 1.0
    logits = {"value": 0, "zero": 1} if number else {value: i for i, value in enumerate(outputs)}
    W_E = weights["token_embed/embeddings"]
    spare = max(0, W_U.shape[1] - len(W_E))  # answers are token ids too
    model = Model(
        name=name, n_heads=about["n_heads"], n_kv_heads=about["n_heads"], parallel=False,
        n_ctx=len(weights["pos_embed/embeddings"]), embed_scale=1.0,
        W_E=torch.cat([W_E, torch.zeros(spare, W_E.shape[1], dtype=W_E.dtype)]),
        W_pos=weights["pos_embed/embeddings"],
        blocks=tuple(_block(weights, about, layer) for layer in range(about["n_layers"])),
        ln_final=NO_NORM, W_U=W_U, b_U=None,
    )  # fmt: skip
    return model, about["tokens"], logits


def _block(weights: Mapping[str, Tensor], about: Mapping[str, Any], layer: int) -> Block:
    def of(part: str) -> tuple[Tensor, Tensor]:
        return weights[f"layer_{layer}/{part}/w"], weights[f"layer_{layer}/{part}/b"]

    heads, size = about["n_heads"], about["key_size"]

    def reads(part: str) -> tuple[Tensor, Tensor]:
        w, b = of(f"attn/{part}")
        return w.unflatten(1, (heads, size)).movedim(1, 0), b.unflatten(0, (heads, size))

    (W_Q, b_Q), (W_K, b_K), (W_V, b_V) = (reads(part) for part in ("query", "key", "value"))
    W_O, b_O = of("attn/linear")
    attention = Attention(
        W_Q, W_K, W_V, W_O.unflatten(0, (heads, size)), b_Q, b_K, b_V, b_O, NO_NORM, NO_NORM,
        scale=size**-0.5,
    )  # fmt: skip
    (W_in, b_in), (W_out, b_out) = of("mlp/linear_1"), of("mlp/linear_2")
    return Block(NO_NORM, attention, NO_NORM, MLP(W_in, b_in, None, None, W_out, b_out, torch.relu))


# ---- prompts -------------------------------------------------------------------------------------


def draw(
    program: Program, tokens: Mapping[str, int], outputs: Mapping[str, int],
    rng: np.random.Generator,
) -> Prompts:  # fmt: skip
    """Pairs of random sequences that the program tells apart; of numbers the larger is clean."""
    rows, answers = [], []
    while len(rows) < N:
        pair = [rng.choice(program.words, program.length).tolist() for _ in range(2)]
        said = [program.says(row) for row in pair]
        if "value" in outputs:
            if abs(said[0] - said[1]) < APART:
                continue
            pair.sort(key=program.says, reverse=True)
            told = ["value", "zero"]
        elif said[0] == said[1]:
            continue
        else:
            told = [str(one) for one in said]
        rows.append([[tokens["BOS"], *(tokens[word] for word in row)] for row in pair])
        answers.append([outputs[one] for one in told])
    clean, corrupt = (torch.tensor([pair[side] for pair in rows]) for side in (0, 1))
    right, wrong = (tuple((int(pair[side]),) for pair in answers) for side in (0, 1))
    return Prompts(clean, corrupt, right, wrong, program.length)


# ---- what is true --------------------------------------------------------------------------------


def compiled_edges(model: Model) -> Mask:
    """[writers, readers]: where a writer writes what a reader reads, on a path to the logits."""
    graph = model.graph()
    mask = np.zeros_like(graph.legal)
    reads = [_read(model, r) for r in range(len(graph.readers))]
    for w in range(len(graph.writers)):
        for r in np.flatnonzero(graph.legal[w]).tolist():
            mask[w, r] = bool((_written(model, w) & reads[r]).any())
    return Circuit(graph, mask).pruned().mask.copy()


def _written(model: Model, writer: int) -> Mask:
    """[directions]: what a writer writes."""
    graph = model.graph()
    layer, place = graph.place(writer)
    if writer == 0:
        assert model.W_pos is not None  # tracr's models have places
        rows = torch.cat([model.W_E, model.W_pos])
    elif graph.is_head(writer):
        rows = model.blocks[layer].attn.W_O[place]
    else:
        mlp = model.mlp(layer)
        assert isinstance(mlp, MLP) and mlp.b_out is not None  # and one MLP a layer
        rows = torch.cat([mlp.W_out, mlp.b_out[None]])
    return (rows != 0).any(0).numpy()


def _read(model: Model, reader: int) -> Mask:
    """[directions]: what a reader reads."""
    one = model.graph().readers[reader]
    if one.part == "logits":
        columns = model.W_U
    elif one.part == "mlp":
        columns = model.mlp(one.layer).W_in
    else:
        columns = getattr(model.blocks[one.layer].attn, f"W_{one.part.upper()}")[one.group]
    return (columns != 0).any(-1).numpy()


def true_edges(name: str, ablation: str) -> Mask:
    """[writers, readers]: what `mattering` said."""
    shipped = json.loads((FOLDER / EDGES).read_text(encoding="utf-8"))
    return frozen(load(name)[0].graph().mask(shipped[name][ablation]))


def mattering(name: str, ablation: str) -> Mask:
    """[writers, readers]: of the compiled edges those that change the logits when they are cut.

    From the circuit of all compiled edges, alone or together with one other, on N pairs of
    sequences whatever is drawn later. Cut edges carry what `ablation` says: a direction that holds
    the same in both runs carries nothing under `resample`.
    """
    model, tokens, outputs = load(name)
    prompts = draw(PROGRAMS[name], tokens, outputs, np.random.default_rng(0))
    graph = model.graph()
    edges = np.argwhere(compiled_edges(model)).tolist()
    data = Data(model, graph, prompts, ABLATIONS[ablation], part=N)
    whole = compiled_edges(model)

    def logits(*cut: list[int]) -> Tensor:
        mask = whole.copy()
        for writer, reader in cut:
            mask[writer, reader] = False
        with torch.no_grad():
            return torch.cat(data.each(lambda forward: forward.run(mask)))

    def differs(one: Tensor, other: Tensor) -> bool:
        return bool((one - other).abs().max() > NOTHING)

    full, alone = logits(), [logits(edge) for edge in edges]
    true = np.zeros_like(whole)
    for i, edge in enumerate(edges):
        true[tuple(edge)] = differs(full, alone[i]) or any(
            differs(alone[j], logits(other, edge)) for j, other in enumerate(edges) if j != i
        )
    return true
