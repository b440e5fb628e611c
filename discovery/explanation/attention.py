"""Why a head looks where it looks: its scores split over pairs of writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from acdc.data import floats
from acdc.forward import PatchedForward
from acdc.prompts import Prompts
from discovery.explanation.attention_drawing import Heat, draw_heats
from discovery.explanation.score_pairs import Look, attention, pair_scores, sources
from discovery.explanation.section import Section, Table, drawn
from discovery.explanation.settings import Attention
from discovery.explanation.subject import Subject
from discovery.statistics.intervals import Interval, mean_interval
from discovery.validation.bench import Bench

Floats = NDArray[np.float64]
Head = tuple[int, int]
LOOKS = 0.1  # of its attention, on average: from there on a head looks at a key
PIECE = 8  # prompts split at a time: what all writers add is held for each
CELLS = 6  # rows and columns of a picture


def check(subject: Subject, asked: Attention) -> str | None:
    """A circuit of MLPs alone has no heads."""
    return None if subject.head_nodes else "the circuit has no heads"


@dataclass(frozen=True)
class Gaze:
    """A head, the token that it is asked at, and the one that it looks at most from there."""

    head: Head
    query: str
    key: str
    other: str | None  # what the key is compared with; None: all other keys, on average


@dataclass(frozen=True)
class Pair:
    """What one writer's part of the query makes of another's part of the key."""

    query_writer: str
    key_writer: str
    score: Interval  # logits of attention, above the other keys


@dataclass(frozen=True)
class Split:
    """Why one head looks there, on prompts that neither was picked on."""

    gaze: Gaze
    attention: float  # from the query to the key, mean
    score: Interval  # of the key less that of the others, before the softmax
    pairs: tuple[Pair, ...]  # the largest, as picked
    rest: float  # of the mean, in all other pairs
    n_pairs: int  # how many there are


def explain(subject: Subject, asked: Attention, told: Mapping[str, Section]) -> Section:
    """Pick where each head looks and the largest pairs on some prompts, measure on others."""
    choose, test = subject.choose, subject.test
    gazes, idle = gazes_of(choose, subject.head_nodes, asked.against)
    means = mean_pairs(choose, gazes)
    chosen = [largest(mean, asked.pairs) for mean in means]
    splits = measured(test, gazes, chosen, subject.rng("attention"), subject.level)
    name = {h: subject.graph.writers[subject.graph.head(*h)] for h in subject.head_nodes}
    heats = [
        _heat(f"{name[g.head]}: {g.query} to {g.key}, attention {s.attention:.2f}", m,
              sources(subject.model, subject.graph, g.head[0]))
        for g, m, s in list(zip(gazes, means, splits, strict=True))
    ]  # fmt: skip
    order = sorted(range(len(splits)), key=lambda i: (-splits[i].attention, i))
    shown = [heats[i] for i in order[: asked.drawn]]
    return Section(
        title="Why its heads look where they look",
        how=_how(asked, test, subject),
        says=says(splits, [name[h] for h in idle], name),
        tables=[Table(
            "pairs of writers: mean score, logits of attention above the other keys, with"
            f" {1 - subject.level:.0%} interval over {test.n} prompts",
            [row for s in splits for row in _rows(s, name[s.gaze.head])],
        )],
        pictures=[drawn(
            draw_heats(shown),
            "The largest pairs: rows are what writers add to the query, columns what writers add"
            " to the key above the other keys; logits of attention, on the prompts they were"
            " picked on. Blue raises the attention, orange lowers it.",
        )] if shown else [],
        found={
            "heads": [{**asdict(s), "name": name[s.gaze.head]} for s in splits],
            "idle": [name[h] for h in idle],
        },
    )  # fmt: skip


# ---- where heads look --------------------------------------------------------------------------


def positions(prompts: Prompts) -> dict[str, Tensor]:
    """Named queries [batch]: the marked tokens, or the answer's position where none is marked."""
    marks = {name: torch.tensor(at) for name, at in prompts.marks.items()}
    return marks or {"end": torch.full((len(prompts),), prompts.answer_position)}


def keys_of(prompts: Prompts, query: str) -> dict[str, Tensor]:
    """Named keys [batch] that a query may look at: marked ones, and some that need no name."""
    at = positions(prompts)
    here = at[query]
    keys = {name: there for name, there in at.items() if bool((there <= here).all())}
    if not prompts.marks:
        keys |= {f"position {i}": torch.full_like(here, i) for i in range(int(here.min()))}
    if bool((here > 0).all()):
        keys["the token before"] = here - 1
        keys["the first token"] = torch.zeros_like(here)
    return keys


def gazes_of(
    bench: Bench, heads: Sequence[Head], against: str = "others"
) -> tuple[list[Gaze], list[Head]]:
    """Of each head and named query, the key with the most attention, if it has LOOKS of it.

    Heads by layer, queries in the order of their attention; heads that look at no named key apart.
    """
    found, idle = list[Gaze](), list[Head]()
    for head in heads:
        seen = dict[tuple[str, str], float]()
        for forward in bench.data:
            pattern = attention(forward, *head)
            rows = torch.arange(len(pattern))
            for query, here in positions(forward.prompts).items():
                for key, there in keys_of(forward.prompts, query).items():
                    mean = float(pattern[rows, here, there].sum()) / bench.n
                    seen[query, key] = seen.get((query, key), 0.0) + mean
        own = [g for q in dict.fromkeys(q for q, _ in seen) if (g := _gaze(head, q, seen, against))]
        found += sorted(own, key=lambda g: -seen[g.query, g.key])
        idle += [] if own else [head]
    return found, idle


def _gaze(
    head: Head, query: str, seen: Mapping[tuple[str, str], float], against: str
) -> Gaze | None:
    """The first of equals: a mark comes before "the token before"."""
    own = [(key, mean) for (q, key), mean in seen.items() if q == query]
    (key, most), *others = sorted(own, key=lambda pair: -pair[1])
    if most < LOOKS or not others:  # the first token sees itself alone
        return None
    other = next((k for k, _ in others if not k.startswith("the ")), None)
    return Gaze(head, query, key, other if against == "mark" else None)


def look_of(prompts: Prompts, gaze: Gaze, like: Tensor) -> Look:
    """As positions and weights: 1 on the key, -1 on the other or spread over all others."""
    query, keys = positions(prompts)[gaze.query], keys_of(prompts, gaze.query)
    rows, n_pos = torch.arange(len(query)), prompts.clean.shape[1]
    if gaze.other is None:
        weights = (torch.arange(n_pos) <= query[:, None]).double()
        weights[rows, keys[gaze.key]] = 0
        weights = -weights / weights.sum(1, keepdim=True).clamp(min=1)
    else:
        weights = torch.zeros(len(query), n_pos, dtype=torch.float64)
        weights[rows, keys[gaze.other]] -= 1
    weights[rows, keys[gaze.key]] += 1
    return Look(query.to(like.device), weights.to(like))


# ---- splitting -----------------------------------------------------------------------------------


def _splits(bench: Bench, gazes: Sequence[Gaze]) -> Any:
    """(index of the gaze, forward, [batch, source, source]) a few prompts at a time."""
    layers = [list(g) for _, g in groupby(range(len(gazes)), key=lambda i: gazes[i].head[0])]
    pieces = [(f, p) for f in range(bench.data.n_parts) for p in layers]
    for part, some in tqdm(pieces, unit="layer", leave=False, dynamic_ncols=True):
        for piece in bench.data[part].pieces(PIECE):
            like = piece.clean.logits
            looks = [(gazes[i].head[1], look_of(piece.prompts, gazes[i], like)) for i in some]
            layer = gazes[some[0]].head[0]
            yield from zip(some, [piece] * len(some), pair_scores(piece, layer, looks), strict=True)


def mean_pairs(bench: Bench, gazes: Sequence[Gaze]) -> list[Floats]:
    """Of each gaze: the mean over prompts of its score's pairs [source, source]."""
    means = dict[int, Floats]()
    for i, _, split in _splits(bench, gazes):
        means[i] = means.get(i, 0.0) + floats(split).sum(0) / bench.n
    return [means[i] for i in range(len(gazes))]


def largest(mean: Floats, most: int) -> list[tuple[int, int]]:
    """(query's, key's source) of the largest means, unsigned."""
    order = np.argsort(-np.abs(mean), axis=None, kind="stable")[:most]
    return [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, mean.shape), strict=True)]


def measured(
    bench: Bench, gazes: Sequence[Gaze], chosen: Sequence[Sequence[tuple[int, int]]],
    rng: np.random.Generator, level: float = 0.05,
) -> list[Split]:  # fmt: skip
    """The chosen pairs and the whole of each gaze, on these prompts."""
    values = dict[int, list[Floats]]()  # [prompts, whole then pairs]
    looked = dict[int, list[Floats]]()
    for i, piece, split in _splits(bench, gazes):
        pairs = [split.sum((1, 2)), *(split[:, u, w] for u, w in chosen[i])]
        values.setdefault(i, []).append(floats(torch.stack(pairs, 1)))
        looked.setdefault(i, []).append(_attention(piece, gazes[i]))
    found = list[Split]()
    for i, gaze in enumerate(gazes):
        names = sources(bench.data.model, bench.graph, gaze.head[0])
        whole, *each = np.concatenate(values[i]).T
        pairs = tuple(
            Pair(names[u], names[w], mean_interval(x, rng, level=1 - level))
            for (u, w), x in zip(chosen[i], each, strict=True)
        )
        score = mean_interval(whole, rng, level=1 - level)
        rest = float((whole - sum(each)).mean())
        seen = float(np.concatenate(looked[i]).mean())
        found.append(Split(gaze, seen, score, pairs, rest, len(names) ** 2))
    return found


def _attention(forward: PatchedForward, gaze: Gaze) -> Floats:
    """[prompts]: from the query to the key."""
    prompts, rows = forward.prompts, torch.arange(len(forward.prompts))
    there = keys_of(prompts, gaze.query)[gaze.key]
    return floats(attention(forward, *gaze.head)[rows, positions(prompts)[gaze.query], there])


# ---- in words ------------------------------------------------------------------------------------


def says(splits: Sequence[Split], idle: Sequence[str], name: Mapping[Head, str]) -> list[str]:
    """Heads that look at nothing that has a name; then each head's strongest gaze."""
    heads = {s.gaze.head: s for s in sorted(splits, key=lambda s: s.attention)}
    lines = []
    if idle:
        lines.append(
            f"{len(idle)} of {len(name)} heads spend less than {LOOKS:.0%} of their attention on"
            f" every named token, whichever they are asked at: {', '.join(idle)}"
        )
    spread = [name[h] for h, s in heads.items() if abs(s.rest) > abs(s.score.estimate or 0) / 2]
    if spread:
        spread.sort(key=lambda n: list(name.values()).index(n))
        lines.append(
            f"Of {', '.join(spread)} the pairs told are less than half of the score: the rest is"
            " spread over many"
        )
    return lines + [_sentence(heads[h], name[h]) for h in name if h in heads]


def _sentence(split: Split, head: str) -> str:
    gaze = split.gaze
    first, *others = [
        f"{_figure(p.score)} is {_side(p.query_writer, gaze.query)} with"
        f" {_side(p.key_writer, gaze.key)}"
        for p in split.pairs
        if abs(p.score.estimate or 0) >= 0.05 * abs(split.pairs[0].score.estimate or 0)
    ]
    return (
        f"{head} looks from {gaze.query} to {gaze.key} (attention {split.attention:.2f}):"
        f" {_figure(split.score)} of score above {gaze.other or 'its other keys'}, of which"
        f" {', '.join([first, *others])}; {split.rest:+.2f} is in the other"
        f" {split.n_pairs - len(split.pairs)} pairs"
    )


def _side(writer: str, place: str) -> str:
    return "a constant" if writer == "constant" else f"{writer} at {place}"


def _figure(interval: Interval) -> str:
    return f"{interval.estimate:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


def _rows(split: Split, head: str) -> list[dict[str, object]]:
    gaze = split.gaze
    first = {
        "head": head, "from": gaze.query, "to": gaze.key, "above": gaze.other or "the others",
        "attention": f"{split.attention:.3f}", "written at the query by": "all",
        "at the key by": "all", "score": _figure(split.score),
    }  # fmt: skip
    blank = {**first, "head": "", "from": "", "to": "", "above": "", "attention": ""}
    pairs = [
        {**blank, "written at the query by": p.query_writer, "at the key by": p.key_writer,
         "score": _figure(p.score)}
        for p in split.pairs
    ]  # fmt: skip
    return [first, *pairs]


def _heat(title: str, mean: Floats, names: Sequence[str]) -> Heat:
    """Rows and columns with the largest cell, strongest first."""
    rows = np.argsort(-np.abs(mean).max(1), kind="stable")[:CELLS].tolist()
    columns = np.argsort(-np.abs(mean).max(0), kind="stable")[:CELLS].tolist()
    return Heat(
        title, [names[i] for i in rows], [names[i] for i in columns], mean[np.ix_(rows, columns)]
    )


def _how(asked: Attention, test: Bench, subject: Subject) -> str:
    above = {
        "others": "the mean of all other keys up to the query",
        "mark": "the marked key that gets the next most attention (where there is none: the mean of"
        " all others)",
    }[asked.against]
    return (
        "A score, before the softmax, is a sum over pairs: what each writer adds to the query times"
        " what each writer adds to the key (Elhage et al. 2021), through the norms (scales as in"
        " this very run), biases (`constant`) and positions; the pairs sum to the score exactly."
        f" Told is the score of the key less {above}: the contrast takes out what keys have in"
        " common, which the softmax does not see. Logits of attention; +1 multiplies the odds by e."
        f" From each marked token the key with most attention (at least {LOOKS:.0%}) and its"
        f" largest pairs were picked on {subject.choose.n} prompts, and measured on {test.n}"
        " others. It says what makes the score, not what would happen without it: a writer also"
        " changes norms and other writers."
    )
