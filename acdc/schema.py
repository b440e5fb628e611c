"""Spans of positions: what each is called, and which see which.

A choice of them is a schema (Haklay et al. 2025, arXiv 2502.04577); `acdc/spans.py` makes it from
marks. Plain values: whoever only reads files needs no arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from acdc.errors import InputError
from acdc.names import parse

Positions = Literal["none", "spans", "tokens"]  # at which an edge is: all, or one span of them


@dataclass(frozen=True)
class Spans:
    """Spans of positions: what each is called, and which see which.

    A writer's output at a token is read at that token, so an edge is of one span. Information
    passes between tokens inside heads: from the keys and values to the queries that see them.
    """

    names: tuple[str, ...]  # in the order of their first tokens
    sees: tuple[tuple[bool, ...], ...]  # [of a query, of a key]: whether in any prompt it can
    last: tuple[bool, ...]  # whether a prompt's last token is in it: where the logits are read

    def __len__(self) -> int:
        return len(self.names)


ALL = Spans(("",), ((True,),), (True,))  # one span, of all positions


def read_spans(data: Mapping[str, Any]) -> Spans:
    """Of a file's `graph`; InputError unless names, `sees` and `last` fit each other.

    KeyError and TypeError for what is none at all.
    """
    names, sees, last = data["names"], data["sees"], data["last"]
    n = len(names)
    known = {str(name) for name in names if parse(f"m0@{name}")}
    sizes = [len(last), len(sees), *(len(row) for row in sees)]
    if not n or len(known) < n or {*sizes} != {n}:
        raise InputError(
            f"circuit file: spans {str(names)[:80]} must be different names, with `sees` a square"
            " table of them and `last` a list"
        )
    return Spans(
        tuple(map(str, names)), tuple(tuple(map(bool, row)) for row in sees), tuple(map(bool, last))
    )
