"""Spans of positions: from the tokens that a task marks, and what of a part's tokens is in which.

Every marked token is a span of its own. The tokens between belong to the next mark that has the
same place among the marks in every prompt, `..s2`; those before all marks are `start`, those behind
the last one `after`. So prompts in which a name and another change places have the same spans. With
`tokens` every position is one, in prompts of one length. Haklay et al. 2025 (arXiv 2502.04577) call
them a schema. Knows token ids and marks, no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from acdc.errors import InputError
from acdc.prompts import Prompts
from acdc.schema import ALL, Positions, Spans

START, AFTER, UP_TO = "start", "after", ".."
FORBIDDEN = ("@", "->", "<", ">")  # in names of marks: they take the names of edges apart


def spans_of(prompts: Prompts, positions: Positions) -> Spans:
    """The spans of all prompts together; ALL for `none`.

    InputError for `spans` without marks, for `tokens` of prompts that differ in length, and for a
    mark whose name would not do in the name of an edge.
    """
    if positions == "none":
        return ALL
    readings = [prompts.take(rows).reading(t) for rows, t in _readings(prompts)]
    if positions == "tokens":
        lengths = sorted(set(prompts.lengths_read))
        if len(lengths) > 1:
            raise InputError(
                f"graph.positions=tokens: prompts have {lengths[0]} to {lengths[-1]} tokens; it"
                " takes prompts of one template; use spans"
            )
        names = [str(i) for i in range(lengths[0])]
    else:
        names = _names(readings)
    sees = np.zeros((len(names), len(names)), dtype=bool)
    last = np.zeros(len(names), dtype=bool)
    for own in (_places(names, reading) for reading in readings):
        last[own[:, -1]] = True
        here = own[:, :, None] == np.arange(len(names))  # [batch, pos, span]
        begin = np.where(here.any(1), here.argmax(1), own.shape[1])
        end = np.where(here.any(1), own.shape[1] - 1 - here[:, ::-1].argmax(1), -1)
        sees |= (end[:, :, None] >= begin[:, None, :]).any(0)
    used = [s for s in range(len(names)) if sees[s, s]]
    table = tuple(tuple(sees[s, used].tolist()) for s in used)
    return Spans(tuple(names[s] for s in used), table, tuple(last[used].tolist()))


def positions_of(spans: Spans) -> Positions:
    """What spans were asked for."""
    return "none" if spans == ALL else "tokens" if spans.names[0] == "0" else "spans"


def _readings(prompts: Prompts) -> list[tuple[list[int], int]]:
    """Rows that have one length and as many answer tokens, and the token that is read."""
    kinds = prompts.alike().items()
    return [(rows, t) for (_, forced), rows in kinds for t in range(forced + 1)]


def _names(readings: Sequence[Prompts]) -> list[str]:
    """Of the spans, in the order of their first tokens on the average prompt."""
    marks = list(readings[0].marks)
    if not marks:
        raise InputError(
            "graph.positions=spans: the prompts mark no tokens; give `marks` in their lines, or"
            " use tokens"
        )
    for name in marks:
        taken = name in (START, AFTER) or name.isdecimal() or name.startswith(UP_TO)
        if taken or any(part in name for part in FORBIDDEN):
            raise InputError(
                f"graph.positions=spans: a mark is called {name!r}; not allowed are {START},"
                f" {AFTER}, numbers, names beginning with {UP_TO}, and {' '.join(FORBIDDEN)} in one"
            )
    columns = {m: np.concatenate([np.array(r.marks[m]) for r in readings]) for m in marks}
    ends = np.concatenate([np.full(len(r), r.clean.shape[1]) for r in readings])
    marks = _apart(marks, columns)
    ranks = np.argsort(np.argsort([columns[m] for m in marks], axis=0, kind="stable"), axis=0)
    order = sorted(marks, key=lambda m: float((columns[m] - ends).mean()))
    fixed = {m for m, own in zip(marks, ranks, strict=True) if (own == own[0]).all()}
    names = [START]
    for mark in order:
        names += [UP_TO + mark, mark] if mark in fixed else [mark]
    return [*names, AFTER]


def _apart(marks: list[str], columns: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """Those that never stand on the token of one named before them."""
    kept = list[str]()
    for mark in marks:
        if not any((columns[mark] == columns[other]).any() for other in kept):
            kept.append(mark)
    return kept


def _places(names: Sequence[str], prompts: Prompts) -> NDArray[np.int64]:
    """[batch, pos]: the span of each token; anything before a prompt begins."""
    batch, n_pos = prompts.clean.shape
    if names[0] == "0":  # no mark is called so: see _names
        return np.broadcast_to(np.arange(n_pos), (batch, n_pos))
    index = {name: s for s, name in enumerate(names)}
    marked = [m for m in names if m in prompts.marks]
    columns = np.array([prompts.marks[m] for m in marked])
    at = np.arange(n_pos)
    out = np.full((batch, n_pos), index.get(AFTER, -1))
    for name in reversed([n for n in names if n.startswith(UP_TO)]):
        out[at < np.array(prompts.marks[name[2:]])[:, None]] = index[name]
    if START in index:
        out[at < columns.min(0)[:, None]] = index[START]
    for mark, own in zip(marked, columns, strict=True):
        out[np.arange(batch), own] = index[mark]
    return out


def last_tokens(spans: Spans, tokens: Sequence[str], marks: Mapping[str, int]) -> dict[int, int]:
    """Of one prompt with these marks: the last token of each span that it has."""
    row = list(range(len(tokens)))
    prompt = Prompts.of_rows([row], [row], [()], [()], {name: [at] for name, at in marks.items()})
    return {span: at for at, span in enumerate(_places(spans.names, prompt)[0].tolist())}


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tokens of a part are in which span; tokens can be sorted so that each is a slice."""

    of: Int[Tensor, "batch pos"]  # span of each token
    n: int  # spans

    @classmethod
    def make(cls, spans: Spans, prompts: Prompts) -> Layout:
        """InputError where a token is in none of the spans. Padding is in that of the first."""
        device = prompts.clean.device
        if len(spans) == 1:
            return cls(torch.zeros_like(prompts.clean), 1)
        places = _places(spans.names, prompts)
        begin = prompts.clean.shape[1] - np.array(prompts.lengths)[:, None]
        at = np.maximum(np.arange(places.shape[1]), begin)
        places = np.take_along_axis(places, at, axis=1)
        if places.min() < 0:
            row, at = np.argwhere(places < 0)[0].tolist()
            raise InputError(
                f"graph.positions: token {at} of prompt {row + 1} is in none of the spans"
                f" {', '.join(spans.names)}, which were made of other prompts"
            )
        return cls(torch.tensor(places, device=device), len(spans))

    def suffix(self, width: int) -> Layout:
        """Of the last positions."""
        return Layout(self.of[:, -width:], self.n) if width < self.of.shape[1] else self

    @cached_property
    def order(self) -> Int[Tensor, " tokens"]:
        """Where each of the sorted tokens is among all prompts' tokens."""
        return self.of.flatten().argsort(stable=True)

    @cached_property
    def slices(self) -> list[slice]:
        """Of the sorted tokens, span by span."""
        sizes = torch.bincount(self.of.flatten(), minlength=self.n).tolist()
        ends = np.cumsum(sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def sort(self, x: Float[Tensor, "*n batch pos d"]) -> Float[Tensor, "*n tokens d"]:
        """Tokens span by span."""
        flat = x.flatten(-3, -2)
        return flat if self.n == 1 else flat[..., self.order, :]

    def unsort(self, x: Float[Tensor, "*n tokens d"]) -> Float[Tensor, "*n batch pos d"]:
        """Tokens at their places again."""
        if self.n > 1:
            x = x[..., self.order.argsort(), :]
        return x.unflatten(-2, self.of.shape)

    def mixed(
        self, weights: Float[Tensor, "span writer reader"], x: Float[Tensor, "writer tokens d"]
    ) -> Float[Tensor, "reader tokens d"]:
        """Sorted sums over writers, each span's tokens with its own weights."""
        parts = [
            (own.T @ x[:, at].flatten(1)).unflatten(1, (-1, x.shape[-1]))
            for own, at in zip(weights, self.slices, strict=True)
        ]
        return parts[0] if self.n == 1 else torch.cat(parts, 1)
