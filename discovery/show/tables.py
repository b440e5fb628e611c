"""Rows as a table that can be read as text and pasted as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A line a row, a column for each field of the first one; None is an empty cell."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join("" if r[n] is None else str(r[n]) for n in names) for r in rows]
    return "".join(f"| {line} |\n" for line in lines)
