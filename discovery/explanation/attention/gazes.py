"""Where heads look: from each token that has a name, the named token that gets most attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acdc.data import Data
from acdc.prompts import Prompts
from discovery.explanation.attention.pairs import Look
from discovery.heads.attention import head_pattern
from discovery.validation.bench import Bench

Head = tuple[int, int]
LOOKS = 0.1  # of its attention, on average: from there on a head looks at a key
GAZES = 2  # told of each head
BEFORE = "the token before"


@dataclass(frozen=True)
class Gaze:
    """A head, the token that it is asked at, and the one that it looks at most from there."""

    head: Head
    query: str
    key: str
    other: str | None  # what the key is compared with; None: its other keys, on average
    shortest: int | None = None  # tokens of the shortest prompt, where there are several lengths


def positions(prompts: Prompts) -> dict[str, Tensor]:
    """Named queries [batch]: the marked tokens, or the answer's position where none is marked."""
    marks = {name: torch.tensor(at) for name, at in prompts.marks.items()}
    return marks or {"end": torch.full((len(prompts),), prompts.answer_position)}


def places_of(prompts: Prompts, query: str, shortest: int | None = None) -> dict[str, Tensor]:
    """All that has a name [batch], after the query too: marked tokens, and the one before it.

    Where nothing is marked, every position but the first; where the prompts are some of several
    lengths, of which `shortest` is the least, so many from the end (-1).
    """
    at = positions(prompts)
    here, width = at[query], prompts.clean.shape[1]
    if not prompts.marks:
        first = width - 1 if shortest is None else shortest - 1
        named = {i if shortest is None else i - width: i for i in range(width - first, width - 1)}
        at |= {f"position {name}": torch.full_like(here, i) for name, i in named.items()}
    return {**at, BEFORE: here - 1}


def keys_of(some: Sequence[Prompts], query: str, shortest: int | None = None) -> list[str]:
    """Names of the keys that a query may look at: in each of these prompts not after it.

    To be asked of all prompts at once, those of one length together: a few may allow more. The
    first token is not "before".
    """

    def allowed(prompts: Prompts, name: str) -> bool:
        here, there = positions(prompts)[query], places_of(prompts, query, shortest)[name]
        return bool((there > 0).all() if name == BEFORE else (there <= here).all())

    names = places_of(some[0], query, shortest)
    return [name for name in names if all(allowed(p, name) for p in some)]


def gazes_of(
    bench: Bench, heads: Sequence[Head], against: str = "others", also: Sequence[Data] = ()
) -> tuple[list[Gaze], list[Head]]:
    """Of each head and named query, the key with the most attention, if it has LOOKS of it.

    At most GAZES a head, the answer's position first, then by attention. Heads that look at no
    named key apart: most of those rest on the first token, which is none unless it is marked.
    A key is one that `also` has too, the prompts that gazes are measured on.
    """
    every = [data.prompts_of(i) for data in (bench.data, *also) for i in range(data.n_parts)]
    queries, shortest = positions(bench.data.prompts), shortest_of(bench.data, *also)
    keys = {query: keys_of(every, query, shortest) for query in queries}
    found, idle = list[Gaze](), list[Head]()
    for head in heads:
        seen = dict[tuple[str, str], float]()
        for forward in bench.data:
            pattern = head_pattern(forward, *head)
            rows = torch.arange(len(pattern))
            for query, here in positions(forward.prompts).items():
                places = places_of(forward.prompts, query, shortest)
                for key in keys[query]:
                    mean = float(pattern[rows, here, places[key]].sum()) / bench.n
                    seen[query, key] = seen.get((query, key), 0.0) + mean
        own = [
            g
            for q in dict.fromkeys(q for q, _ in seen)
            if (g := _gaze(head, q, seen, against, shortest))
        ]
        last = {q for q, at in positions(bench.data.prompts).items()
                if bool((at == bench.data.n_pos - 1).all())}  # fmt: skip
        own.sort(key=lambda g: (g.query not in last, -seen[g.query, g.key]))
        found += own[:GAZES]
        idle += [] if own else [head]
    return found, idle


def _gaze(
    head: Head, query: str, seen: Mapping[tuple[str, str], float], against: str,
    shortest: int | None,
) -> Gaze | None:  # fmt: skip
    """The first of equals: a mark comes before "the token before"."""
    own = [(key, mean) for (q, key), mean in seen.items() if q == query]
    (key, most), *others = sorted(own, key=lambda pair: -pair[1])
    if most < LOOKS:
        return None
    other = next((k for k, _ in others if k != BEFORE), None)
    return Gaze(head, query, key, other if against == "mark" else None, shortest)


def shortest_of(*some: Data) -> int | None:
    """Tokens of the shortest prompt, if the prompts have several lengths; see `places_of`."""
    lengths = [length for data in some for length in data.prompts.lengths]
    return None if min(lengths) == max(lengths) else min(lengths)


def look_of(prompts: Prompts, gaze: Gaze, like: Tensor) -> Look:
    """As positions and weights: 1 on the key, -1 on the other or spread over the others.

    The first token is among these only where there are no others.
    """
    query, keys = positions(prompts)[gaze.query], places_of(prompts, gaze.query, gaze.shortest)
    rows, every = torch.arange(len(query)), torch.arange(prompts.clean.shape[1])
    if gaze.other is None:
        weights = (every <= query[:, None]).double()
        weights[rows, keys[gaze.key]] = 0
        weights[:, 0] *= weights[:, 1:].sum(1) == 0
        weights = -weights / weights.sum(1, keepdim=True).clamp(min=1)
    else:
        weights = torch.zeros(len(query), len(every), dtype=torch.float64)
        weights[rows, keys[gaze.other]] -= 1
    weights[rows, keys[gaze.key]] += 1
    return Look(query.to(like.device), weights.to(like))
