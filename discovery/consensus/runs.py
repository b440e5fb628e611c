"""The consensus of a run: read what it found, find it again and again, write beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.graph import Graph
from discovery.consensus.circuits import circuits
from discovery.consensus.core import Core, core, halves
from discovery.consensus.second import Second, beside
from discovery.consensus.settings import ConsensusSettings
from discovery.job.faithfulness import measure
from discovery.job.finished import read_finished
from discovery.job.mirror import run_name, tags
from discovery.job.prepare import Job, prepare
from discovery.methods import Method
from discovery.runs.folder import termination_as_exit
from discovery.runs.json_files import read_json, write_json
from discovery.runs.tracking import Outcome, start_tracker
from discovery.settings.run import Settings
from discovery.show.drawing import DrawnEdge, Layout, draw_circuit
from discovery.statistics.stability import Inclusion, inclusion, jaccard_of_pairs, nogueira

Mask = NDArray[np.bool_]  # [writers, readers]
Say = Callable[[str], None]
FOLDER = "consensus"  # in the run's


def consensus(folder: Path, asked: ConsensusSettings, say: Say) -> dict[str, Any]:
    """Halve the run's prompts, find, count; writes consensus.json and a picture into FOLDER.

    InputError for a run that is not finished, or was found on too few prompts.
    """
    settings = _read(folder, asked)
    job = prepare(settings)
    graph = job.data.graph
    own = Circuit.load(folder / "circuit.json", graph)
    first = own.mask
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    say(f"{2 * asked.pairs} circuits of {settings.method.label}, each on half of the run's prompts")
    with (
        termination_as_exit(),
        start_tracker(
            settings.tracking.mode, folder=out, project=settings.tracking.project,
            config=asked.model_dump(), name=run_name(settings, "consensus"),
            group=None, job_type="consensus", tags=tags(settings),
        ) as tracker,
    ):  # fmt: skip
        masks = np.array([m[graph.legal] for m in _circuits(job, asked)])
        often, kept = inclusion(masks), core(masks, asked.q)
        second = _second(job, asked, own, _ranks(folder), out) if asked.second else None
        found = _result(job, asked, first, masks, often, kept, second)
        write_json(out / "consensus.json", found)
        write_json(out / "circuit.json", _circuit(graph, often, kept).to_json())
        picture = _draw(out, graph, often, kept, found)
        flat = {k: v for k, v in found.items() if isinstance(v, (int, float, str))}
        tracker.finish(Outcome(flat, pictures={"core": picture}, files=[out / "consensus.json"]))
    return found


def _read(folder: Path, asked: ConsensusSettings) -> Settings:
    """The run's settings, as large as its circuit came to be."""
    settings = read_finished(folder, asked.device, asked.threads).settings
    method: Method = settings.method
    if not method.asks_prompts:
        raise InputError(
            f"run={folder}: method={method.name} does not look at prompts, so there is nothing to"
            " agree on"
        )
    if asked.orders and "sender_heads" in type(method).model_fields:
        method = method.model_copy(update={"sender_heads": "random"})
    for factor in asked.times:
        method.times(factor)  # refused here rather than after the model is loaded
    return settings.model_copy(update={"method": method})


def _circuits(job: Job, asked: ConsensusSettings) -> Iterator[Mask]:
    rows = halves(len(job.data), asked.pairs, np.random.default_rng([asked.seed, 0]))
    seeds = np.random.default_rng([asked.seed, 1]).integers(2**31, size=len(rows)).tolist()
    found = circuits(job.settings.method, job.data, job.metric, rows, seeds, asked.times)
    with tqdm(total=len(rows), unit="circuit", dynamic_ncols=True) as bar:
        for mask in found:
            bar.set_postfix_str(f"{int(mask.sum())} edges", refresh=False)
            bar.update()
            yield mask


def _ranks(folder: Path) -> bool:
    """Whether the scores in the run's circuit.json are those that rank all edges."""
    return bool((read_json(folder / "search.json") or {}).get("ranks"))


def _second(
    job: Job, asked: ConsensusSettings, first: Circuit, ranks: bool, out: Path
) -> Second | None:
    if "tune" not in job.held_out:
        return None
    settings, scores = job.settings, first.scores if ranks else None
    return beside(
        settings.method, job.data, job.metric, settings.seed, first.mask, job.held_out["tune"], out,
        asked.margin, scores,
    )  # fmt: skip


def _result(
    job: Job, asked: ConsensusSettings, first: Mask, masks: Mask, often: Inclusion, kept: Core,
    second: Second | None,
) -> dict[str, Any]:  # fmt: skip
    graph, alike = job.data.graph, jaccard_of_pairs(masks)
    return {
        "settings": asked.model_dump(mode="json"),
        "method": job.settings.method.name,
        "n_prompts": len(job.data),
        "n_circuits": len(masks),
        "sizes": masks.sum(1).tolist(),
        "jaccard": float(np.median(alike)),
        "jaccard_least": float(alike.min()),
        "jaccard_largest": float(alike.max()),
        "phi": nogueira(masks),
        "n_edges": int(first.sum()),
        "n_core": kept.size,
        "n_core_in_circuit": int((kept.edges & first[graph.legal]).sum()),
        "core_share": kept.share,  # of the circuits, in which an edge of the core is at least
        "core_bound": kept.bound,  # noise edges to be expected in the core, at most
        "core_empty": kept.empty,
        "test": _tests(job, first, _whole(graph, kept.edges), second),
        "second": None if second is None else _told(second),
        "edges": _edges(graph, first, often, kept),
    }


def _tests(job: Job, first: Mask, kept: Mask, second: Second | None) -> dict[str, Any] | None:
    """The run's circuit, the core and the second circuit on the test prompts."""
    if "test" not in job.held_out:
        return None
    named = {"circuit": first, "core": kept, "second": None if second is None else second.mask}
    test, metric = job.held_out["test"], job.metric
    measured = {n: measure(test, metric, m) for n, m in named.items() if m is not None and m.any()}
    return {name: {**asdict(own), "share": own.share} for name, own in measured.items()}


def _told(second: Second) -> dict[str, Any]:
    edges = None if second.mask is None else int(second.mask.sum())
    return {
        "first": second.first, "others": second.others, "share": second.share, "n_edges": edges
    }  # fmt: skip


def _edges(graph: Graph, first: Mask, often: Inclusion, kept: Core) -> list[dict[str, Any]]:
    """Every edge that was in a circuit, the most frequent first."""
    places, own = np.argwhere(graph.legal).tolist(), first[graph.legal]
    order = np.argsort(-often.frequency, kind="stable")
    return [
        {
            "edge": graph.edge_name(*places[i]),
            "frequency": float(often.frequency[i]),
            "low": float(often.low[i]),
            "high": float(often.high[i]),
            "core": bool(kept.edges[i]),
            "in_circuit": bool(own[i]),
        }
        for i in order.tolist()
        if often.frequency[i] > 0 or own[i]
    ]


def _whole(graph: Graph, values: NDArray[Any]) -> NDArray[Any]:
    """[edges] -> [writers, readers]."""
    out = np.zeros(graph.legal.shape, values.dtype)
    out[graph.legal] = values
    return out


def _circuit(graph: Graph, often: Inclusion, kept: Core) -> Circuit:
    """The core, each edge with how often it was found."""
    return Circuit(graph, _whole(graph, kept.edges), _whole(graph, often.frequency))


def _draw(out: Path, graph: Graph, often: Inclusion, kept: Core, found: Mapping[str, Any]) -> Path:
    """The core; without one, the edges of at least half of the circuits. Width: frequency."""
    shown = kept.edges if kept.size else often.frequency >= 0.5
    frequency = _whole(graph, often.frequency)
    edges = [
        DrawnEdge(graph.writers[w], graph.readers[r].name, float(frequency[w, r]))
        for w, r in np.argwhere(_whole(graph, shown)).tolist()
    ]
    layout = Layout(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.has_mlp)
    where = f"{found['n_circuits']} circuits, each on half of {found['n_prompts']} prompts"
    what = f"core of {where}" if kept.size else f"edges of at least half of {where}"
    subtitle = f"{what}: {len(edges)} edges"
    return draw_circuit(out, layout, edges, title=f"Consensus of {found['method']}",
                        subtitle=subtitle, width="found in")[0]  # fmt: skip


def says(found: Mapping[str, Any]) -> Sequence[str]:
    """What it came to, in sentences."""
    n, tests = found["n_circuits"], found["test"] or {}
    lines = [
        f"{n} circuits of {min(found['sizes'])} to {max(found['sizes'])} edges, each on half of"
        f" {found['n_prompts']} prompts: Jaccard {found['jaccard']:.2f} (median;"
        f" {found['jaccard_least']:.2f} to {found['jaccard_largest']:.2f})"
    ]
    if found["n_core"]:
        lines.append(
            f"core: {found['n_core']} edges in {_of_them(found['core_share'])}, of which"
            f" at most {found['core_bound']:.2g} are to be expected by chance;"
            f" {found['n_core_in_circuit']} are among the run's {found['n_edges']}"
        )
    else:
        lines.append(f"core: none; {found['core_empty']}")
    lines += [
        f"{'the run' if name == 'circuit' else 'the ' + name}"
        f" recovers {own['share']:.0%} on {own['n']} new prompts"
        for name, own in tests.items()
        if own["share"] is not None
    ]
    return [*lines, *_of_second(found["second"], found["settings"]["margin"])]


def _of_them(share: float) -> str:
    return "all of them" if share == 1 else f"at least {share:.0%} of them"


def _whole_percent(share: float) -> str:
    """Without a minus where it rounds to nothing."""
    return f"{round(share, 2) + 0.0:.0%}"


def _of_second(second: Mapping[str, Any] | None, margin: float) -> list[str]:
    if second is None:
        return []
    whole = f"the circuit recovers {second['first']:.0%} of the tuning prompts"
    if second["share"] is None:
        return [
            f"no second circuit: {whole}, all other edges together"
            f" {_whole_percent(second['others'])}"
        ]
    good = second["share"] >= second["first"] - margin
    verdict = "a second circuit, as good, shares no edge with it" if good else "no second circuit"
    return [f"{verdict}: {whole}, {second['n_edges']} other edges {second['share']:.0%}"]
