"""A submission to MIB's circuit-localization track: written, and checked against its stated rules.

A folder for each pair of a task and a model, `ioi_gpt2`, `mcqa_qwen2.5`, ...; in it either one
file (JSON or .pt) of importance scores, or a circuit for each of nine sizes, at most 0.1 to 50 % of
the edges. Every edge has both `score` and `in_graph`; a file above 50 MB is skipped there. At least
two tasks and two models. Their own checker is not public: this one knows the rules, not the code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from acdc.circuit import Circuit
from acdc.circuit_files import TENSORS, load, read, tensors
from acdc.curve import SHARES
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.selection import Ranking, Rule, select
from discovery.mib.scores import read_scores
from discovery.runs.json_files import encode, write_bytes

SIZES = {  # layers, query heads
    "gpt2": (12, 12), "qwen2.5": (24, 14), "gemma2": (26, 8), "llama3": (32, 32),
    "interpbench": None,
}  # fmt: skip
ENTRIES = {
    "ioi": ("gpt2", "qwen2.5", "gemma2", "llama3", "interpbench"),
    "mcqa": ("qwen2.5", "gemma2", "llama3"),
    "arithmetic-addition": ("llama3",),
    "arithmetic-subtraction": ("llama3",),
    "arc-easy": ("gemma2", "llama3"),
    "arc-challenge": ("llama3",),
}
NAMES = tuple(f"{task}_{model}" for task, models in ENTRIES.items() for model in models)
LIMITS = SHARES[:-1]  # of the nine circuits, as shares of the edges
MOST_BYTES = 50 * 10**6
SUFFIXES = (".json", TENSORS)


@dataclass(frozen=True)
class Finding:
    """What is to be said of a submission."""

    where: str  # the path within the folder, "" for the whole
    says: str
    wrong: bool  # against a rule; else a warning


def write(
    out: Path, sources: Mapping[str, Path], form: str = "json", binary: bool = False,
    ranking: Ranking = "absolute", rule: Rule = "top_n",
) -> list[Path]:  # fmt: skip
    """Write the folder: scores of each entry, or its nine circuits, cut out of the scores.

    `sources` are run folders or files, by entry. InputError for an entry that is none of MIB's, a
    source without scores, and a folder that holds something already.
    """
    for name in sources:
        if name not in NAMES:
            raise InputError(f"{name}: no entry of MIB's; known are {', '.join(NAMES)}")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out}: holds something already; name a new folder")
    made = {
        path: data
        for name, source in sources.items()
        for path, data in _files(out / name, source, form, binary, ranking, rule)
    }
    for path, data in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    return list(made)


def _files(
    folder: Path, source: Path, form: str, binary: bool, ranking: Ranking, rule: Rule
) -> list[tuple[Path, bytes]]:
    file = source / "circuit.json" if source.is_dir() else source
    graph = load(file).graph
    scores = read_scores(source, graph)
    none = np.zeros_like(graph.legal)
    if not binary:
        every = _entries(Circuit(graph, none, scores).to_json(), graph)
        return [(folder / f"importances.{form}", _encoded(every, form))]
    out = []
    for share in LIMITS:
        circuit = select(graph, scores, int(share * graph.n_edges), ranking, rule).circuit
        data = replace(circuit, scores=circuit.mask.astype(float)).to_json()
        out.append((folder / f"{100 * share:g}.{form}", _encoded(data, form)))
    return out


def _entries(data: dict[str, Any], graph: Graph) -> dict[str, Any]:
    """With an entry for every edge, those of score 0 too."""
    full = Circuit(graph, graph.legal.copy()).to_json()["edges"]
    blank = {"score": 0.0, "in_graph": False}
    return {**data, "edges": {name: data["edges"].get(name, blank) for name in full}}


def _encoded(data: dict[str, Any], form: str) -> bytes:
    own = {name: data[name] for name in ("cfg", "nodes", "edges")}
    return tensors(own) if form == "pt" else encode(own)


# ---- checking ----------------------------------------------------------------------------------


def check(folder: Path) -> list[Finding]:
    """What is against the rules, then what is only unusual. InputError if there is no folder."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    out, entries = list[Finding](), list[str]()
    for path in sorted(folder.iterdir()):
        if path.name in NAMES and path.is_dir():
            entries.append(path.name)
            out += _of_entry(path)
        elif path.is_dir():
            out.append(Finding(path.name, f"no entry of MIB's ({', '.join(NAMES)})", True))
    tasks, models = (sorted({name.split("_")[i] for name in entries}) for i in (0, 1))
    for what, found in (("tasks", tasks), ("models", models)):
        if len(found) < 2:
            says = f"{len(found)} {what} ({', '.join(found) or 'none'}); MIB asks at least 2"
            out.append(Finding("", says, not found))
    if "ioi_interpbench" not in entries:
        out.append(Finding("", "no ioi_interpbench, which their form warns of", False))
    return sorted(out, key=lambda one: not one.wrong)


def _of_entry(folder: Path) -> list[Finding]:
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if not files:
        return [Finding(folder.name, "no .json or .pt file", True)]
    if len(files) > len(LIMITS):
        says = f"{len(files)} files; at most one of scores, or {len(LIMITS)} circuits"
        return [Finding(folder.name, says, True)]
    out, kept = list[Finding](), list[tuple[int, int, str]]()
    for path in files:
        where, size = f"{folder.name}/{path.name}", path.stat().st_size
        if size > MOST_BYTES:
            says = f"{size / 1e6:.0f} MB; above 50 MB a file is skipped (.pt is smaller)"
            out.append(Finding(where, says, True))
            continue
        try:
            scored, inside, n_edges = _of_file(folder.name, path)
        except InputError as error:
            out.append(Finding(where, str(error), True))
            continue
        if len(files) == 1 and scored:
            return out
        kept.append((inside, n_edges, where))
    if len(files) < len(LIMITS) and len(kept) == len(files):
        says = f"{len(files)} circuits; nine are asked for, or one file of scores"
        out.append(Finding(folder.name, says, True))
    largest = sorted(kept, reverse=True)
    for (inside, n_edges, where), limit in zip(largest, LIMITS[::-1], strict=False):
        if inside > limit * n_edges:
            says = f"{inside} of {n_edges} edges; its place allows {100 * limit:g} % at most"
            out.append(Finding(where, says, True))
    return out


def _of_file(entry: str, path: Path) -> tuple[bool, int, int]:
    """Whether its scores differ other than by membership, edges kept, edges there are."""
    data = read(path)
    try:
        cfg, edges, nodes = data["cfg"], data["edges"], data["nodes"]
        sizes = cfg["n_layers"], cfg["n_heads"]
        graph = Graph(
            *sizes, cfg["n_heads"], cfg["d_model"], parallel=cfg["parallel_attn_mlp"]
        )  # each query head has a key and a value
    except (KeyError, TypeError) as error:
        raise InputError(f"missing or malformed member ({error})") from None
    wanted = SIZES[entry.split("_")[1]]
    if wanted not in (None, sizes):
        raise InputError(
            f"{sizes[0]} layers x {sizes[1]} heads; {entry} has {wanted[0]} x {wanted[1]}"
        )
    unknown = [name for name in nodes if name not in (*graph.writers, "logits")]
    if unknown:
        raise InputError(f"unknown node {unknown[0]!r}")
    scores, inside = list[float](), list[bool]()
    for name, edge in edges.items():
        graph.edge(name)
        if not isinstance(edge, Mapping) or {"score", "in_graph"} - edge.keys():
            raise InputError(f"edge {name!r} needs both score and in_graph")
        if not isinstance(edge["in_graph"], bool) or not _is_finite(edge["score"]):
            raise InputError(f"edge {name!r}: in_graph must be true or false, score a number")
        scores.append(float(edge["score"]))
        inside.append(edge["in_graph"])
    ranks = len(set(scores)) > 1 and scores != [float(own) for own in inside]
    return ranks, sum(inside), graph.n_edges


def _is_finite(score: object) -> bool:
    return isinstance(score, int | float) and math.isfinite(score)
