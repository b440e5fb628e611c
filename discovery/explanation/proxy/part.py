"""How much of what the circuit does do the variables leave unexplained? A causal proxy model.

Wu et al. 2022, "Causal proxy models for concept-based model explanations": a simple model is fitted
to the outputs of counterfactual runs, here from the variables of base and source alone. What it
misses on other prompts is what the variables leave unexplained; how much any function of them must
miss is told by prompts in which all of them are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure

from acdc.ablation import RESAMPLE
from acdc.data import Data
from acdc.metrics import differ
from acdc.prompts import Prompts
from discovery.explanation.section import Picture, Section, Table, drawn
from discovery.explanation.steering.part import carriers, changed_values
from discovery.explanation.subject import Subject
from discovery.explanation.variables import part as variables
from discovery.explanation.variables.alignment import Site
from discovery.explanation.variables.intervene import Change, Runs
from discovery.settings.explanation import Proxy
from discovery.show.drawing import COLOURS, GREY
from discovery.statistics.intervals import Interval, ratio_of_means
from discovery.validation.bench import Bench, Mask

Floats = Float64[np.ndarray, " run"]
FOLDS = 5  # of base prompts, to choose the penalty
PENALTIES = tuple(10.0**e for e in range(-3, 5))
HOW = (
    "Two kinds of counterfactual runs: the circuit with all that it leaves out carrying another"
    " prompt's values (outside), and the model with a place's subspace carrying it (a variable's"
    " name). Their score is predicted by ridge regression from the variables of base and source:"
    " values where they are few, whether both are equal, and all products of two (a causal proxy"
    f" model, Wu et al. 2022). All on prompts on which no place was chosen and no subspace learnt;"
    f" each fifth is predicted from the other {FOLDS - 1} fifths (penalty by folds of these)."
    " Unexplained is the squared error over that of their mean, 0 to 1, more than 1 where the mean"
    " does better. At least: the variance between runs whose variables are"
    " equal as far as the model knows them, which no function of those explains. Intervals over"
    " base prompts."
)


def check(subject: Subject, asked: Proxy) -> str | None:
    """Where variables can be asked, and some have few enough values to be told by."""
    reason = variables.check(subject, subject.asked.variables)
    if reason is None and not any(levels_of(_features(subject), asked.levels).values()):
        return f"every variable has one value, or more than proxy.levels={asked.levels}"
    return reason


def _features(subject: Subject) -> Mapping[str, Sequence[int]]:
    return subject.test.data.prompts.features


# ---- counterfactual runs -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Observed:
    """Counterfactual runs: base and source prompts, and the score."""

    base: np.ndarray  # [run], of one bench's prompts
    source: np.ndarray  # [run]
    score: Floats


def sources_of(n: int, each: int, rng: np.random.Generator) -> np.ndarray:
    """[each, prompt]: other prompts, each of them as often; `each` is less than n."""
    order, place = rng.permutation(n), np.zeros(n, np.int64)
    place[order] = np.arange(n)
    shifts = 1 + rng.permutation(n - 1)[:each]
    return np.stack([order[(place + shift) % n] for shift in shifts])


def outside(bench: Bench, mask: Mask, sources: np.ndarray) -> Observed:
    """The circuit's score when what it leaves out carries the sources' values."""
    data, base = bench.data, np.tile(np.arange(bench.n), len(sources))
    source = sources.ravel()
    prompts: Prompts = data.prompts.take(base.tolist())
    prompts = replace(prompts, corrupt=data.prompts.clean[source.tolist()])
    other = Data(data.model, data.graph, prompts, RESAMPLE, data.part, hold=False)
    return Observed(base, source, Bench(other, bench.score).circuit(mask).score)


def swapped(bench: Bench, runs: Runs, site: Site, sources: np.ndarray) -> Observed:
    """The model's score when a site's subspace carries the sources' values."""
    every = torch.arange(bench.n, device=runs.model.device)
    there, at, basis = runs.values(site.place, site.mark), runs.positions(site.mark), site.basis
    scores = list[np.ndarray]()
    for source in sources:
        value = there[torch.as_tensor(source)]

        def to(own: torch.Tensor, which: torch.Tensor, value: torch.Tensor = value) -> torch.Tensor:
            moved = value[which] - own
            return own + (moved if basis is None else moved @ basis @ basis.T)

        scores.append(changed_values(bench, runs, every, [Change(site.place, at, to)]).score)
    base = np.tile(np.arange(bench.n), len(sources))
    return Observed(base, sources.ravel(), np.concatenate(scores))


# ---- what is predicted from --------------------------------------------------------------------


def raw(
    features: Mapping[str, Sequence[int]], base: np.ndarray, source: np.ndarray,
    levels: Mapping[str, Sequence[int]],
) -> Float64[np.ndarray, "run column"]:  # fmt: skip
    """Zeros and ones: each listed value of base and of source, and whether both are equal."""
    columns = list[np.ndarray]()
    for name, listed in levels.items():
        values = np.array(features[name])
        of, there = values[base], values[source]
        columns += [side == value for value in listed[1:] for side in (of, there)]
        columns.append(of == there)
    return np.column_stack(columns).astype(float)


def levels_of(features: Mapping[str, Sequence[int]], most: int) -> dict[str, list[int]]:
    """Each variable's values; none where there are more than `most`, or one."""
    found = {name: sorted(set(values)) for name, values in features.items()}
    return {name: v if 1 < len(v) <= most else [] for name, v in found.items()}


def crossed(x: Float64[np.ndarray, "run column"]) -> Float64[np.ndarray, "run more"]:
    """The columns and all products of two."""
    i, j = np.triu_indices(x.shape[1], 1)
    return np.hstack([x, x[:, i] * x[:, j]])


@dataclass(frozen=True)
class Ridge:
    """mean + (x - centre) weights."""

    centre: Float64[np.ndarray, " column"]
    weights: Float64[np.ndarray, " column"]
    mean: float

    def __call__(self, x: Float64[np.ndarray, "run column"]) -> Floats:
        return self.mean + (x - self.centre) @ self.weights


def ridge(x: Float64[np.ndarray, "run column"], y: Floats, penalty: float) -> Ridge:
    """Least squares plus penalty times the squared weights; the mean is not penalised."""
    centre, mean = x.mean(0), float(y.mean())
    x = x - centre
    if x.shape[1] > len(x):  # the same weights, by the smaller system
        weights = x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(len(x)), y - mean)
    else:
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (y - mean))
    return Ridge(centre, weights, mean)


def fitted(
    x: Float64[np.ndarray, "run column"], y: Floats, base: np.ndarray, rng: np.random.Generator
) -> Ridge:
    """With the penalty of the least error over folds of base prompts; of equal ones the larger."""
    of = folds(base, rng)
    errors = [
        sum(float(np.square(y[of == f] - ridge(x[of != f], y[of != f], p)(x[of == f])).sum())
            for f in range(FOLDS) if 0 < (of == f).sum() < len(of))
        for p in PENALTIES
    ]  # fmt: skip
    best = max(i for i, e in enumerate(errors) if e <= min(errors) * (1 + 1e-9))
    return ridge(x, y, PENALTIES[best])


def between_equals(x: Float64[np.ndarray, "run column"], y: Floats) -> float | None:
    """Variance of y between runs of equal x, over that of y: what no function of x explains.

    None where fewer than a quarter of the runs have an equal, or y does not vary.
    """
    _, cell = np.unique(x, axis=0, return_inverse=True)
    count = np.bincount(cell)
    several = count[cell] > 1
    if several.mean() < 0.25 or not np.ptp(y):
        return None
    mean = (np.bincount(cell, y) / count)[cell]
    within = float(np.square(y - mean)[several].sum() / (several.sum() - (count > 1).sum()))
    return within / float(y.var(ddof=1))


# ---- the section -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unexplained:
    """Of one kind of runs."""

    share: Interval
    least: float | None
    seen: np.ndarray
    told: np.ndarray


def unexplained(
    bench: Bench, one: Observed, most: int, rng: np.random.Generator, level: float
) -> Unexplained:
    """Each prompt's runs are predicted by a model that was fitted to those of other prompts."""
    level = 1 - level
    if not differ(float(one.score.max()), float(one.score.min())):
        flat = Interval(None, None, None, level, bench.n, "none", "the score does not vary")
        return Unexplained(flat, None, one.score, one.score)
    features = bench.data.prompts.features
    x = raw(features, one.base, one.source, levels_of(features, most))
    fold = folds(one.base, rng)
    told, mean = np.zeros(len(fold)), np.zeros(len(fold))
    for f in range(FOLDS):
        here = fold == f
        if here.any():
            model = fitted(crossed(x[~here]), one.score[~here], one.base[~here], rng)
            told[here], mean[here] = model(crossed(x[here])), model.mean
    share = ratio_of_means(
        np.square(one.score - told), np.square(one.score - mean), rng, one.base.tolist(), level
    )
    return Unexplained(share, between_equals(x, one.score), one.score, told)


def folds(base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[run]: which of FOLDS parts of the prompts the run's base is in."""
    prompts, place = np.unique(base, return_inverse=True)
    return (rng.permutation(len(prompts)) % FOLDS)[place]


def explain(subject: Subject, asked: Proxy, told: Mapping[str, Section]) -> Section:
    """What the variables leave unexplained of the circuit, and of each interchange."""
    own = subject.of_one_length
    rng, bench = subject.rng("proxy"), own.test
    runs, sources = Runs.of(bench), sources_of(bench.n, min(asked.sources, bench.n - 1), rng)
    kinds = {"outside": outside(bench, subject.circuit.mask, sources)} | {
        name: swapped(bench, runs, site, sources)
        for name, site in carriers(subject, told).items()
    }  # fmt: skip
    found = {
        name: unexplained(bench, one, asked.levels, rng, subject.level)
        for name, one in kinds.items()
    }
    facts = {
        name: {
            "unexplained": u.share.estimate, "low": u.share.low, "high": u.share.high,
            "undefined": u.share.undefined or None, "at least": u.least, "n": len(u.seen),
            "sd": float(u.seen.std()),
        }
        for name, u in found.items()
    }  # fmt: skip
    levels = levels_of(_features(subject), asked.levels)
    return Section(
        title="What the variables leave unexplained", how=HOW,
        says=[
            *own.says_length(subject),
            *_says(facts, [name for name, listed in levels.items() if not listed]),
        ],
        tables=[Table("share of the score's variance over counterfactual runs of other prompts",
                      [_row(name, f, subject.test.unit) for name, f in facts.items()])],
        pictures=[_scatter(found, subject.test.unit)], found=facts,
    )  # fmt: skip


def _row(name: str, f: Mapping[str, Any], unit: str) -> dict[str, object]:
    shown = None if f["unexplained"] is None else (
        f"{f['unexplained']:.2f} [{f['low']:.2f}, {f['high']:.2f}]"
    )  # fmt: skip
    return {
        "runs": name, "unexplained": shown,
        "at least": None if f["at least"] is None else f"{f['at least']:.2f}",
        f"deviation of the score ({unit})": f"{f['sd']:.2f}", "n": f["n"],
    }  # fmt: skip


def _says(facts: Mapping[str, Mapping[str, Any]], compared: Sequence[str]) -> list[str]:
    out = list[str]()
    if compared:
        out.append(f"Of {', '.join(compared)}, which have too many values, the proxy model knows"
                   " only whether base and source agree.")  # fmt: skip
    for name, f in facts.items():
        what = "the circuit's score, its outside carrying another prompt's values," if (
            name == "outside"
        ) else f"the model's score, {name} carrying another prompt's value,"  # fmt: skip
        if f["unexplained"] is None:
            out.append(f"Whether the variables explain {what} is not defined: {f['undefined']}.")
            continue
        least = (
            "too few runs have equals to say how much is out of reach of what it knows"
            if f["at least"] is None
            else f"any function of what it knows must leave {f['at least']:.0%}"
        )
        out.append(
            f"The proxy model leaves {f['unexplained']:.0%} [{f['low']:.0%}, {f['high']:.0%}] of"
            f" the variance of {what} unexplained; {least}."
        )
    return out


def _scatter(found: Mapping[str, Unexplained], unit: str) -> Picture:
    """Predicted and seen, a panel a kind of runs."""
    figure = Figure(figsize=(0.8 + 2.6 * len(found), 2.9))
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, (name, one) in zip(axes, found.items(), strict=True):
        low, high = float(one.seen.min()), float(one.seen.max())
        ax.plot([low, high], [low, high], color=GREY, lw=0.8)
        ax.scatter(one.told, one.seen, s=6, color=COLOURS["query"], alpha=0.5, lw=0)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(f"predicted ({unit})", fontsize=8)
    axes[0].set_ylabel(f"seen ({unit})", fontsize=8)
    return drawn(figure, "Scores of counterfactual runs of other prompts, as seen and as predicted"
                 " from the variables alone; on the line if the variables told all.")  # fmt: skip
