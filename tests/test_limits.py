"""Rooms that can be seen whole: no function over 60 lines, no file over 400."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [p for folder in ("acdc", "discovery", "scripts") for p in (ROOT / folder).rglob("*.py")]


def test_there_are_files():
    assert len(FILES) > 25


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_size(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name
