"""Outputs of all writers of a run, kept small: heads before W_O, the rest as it is.

A head adds z W_O to the stream (a norm after the sum of heads is in both: in z its scale in this
run, in W_O its weight), and z has d_head numbers a position instead of d_model, so a run of
GPT-2 small takes a sixth of what its heads' outputs would. What an edge carries is made when it is
asked for. Every linear thing (a mean, a difference, zero) may be done to z as to the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from acdc.graph import Graph


@dataclass(frozen=True, eq=False)
class Writers:
    """What every writer of a graph puts out, in the graph's order of writers."""

    graph: Graph
    W_O: tuple[Float[Tensor, "head d_head d_model"], ...]  # the model's own, a layer each
    z: Float[Tensor, "layer head batch pos d_head"]
    rest: Float[Tensor, "other batch pos d_model"]  # `input`, then the MLPs

    def map(self, change: Callable[[Tensor], Tensor]) -> Writers:
        """Both tensors changed alike; axes -3, -2, -1 are prompt, position, width."""
        return Writers(self.graph, self.W_O, change(self.z), change(self.rest))

    def with_(self, other: Writers, combine: Callable[[Tensor, Tensor], Tensor]) -> Writers:
        """Both tensors combined with another's."""
        z, rest = combine(self.z, other.z), combine(self.rest, other.rest)
        return Writers(self.graph, self.W_O, z, rest)

    @property
    def n_prompts(self) -> int:
        """Length of the prompt axis."""
        return self.rest.shape[1]

    @property
    def nbytes(self) -> int:
        """What it holds, the model's weights not counted."""
        return self.z.nbytes + self.rest.nbytes

    def __getitem__(self, writer: int) -> Float[Tensor, "batch pos d_model"]:
        """One writer's output."""
        return self.take([writer])[0]

    def take(
        self, writers: Sequence[int], span: int = 0, rows: Int[Tensor, "*k batch"] | None = None,
        less: Writers | None = None,
    ) -> Float[Tensor, "n batch span d_model"]:  # fmt: skip
        """Some writers' outputs, in the order given, at the last `span` positions (0: all).

        `rows` puts other prompts' in the place of each prompt's: [batch] for all writers alike, or
        [n, batch]. With `less`, how much more it is than that run's.
        """
        shape = self._shape(span, rows)
        out = self.rest.new_empty(len(writers), *shape)
        for layer, at, parts in self._by_place(writers):
            got = self._some(layer, parts, shape[1], _rows_at(rows, at), less)
            if layer is not None:
                weight = self.W_O[layer][_index(parts)]
                got = (got.flatten(1, 2) @ weight).unflatten(1, got.shape[1:3])
            if at[0] > at[-1]:  # as in the default order of senders
                at, got = at[::-1], got.flip(0)
            out[_index(at)] = got
        return out

    def total(
        self, writers: Sequence[int], span: int = 0, rows: Int[Tensor, "*k batch"] | None = None,
        less: Writers | None = None,
    ) -> Float[Tensor, "batch span d_model"]:  # fmt: skip
        """Sum of some writers' outputs; as `take`, but heads of a layer are summed by one product.

        An empty sum is zero.
        """
        shape = self._shape(span, rows)
        out = self.rest.new_zeros(shape)
        for layer, at, parts in self._by_place(writers):
            got = self._some(layer, parts, shape[1], _rows_at(rows, at), less)
            if layer is None:
                out = out + got.sum(0)
            else:
                weight = self.W_O[layer][_index(parts)].flatten(0, 1)
                out = out + got.permute(1, 2, 0, 3).flatten(2) @ weight
        return out

    def _shape(self, span: int, rows: Tensor | None) -> tuple[int, int, int]:
        """Of one writer's output at the last `span` positions."""
        n_pos, d_model = self.rest.shape[2:]
        return self.n_prompts if rows is None else rows.shape[-1], span or n_pos, d_model

    def _some(
        self, layer: int | None, parts: list[int], span: int, rows: Tensor | None,
        less: Writers | None,
    ) -> Float[Tensor, "n batch span width"]:  # fmt: skip
        """Heads of a layer before W_O, or some of `rest`; less another run's."""
        source = (self.rest if layer is None else self.z[layer])[:, :, -span:]
        if rows is not None and rows.ndim == 2:
            got = source[torch.tensor(parts)[:, None], rows]
        else:
            got = source[_index(parts)]
            got = got if rows is None else got[:, rows]
        return got if less is None else got - less._some(layer, parts, span, rows, None)

    def dense(self) -> Float[Tensor, "writer batch pos d_model"]:
        """All outputs. Large: d_model numbers a writer, prompt and position."""
        return self.take(range(len(self.graph.writers)))

    def _by_place(
        self, writers: Sequence[int]
    ) -> Iterator[tuple[int | None, list[int], list[int]]]:
        """(layer or None for `rest`, places in `writers`, indices there, ascending) of a group."""
        graph, groups = self.graph, dict[int | None, list[tuple[int, int]]]()
        for place, writer in enumerate(writers):
            layer, part = graph.place(writer)
            if writer == 0 or part == graph.n_heads:
                key, index = None, layer + 1
            else:
                key, index = layer, part
            groups.setdefault(key, []).append((index, place))
        for key, members in groups.items():
            parts, at = map(list, zip(*sorted(members), strict=True))
            yield key, at, parts


def _index(places: list[int]) -> slice | list[int]:
    """Places one after the other as a slice: nothing is copied, nor sent to a card."""
    first, last = places[0], places[-1] + 1
    return slice(first, last) if places == list(range(first, last)) else places


def _rows_at(rows: Tensor | None, at: list[int]) -> Tensor | None:
    """Of some of the writers, where each has its own."""
    return rows if rows is None or rows.ndim == 1 else rows[at]


def power_sums(runs: Iterable[Writers]) -> tuple[int, Writers, Writers]:
    """Prompts times positions, and the sums over them of each number and of its square.

    In double precision, whatever the parts. ValueError without runs.
    """
    n, sums = 0, list[Writers]()
    for run in runs:
        own = [
            run.map(lambda x, p=p: x.double().pow(p).sum((-3, -2), keepdim=True)) for p in (1, 2)
        ]
        sums = [a.with_(b, torch.add) for a, b in zip(sums, own, strict=True)] if sums else own
        n += run.n_prompts * run.rest.shape[-2]
    if not sums:
        raise ValueError("there are no runs to sum over")
    return n, sums[0], sums[1]
