"""Many runs side by side: edges against faithfulness, the front, what their circuits share.

A *point* is all runs that differ in nothing but the seed; a *series* is all points that differ in
nothing but the method's size (`threshold` or `n_edges`). Knows no files and draws nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import jaccard
from discovery.runs.folder import config_hash
from discovery.show.tables import markdown

SIZES = ("method.threshold", "method.n_edges")
APART = ("seed", "threads", "device")  # with tracking.*: never what a series is about
SAME = 1e-6  # of faithfulness; smaller differences are rounding
WIDEST = 12  # runs in a matrix that is still read as text


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    name: str  # of its folder
    state: str  # as in discovery.runs.folder.Run, or "not validated"
    config: Mapping[str, Any]  # the resolved configuration; empty if it was refused
    result: Mapping[str, Any] | None  # of a run that is done
    edges: frozenset[str]  # kept ones
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all that was asked of it is there."""
        return self.state == "done" and self.result is not None


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and Student's interval of it where there are at least two."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Point:
    """Runs that differ in the seed only."""

    series: str
    metric: str
    names: tuple[str, ...]
    threshold: float | None
    asked: int | None  # edges
    edges: Mean
    on_paths: Mean  # of these, edges on a path from input to logits
    faithfulness: Mean | None  # 1 = the model, 0 = the empty circuit
    value: Mean | None  # the circuit's metric
    front: bool  # on the Pareto front


def mean_over_seeds(values: Sequence[float | int | None], level: float = 0.95) -> Mean | None:
    """None where a value is missing. The interval takes the seeds' values as normal."""
    known = np.array([v for v in values if v is not None], float)
    if len(known) < len(values) or not len(known):
        return None
    mean = float(known.mean())
    if len(known) < 2:
        return Mean(mean, None, None)
    from scipy.stats import t  # half a second, where there are no seeds

    reach = t.ppf((1 + level) / 2, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))
    return Mean(mean, float(mean - reach), float(mean + reach))


def points(members: Iterable[Member]) -> list[Point]:
    """Of the runs that are done, by series and then by size of the circuit."""
    done = [m for m in members if m.result is not None]
    labels = series_labels([m.config for m in done])
    groups: dict[tuple[str, str], list[Member]] = defaultdict(list)
    rivals: dict[str, list[tuple[str, str]]] = defaultdict(list)  # who can be compared with whom
    for label, member in zip(labels, done, strict=True):
        key = (label, config_hash(_flat(member.config, (*APART,))))
        if key not in groups:
            rivals[_comparable(member.config)].append(key)
        groups[key].append(member)
    found = {}
    for keys in rivals.values():
        plain = [_point(key[0], groups[key], front=False) for key in keys]
        for key, point, front in zip(keys, plain, pareto(plain), strict=True):
            found[key] = Point(**{**vars(point), "front": front})
    return sorted(found.values(), key=lambda p: (p.series, p.edges.mean, p.names))


def _point(series: str, members: Sequence[Member], front: bool) -> Point:
    results = [m.result or {} for m in members]

    def over(name: str) -> Mean | None:
        return mean_over_seeds([r[name] for r in results])

    edges, on_paths = over("n_edges"), over("n_edges_on_paths")
    assert edges is not None and on_paths is not None  # every result counts them
    return Point(
        series=series,
        metric=results[0]["metric"],
        names=tuple(m.name for m in members),
        threshold=results[0]["threshold"],
        asked=results[0].get("n_edges_requested"),
        edges=edges,
        on_paths=on_paths,
        faithfulness=over("faithfulness"),
        value=over("metric_circuit"),
        front=front,
    )


def pareto(found: Sequence[Point]) -> list[bool]:
    """Which points no other beats: as few edges and faithfulness as near to 1, one of them better.

    Faithfulness within SAME counts as equal. A point without it is never on the front.
    """
    places = [
        (p.edges.mean, math.inf if p.faithfulness is None else abs(1 - p.faithfulness.mean))
        for p in found
    ]
    return [
        far < math.inf
        and not any(
            e <= edges and f <= far + SAME and (e < edges or f < far - SAME) for e, f in places
        )
        for edges, far in places
    ]


def series_labels(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The method, and every setting but seed and size in which runs of this method differ."""
    flat = [_flat(c, (*APART, *SIZES)) for c in configs]
    labels = []
    for own in flat:
        method = own["method.name"]
        same = [f for f in flat if f["method.name"] == method]
        differ = [k for k in own if len({repr(f.get(k)) for f in same}) > 1]
        labels.append(", ".join([method, *(_said(k, own[k]) for k in differ)]))
    return labels


def _said(key: str, value: object) -> str:
    last = key.rpartition(".")[2]
    return str(value) if last in ("name", "kind") else f"{last}={value}"


def _flat(config: Mapping[str, Any], without: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names, less those of `without` and of tracking."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in without or name == "tracking":
            continue
        nested = isinstance(value, Mapping)
        out.update(_flat(value, without, f"{name}.") if nested else {name: value})
    return out


def _comparable(config: Mapping[str, Any]) -> str:
    """Equal for runs whose faithfulness means the same."""
    return config_hash({k: config[k] for k in ("model", "task", "graph", "metric", "ablation")})


def done_members(members: Iterable[Member]) -> list[Member]:
    """Runs that are done, in the order of their points."""
    by_name = {m.name: m for m in members}
    return [by_name[name] for point in points(by_name.values()) for name in point.names]


def short_names(names: Sequence[str]) -> list[str]:
    """Folder names less their common words and hashes, as far as they stay apart."""
    words = [name.rpartition("_")[0].split(",") for name in names]
    shared = set(words[0]).intersection(*words) if len(names) > 1 else set[str]()
    short = [",".join(w for w in one if w not in shared) for one in words]
    return short if len(set(short)) == len(names) and all(short) else list(names)


def overlap(members: Sequence[Member]) -> NDArray[np.float64]:
    """[runs, runs]: Jaccard index of the two circuits' edges.

    NaN between runs on different graphs, whose edges only share their names.
    """
    graphs = [config_hash({k: m.config[k] for k in ("model", "graph")}) for m in members]
    names = sorted({name for m in members for name in m.edges})
    masks = [np.array([name in m.edges for name in names], bool) for m in members]
    out = np.full((len(members), len(members)), np.nan)
    for i, j in np.ndindex(out.shape):
        if graphs[i] == graphs[j]:
            out[i, j] = jaccard(masks[i], masks[j])
    return out


# --- in words


def summary(members: Sequence[Member]) -> dict[str, Any]:
    """What sweep.json holds."""
    done = done_members(members)
    states: dict[str, int] = defaultdict(int)
    for member in members:
        states[member.state] += 1
    return {
        "states": dict(sorted(states.items())),
        "not_done": [
            {"name": m.name, "state": m.state, "error": m.error} for m in members if not m.complete
        ],
        "points": [_plain(p) for p in points(members)],
        "runs": [
            {"name": m.name, **{k: v for k, v in (m.result or {}).items() if not _nested(v)}}
            for m in done
        ],
        "jaccard": {"names": [m.name for m in done], "values": _finite(overlap(done))},
    }


def _nested(value: object) -> bool:
    return isinstance(value, Mapping | list)


def _plain(point: Point) -> dict[str, Any]:
    return {k: vars(v) if isinstance(v, Mean) else v for k, v in vars(point).items()}


def _finite(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if math.isnan(v) else round(v, 4) for v in row] for row in matrix.tolist()]


def table_rows(found: Sequence[Point]) -> list[dict[str, object]]:
    """One row a point; `value` in the metric's own unit; intervals are 95 %, over seeds."""
    return [
        {
            "series": p.series,
            "threshold": p.threshold,
            "asked": p.asked,
            "runs": len(p.names),
            "edges": _shown(p.edges, "g"),
            "on paths": _shown(p.on_paths, "g"),
            "faithfulness": _shown(p.faithfulness, ".3f"),
            "metric": p.metric,
            "value": _shown(p.value, ".4g"),
            "front": "yes" if p.front else None,
        }
        for p in found
    ]


def number_rows(found: Sequence[Point]) -> list[dict[str, object]]:
    """The same with every number by itself, to be sorted by and charted."""
    means = {"edges": "edges", "on paths": "on_paths", "faithfulness": "faithfulness",
             "value": "value"}  # fmt: skip
    return [
        {"series": p.series, "threshold": p.threshold, "asked": p.asked, "runs": len(p.names)}
        | {
            f"{name}{end}": getattr(getattr(p, attribute), part, None)
            for name, attribute in means.items()
            for end, part in (("", "mean"), (" low", "low"), (" high", "high"))
        }
        | {"metric": p.metric, "front": p.front}
        for p in found
    ]


def _shown(mean: Mean | None, form: str) -> str | None:
    if mean is None:
        return None
    form = ".4g" if form == "g" else form
    if mean.low is None or mean.high is None:
        return f"{mean.mean:{form}}"
    return f"{mean.mean:{form}} [{mean.low:{form}}, {mean.high:{form}}]"


def report(members: Sequence[Member], title: str) -> str:
    """What sweep.md holds: the table of points, what is not done, the overlap matrix if small."""
    done = done_members(members)
    complete = sum(m.complete for m in members)
    parts = [f"# {title}\n", f"{complete} of {len(members)} runs are done.\n"]
    if missing := [m for m in members if not m.complete]:
        parts.append("".join(f"- not done: {described(m)}\n" for m in missing))
    if done:
        parts += ["## Points\n", markdown(table_rows(points(members)))]
        parts.append("front: no other point has as few edges and faithfulness as near to 1.\n")
    if 1 < len(done) <= WIDEST:
        names = short_names([m.name for m in done])
        rows = [
            {"": name, **{str(i): v for i, v in enumerate(row, 1)}}
            for name, row in zip(names, _finite(overlap(done)), strict=True)
        ]
        parts += ["## Overlap of edges (Jaccard), runs in the order of the rows\n", markdown(rows)]
    return "\n".join(parts)


def described(member: Member) -> str:
    """A run that is not done, in one line."""
    lines = (member.error or "").strip().splitlines()
    return f"{member.name} ({member.state}{': ' + lines[0] if lines else ''})"
