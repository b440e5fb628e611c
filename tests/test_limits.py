"""A function can be seen whole: at most 60 lines."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 60  # lines


def functions():
    """(where, lines) of every function of the product."""
    for folder in ("acdc", "discovery", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                    yield where, (node.end_lineno or 0) - node.lineno + 1


def test_every_function_can_be_seen_whole():
    found = dict(functions())
    assert len(found) > 500
    assert {where: lines for where, lines in found.items() if lines > MOST} == {}
