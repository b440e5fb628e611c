"""Which state of this code made a result, where it is a git checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 5


def commit() -> str | None:
    """The commit of this package's checkout, with "+" where files differ; None: no git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True,
        timeout=SECONDS,
    ).stdout.strip()  # fmt: skip
