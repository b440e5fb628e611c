"""How far a model is its program: swaps of nodes and of edges, and what they must give.

Interchange interventions (Geiger et al. 2021, arXiv:2106.02997), strict ones (Gupta et al. 2024,
arXiv:2407.14494), here edge by edge. Every figure is a share of answers that are the program's
under the same swap, between 0 and 1; the source of each prompt is another one of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from acdc.graph import Graph
from acdc.model import Model
from discovery.truth.trained.network import swapped_logits
from discovery.truth.trained.programs import Program

ACCEPTED = 0.99  # a case of less, in any figure, is not shipped


@dataclass(frozen=True)
class Swap:
    """Which edges of which prompts are cut, and what the program says then."""

    tokens: Int[Tensor, "batch pos"]
    source: Int[Tensor, "batch pos"]
    cut: Bool[Tensor, "batch writers readers"]
    answers: Int[Tensor, " batch"]


def swap(
    program: Program, graph: Graph, tokens: Int[Tensor, "batch pos"],
    cut: Bool[Tensor, "batch writers readers"],
) -> Swap:  # fmt: skip
    """Each prompt with the one before it as its source."""
    source = tokens.roll(1, 0)
    writers, readers = zip(*(graph.edge(edge) for edge in program.edges), strict=True)
    swapped = cut[:, list(writers), list(readers)]
    return Swap(tokens, source, cut, program.answers(tokens, source, swapped))


def right(model: Model, swapped: Swap) -> float:
    """The share of prompts whose likeliest token is the program's answer."""
    logits = swapped_logits(model, swapped.tokens, swapped.source, swapped.cut)
    return (logits.argmax(1) == swapped.answers).double().mean().item()


@torch.no_grad()
def figures(
    program: Program, model: Model, tokens: Int[Tensor, "batch pos"], generator: torch.Generator
) -> dict[str, float]:
    """Shares of right answers, each the least over what it is said of.

    accuracy: nothing swapped. interchange: one node that carries a variable swapped. edge: one true
    edge swapped. strict: one node that carries none swapped. alone: every false edge swapped.
    mixed: every edge swapped or not, by chance.
    """
    graph = model.graph()
    true = torch.from_numpy(graph.mask(program.edges))
    legal = torch.from_numpy(graph.legal.copy())

    def share(cut: Tensor) -> float:
        whole = cut.expand(len(tokens), *cut.shape[-2:])
        return right(model, swap(program, graph, tokens, whole))

    def node(name: str) -> Tensor:
        cut = torch.zeros_like(true)
        cut[graph.writer_index[name]] = True
        return cut & legal

    others = [w for w in graph.writers[1:] if w not in program.places]
    edges = [torch.from_numpy(graph.mask([edge])) for edge in program.edges]
    chance = torch.rand(len(tokens), *true.shape, generator=generator) < 0.5
    return {
        "accuracy": share(torch.zeros_like(true)),
        "interchange": min(share(node(place)) for place in program.places),
        "edge": min(share(edge) for edge in edges),
        "strict": min(share(node(other)) for other in others),
        "alone": share(legal & ~true),
        "mixed": share(chance & legal),
    }
