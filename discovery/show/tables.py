"""Rows as a table: Markdown, which can be read as text, and HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A line a row, a column for each field of the first one; None is an empty cell."""
    names = list(rows[0])
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join("" if r[n] is None else str(r[n]) for n in names) for r in rows]
    return "".join(f"| {line} |\n" for line in lines)


def html(rows: Sequence[Mapping[str, object]]) -> str:
    """The same table for a page."""
    names = list(rows[0])
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    cells = [["" if r[n] is None else escape(str(r[n])) for n in names] for r in rows]
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
