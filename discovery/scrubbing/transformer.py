"""A transformer as a computation that hypotheses can be made about.

Nodes carry the graph's own names: writers (`input`, `a9.h3`, `m5`), and the readers of heads
(`a9.h3<q>`), where q, k and v can be told apart. Only the components that a hypothesis names become
nodes of their own; what all others write is one node a reader (`rest -> a9.h3<q>`), so a named
component is reached directly, through the residual stream, unless the path leads through other
named ones. A component may be split by position: `a5.h5@s2` is its output at the positions marked
"s2", `a5.h5` what is left of it. The parts of every sum add up to the model exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor

from acdc.errors import InputError
from acdc.forward import Trace, raw_heads, stream_of, trace
from acdc.graph import Graph
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.scrubbing.computation import Computation, Lookup, Node

PROMPT = "prompt"  # the input node: row numbers of the prompts


@runtime_checkable
class Runs(Protocol):
    """Plain runs of the data, by row number; rows beyond the prompts may be data made of them."""

    def tokens(self, rows: NDArray) -> Tensor:
        """[row, pos]."""
        ...

    def output(self, writer: int, rows: NDArray) -> Tensor:
        """[row, pos, d_model]: what a writer put out."""
        ...

    def stream(self, index: int, rows: NDArray) -> Tensor:
        """[row, pos, d_model]: what a reader saw; see acdc.forward.stream_of."""
        ...


class _Whole:
    """All runs at once."""

    def __init__(self, model: Model, prompts: Prompts) -> None:
        self.prompts = prompts
        with torch.no_grad():
            self.trace: Trace = trace(model, prompts.clean)
        self.outputs: dict[int, Tensor] = {}

    def tokens(self, rows: NDArray) -> Tensor:
        return self.prompts.clean[torch.as_tensor(rows)]

    def output(self, writer: int, rows: NDArray) -> Tensor:
        if writer not in self.outputs:
            self.outputs[writer] = self.trace.writers[writer]
        return self.outputs[writer][rows]

    def stream(self, index: int, rows: NDArray) -> Tensor:
        return self.trace.streams[index][rows]


def transformer(
    model: Model,
    graph: Graph,
    prompts: Prompts,
    named: Sequence[str],
    split: Mapping[str, Sequence[str]] | None = None,
    runs: Runs | None = None,
) -> Computation:
    """The model on the clean prompts; its output `logits` is [sample, vocab] at the last position.

    `named` are writers; `split` gives, for some of them, marks (Prompts.marks) whose positions
    become nodes of their own. `runs` gives plain runs as they are asked for, of made data too,
    whose marks `split` does not know; default: all prompts are run at once. InputError for names
    that the graph or the prompts do not have.
    """
    _check(graph, prompts, named, split or {})
    if len(set(prompts.lengths)) > 1:
        raise InputError(
            f"prompts: they have {prompts.extent} tokens; a hypothesis compares them position by"
            " position, so all must have one length"
        )
    made = _Whole(model, prompts) if runs is None else runs
    return _Builder(model, graph, prompts, named, split or {}, made).build()


class _Builder:
    def __init__(
        self, model: Model, graph: Graph, prompts: Prompts, named: Sequence[str],
        split: Mapping[str, Sequence[str]], runs: Runs,
    ) -> None:  # fmt: skip
        self.model, self.graph, self.prompts, self.runs = model, graph, prompts, runs
        self.named = sorted({graph.writer_index[name] for name in named})
        self.split = {graph.writer_index[name]: tuple(marks) for name, marks in split.items()}
        self.nodes: dict[str, Node] = {}
        self.stored: dict[str, Lookup] = {}

    def build(self) -> Computation:
        """All nodes, from the prompts up."""
        for writer in self.named:
            self._writer(writer)
        self._reader("logits", len(self.graph.readers) - 1, self._logits)
        return Computation(self.nodes, "logits", len(self.prompts), PROMPT, self.stored)

    def _logits(self, x: Tensor) -> Tensor:
        return self.model.unembed(x[:, -1])

    def _writer(self, writer: int) -> None:
        """The component's whole output, and its parts where it is split."""
        graph, name = self.graph, self.graph.writers[writer]
        whole = name if writer not in self.split else f"{name} (all positions)"
        layer, place = graph.place(writer)
        if writer == 0:
            self.nodes[whole] = Node((PROMPT,), self._embed)
        elif graph.has_mlp and place == graph.n_heads:
            reader = graph.reader(layer, "mlp")
            self._reader(whole, reader, lambda x: self.model.mlp_out(layer, x))
        else:
            readers = graph.head_readers(layer, place)
            parts = tuple(f"{name}<{part}>" for part in "qkv")
            for part, reader in zip(parts, readers, strict=True):
                self._reader(part, reader, lambda x: x)
            if graph.joint:  # the norm after the heads reads all of them
                parts = (*parts, f"{name}<norm>")
                self._reader(parts[-1], readers[0], lambda x: x)
            self.nodes[whole] = Node(parts, self._head(layer, place))
        self.stored[whole] = lambda rows: self.runs.output(writer, rows)
        if writer in self.split:
            self._parts(writer, name, whole)

    def _embed(self, rows: NDArray) -> Tensor:
        return self.model.embed(self.runs.tokens(rows))

    def _head(self, layer: int, head: int) -> Callable[..., Tensor]:
        """Output for what q, k and v read, and what all heads do if a norm follows them."""
        model, group = self.model, self.model.kv_head(head)

        def output(x_q: Tensor, x_k: Tensor, x_v: Tensor, *others: Tensor) -> Tensor:
            n = x_q.shape[1]
            q = model.project(layer, "q", head, x_q, n)
            k = model.project(layer, "k", group, x_k, n)
            v = model.project(layer, "v", group, x_v, n)
            z = model.pattern(layer, head, q, k) @ v
            for x in others:
                every = raw_heads(model, layer, x[None], x[None], x[None], n)[0].clone()
                every[head] = z
                z = model.shared_out(layer, every)[head]
            return z @ model.blocks[layer].attn.W_O[head]

        return output

    def _parts(self, writer: int, name: str, whole: str) -> None:
        """`name@mark` at the datum's own marked positions, `name` everywhere else."""
        marks = self.split[writer]
        masks = {m: torch.zeros(self.prompts.clean.shape, dtype=torch.bool) for m in marks}
        for mark in marks:
            at = torch.as_tensor(self.prompts.marks[mark])
            masks[mark][torch.arange(len(at)), at] = True
        taken = torch.stack(list(masks.values())).any(0)
        masks = {f"{name}@{mark}": mask for mark, mask in masks.items()} | {name: ~taken}
        for part, mask in masks.items():
            keep = mask.to(self.model.W_E)[..., None]
            self.nodes[part] = Node((whole, PROMPT), lambda x, rows, keep=keep: x * keep[rows])

    def _reader(self, node: str, reader: int, function: Callable[[Tensor], Tensor]) -> None:
        """A node that reads the stream: the named writers below, and the rest in one."""
        graph, info = self.graph, self.graph.readers[reader]
        below = [w for w in self.named if w < graph.senders[reader]]
        stream = stream_of(graph, info.layer, info.part)
        rest = f"rest -> {graph.readers[reader].name}"
        if rest not in self.nodes:
            self.stored[rest] = lambda rows: (
                self.runs.stream(stream, rows) - sum(self.runs.output(w, rows) for w in below)
            )
            self.nodes[rest] = Node((PROMPT,), self.stored[rest])
        parents = [part for w in below for part in self._names(w)]
        self.nodes[node] = Node((*parents, rest), lambda *x: function(torch.stack(x).sum(0)))

    def _names(self, writer: int) -> list[str]:
        name = self.graph.writers[writer]
        return [*(f"{name}@{mark}" for mark in self.split.get(writer, ())), name]


def _check(
    graph: Graph, prompts: Prompts, named: Sequence[str], split: Mapping[str, Sequence[str]]
) -> None:
    for name in named:
        if name not in graph.writer_index:
            raise InputError(f"named: {name!r} is no component of this model ({graph.describe()})")
    for name, marks in split.items():
        if name not in named:
            raise InputError(f"split: {name!r} is not among the named components {list(named)}")
        for mark in marks:
            if mark not in prompts.marks:
                raise InputError(
                    f"split: the prompts mark no position {mark!r}; they mark {list(prompts.marks)}"
                )
        taken = [set(enumerate(prompts.marks[mark])) for mark in marks]
        if len(set().union(*taken)) < sum(map(len, taken)):
            raise InputError(f"split: marks {list(marks)} of {name!r} share positions")
