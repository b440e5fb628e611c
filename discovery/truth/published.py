"""Circuits that people found by hand in public models, as data.

Heads and their classes are the papers'. Edges are those that Conmy et al. 2023 (arXiv:2304.14997)
drew from the papers to measure ACDC by, restated here as rules between groups of nodes: a writer
of one group to a part of each later node of another. Most of IOI's 963 edges join MLPs, which
nobody verified singly; `between_heads` are the ones that the paper speaks of. This is a truth of
nodes first, and of no ablation strictly: the papers cut by means (IOI) or by resampling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool

from acdc.errors import InputError
from acdc.graph import Graph
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.truth.case import Case

GPT2 = Graph(n_layers=12, n_heads=12, n_kv_heads=12, d_model=768)
ATTN_ONLY_4L = Graph(n_layers=4, n_heads=8, n_kv_heads=8, d_model=512, has_mlp=False)
QKV = ("q", "k", "v")
N = 64  # pairs of prompts of a case


@dataclass(frozen=True)
class Published:
    """One circuit of one model."""

    name: str
    model: str  # as its makers call it
    graph: Graph  # of that model; of one that is measured the widths may differ, no more
    heads: Mapping[str, tuple[str, ...]]  # class -> its heads
    mlps: tuple[str, ...]
    edges: tuple[str, ...]
    metric: str
    source: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """Heads of all classes, then MLPs."""
        return (*(head for heads in self.heads.values() for head in heads), *self.mlps)

    @cached_property
    def between_heads(self) -> tuple[str, ...]:
        """The edges that no MLP is an end of, and not the one from the input to the logits."""
        own = (e for e in self.edges if "->m" not in e and not e.startswith("m"))
        return tuple(edge for edge in own if edge != "input->logits")

    def true_nodes(self, graph: Graph) -> Bool[np.ndarray, " writers"]:
        """Which writers of a graph of its shape belong to it; InputError for another shape."""
        self.check(graph)
        return np.isin(graph.writers, self.nodes)

    def check(self, graph: Graph) -> None:
        """Raise InputError, naming both, for a graph that is not of its shape."""
        if graph.writers != self.graph.writers or graph.readers != self.graph.readers:
            raise InputError(
                f"truth={self.name}: it is a circuit of {self.model} ({self.graph.describe()});"
                f" this model has {graph.describe()}"
            )


def for_model(circuit: Published, model: Model, prompts: Prompts) -> Case:
    """The circuit as a case of a model that the user has, on prompts of its task.

    InputError if the model is not of the shape; whether it is the very model nobody can see.
    """
    graph = model.graph()
    circuit.check(graph)
    return Case(
        name=circuit.name, model=model, graph=graph, prompts=prompts,
        edges=graph.mask(circuit.edges), ablation="resample", metric=circuit.metric,
        why=f"Found by hand in {circuit.model}; edges as Conmy et al. 2023 drew them between its"
        " classes. Nobody verified each of them.",
        source=circuit.source,
    )  # fmt: skip


def cases(seed: int) -> Iterator[Case]:
    """IOI and greater-than in GPT-2 small, where the user has it; InputError where not.

    The model of docstring is not on the hub in a form that is read here, nor is its task: hand both
    to `for_model`.
    """
    from discovery.choices.registry import load
    from discovery.models.choices import HFModel

    try:
        loaded: Any = HFModel(name="gpt2").load("cpu")
    except InputError as error:
        raise InputError(
            f"sets=published needs GPT-2 small, model=hf model.name=gpt2, on this machine: {error}"
        ) from error
    for circuit in (IOI, GREATER_THAN):
        task = load("task", circuit.name)(n=N)
        yield for_model(circuit, loaded.model, task.build(loaded, seed))


# ---- how edges are drawn -------------------------------------------------------------------------


def _names(heads: str) -> tuple[str, ...]:
    """ "9.6 10.0" -> ("a9.h6", "a10.h0")."""
    return tuple("a{}.h{}".format(*head.split(".")) for head in heads.split())


def _mlps(layers: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"m{layer}" for layer in layers)


def _join(
    graph: Graph, writers: Sequence[str], nodes: Sequence[str], parts: Sequence[str] = QKV
) -> list[str]:
    """Every edge that there is from these writers to these nodes; `parts` are those of heads."""
    readers = [
        reader
        for node in nodes
        for reader in ([f"{node}<{part}>" for part in parts] if ".h" in node else [node])
    ]
    return [
        f"{writer}->{reader}"
        for writer in writers
        for reader in readers
        if graph.legal[graph.writer_index[writer], graph.reader_index[reader]]
    ]


# ---- indirect object identification --------------------------------------------------------------

_IOI = {
    "previous token": _names("2.2 4.11"),
    "duplicate token": _names("0.1 0.10 3.0"),
    "induction": _names("5.5 5.8 5.9 6.9"),
    "S-inhibition": _names("7.3 7.9 8.6 8.10"),
    "negative name mover": _names("10.7 11.10"),
    "name mover": _names("9.9 10.0 9.6"),
    "backup name mover": _names("10.10 10.6 10.2 10.1 11.2 9.7 9.0 11.9"),
}


def _ioi_edges() -> tuple[str, ...]:
    previous, duplicate, induction, inhibition, *movers = _IOI.values()
    heads, mlps = [head for own in _IOI.values() for head in own], _mlps(range(12))
    last = [head for own in movers for head in own]
    negative, others = movers[0], [head for own in movers[1:] for head in own]
    return tuple(
        _join(GPT2, ["input", *mlps], [*mlps, "logits"])
        + _join(GPT2, mlps, heads)
        + _join(GPT2, heads, mlps)
        + _join(GPT2, ["input"], [*previous, *duplicate])
        + _join(GPT2, ["input"], inhibition, "q")
        + _join(GPT2, ["input"], [*negative, *others], "kv")
        + _join(GPT2, previous, induction, "kv")
        + _join(GPT2, [*induction, *duplicate], inhibition, "kv")
        + _join(GPT2, inhibition, last, "q")
        + _join(GPT2, last, ["logits"])
    )


IOI = Published(
    "ioi", "GPT-2 small", GPT2, _IOI, _mlps(range(12)), _ioi_edges(), "logit_diff",
    "Wang et al. 2022 (arXiv:2211.00593), figure 2; edges by Conmy et al. 2023 (arXiv:2304.14997)",
)  # fmt: skip

# ---- greater-than --------------------------------------------------------------------------------

_GREATER = {
    "start": _names("0.3 0.5"),
    "other of layer 0": _names("0.1"),
    "to the year": _names("5.5 6.1 6.9 7.10 8.11 9.1"),
}


def _greater_edges() -> tuple[str, ...]:
    start, other, years = _GREATER.values()
    early, late, middle = _mlps(range(4)), _mlps(range(8, 12)), _mlps(range(4, 9))
    return tuple(
        _join(GPT2, ["input"], [*start, *other, *early])
        + _join(GPT2, other, early)
        + _join(GPT2, [*start, *other, *early], years)
        + _join(GPT2, middle, years, "q")
        + _join(GPT2, _mlps(range(9)), _mlps(range(9)))
        + _join(GPT2, late, late)
        + _join(GPT2, years, late)
        + _join(GPT2, [*years, *late], ["logits"])
    )


GREATER_THAN = Published(
    "greater_than", "GPT-2 small", GPT2, _GREATER, _mlps(range(12)), _greater_edges(), "prob_diff",
    "Hanna et al. 2023 (arXiv:2305.00586); edges by Conmy et al. 2023 (arXiv:2304.14997)",
)  # fmt: skip

# ---- docstring -----------------------------------------------------------------------------------

_DOCSTRING = {"all": _names("0.5 1.4 1.2 2.0 3.0 3.6")}


def _docstring_edges() -> tuple[str, ...]:
    (a0, moves, first, second, *ends), graph = _DOCSTRING["all"], ATTN_ONLY_4L
    return tuple(
        _join(graph, ["input"], [a0, moves, *ends], "v")
        + _join(graph, ["input", a0], [first, second], "qk")
        + _join(graph, [a0], [moves, *ends], "v")
        + _join(graph, [moves], [second], "v")
        + _join(graph, [moves], ends, "q")
        + _join(graph, [first, second], ends, "k")
        + _join(graph, ends, ["logits"])
    )


DOCSTRING = Published(
    "docstring", "attn-only-4l", ATTN_ONLY_4L, _DOCSTRING, (), _docstring_edges(), "logit_diff",
    "Heimersheim & Janiak 2023, A circuit for Python docstrings in a 4-layer attention-only"
    " transformer; edges by Conmy et al. 2023 (arXiv:2304.14997)",
)  # fmt: skip

CIRCUITS: Mapping[str, Published] = {c.name: c for c in (IOI, GREATER_THAN, DOCSTRING)}
