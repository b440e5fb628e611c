"""Automated circuit discovery, from Python.

    import discovery as cd

    model = cd.load("smollm2")  # or a hub id, a folder, a Hugging Face module, a bridge
    task = cd.task("ioi", model, n=64)  # or cd.pairs(rows or a file, model)
    found = cd.discover(model, task, "acdc", threshold=0.05)
    found.circuit.evaluate(task.fresh(100))
    cd.validate(found)
    cd.explain(found)
    cd.compare(model, task, ["eap_ig", "random"])

Names are imported when they are asked for, so that `import discovery` takes no time.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acdc.errors import InputError
    from discovery.api.choose import method
    from discovery.api.circuit import Circuit
    from discovery.api.comparison import compare
    from discovery.api.explanation import explain
    from discovery.api.model import load
    from discovery.api.run import discover
    from discovery.api.tasks import pairs, task
    from discovery.api.validation import validate

__all__ = [
    "Circuit", "InputError", "compare", "discover", "explain", "load", "method", "pairs", "task",
    "validate",
]  # fmt: skip
_WHERE = {
    "Circuit": "discovery.api.circuit", "InputError": "acdc.errors",
    "compare": "discovery.api.comparison", "discover": "discovery.api.run",
    "explain": "discovery.api.explanation", "load": "discovery.api.model",
    "method": "discovery.api.choose", "pairs": "discovery.api.tasks",
    "task": "discovery.api.tasks", "validate": "discovery.api.validation",
}  # fmt: skip

# a notebook without ipywidgets has bars of text, which is no news
warnings.filterwarnings("ignore", message="IProgress not found")


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
