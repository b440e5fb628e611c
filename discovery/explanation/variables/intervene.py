"""A run some of whose values are changed on the way; differentiable in what they are changed to.

An intervention names a place (a head's output before W_O, an MLP's output, the stream before a
layer), the positions, and a function of the value that is there in this very run: earlier changes
have reached it. Nothing before the first change is run anew: attention is causal, so layers below
it and positions before it are the clean run's, whose keys and values are kept. No hooks, no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.errors import InputError
from acdc.forward import Trace
from acdc.graph import Graph
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.validation.bench import Bench

Rows = Int[Tensor, " row"]


@dataclass(frozen=True)
class Place:
    """What can be changed in a run."""

    name: str  # of a writer, or "stream 3" for the stream before layer 3
    kind: Literal["head", "mlp", "stream"]
    layer: int
    head: int = 0

    def width(self, model: Model) -> int:
        """Numbers a position: d_head for a head, whose output is taken before W_O, else d_model."""
        return model.blocks[self.layer].attn.W_O.shape[1] if self.kind == "head" else model.d_model

    def of(self, run: Trace) -> Float[Tensor, "batch pos width"]:
        """The value in a plain run that is not lean."""
        if self.kind == "head":
            return run.writers.z[self.layer, self.head]
        return (
            run.writers.rest[1 + self.layer] if self.kind == "mlp" else run.streams[2 * self.layer]
        )


def place(graph: Graph, name: str) -> Place:
    """The place of a writer's name, or of "stream 3"; InputError if there is none.

    `input` is the stream before layer 0.
    """
    if name.startswith("stream ") and name[7:].isdecimal() and int(name[7:]) <= graph.n_layers:
        return Place(name, "stream", int(name[7:]))
    writer = graph.writer_index.get(name)
    if writer is None:
        raise InputError(
            f"place {name!r}: allowed are the nodes of {graph.describe()}, and stream 0 to"
            f" stream {graph.n_layers}"
        )
    layer, part = graph.place(writer)
    if writer == 0:
        return Place(name, "stream", 0)
    return Place(name, "head", layer, part) if part < graph.n_heads else Place(name, "mlp", layer)


@dataclass(frozen=True)
class Change:
    """One intervention on a batch of runs."""

    place: Place
    at: Int[Tensor, " row"] | None  # a position for each run; None: every position
    # (what is there [some, width], which runs of the batch these are) -> what is put there;
    # [some, pos, width] where it is at every position
    to: Callable[[Tensor, Rows], Tensor]


@dataclass(frozen=True, eq=False)
class Part:
    """Clean runs of some prompts of one length, from which changed ones go on."""

    model: Model
    run: Trace
    rows: Sequence[int]  # the prompts' places among all

    @property
    def n_pos(self) -> int:
        """Tokens of a prompt."""
        return self.run.streams.shape[2]

    @cached_property
    def keys_values(self) -> list[tuple[Tensor, Tensor]]:
        """Of each layer [group, batch, pos, d_head]; made once."""
        model, groups, found = self.model, list(range(self.model.n_kv_heads)), []
        for layer in range(len(model.blocks)):
            x = self.run.streams[2 * layer][None]
            k, v = (model.project(layer, part, groups, x, x.shape[2]) for part in ("k", "v"))
            found.append((k, v))
        return found

    def changed(
        self, rows: Rows, changes: Sequence[Change], which: Rows
    ) -> Float[Tensor, "row span d_model"]:
        """The stream before the final norm, at the last positions, from the first change on.

        `rows` are prompts of this part, one may come often; `which` their places in the changes.
        """
        model, n_pos = self.model, self.n_pos
        start = 0 if any(c.at is None for c in changes) else _earliest(changes, which)
        first = min((c.place.layer for c in changes), default=len(model.blocks))
        x = self.run.streams[2 * first][rows, start:]

        def put(value: Tensor, kind: str, layer: int, head: int = 0) -> Tensor:
            for c in changes:
                if (c.place.kind, c.place.layer, c.place.head) == (kind, layer, head):
                    value = _put(value, c, which, start)
            return value

        for layer in range(first, len(model.blocks)):
            x = put(x, "stream", layer)
            z = self._heads(layer, x, rows, n_pos, start)
            z = [put(z[head], "head", layer, head) for head in range(len(z))]
            between = x + model.attention_out(layer, torch.stack(z))
            if model.blocks[layer].mlp is not None:
                mlp = model.mlp_out(layer, x if model.parallel else between)
                between = between + put(mlp, "mlp", layer)
            x = between
        return put(x, "stream", len(model.blocks))

    def _heads(self, layer: int, x: Tensor, rows: Rows, n_pos: int, start: int) -> Tensor:
        """z [head, row, span, d_head]: positions before `start` are the clean run's."""
        model, kv = self.model, list(range(self.model.n_kv_heads))
        q = model.project(layer, "q", list(range(model.n_heads)), x[None], n_pos)
        k, v = (
            torch.cat([clean[:, rows, :start], model.project(layer, part, kv, x[None], n_pos)], 2)
            for part, clean in zip(("k", "v"), self.keys_values[layer], strict=True)
        )
        group = torch.tensor([model.kv_head(h) for h in range(model.n_heads)], device=x.device)
        every = list(range(model.n_heads))
        return model.shared_out(layer, model.pattern(layer, every, q, k[group]) @ v[group])


def _earliest(changes: Sequence[Change], which: Rows) -> int:
    return min((int(c.at[which].min()) for c in changes if c.at is not None), default=0)


def _put(value: Tensor, change: Change, which: Rows, start: int) -> Tensor:
    """value [row, span, width] with one change made."""
    if change.at is None:
        return change.to(value, which)
    rows = torch.arange(len(value), device=value.device)
    at = change.at[which] - start
    return value.index_put((rows, at), change.to(value[rows, at], which))


class Runs:
    """The clean runs of a bench's prompts, part by part."""

    def __init__(self, model: Model, prompts: Prompts, parts: Sequence[Part]) -> None:
        self.model, self.prompts, self.parts = model, prompts, parts

    @classmethod
    def of(cls, bench: Bench) -> Runs:
        """Those that the bench has, or makes now."""
        data = bench.data
        return cls(
            data.model, data.prompts, [Part(data.model, f.clean, f.rows) for f in bench.data]
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def positions(self, mark: str) -> Int[Tensor, " prompt"]:
        """The column of a task's mark in each prompt; "end" is the answer position."""
        end = (self.prompts.answer_position,) * len(self)
        at = self.prompts.marks.get(mark) if mark != "end" else end
        if at is None:
            raise InputError(f"mark {mark!r}: allowed are end, {', '.join(self.prompts.marks)}")
        return torch.tensor(at, device=self.model.device)

    def values(self, where: Place, mark: str) -> Float[Tensor, "prompt width"]:
        """What each prompt's clean run has at a place and mark."""
        at, found = self.positions(mark), []
        for part in self.parts:
            own = where.of(part.run)
            rows = torch.arange(len(own), device=own.device)
            found.append(own[rows, at[list(part.rows)] - self._before(part)])
        places = [row for part in self.parts for row in part.rows]
        return torch.cat(found)[torch.tensor(places).argsort()]

    def _before(self, part: Part) -> int:
        """Columns before the prompts of a part begin."""
        return self.prompts.clean.shape[1] - part.n_pos

    def each(self, base: Rows, changes: Sequence[Change]) -> Iterator[tuple[Rows, Tensor]]:
        """(which runs, stream [some, span, d_model] before the final norm), part by part.

        `base` [run] names the prompt of each; changes count runs as `base` does.
        """
        for part in self.parts:
            place = torch.full((len(self),), -1, device=base.device)
            place[list(part.rows)] = torch.arange(len(part.rows), device=base.device)
            which, before = (place[base] >= 0).nonzero()[:, 0], self._before(part)
            own = [c if c.at is None else replace(c, at=c.at - before) for c in changes]
            for some in which.split(len(part.rows)) if len(which) else ():
                yield some, part.changed(place[base[some]], own, some)

    def logits(
        self, base: Rows, changes: Sequence[Change], tokens: Int[Tensor, "run token"]
    ) -> Float[Tensor, "run token"]:
        """Logits of some tokens at the answer position of each run."""
        some, found = zip(
            *(
                (which, logits_of(self.model, x[:, -1], tokens[which]))
                for which, x in self.each(base, changes)
            ),
            strict=True,
        )
        return torch.cat(found)[torch.cat(some).argsort()]


def logits_of(
    model: Model, x: Float[Tensor, "row d_model"], tokens: Int[Tensor, "row token"]
) -> Float[Tensor, "row token"]:
    """Logits of each row's own tokens, from the stream before the final norm."""
    out = torch.einsum("rd,rtd->rt", model.ln_final(x), model.W_U.T[tokens])
    return model.capped(out if model.b_U is None else out + model.b_U[tokens])
