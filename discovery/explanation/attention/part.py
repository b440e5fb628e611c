"""Why a head looks where it looks: its scores split over pairs of writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from acdc.data import floats
from acdc.forward import PatchedForward
from discovery.explanation.attention.drawing import Heat, draw_heats
from discovery.explanation.attention.gazes import (
    LOOKS,
    Gaze,
    Head,
    gazes_of,
    look_of,
    places_of,
    positions,
)
from discovery.explanation.attention.pairs import pair_scores, sources
from discovery.explanation.figures import signed
from discovery.explanation.section import Section, Table, drawn
from discovery.explanation.subject import Subject
from discovery.heads.attention import head_pattern
from discovery.settings.explanation import Attention
from discovery.statistics.intervals import Interval, mean_interval
from discovery.validation.bench import Bench

Floats = NDArray[np.float64]
WORTH = 0.2  # of the largest: what is worth a word
PIECE = 8  # prompts split at a time: what all writers add is held for each
CELLS = 6  # rows and columns of a picture


def check(subject: Subject, asked: Attention) -> str | None:
    """A circuit of MLPs alone has no heads."""
    return None if subject.head_nodes else "the circuit has no heads"


@dataclass(frozen=True)
class Part:
    """What one pair of writers, or one writer with whatever is on the other side, makes of it."""

    query_writer: str | None  # None: all of them
    key_writer: str | None
    score: Interval  # logits of attention, above the other keys


@dataclass(frozen=True)
class Split:
    """Why one head looks there, on prompts that neither was picked on."""

    gaze: Gaze
    attention: float  # from the query to the key, mean
    first: float  # from the query to the prompt's first token, where heads rest
    score: Interval  # of the key less that of the others, before the softmax
    pairs: tuple[Part, ...]  # the largest, as picked
    by_query: tuple[Part, ...]  # the writers that make most of it at the query
    by_key: tuple[Part, ...]  # at the key
    rest: float  # of the mean, in all other pairs
    n_pairs: int  # how many there are


def explain(subject: Subject, asked: Attention, told: Mapping[str, Section]) -> Section:
    """Pick where each head looks and the largest pairs on some prompts, measure on others."""
    choose, test, rng = subject.choose, subject.test, subject.rng("attention")
    also = [test.data]
    gazes, idle = gazes_of(choose, subject.head_nodes, asked.against, also)
    means = mean_pairs(choose, gazes)
    splits = measured(test, gazes, [largest(m, asked.pairs) for m in means], rng, subject.level)
    name = {h: subject.graph.writers[subject.graph.head(*h)] for h in subject.head_nodes}
    main = [i for i, g in enumerate(gazes) if i == 0 or gazes[i - 1].head != g.head]
    main.sort(key=lambda i: (-splits[i].attention, i))
    heats = [
        _heat(_title(splits[i], name), means[i], sources(subject.model, subject.graph, layer))
        for i in main[: asked.drawn]
        for layer in [gazes[i].head[0]]
    ]
    return Section(
        title="Why its heads look where they look",
        how=_how(asked, test, subject),
        says=says(splits, [name[h] for h in idle], name),
        tables=[Table(
            "what makes each head look there: mean score, logits of attention above the other"
            f" keys, with {1 - subject.level:.0%} interval over {test.n} prompts",
            [row for s in splits for row in _rows(s, name[s.gaze.head])],
        )],
        pictures=[drawn(
            draw_heats(heats),
            "The largest pairs: rows are what writers add to the query, columns what writers add"
            " to the key above the other keys; logits of attention, on the prompts they were"
            " picked on. Blue raises the attention, orange lowers it.",
        )] if heats else [],
        found={
            "heads": [{**asdict(s), "name": name[s.gaze.head]} for s in splits],
            "idle": [name[h] for h in idle],
        },
    )  # fmt: skip


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


@dataclass(frozen=True)
class Chosen:
    """Sources by index: pairs (query's, key's), and those of either side alone."""

    pairs: Sequence[tuple[int, int]]
    queries: Sequence[int]
    keys: Sequence[int]

    @property
    def names(self) -> list[tuple[int | None, int | None]]:
        """All of them as (query's, key's), None for all."""
        return [*self.pairs, *((u, None) for u in self.queries), *((None, w) for w in self.keys)]


def largest(mean: Floats, most: int) -> Chosen:
    """The largest means [source, source], of row sums and of column sums, unsigned."""

    def top(values: Floats) -> list[int]:
        return np.argsort(-np.abs(values), axis=None, kind="stable")[:most].tolist()

    pairs = [divmod(i, len(mean)) for i in top(mean)]
    return Chosen(pairs, top(mean.sum(1)), top(mean.sum(0)))


def measured(
    bench: Bench, gazes: Sequence[Gaze], chosen: Sequence[Chosen], rng: np.random.Generator,
    level: float = 0.05,
) -> list[Split]:  # fmt: skip
    """What was chosen of each gaze, and the whole of it, on these prompts."""
    values = dict[int, list[Floats]]()  # [prompts, whole then what was chosen]
    looked = dict[int, list[Floats]]()
    for i, piece, split in _splits(bench, gazes):
        sides = {True: split.sum(2), False: split.sum(1)}
        parts = [
            split[:, u, w] if u is not None and w is not None
            else sides[w is None][:, u if w is None else w]
            for u, w in chosen[i].names
        ]  # fmt: skip
        values.setdefault(i, []).append(floats(torch.stack([split.sum((1, 2)), *parts], 1)))
        looked.setdefault(i, []).append(_attention(piece, gazes[i]))
    found = list[Split]()
    for i, gaze in enumerate(gazes):
        names = sources(bench.data.model, bench.graph, gaze.head[0])
        whole, *each = np.concatenate(values[i]).T
        parts = [
            Part(None if u is None else names[u], None if w is None else names[w],
                 mean_interval(x, rng, level=1 - level))
            for (u, w), x in zip(chosen[i].names, each, strict=True)
        ]  # fmt: skip
        n, m = len(chosen[i].pairs), len(chosen[i].queries)
        score = mean_interval(whole, rng, level=1 - level)
        rest = float((whole - sum(each[:n])).mean())
        seen, first = np.concatenate(looked[i]).mean(0).tolist()
        found.append(Split(
            gaze, seen, first, score, tuple(parts[:n]), tuple(parts[n : n + m]),
            tuple(parts[n + m :]), rest, len(names) ** 2,
        ))  # fmt: skip
    return found


def _attention(forward: PatchedForward, gaze: Gaze) -> Floats:
    """[prompts, 2]: from the query to the key, and to the first token."""
    prompts, rows = forward.prompts, torch.arange(len(forward.prompts))
    pattern = head_pattern(forward, *gaze.head)[rows, positions(prompts)[gaze.query]]
    there = places_of(prompts, gaze.query, gaze.shortest)[gaze.key]
    return floats(torch.stack([pattern[rows, there], pattern[:, 0]], 1))


# ---- in words ------------------------------------------------------------------------------------


def says(splits: Sequence[Split], idle: Sequence[str], name: Mapping[Head, str]) -> list[str]:
    """Heads that look at nothing that has a name; then a sentence for each head's first gaze."""
    heads = {s.gaze.head: s for s in reversed(splits)}
    lines = list[str]()
    if idle:
        lines.append(
            f"{len(idle)} of {len(name)} heads spend less than {LOOKS:.0%} of their attention on"
            f" every named token, whichever they are asked at: {', '.join(idle)}"
        )
    spread = [name[h] for h in name if h in heads and _is_spread(heads[h])]
    if spread:
        lines.append(
            f"The scores of {', '.join(spread)} are spread over many pairs: those told are less"
            " than half of them"
        )
    return lines + [_sentence(heads[h], name[h]) for h in name if h in heads]


def _is_spread(split: Split) -> bool:
    return abs(split.rest) > abs(split.score.estimate or 0) / 2


def _sentence(split: Split, head: str) -> str:
    gaze = split.gaze
    rests = f", {split.first:.2f} on the first token" if split.first >= LOOKS else ""
    sentence = (
        f"{head} looks from {gaze.query} to {gaze.key} (attention {split.attention:.2f}{rests}):"
        f" {signed(split.score)} of score above {gaze.other or 'its other keys'}"
    )
    if not _is_spread(split):
        pairs = ", ".join(_pair(p, gaze) for p in _worth(split.pairs))
        n = split.n_pairs - len(split.pairs)
        return f"{sentence}, of which {pairs}; {split.rest:+.2f} is of the other {n} pairs"
    queries = ", ".join(f"{p.query_writer} {signed(p.score)}" for p in _worth(split.by_query))
    keys = ", ".join(f"{p.key_writer} {signed(p.score)}" for p in _worth(split.by_key))
    return (
        f"{sentence}, spread over {split.n_pairs} pairs; by writer at {gaze.query}: {queries}; by"
        f" writer at {gaze.key}: {keys}; the largest pair, {_pair(split.pairs[0], gaze)}"
    )


def _pair(part: Part, gaze: Gaze) -> str:
    return (
        f"{signed(part.score)} from {part.query_writer} at {gaze.query} with {part.key_writer} at"
        f" {gaze.key}"
    )


def _worth(parts: Sequence[Part]) -> list[Part]:
    """Those that are not small beside the largest."""
    sizes = [abs(p.score.estimate or 0) for p in parts]
    return [p for p, size in zip(parts, sizes, strict=True) if size >= WORTH * max(sizes)]


def _rows(split: Split, head: str) -> list[dict[str, object]]:
    gaze = split.gaze
    about = {
        "head": head, "from": gaze.query, "to": gaze.key, "above": gaze.other or "the others",
        "attention": f"{split.attention:.3f}",
    }  # fmt: skip
    whole = Part(None, None, split.score)
    return [
        {
            **(about if i == 0 else dict.fromkeys(about, "")),
            "written at the query by": p.query_writer or "all",
            "at the key by": p.key_writer or "all", "score": signed(p.score),
        }
        for i, p in enumerate([whole, *split.pairs, *split.by_query, *split.by_key])
    ]  # fmt: skip


def _title(split: Split, name: Mapping[Head, str]) -> str:
    gaze = split.gaze
    return f"{name[gaze.head]}: {gaze.query} to {gaze.key}, attention {split.attention:.2f}"


def _heat(title: str, mean: Floats, names: Sequence[str]) -> Heat:
    """Rows and columns with the largest cell, strongest first."""
    rows, columns = (np.argsort(-np.abs(mean).max(axis), kind="stable")[:CELLS] for axis in (1, 0))
    labels = [[names[int(i)] for i in some] for some in (rows, columns)]
    return Heat(title, labels[0], labels[1], mean[np.ix_(rows, columns)])


def _how(asked: Attention, test: Bench, subject: Subject) -> str:
    above = {
        "others": "the mean of all other keys up to the query (but the first token, where heads"
        " rest)",
        "mark": "the marked key with the next most attention (where there is none: of all others)",
    }[asked.against]
    return (
        "A score, before the softmax, is a sum over pairs: what each writer adds to the query times"
        " what each writer adds to the key (Elhage et al. 2021), through the norms (scales as in"
        " this very run), biases (`constant`) and positions; the pairs sum to the score exactly."
        f" Told is the score of the key less {above}: the contrast takes out what keys have in"
        " common, which the softmax does not see. Logits of attention; +1 multiplies the odds by e."
        f" From each marked token the named key with most attention (at least {LOOKS:.0%}), its"
        " largest pairs, and the writers that make most of it on either side were picked on"
        f" {subject.choose.n} prompts, and measured on {test.n} others. It says what makes the"
        " score, not what would happen without it: a writer also changes norms and other writers."
    )
