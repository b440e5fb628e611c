"""Prompts of any number, worked on in parts between a clean and a corrupted run.

A part is as many prompts as are run together (acdc/parts.py): of one length, or padded to it.
An answer of several tokens is read a token at a time, each a part of its own, and what is said of
the prompt is the sum over them. Every figure is the mean over all prompts, and what is said of each
prompt stands in the order of the prompts, whatever the parts. Runs are held where memory allows
(acdc/memory.py), else each part's are made anew when its turn comes, and let go after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acdc.ablation import RESAMPLE, Ablation
from acdc.backward import Backward
from acdc.errors import InputError
from acdc.forward import PatchedForward, Trace, trace
from acdc.graph import Graph
from acdc.metrics import Metric, two_sided
from acdc.model import Model
from acdc.parts import CARD_PART_COST, PART_COST, Rows, groups_of
from acdc.prompts import Prompts
from acdc.writers import Writers

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]  # [writers, readers]
T = TypeVar("T")
Run = Callable[[PatchedForward, Mask], Tensor]  # a part's logits [batch, vocab], through a mask
PART = 32  # prompts run together, unless said otherwise
POINT_ROWS = 64  # prompts x points of a path in one pass of an attribution
BATCH_BYTES = 1 << 30  # what one batch of trial cuts may hold, all parts together


class Data:
    """A model, a graph, prompts in parts, and what cut edges carry. Immutable."""

    def __init__(
        self, model: Model, graph: Graph, prompts: Prompts, ablation: Ablation = RESAMPLE,
        part: int = PART, hold: bool = True, batch_bytes: int = BATCH_BYTES, host: bool = False,
        padded: bool = False,
    ) -> None:  # fmt: skip
        """Nothing is run yet, but for an ablation that must see all prompts.

        `part` prompts are run together; with `hold` their runs stay in memory once made, with
        `host` in that of the CPU, from where they are brought in turn; a batch of trial cuts takes
        at most `batch_bytes`. With `padded` neighbouring lengths share parts, for whoever looks at
        no single position. InputError for tokens that the model cannot take.
        """
        if part < 1:
            raise InputError(f"part={part}: at least 1 prompt at a time")
        self._check(model, prompts, "prompts")
        self.model, self.graph, self.hold, self.part = model, graph, hold, part
        self.host, self.padded = hold and host, padded and ablation.pads
        self.batch_bytes = batch_bytes
        self.prompts = prompts.to(model.device)
        self._parts = self._split()
        self._runs: dict[int, tuple[Trace, Trace]] = {}  # held ones, whatever cut edges carry
        self._forwards: dict[int, PatchedForward] = {}
        self.ablation = ablation
        self._fit(ablation)

    def _split(self) -> list[tuple[Rows, int]]:
        """Of each part the prompts, and the token of their answers that is read."""
        return [
            (rows, token)
            for rows in groups_of(self.prompts, self.part, self._part_cost)
            for token in range(self.prompts.forced[rows[0]] + 1)
        ]

    @property
    def _part_cost(self) -> float:
        if not self.padded:
            return 0.0
        return PART_COST if self.model.device.type == "cpu" else CARD_PART_COST

    @staticmethod
    def _check(model: Model, prompts: Prompts, what: str) -> None:
        prompts.check_vocabulary(model.d_vocab)
        if max(prompts.lengths) > model.n_ctx:
            raise InputError(f"{what} have {prompts.extent} tokens; the model takes {model.n_ctx}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def groups(self) -> list[Rows]:
        """Prompts that are run together."""
        return [rows for rows, token in self._parts if token == 0]

    @property
    def n_parts(self) -> int:
        """How many parts there are: of each group one a token of its answers."""
        return len(self._parts)

    def parts_of(self, group: int) -> list[int]:
        """The parts of a group's prompts, one a token of their answers."""
        return [i for i, (rows, _) in enumerate(self._parts) if rows == self.groups[group]]

    @property
    def n_pos(self) -> int:
        """Tokens of the longest prompt."""
        return self.prompts.clean.shape[1]

    @property
    def tokens(self) -> list[int]:
        """Of every prompt of every part, padding counted: what a run of all goes through."""
        return [self._width(i) for i, (rows, _) in enumerate(self._parts) for _ in rows]

    def _width(self, index: int) -> int:
        """Tokens of a part's longest prompt."""
        rows, token = self._parts[index]
        return max(self.prompts.lengths[i] - self.prompts.forced[i] + token for i in rows)

    def __iter__(self) -> Iterator[PatchedForward]:
        """The parts' runs in turn, in the order of their first prompts."""
        return (self[i] for i in range(self.n_parts))

    def __getitem__(self, index: int) -> PatchedForward:
        """One part's runs."""
        if index in self._forwards:
            return self._forwards[index]
        rows, token = self._parts[index]
        prompts = self.prompts_of(index)
        model = self.model.padded(prompts.padding)
        clean, corrupt = self._held(index) or _runs(model, prompts)
        forward = PatchedForward(
            model, self.graph, prompts, clean, corrupt, self.ablation, rows, token
        )
        if self.hold and not self.host:
            self._runs[index], self._forwards[index] = (clean, corrupt), forward
        elif self.host and index not in self._runs:
            self._runs[index] = _moved((clean, corrupt), torch.device("cpu"))
        return forward

    def _held(self, index: int) -> tuple[Trace, Trace] | None:
        """A part's runs, if they are held; from the host, if they are there."""
        runs = self._runs.get(index)
        return _moved(runs, self.model.device) if runs is not None and self.host else runs

    def prompts_of(self, index: int) -> Prompts:
        """One part's prompts, with answers of one token; of one length, unless `padded`."""
        rows, token = self._parts[index]
        return self.prompts.take(rows).reading(token)

    # ---- the same prompts otherwise ------------------------------------------------------------

    def under(self, ablation: Ablation) -> Data:
        """The same runs with other values on cut edges; anew where these must not be padded."""
        if self.padded and not ablation.pads:
            return self.apart().under(ablation)
        other = copy(self)
        other._fit(ablation)
        return other

    def apart(self) -> Data:
        """The same prompts in parts of one length each, for whoever looks at single positions."""
        other = copy(self)
        other.padded = False
        other._parts = other._split()
        if other._parts != self._parts:
            other._runs, other._forwards = {}, {}
        return other

    def _fit(self, ablation: Ablation) -> None:
        if ablation.reference is not None:
            self._check(self.model, ablation.reference, f"ablation={ablation.name}: its prompts")
        self.ablation = ablation.fit(self._seen_by(ablation))
        self._forwards = {i: f.under(self.ablation) for i, f in self._made()}

    def _seen_by(self, ablation: Ablation) -> Iterator[Writers]:
        """Runs of the reference set, or of the corrupt prompts; made as they are asked for."""
        if ablation.reference is None:
            for i in range(self.n_parts):
                yield self[i].corrupt.writers
            return
        reference = Data(self.model, self.graph, ablation.reference, part=self.part, hold=False)
        for i in range(reference.n_parts):
            with torch.inference_mode(False), torch.no_grad():
                tokens = reference.prompts_of(i).clean
                yield trace(self.model, tokens, lean=True).writers

    def with_graph(self, graph: Graph) -> Data:
        """The same runs, of which circuits of another graph of the model are measured."""
        other = copy(self)
        other.graph = graph
        other._forwards = {i: replace(f, graph=graph) for i, f in self._made()}
        return other

    def with_backward(self, rules: Backward) -> Data:
        """The same runs of the same model, whose gradients follow rules; ValueError if they do."""
        other = copy(self)
        other.model, other._forwards = rules.of(self.model), {}
        return other

    def with_features(self, features: Mapping[str, tuple[int, ...]]) -> Data:
        """The same runs of prompts that are said to have other features."""
        other = copy(self)
        other.prompts = replace(self.prompts, features=features)
        other._forwards = {i: replace(f, prompts=other.prompts_of(i)) for i, f in self._made()}
        return other

    def _made(self) -> list[tuple[int, PatchedForward]]:
        """This data's parts that were asked for already, of those that are held."""
        return [(i, f) for i, f in self._forwards.items() if i < self.n_parts]

    def at_least(self, n: int) -> Data:
        """The first prompts: n, or as many more as make a part full; all where there are fewer.

        An ablation that saw all keeps what it saw.
        """
        most = min(len(self), -(-n // self.part) * self.part)
        other = copy(self)
        few = [(tuple(i for i in own if i < most), token) for own, token in self._parts]
        other._parts = [part for part in few if part[0]]  # one without them comes after all with
        other.prompts = self.prompts.take(range(most))
        if other._parts != self._parts[: other.n_parts]:  # lengths are mixed, and parts are cut
            runs = {i: run for i, run in self._runs.items() if i < other.n_parts}
            sizes = [(range(len(own)), other._width(i)) for i, (own, _) in enumerate(other._parts)]
            other._runs = {i: (a.part(*sizes[i]), b.part(*sizes[i])) for i, (a, b) in runs.items()}
            other._forwards = {}
        return other

    def arranged(self, part: int, hold: bool, batch_bytes: int, host: bool = False) -> Data:
        """The same prompts, otherwise worked on; runs that still fit are kept."""
        if (part, hold, hold and host) != (self.part, self.hold, self.host):
            return Data(
                self.model, self.graph, self.prompts, self.ablation, part, hold, batch_bytes, host,
                self.padded,
            )  # fmt: skip
        other = copy(self)
        other.batch_bytes = batch_bytes
        return other

    def take(self, rows: Sequence[int]) -> Data:
        """Some of the prompts; an ablation that must see all sees these, or its reference set.

        Runs that are held, of prompts that are together here and there, are not made again.
        """
        other = copy(self)
        other.prompts, other._forwards = self.prompts.take(rows), {}
        other._parts = other._split()
        other._runs = {} if self.host else self._runs_of(rows, other)
        other._fit(self.ablation)
        return other

    def _runs_of(self, rows: Sequence[int], other: Data) -> dict[int, tuple[Trace, Trace]]:
        """Held runs by the number of the part of `other` that has them, which are these `rows`."""
        places = {
            (row, self._parts[i][1]): (i, place)
            for i in self._runs
            if i < self.n_parts
            for place, row in enumerate(self._parts[i][0])
        }
        found = dict[int, tuple[Trace, Trace]]()
        for number, (own, token) in enumerate(other._parts):
            at = [places.get((rows[i], token), (-1, 0)) for i in own]
            (held, first), *_ = at
            if held >= 0 and {i for i, _ in at} == {held}:
                where = range(first, first + 1) if len(at) == 1 else [place for _, place in at]
                (clean, corrupt), width = self._runs[held], other._width(number)
                with torch.inference_mode(False), torch.no_grad():  # as `_runs`
                    some = clean.part(where, width)
                    found[number] = some, some if corrupt is clean else corrupt.part(where, width)
        return found

    # ---- measuring -----------------------------------------------------------------------------

    def each(self, look: Callable[[PatchedForward], T]) -> list[T]:
        """What `look` says of each part, in order."""
        return [look(forward) for forward in self]

    def join(self, parts: Sequence[NDArray], axis: int = 0, of: np.ufunc = np.add) -> NDArray:
        """What each part says of its prompts along an axis, in the order of all prompts.

        Of an answer of several tokens it is the sum over them, or what else `of` makes of them.
        """
        places = np.concatenate([rows for rows, _ in self._parts])
        order = np.argsort(places, kind="stable")
        first = np.flatnonzero(np.diff(places[order], prepend=-1))
        return of.reduceat(np.take(np.concatenate(parts, axis), order, axis), first, axis)

    def values(self, metric: Metric, run: Callable[[PatchedForward], Tensor]) -> Floats:
        """[prompts]: the metric of any run of the parts, in its own unit and sign."""
        return self.join(self.each(lambda f: floats(f.bound(metric).of_logits(run(f)))))

    def circuits(
        self, metric: Metric, masks: Sequence[Mask], alike: Mask | None = None,
        run: Run | None = None,
    ) -> Floats:  # fmt: skip
        """[masks, prompts]: the metric of each circuit. A part's runs are made once for all.

        Circuits share what they have in common with the circuit `alike`, if given; else what no cut
        comes before. A `run` of their own shares nothing.
        """

        def part(forward: PatchedForward) -> Floats:
            if run is not None:
                of_logits = forward.bound(metric).of_logits
                return np.array([floats(of_logits(run(forward, mask))) for mask in masks])
            known = None if alike is None else forward.known(alike)
            finals = (forward.final(mask, known=known) for mask in masks)
            return np.array([floats(forward.values(metric, final)) for final in finals])

        return self.join(self.each(part), axis=1)

    def errors(self, metric: Metric, masks: Sequence[Mask]) -> Floats:
        """[masks, prompts]: how far each circuit is from the model; see Bound.error."""
        return self.circuits(two_sided(metric), masks)


def _runs(model: Model, prompts: Prompts) -> tuple[Trace, Trace]:
    # whoever asks first, gradients may have to pass these tensors later
    with torch.inference_mode(False), torch.no_grad():
        clean = replace(trace(model, prompts.clean), patterns=())
        corrupt = clean
        if prompts.has_corrupt:
            corrupt = trace(model, prompts.corrupt, lean=True)
    return clean, corrupt


def _moved(runs: tuple[Trace, Trace], device: torch.device) -> tuple[Trace, Trace]:
    """Both runs elsewhere; where they are one, they stay one."""
    clean, corrupt = runs
    there = clean.to(device)
    return there, there if corrupt is clean else corrupt.to(device)


def floats(values: Tensor) -> Floats:
    """As float64 on the CPU."""
    return values.detach().double().cpu().numpy()
