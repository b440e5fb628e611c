"""Plain runs of prompts and of data made of them, made when asked for and kept while there is room.

A hypothesis asks for one batch of data a claim, many times over, so what is kept is a batch: the
outputs of the writers that claims speak of, and what their readers saw.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acdc.forward import trace
from acdc.graph import Graph
from acdc.model import Model
from discovery.explanation.story.data import Pool


class Recent(MutableMapping[Any, Any]):
    """Tensors, or tuples of them, by key; those not asked for longest go first."""

    def __init__(self, most_bytes: int) -> None:
        self.most, self.held = most_bytes, 0
        self._values: OrderedDict[Any, Any] = OrderedDict()

    def __getitem__(self, key: Any) -> Any:
        self._values.move_to_end(key)
        return self._values[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if key in self._values:
            del self[key]
        self._values[key] = value
        self.held += _size(value)
        while self.held > self.most and len(self._values) > 1:
            self.held -= _size(self._values.popitem(last=False)[1])

    def __delitem__(self, key: Any) -> None:
        self.held -= _size(self._values.pop(key))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _size(value: Any) -> int:
    return sum(map(_size, value)) if isinstance(value, tuple) else value.nbytes


class LazyRuns:
    """As discovery.scrubbing.transformer.Runs: a pool's data, `part` of them run at a time."""

    def __init__(
        self, model: Model, graph: Graph, pool: Pool, writers: Sequence[int],
        streams: Sequence[int], part: int, most_bytes: int,
    ) -> None:  # fmt: skip
        self.model, self.graph, self.pool, self.part = model, graph, pool, part
        self.writers = {w: i for i, w in enumerate(sorted(dict.fromkeys(writers)))}
        self.streams = {s: i for i, s in enumerate(sorted(dict.fromkeys(streams)))}
        self.n_run = 0  # data that were run so far
        self._kept = Recent(most_bytes)
        self._prompts = self._run(np.arange(pool.n))

    def tokens(self, rows: NDArray) -> Tensor:
        """[row, pos]."""
        return self.pool.tokens(rows)

    def output(self, writer: int, rows: NDArray) -> Tensor:
        """[row, pos, d_model]: what a writer put out."""
        return self._of(rows, 0, self.writers[writer])

    def stream(self, index: int, rows: NDArray) -> Tensor:
        """[row, pos, d_model]: what a reader saw."""
        return self._of(rows, 1, self.streams[index])

    @property
    def logits(self) -> Tensor:
        """[prompt, vocab]: of the prompts themselves."""
        return self._prompts[2]

    def _of(self, rows: NDArray, which: int, place: int) -> Tensor:
        if rows.max() < self.pool.n:
            return self._prompts[which][place][torch.as_tensor(rows)]
        key = rows.tobytes()
        if key not in self._kept:
            self._kept[key] = self._run(rows)[:2]
        return self._kept[key][which][place]

    def _run(self, rows: NDArray) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [writer, row, pos, d_model], streams likewise, and logits [row, vocab]."""
        self.n_run += len(rows)
        found = list[tuple[Tensor, Tensor, Tensor]]()
        for some in self.pool.tokens(rows).split(self.part):
            run = trace(self.model, some)
            own = run.writers.take(list(self.writers))
            found.append((own, run.streams[list(self.streams)], run.logits))
        outputs, streams, logits = zip(*found, strict=True)
        return torch.cat(outputs, 1), torch.cat(streams, 1), torch.cat(logits)
