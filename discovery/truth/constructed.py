"""Circuits by construction: weights of a few lines each, exact in float64, nothing trained.

Attention is so sharp that what is not looked at weighs less than 1e-12. Models of two seeds differ
in where heads sit, in gains, in idle weights and in the rotation of the stream (building.py).
Truth depends on what cut edges carry: places and other constants are the same in the corrupt
prompts, and on their mean, so edges that carry nothing else are true under `zero` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acdc.model import Model
from acdc.prompts import Prompts
from discovery.truth.building import F64, Head, Neurons, Plan, build
from discovery.truth.case import SEARCHED, Case

SHARP = 30.0  # scores that decide
N = SEARCHED + 200  # prompts
SOURCE = "by construction, discovery/truth/constructed.py"
LAYERS, HEADS = 3, 3


@dataclass(frozen=True)
class Made:
    """A model, its prompts, and its true edges under each ablation, with the reason."""

    model: Model
    prompts: Prompts
    informed: tuple[str, ...]  # edges that carry what differs between clean and corrupt prompts
    constant: tuple[str, ...]  # ... and those that are needed, but say the same in both
    why: str
    why_zero: str


def cases(seed: int) -> Iterator[Case]:
    """Each circuit under each ablation, the model and its prompts drawn by seed."""
    for i, (name, make) in enumerate(CIRCUITS.items()):
        made = make(np.random.default_rng([seed, i]))
        graph = made.model.graph()
        for ablation in ("resample", "mean", "zero"):
            zero = ablation == "zero"
            edges = made.informed + made.constant * zero
            yield Case(
                name, made.model, graph, made.prompts, graph.mask(edges), ablation, "logit_diff",
                f"{made.why} {made.why_zero}" if zero else made.why, SOURCE,
            )  # fmt: skip


def eye(n: int, gain: float = 1.0) -> Tensor:
    """The identity, times a gain."""
    return gain * torch.eye(n, dtype=F64)


def at(n: int, *places: int) -> Tensor:
    """[n, 1]: one at some places."""
    out = torch.zeros(n, 1, dtype=F64)
    out[list(places)] = 1.0
    return out


def first(n: int, k: int) -> Tensor:
    """[n, k]: the first k of n, as they are."""
    return torch.eye(n, dtype=F64)[:, :k]


def some_head(rng: np.random.Generator, layer: int, taken: Sequence[str] = ()) -> tuple[int, int]:
    """A place in a layer that is not taken."""
    free = [h for h in range(HEADS) if f"a{layer}.h{h}" not in taken]
    return layer, free[int(rng.integers(len(free)))]


def called(head: tuple[int, int]) -> str:
    """Name of a head."""
    return f"a{head[0]}.h{head[1]}"


def tensor(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids."""
    return torch.tensor(rows, dtype=torch.long)


# ---- induction -----------------------------------------------------------------------------------


def induction(rng: np.random.Generator) -> Made:
    """... A B ... A -> B: a head that says who came before, one that looks for it, and a decoy."""
    words, ctx = 16, 8
    vocab, bos = words + 1, words
    before = some_head(rng, 0)
    finds = some_head(rng, int(rng.integers(1, LAYERS)))
    decoy = some_head(rng, finds[0], [called(finds)])
    shift = torch.diag(
        torch.ones(ctx - 1, dtype=F64), 1
    )  # a key at place i is what i + 1 looks for
    shift[0, 0] = 1.0
    asks = (("token", 0, first(vocab, words) * SHARP),), (("before", 0, eye(words)),)
    reads = (("token", 0, first(vocab, words)),)
    out = (("out", 0, eye(words, rng.uniform(1, 3))),)
    model = build(
        Plan(
            "induction", LAYERS, HEADS,
            parts={"token": vocab, "place": ctx, "before": words, "out": words},
            tokens={"token": eye(vocab)}, places={"place": eye(ctx)},
            heads={
                before: Head((("place", 0, eye(ctx, SHARP)),), (("place", 0, shift),), reads,
                             (("before", 0, eye(words)),)),
                finds: Head(*asks, reads, out),
                decoy: Head(*asks, reads),  # looks where the other looks, and says nothing
            },
            mlps={}, logits=(("out", 0, eye(words)),),
        ),
        rng,
    )  # fmt: skip
    rows, answers = [], []
    for _ in range(N):
        names = rng.permutation(words).tolist()
        sides = [names[: ctx - 2], names[ctx - 2 : 2 * (ctx - 2)]]
        where = int(rng.integers(0, ctx - 3))
        rows.append([[bos, *side, side[where]] for side in sides])
        answers.append([side[where + 1] for side in sides])
    b, i = called(before), called(finds)
    return Made(
        model, _prompts(rows, answers),
        (f"input->{b}<v>", f"{b}->{i}<k>", f"input->{i}<q>", f"input->{i}<v>", f"{i}->logits"),
        (f"input->{b}<q>", f"input->{b}<k>"),
        f"{b} writes the token before, {i} looks for the last token there and writes what it finds;"
        f" {called(decoy)} looks at the same and writes it nowhere.",
        "Without the places that it reads, the first head looks everywhere.",
    )  # fmt: skip


# ---- gates ---------------------------------------------------------------------------------------


def gate(rng: np.random.Generator, name: str) -> Made:
    """Two heads bring a bit each; an MLP says yes if one is set (or), or if both are (and)."""
    yes, no, filler, ctx = range(4), range(4, 8), range(8, 12), 5
    on, off, vocab = 12, 13, 14
    one = some_head(rng, 0)
    two = some_head(rng, int(rng.integers(0, 2)), [called(one)])
    layer = int(rng.integers(two[0], LAYERS))

    def brings(place: int, coordinate: int) -> Head:
        return Head(
            (("place", 0, at(ctx, ctx - 1) * SHARP),), (("place", 0, at(ctx, place)),),
            (("token", 0, at(vocab, *yes)),), (("bits", 0, eye(2)[coordinate : coordinate + 1]),),
        )  # fmt: skip

    gain = rng.uniform(1, 3)
    told = {"or": ([0.0, -1.0], [gain, -gain]), "and": ([-1.0, -9.0], [gain, 0.0])}[name]
    writes = torch.zeros(2, 1, dtype=F64)
    writes[:, 0] = torch.tensor(told[1], dtype=F64)
    neurons = Neurons(
        (("bits", 0, torch.ones(2, 2, dtype=F64)),), torch.tensor(told[0], dtype=F64),
        (("out", 0, writes),),
    )  # fmt: skip
    row = torch.zeros(1, vocab, dtype=F64)
    row[0, on] = 1.0
    model = build(
        Plan(
            name, LAYERS, HEADS, parts={"token": vocab, "place": ctx, "bits": 2, "out": 1},
            tokens={"token": eye(vocab)}, places={"place": eye(ctx)},
            heads={one: brings(1, 0), two: brings(3, 1)}, mlps={layer: neurons},
            logits=(("out", 0, row),),
        ),
        rng,
    )  # fmt: skip
    rows = []
    for _ in range(N):
        f = rng.choice(filler, size=3).tolist()
        sides = [rng.choice(bits, size=2).tolist() for bits in (yes, no)]
        rows.append([[f[0], a, f[1], b, f[2]] for a, b in sides])
    h, m = [called(one), called(two)], f"m{layer}"
    enough = "one of the two is enough, so the edges of a branch count only where the other is cut"
    both = "both are needed"
    return Made(
        model, _prompts(rows, [[on, off]] * N),
        (*(f"input->{x}<v>" for x in h), *(f"{x}->{m}" for x in h), f"{m}->logits"),
        tuple(f"input->{x}<{part}>" for x in h for part in "qk"),
        f"{h[0]} and {h[1]} each bring a bit, {m} is an {name.upper()} of them:"
        f" {enough if name == 'or' else both}.",
        "Without the places that they read, the heads look everywhere.",
    )  # fmt: skip


# ---- a name mover, an inhibitor and a backup -----------------------------------------------------


def mover(rng: np.random.Generator) -> Made:
    """Of two names the one that is not said again: inhibition by q-composition, and a backup."""
    names, ctx = 8, 6
    bos, end, filler = names, names + 1, range(names + 2, names + 6)
    vocab = names + 6
    inhibits, moves, backs = (some_head(rng, layer) for layer in range(3))
    named, again, last = (1, 2), 4, 5
    strong = 100.0  # the backup's: it has to choose between three

    def moving(sharp: float, heeds: float) -> Head:
        """Coordinates of q and k: is a name's place, which name, is the start."""
        return Head(
            q=(("place", 0, at(ctx, last) * sharp), ("avoid", 1, eye(names, sharp)),
               ("done", 0, at(1, 0) * -sharp * heeds)),
            k=(("place", 0, at(ctx, *named)), ("token", 1, -first(vocab, names)),
               ("place", 1 + names, at(ctx, 0))),
            v=(("token", 0, first(vocab, names)), ("place", names, at(ctx, *named))),
            o=(("out", 0, eye(names, gain)), *((("done", names, at(1, 0)),) if not heeds else ())),
            b_q={1 + names: sharp / 2} if heeds else {},
        )  # fmt: skip

    gain = rng.uniform(1, 3)
    inhibitor = Head(
        (("place", 0, at(ctx, last) * SHARP),), (("place", 0, at(ctx, again)),),
        (("token", 0, first(vocab, names)),), (("avoid", 0, eye(names)),),
    )  # fmt: skip
    model = build(
        Plan(
            "mover", LAYERS, HEADS,
            parts={"token": vocab, "place": ctx, "avoid": names, "done": 1, "out": names},
            tokens={"token": eye(vocab)}, places={"place": eye(ctx)},
            heads={inhibits: inhibitor, moves: moving(SHARP, 0.0), backs: moving(strong, 1.0)},
            mlps={}, logits=(("out", 0, eye(names)),),
        ),
        rng,
    )  # fmt: skip
    rows, answers = [], []
    for _ in range(N):
        a, b, c, d = rng.permutation(names)[:4].tolist()
        twice = [pair[int(rng.integers(2))] for pair in ((a, b), (c, d))]
        f = int(rng.choice(filler))
        rows.append([[bos, x, y, f, s, end] for (x, y), s in zip(((a, b), (c, d)), twice,
                                                                 strict=True)])  # fmt: skip
        answers.append([b if twice[0] == a else a, twice[0]])
    i, m, b = called(inhibits), called(moves), called(backs)
    return Made(
        model, _prompts(rows, answers),
        (f"input->{i}<v>", f"{i}->{m}<q>", f"input->{m}<k>", f"input->{m}<v>", f"{m}->logits"),
        (f"input->{i}<q>", f"input->{i}<k>", f"input->{m}<q>", f"{m}->{b}<q>", f"{i}->{b}<q>",
         f"input->{b}<q>", f"input->{b}<k>", f"input->{b}<v>", f"{b}->logits"),
        f"{i} writes the name that is said again, {m} looks at names but for that one, and writes"
        f" what it finds; {b} would do the same, but {m} says that it is done, in the corrupt"
        " prompts too.",
        f"Places count, and what is cut from {m} to {b} no longer says that it is done: {b} takes"
        " over, and whatever it reads counts too.",
    )  # fmt: skip


# ---- an MLP that knows a table -------------------------------------------------------------------


def lookup(rng: np.random.Generator) -> Made:
    """Of a subject and a relation their answer: a head brings the subject, a neuron a pair."""
    n, ctx = 5, 4
    subjects, relations, answers = (range(i * n, (i + 1) * n) for i in range(3))
    bos, filler = 3 * n, range(3 * n + 1, 3 * n + 4)
    vocab = 3 * n + 4
    brings = some_head(rng, int(rng.integers(0, 2)))
    layer = int(rng.integers(brings[0], LAYERS))
    known = rng.permutation(n)[(np.arange(n)[:, None] + np.arange(n)) % n]  # each once in a row
    subject, relation = torch.zeros(n, n * n, dtype=F64), torch.zeros(vocab, n * n, dtype=F64)
    told = torch.zeros(n * n, n, dtype=F64)
    for s in range(n):
        for r in range(n):
            neuron = s * n + r
            subject[s, neuron] = relation[relations[r], neuron] = 1.0
            told[neuron, known[s, r]] = 1.0
    row = torch.zeros(n, vocab, dtype=F64)
    row[range(n), list(answers)] = rng.uniform(1, 3)
    model = build(
        Plan(
            "lookup", LAYERS, HEADS,
            parts={"token": vocab, "place": ctx, "subject": n, "out": n},
            tokens={"token": eye(vocab)}, places={"place": eye(ctx)},
            heads={brings: Head(
                (("place", 0, at(ctx, ctx - 1) * SHARP),), (("place", 0, at(ctx, 1)),),
                (("token", 0, first(vocab, n)),), (("subject", 0, eye(n)),),
            )},
            mlps={layer: Neurons(
                (("subject", 0, subject), ("token", 0, relation)),
                -torch.ones(n * n, dtype=F64), (("out", 0, told),),
            )},
            logits=(("out", 0, row),),
        ),
        rng,
    )  # fmt: skip
    rows, right = [], []
    while len(rows) < N:
        (s, other), (r, second) = (rng.permutation(n)[:2].tolist() for _ in range(2))
        if known[s, r] != known[other, second]:
            f = int(rng.choice(filler))
            rows.append([[bos, subjects[a], f, relations[b]] for a, b in ((s, r), (other, second))])
            right.append([answers[int(known[a, b])] for a, b in ((s, r), (other, second))])
    h, m = called(brings), f"m{layer}"
    return Made(
        model, _prompts(rows, right),
        (f"input->{h}<v>", f"{h}->{m}", f"input->{m}", f"{m}->logits"),
        (f"input->{h}<q>", f"input->{h}<k>"),
        f"{h} brings the subject, the last token is the relation, and {m} has a neuron for each"
        " pair of them.",
        "Without the places that it reads, the head looks everywhere.",
    )  # fmt: skip


def _prompts(rows: Sequence[Sequence[Sequence[int]]], answers: Sequence[Sequence[int]]) -> Prompts:
    """Of (clean, corrupt) rows and (right, wrong) tokens."""
    clean, corrupt = (tensor([pair[i] for pair in rows]) for i in (0, 1))
    right, wrong = (tuple((int(pair[i]),) for pair in answers) for i in (0, 1))
    return Prompts(clean, corrupt, right, wrong, clean.shape[1] - 1)


CIRCUITS: Mapping[str, Callable[[np.random.Generator], Made]] = {
    "induction": induction,
    "or": lambda rng: gate(rng, "or"),
    "and": lambda rng: gate(rng, "and"),
    "mover": mover,
    "lookup": lookup,
}
