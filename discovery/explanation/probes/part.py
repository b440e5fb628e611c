"""What nodes and the stream know of the task's variables: linear probes, layer by layer.

That a variable can be read from an activation does not show that the model reads it there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from tqdm.auto import tqdm

from acdc.data import Data, floats
from acdc.forward import PatchedForward, stream_of
from acdc.prompts import together
from discovery.explanation.figures import Share, adjusted, as_data, listed, ranged, shown
from discovery.explanation.pictures import heat
from discovery.explanation.probes.probing import (
    FOLDS,
    Ints,
    Reading,
    Split,
    control,
    identities,
    probe,
    read_variable,
)
from discovery.explanation.section import Picture, Row, Section, Table
from discovery.explanation.subject import Subject
from discovery.settings.explanation import Probes
from discovery.statistics.intervals import Interval, binomial_interval, ratio_of_means
from discovery.statistics.result import Floats

ANSWER = "answer"
TOP = 6  # rows of the table for each variable and kind of place

HOW = (
    "Linear probes (Alain and Bengio 2016), fitted on one half of the prompts and measured on the"
    " other: logistic regression (accuracy) for classes, ridge regression (R2) for numbers and for"
    " tokens of too many kinds, which are read as their embeddings. Inputs are standardised; those"
    " wider than half the prompts fitted on are reduced to so many of these prompts' principal"
    " directions. Penalty by cross-validation. Control (Hewitt and Liang 2019): the same probe for"
    " random values that are fixed for each token at the position, or for the wording before it"
    " where all prompts have one token; selectivity = score less the control's, or less what"
    " is right without looking (the commonest class, the mean) where that is more or no control can"
    " be made. It is 0 where the token itself is the"
    " variable and has few kinds. p: held-out values permuted against the predictions, false"
    " discoveries over all probes held at the level. Beyond chance: so, and above 0 and the"
    " control. Places are picked by cross-validated selectivity on the half fitted on. That a"
    " variable can be read does not show that it is used."
)


@dataclass(frozen=True)
class Probed:
    """One variable read at one place and position."""

    variable: str
    place: str  # a node, "embedding" or "layer 3": the stream after it
    position: str
    reading: Reading
    control: float  # what is right without looking, if that is more
    control_chosen: float  # by cross-validation on the half fitted on
    kind: str

    @property
    def selectivity(self) -> float:
        """Score less the control's."""
        return self.reading.score - self.control

    @property
    def chosen(self) -> float:
        """The same by cross-validation on the half fitted on: to pick by."""
        return self.reading.chosen - self.control_chosen


def check(subject: Subject, asked: Probes) -> str | None:
    """Probes need scikit-learn, and a variable with enough prompts of each class."""
    if find_spec("sklearn") is None:
        return "probes need scikit-learn: pip install 'circuit-discovery[explain]'"
    if not subject.choose.data.prompts.features:
        return "the task names no variables (features) of its prompts"
    splits = variables(subject, asked)
    if all(isinstance(split, str) for split in splits.values()):
        each = "; ".join(f"{name}: {reason}" for name, reason in splits.items())
        return f"no variable of the task can be probed on {subject.choose.n} prompts: {each}"
    return None


def variables(subject: Subject, asked: Probes) -> dict[str, Split | str]:
    """How each variable of the task is probed, or why it is not."""
    choose, test = (bench.data.prompts for bench in (subject.choose, subject.test))
    tokens = choose.clean.cpu().numpy()

    def embed(ids: Ints) -> Floats:
        return floats(subject.model.W_E[ids])

    return {
        name: read_variable(values, test.features[name], tokens, embed, asked.least)
        for name, values in choose.features.items()
    }


def explain(subject: Subject, asked: Probes, told: Mapping[str, Section]) -> Section:
    """Probe every variable at every place and position; say where it can be read."""
    splits = variables(subject, asked)
    usable = {name: split for name, split in splits.items() if isinstance(split, Split)}
    places = {**_streams(subject, asked), **_nodes(subject, asked)}
    found = probed(subject, asked, usable, places)
    q = adjusted([one.reading.p for one in found])
    sure = {
        id(one): bool(value <= subject.level) and one.reading.score > 0 and one.selectivity > 0
        for one, value in zip(found, q, strict=True)
    }
    rows = {name: _rows(subject, found, sure, name) for name in usable}
    return Section(
        title="What it knows",
        how=HOW,
        says=_says(subject, splits, found, sure),
        tables=[
            Table(f"{name}, read as {_as(usable[name])}: places of largest selectivity, picked by"
                  " cross-validation", shown(table))
            for name, table in rows.items()
        ],
        pictures=[_picture(found, sure, name, list(places)) for name in usable],
        found={
            "not probed": {n: s for n, s in splits.items() if isinstance(s, str)},
            "tests": len(found),
            "probes": [_numbers(one, value) for one, value in zip(found, q, strict=True)],
            "best": {name: as_data(table) for name, table in rows.items()},
        },
    )  # fmt: skip


def _as(split: Split) -> str:
    return {"class": "classes", "token": "tokens", "number": "a number"}[split.kind]


def _numbers(one: Probed, q: float) -> dict[str, object]:
    return {
        "variable": one.variable, "place": one.place, "position": one.position, "kind": one.kind,
        "score": one.reading.score, "control": one.control, "selectivity": one.selectivity,
        "chosen": one.chosen, "p": one.reading.p, "p_bh": float(q),
    }  # fmt: skip


# ---- activations ---------------------------------------------------------------------------------


def _streams(subject: Subject, asked: Probes) -> dict[str, tuple[str, int]]:
    """The stream after the embedding and after layers, evenly spread, the last among them."""
    graph = subject.graph
    after = np.linspace(0, graph.n_layers, min(asked.layers, graph.n_layers) + 1).round()
    places = dict[str, tuple[str, int]]()
    for layer in after.astype(int).tolist():
        part = "logits" if layer == graph.n_layers else "q"
        name = "embedding" if layer == 0 else f"layer {layer - 1}"
        places[name] = ("stream", stream_of(graph, layer, part))
    return places


def _nodes(subject: Subject, asked: Probes) -> dict[str, tuple[str, int]]:
    """Outputs of the circuit's nodes with the strongest edges."""
    some = subject.strongest(subject.nodes, asked.nodes)
    return {subject.graph.writers[w]: ("node", w) for w in some}


def positions(data: Data) -> dict[str, Ints]:
    """[prompts] by name: marked positions, and the answer's unless it is marked; each once."""
    last = np.full(len(data), data.n_pos - 1)
    found = dict[str, Ints]()
    for name, at in [*data.prompts.marks.items(), (ANSWER, last)]:
        if not any(np.array_equal(np.array(at), known) for known in found.values()):
            found[name] = np.array(at)
    return found


def states(data: Data, place: tuple[str, int], at: Sequence[Ints]) -> list[Floats]:
    """[prompts, width] at each of some positions: a node's output, or a stream."""
    kind, index = place

    def of(forward: PatchedForward) -> torch.Tensor:
        whole = forward.clean.streams if kind == "stream" else forward.clean.writers
        rows = torch.arange(len(forward.prompts))
        own, before = list(forward.rows), data.n_pos - forward.n_pos
        return torch.stack([whole[index][rows, torch.tensor(where[own] - before)] for where in at])

    return list(data.join(data.each(lambda forward: floats(of(forward))), axis=1))


# ---- probing -------------------------------------------------------------------------------------


def probed(
    subject: Subject, asked: Probes, splits: Mapping[str, Split],
    places: Mapping[str, tuple[str, int]],
) -> list[Probed]:  # fmt: skip
    """Every variable at every place and position."""
    rng, (choose, test) = subject.rng("probes"), (subject.choose.data, subject.test.data)
    at, at_test = positions(choose), positions(test)
    names = [name for name in at if name in at_test]
    orders = {
        v: np.array([rng.permutation(len(s.test_rows)) for _ in range(asked.permutations)])
        for v, s in splits.items()
    }
    controls = {(v, p): _control(subject, split, at[p], at_test[p], rng)
                for v, split in splits.items() for p in names}  # fmt: skip
    found = list[Probed]()
    for place, where in tqdm(places.items(), unit="place", leave=False, dynamic_ncols=True):
        x = dict(zip(names, states(choose, where, [at[p] for p in names]), strict=True))
        x_test = dict(zip(names, states(test, where, [at_test[p] for p in names]), strict=True))
        for variable, split in splits.items():
            for p in names:
                reading = probe(x[p], x_test[p], split, orders[variable])
                other = controls[variable, p]
                level = _commonest(split)
                if other is not None:
                    none = orders[variable][:0]
                    again = probe(x[p], x_test[p], other, none, reading.penalty)
                    level = (max(again.score, level[0]), max(again.chosen, level[1]))
                found.append(Probed(variable, place, p, reading, *level, split.kind))
    return found


def _control(
    subject: Subject, split: Split, at: Ints, at_test: Ints, rng: np.random.Generator
) -> Split | None:
    halves = [bench.data.prompts for bench in (subject.choose, subject.test)]
    whole = together(*halves).clean.cpu().numpy()
    columns = [where + whole.shape[1] - own.clean.shape[1]
               for where, own in zip((at, at_test), halves, strict=True)]  # fmt: skip
    wanted = len(np.unique(split.fit, axis=0)) if split.is_class else FOLDS
    both = identities(whole, np.concatenate(columns), wanted)
    return control(split, both[: len(at)], both[len(at) :], rng)


def _commonest(split: Split) -> tuple[float, float]:
    """What is right without looking, on both halves: the commonest class, or the mean."""
    if not split.is_class:
        return 0.0, 0.0
    values, counts = np.unique(split.fit, return_counts=True)
    common = values[counts.argmax()]
    return float((split.test == common).mean()), float((split.fit == common).mean())


# ---- saying and drawing --------------------------------------------------------------------------


def _best(found: Sequence[Probed], variable: str, streams: bool) -> list[Probed]:
    """By cross-validation on the half fitted on, best first."""
    some = [o for o in found if o.variable == variable and _is_stream(o.place) == streams]
    return sorted(some, key=lambda one: -one.chosen)


def _is_stream(place: str) -> bool:
    return place == "embedding" or place.startswith("layer")


def _rows(
    subject: Subject, found: Sequence[Probed], sure: Mapping[int, bool], variable: str
) -> list[Row]:
    rng, rows = subject.rng(f"probes {variable}"), list[Row]()
    for streams in (False, True):
        for one in _best(found, variable, streams)[:TOP]:
            score = _interval(one, rng, 1 - subject.level)
            rows.append({
                "place": one.place, "position": one.position,
                "accuracy" if one.kind == "class" else "R2": Share(score),
                "control": f"{one.control:.0%}", "selectivity": f"{one.selectivity:+.0%}",
                "p": one.reading.p, "beyond chance": "yes" if sure[id(one)] else "no",
            })  # fmt: skip
    return rows


def _says(
    subject: Subject, splits: Mapping[str, Split | str], found: Sequence[Probed],
    sure: Mapping[int, bool],
) -> list[str]:  # fmt: skip
    """What could not be asked and what is nowhere first; then where each variable is read."""
    says = [f"Not probed: {n}: {s}." for n, s in splits.items() if isinstance(s, str)]
    usable = [name for name, split in splits.items() if isinstance(split, Split)]
    beyond = {n: [o for o in found if o.variable == n and sure[id(o)]] for n in usable}
    if nowhere := [n for n in usable if not beyond[n]]:
        says.append(f"Nowhere read beyond chance: {listed(nowhere)}.")
    for name in usable:
        if not beyond[name]:
            continue
        total = sum(o.variable == name for o in found)
        says.append(f"{name}: beyond chance at {len(beyond[name])} of {total} places.")
        for streams, word in ((False, "Among the circuit's nodes"), (True, "In the stream")):
            best = _best(found, name, streams)
            if best and sure[id(best[0])]:
                says.append(f"{word}, {name} is read best {_read(best[0], subject)}.")
            elif best:
                says.append(f"{word}, no place that was picked for {name} is beyond chance.")
        says += _first(found, sure, name)
    return says


def _read(one: Probed, subject: Subject) -> str:
    rng = subject.rng(f"probes {one.variable} {one.place}")
    score = _interval(one, rng, 1 - subject.level)
    what = "accuracy" if one.kind == "class" else "R2"
    return (
        f"from {one.place} at {one.position}: {what} {ranged(Share(score))}, control"
        f" {one.control:.0%}, selectivity {one.selectivity:+.0%}"
    )


def _interval(one: Probed, rng: np.random.Generator, level: float) -> Interval:
    """Of an accuracy or R2, over held-out prompts."""
    gain, base = one.reading.gain, one.reading.base
    if one.kind == "class":
        return binomial_interval(int(gain.sum()), len(gain), level)
    return ratio_of_means(gain, base, rng, level=level)


def _first(found: Sequence[Probed], sure: Mapping[int, bool], variable: str) -> list[str]:
    """The first stream of each position from which the variable is read on, as long as it goes."""
    since = dict[str, str]()
    for one in found:
        if one.variable == variable and _is_stream(one.place):
            if not sure[id(one)]:
                since.pop(one.position, None)
            else:
                since.setdefault(one.position, one.place)
    each = [
        f"{position} from {'the ' * (place == 'embedding')}{place} on"
        for position, place in since.items()
    ]
    return (
        [f"Once there, {variable} stays readable in the stream at {', '.join(each)}."]
        if each
        else []
    )


def _picture(
    found: Sequence[Probed], sure: Mapping[int, bool], variable: str, places: Sequence[str]
) -> Picture:
    """Places down, positions across; a dot where it is beyond chance."""
    some = {(o.place, o.position): o for o in found if o.variable == variable}
    across = list(dict.fromkeys(p for _, p in some))
    cells = [[some[place, p] for p in across] for place in places]
    return heat(
        np.array([[one.selectivity for one in row] for row in cells]),
        np.array([[sure[id(one)] for one in row] for row in cells]),
        places, across, sum(map(_is_stream, places)), "selectivity, 0 and below white",
        f"{variable}: selectivity of probes on the stream after each layer, and below the line on"
        " nodes' outputs; a dot where beyond chance",
    )  # fmt: skip
