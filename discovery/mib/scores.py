"""Scores of a run folder or of a file from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acdc.circuit_files import load
from acdc.errors import InputError
from acdc.graph import Graph
from discovery.methods import Found
from discovery.runs.json_files import read_json
from discovery.studies.compare import ranking


def read_scores(source: Path, graph: Graph) -> NDArray[np.float64]:
    """[writers, readers] of a run folder or of a file, JSON or .pt; edges not listed have score 0.

    A run that does not rank gives its kept edges first, as in a comparison. InputError for what is
    neither, for another model's, and where all scores are equal.
    """
    file = source / "circuit.json" if source.is_dir() else source
    if not file.is_file():
        raise InputError(f"scores={source}: neither a file nor a run folder with a circuit.json")
    circuit = load(file, graph)
    scores = circuit.scores
    if source.is_dir() and not (read_json(source / "search.json") or {}).get("ranks", True):
        scores = ranking(Found(mask=circuit.mask, scores=scores, score="", ranks=False))
    legal = scores[graph.legal]
    if (legal == legal[0]).all():
        raise InputError(
            f"scores={source}: every edge has score {legal[0]:g}, so there is no ranking; a circuit"
            " without scores is judged by circuits validate circuit=FILE"
        )
    return scores
