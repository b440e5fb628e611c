"""Prompts of any number, worked on in parts between a clean and a corrupted run.

A part is as many prompts as are run together; all have one length today. Every figure is the mean
over all prompts, whatever the parts. Runs are held where memory allows (acdc/memory.py), else each
part's are made anew when its turn comes, and let go after it.
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
from acdc.metrics import Metric
from acdc.model import Model
from acdc.prompts import Prompts
from acdc.writers import Writers

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]  # [writers, readers]
T = TypeVar("T")
PART = 32  # prompts run together, unless said otherwise
POINT_ROWS = 64  # prompts x points of a path in one pass of an attribution
BATCH_BYTES = 1 << 30  # what one batch of trial cuts may hold, all parts together


class Data:
    """A model, a graph, prompts in parts, and what cut edges carry. Immutable."""

    def __init__(
        self, model: Model, graph: Graph, prompts: Prompts, ablation: Ablation = RESAMPLE,
        part: int = PART, hold: bool = True, batch_bytes: int = BATCH_BYTES, host: bool = False,
    ) -> None:  # fmt: skip
        """Nothing is run yet, but for an ablation that must see all prompts.

        `part` prompts are run together; with `hold` their runs stay in memory once made, with
        `host` in that of the CPU, from where they are brought in turn; a batch of trial cuts takes
        at most `batch_bytes`. InputError for tokens that the model cannot take.
        """
        if part < 1:
            raise InputError(f"part={part}: at least 1 prompt at a time")
        self._check(model, prompts, "prompts")
        self.model, self.graph, self.hold, self.part = model, graph, hold, part
        self.host = hold and host
        self.batch_bytes = batch_bytes
        self.prompts = prompts.to(model.device)
        self._rows = [range(i, min(i + part, len(prompts))) for i in range(0, len(prompts), part)]
        self._runs: dict[int, tuple[Trace, Trace]] = {}  # held ones, whatever cut edges carry
        self._forwards: dict[int, PatchedForward] = {}
        self.ablation = ablation
        self._fit(ablation)

    @staticmethod
    def _check(model: Model, prompts: Prompts, what: str) -> None:
        prompts.check_vocabulary(model.d_vocab)
        if prompts.clean.shape[1] > model.n_ctx:
            raise InputError(
                f"{what} have {prompts.clean.shape[1]} tokens; the model takes {model.n_ctx}"
            )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        return len(self._rows)

    @property
    def n_pos(self) -> int:
        """Tokens of a prompt."""
        return self.prompts.clean.shape[1]

    def __iter__(self) -> Iterator[PatchedForward]:
        """The parts' runs in turn, in the order of the prompts."""
        return (self[i] for i in range(self.n_parts))

    def __getitem__(self, index: int) -> PatchedForward:
        """One part's runs."""
        if index in self._forwards:
            return self._forwards[index]
        rows = self._rows[index]
        clean, corrupt = self._held(index) or self._run(rows)
        forward = PatchedForward(
            self.model, self.graph, self.prompts.take(rows), clean, corrupt, self.ablation, rows
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

    def _run(self, rows: range) -> tuple[Trace, Trace]:
        # whoever asks first, gradients may have to pass these tensors later
        with torch.inference_mode(False), torch.no_grad():
            prompts = self.prompts.take(rows)
            clean = trace(self.model, prompts.clean)
            clean = replace(clean, patterns=())
            corrupt = clean
            if prompts.has_corrupt:
                corrupt = trace(self.model, prompts.corrupt, lean=True)
        return clean, corrupt

    # ---- the same prompts otherwise ------------------------------------------------------------

    def under(self, ablation: Ablation) -> Data:
        """The same runs with other values on cut edges."""
        other = copy(self)
        other._fit(ablation)
        return other

    def _fit(self, ablation: Ablation) -> None:
        if ablation.reference is not None:
            self._check(self.model, ablation.reference, f"ablation={ablation.name}: its prompts")
        self.ablation = ablation.fit(self._seen_by(ablation))
        self._forwards = {}

    def _seen_by(self, ablation: Ablation) -> Iterator[Writers]:
        """Runs of the reference set, or of the corrupt prompts; made as they are asked for."""
        if ablation.reference is None:
            for i in range(self.n_parts):
                yield self[i].corrupt.writers
            return
        tokens = ablation.reference.to(self.model.device).clean
        for some in tokens.split(self.part):
            with torch.inference_mode(False), torch.no_grad():
                yield trace(self.model, some, lean=True).writers

    def with_backward(self, rules: Backward) -> Data:
        """The same runs of the same model, whose gradients follow rules; ValueError if they do."""
        other = copy(self)
        other.model, other._forwards = rules.of(self.model), {}
        return other

    def with_features(self, features: Mapping[str, tuple[int, ...]]) -> Data:
        """The same runs of prompts that are said to have other features."""
        other = copy(self)
        other.prompts = replace(self.prompts, features=features)
        other._forwards = {}
        return other

    def first_parts(self, count: int) -> Data:
        """The first parts alone; an ablation that saw all keeps what it saw."""
        other = copy(self)
        other._rows = self._rows[:count]
        other.prompts = self.prompts.take(range(other._rows[-1].stop))
        return other

    def at_least(self, n: int) -> Data:
        """As few of the first parts as have n prompts; all of them where there are fewer."""
        return self.first_parts(min(self.n_parts, -(-n // self.part)))

    def arranged(self, part: int, hold: bool, batch_bytes: int, host: bool = False) -> Data:
        """The same prompts, otherwise worked on; runs that still fit are kept."""
        if (part, hold, hold and host) != (self.part, self.hold, self.host):
            return Data(
                self.model, self.graph, self.prompts, self.ablation, part, hold, batch_bytes, host
            )
        other = copy(self)
        other.batch_bytes = batch_bytes
        return other

    def take(self, rows: Sequence[int]) -> Data:
        """Some of the prompts; an ablation that must see all sees these, or its reference set."""
        return Data(
            self.model, self.graph, self.prompts.take(rows), self.ablation, self.part, self.hold,
            self.batch_bytes, self.host,
        )  # fmt: skip

    # ---- measuring -----------------------------------------------------------------------------

    def each(self, look: Callable[[PatchedForward], T]) -> list[T]:
        """What `look` says of each part, in order."""
        return [look(forward) for forward in self]

    def logits(self, run: Callable[[PatchedForward], Tensor]) -> Tensor:
        """[prompts, vocab]: of all parts together."""
        return torch.cat(self.each(run))

    def values(self, metric: Metric, run: Callable[[PatchedForward], Tensor]) -> Floats:
        """[prompts]: the metric of any run of the parts, in its own unit and sign."""
        return np.concatenate(self.each(lambda f: floats(f.bound(metric).of_logits(run(f)))))

    def circuits(self, metric: Metric, masks: Sequence[Mask]) -> Floats:
        """[masks, prompts]: the metric of each circuit. A part's runs are made once for all."""
        parts = self.each(
            lambda f: [floats(f.bound(metric).of_logits(f.run(mask))) for mask in masks]
        )
        return np.concatenate(parts, axis=1)

    def errors(self, metric: Metric, masks: Sequence[Mask]) -> Floats:
        """[masks, prompts]: how far each circuit is from the model; see Bound.error."""
        parts = self.each(lambda f: [floats(f.bound(metric).error(f.run(mask))) for mask in masks])
        return np.concatenate(parts, axis=1)


def _moved(runs: tuple[Trace, Trace], device: torch.device) -> tuple[Trace, Trace]:
    """Both runs elsewhere; where they are one, they stay one."""
    clean, corrupt = runs
    there = clean.to(device)
    return there, there if corrupt is clean else corrupt.to(device)


def floats(values: Tensor) -> Floats:
    """As float64 on the CPU."""
    return values.detach().double().cpu().numpy()
