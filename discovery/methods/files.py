"""Circuits and scores that others found, as methods: nothing is searched, all else is as for ours.

A file is a circuit where it keeps some of its edges and not all, else it is scores. MIB's and
EAP-IG's forms, JSON and .pt; other tools' where they write these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError
from discovery.methods.given import Given
from discovery.methods.method import Method, Scoring, Work

SUFFIXES = (".json", ".pt")


class CircuitFile(Given):
    """The circuit of a file, under the file's name."""

    name: str = "circuit_file"
    called: str

    @property
    def label(self) -> str:
        """See Method.label."""
        return self.called


class ScoresFile(Scoring):
    """The scores of a file; an edge that is not listed has 0, and positive helps."""

    name: str = "scores_file"
    asks_prompts: ClassVar[bool] = False
    by_prompt: ClassVar[bool] = False
    unit: ClassVar[str | None] = "the file's units"
    works: ClassVar[Work] = "runs"
    file: str
    called: str

    @property
    def label(self) -> str:
        """See Method.label."""
        return self.called

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 0.0

    def scores(self, data: Any, metric: Any, seed: int) -> NDArray[np.float64]:
        """See Scoring.scores. InputError if the file's edges are not this model's."""
        from acdc.circuit_files import load

        return load(self.file, data.graph).scores


def of_files(named: Sequence[str]) -> list[Method]:
    """A method a file, or for each of a folder's in the order of their names.

    Of a run folder its circuit. Called by the names, with the folder's where two are alike.
    InputError for what is no file of a circuit, or holds neither edges nor scores that differ.
    """
    paths = [path for one in named for path in _files(Path(one))]
    names = [path.name for path in paths]
    called = [p.name if names.count(p.name) == 1 else f"{p.parent.name}/{p.name}" for p in paths]
    return [_of_file(path, name) for path, name in zip(paths, called, strict=True)]


def of_circuit(named: Sequence[str], circuit: str) -> list[Method]:
    """The files as methods on a circuit that is known: of a folder its CIRCUIT.json or CIRCUIT.pt.

    Called by the names that are given; a folder without such a file is left out. InputError as
    of_files.
    """
    found = [(path, path) for path in map(Path, named) if not path.is_dir()]
    folders = [path for path in map(Path, named) if path.is_dir()]
    found += [(f, p) for f in folders for p in _files(f) if p.stem == circuit]
    return [_of_file(path, called.name) for called, path in found]


def _files(path: Path) -> list[Path]:
    if (path / "circuit.json").is_file():
        return [path / "circuit.json"]
    found = [path]
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES)
    if not found or not found[0].is_file():
        raise InputError(f"files={path}: neither a file nor a folder with .json or .pt files")
    return found


def _of_file(path: Path, called: str) -> Method:
    from acdc.circuit_files import read

    data = read(path)
    try:
        edges: Mapping[str, Any] = data["edges"]
        kept = [bool(edge["in_graph"]) for edge in edges.values()]
        scores = [float(edge.get("score", 0)) for edge in edges.values()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"files={path}: no circuit in EAP-IG's form; each of `edges` needs in_graph ({error!r})"
        ) from None
    if any(kept) and not (all(kept) and len(set(scores)) > 1):
        return CircuitFile(circuit=str(path), called=called)
    if len(set(scores)) < 2:
        raise InputError(f"files={path}: no edge is kept, and no scores differ")
    return ScoresFile(file=str(path), called=called)
