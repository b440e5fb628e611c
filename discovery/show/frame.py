"""A page in a notebook: shut in a frame that can do nothing."""

from __future__ import annotations

from html import escape


def framed(page: str, title: str, height: int = 720) -> str:
    """HTML that shows a page of ours, without scripts and without reach."""
    return (
        f'<iframe srcdoc="{escape(page)}" sandbox="" title="{escape(title)}"'
        f' style="width:100%;height:{height}px;border:1px solid #ccc"></iframe>'
    )
