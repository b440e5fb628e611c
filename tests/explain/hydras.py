"""Hand-built models in which who takes over is known: prompts are BOS, name, name, filler, END.

The answer is the first name, the wrong one the second. Dimensions of the stream: the names, flags
of the four places, what movers write for those after them, and the names again as they are read
out. A mover at END looks at the first name and writes it out, and `done`. A backup would look there
too, but `done` takes its query away (q-composition), and it looks at BOS, which holds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import families
import numpy as np
import torch

from acdc.ablation import ABLATIONS
from acdc.circuit import Circuit
from acdc.model import Attention, Block, Model, Norm
from acdc.prompts import Prompts
from discovery.explanation.subject import Subject
from discovery.validation.bench import Bench, make_bench

F64, NONE = torch.float64, Norm("none")
NAMES, FILLERS = 8, 6
BOS, END = NAMES, NAMES + 1
VOCAB = NAMES + 2 + FILLERS
FIRST, SECOND, START, LAST, DONE, AVOID, ALIVE = range(NAMES, NAMES + 7)
OUT = NAMES + 7  # first of the names as they are read out
SPARE = OUT + NAMES
WIDTH, HEAD = SPARE + 6, NAMES + 3
SHARP = 12.0  # scores that decide


@dataclass
class Head:
    """One head's weights, all nothing at first."""

    W_Q: torch.Tensor = field(default_factory=lambda: torch.zeros(WIDTH, HEAD, dtype=F64))
    W_K: torch.Tensor = field(default_factory=lambda: torch.zeros(WIDTH, HEAD, dtype=F64))
    W_V: torch.Tensor = field(default_factory=lambda: torch.zeros(WIDTH, HEAD, dtype=F64))
    W_O: torch.Tensor = field(default_factory=lambda: torch.zeros(HEAD, WIDTH, dtype=F64))
    b_Q: torch.Tensor = field(default_factory=lambda: torch.zeros(HEAD, dtype=F64))
    b_V: torch.Tensor = field(default_factory=lambda: torch.zeros(HEAD, dtype=F64))


def mover(
    gain: float, done: float = 0.0, heeds: float = 0.0, both: bool = False, watches: int = DONE,
    wants: float = 1.0,
) -> Head:  # fmt: skip
    """Writes the first name by `gain` and `done`; `heeds` > 0: not where that much is done.

    `both`: looks at either name, but for what `avoid` tells it. Its query is `wants` at END less
    `heeds` times the dimension that it `watches`.
    """
    head = Head()
    head.W_Q[LAST, 0], head.W_Q[watches, 0] = SHARP * wants, -SHARP * heeds
    head.W_K[FIRST, 0] = 1.0
    head.b_Q[1], head.W_K[START, 1] = SHARP / 2, 1.0  # else to BOS
    if both:
        head.W_K[SECOND, 0] = 1.0
        head.W_Q[AVOID, 2], head.W_K[SECOND, 2] = SHARP, -1.0
    for name in range(NAMES):
        head.W_V[name, name], head.W_O[name, OUT + name] = 1.0, gain
    head.W_V[FIRST, NAMES], head.W_V[SECOND, NAMES] = 1.0, 1.0
    head.W_O[NAMES, DONE] = done
    return head


def inhibitor() -> Head:
    """Looks at the second name from END and writes `avoid`."""
    head = Head()
    head.W_Q[LAST, 0], head.W_K[SECOND, 0] = SHARP, 1.0
    head.W_V[SECOND, 0], head.W_O[0, AVOID] = 1.0, 1.0
    return head


def noise(rng: np.random.Generator, scale: float) -> Head:
    """Reads and writes everything a little."""

    def some(*shape: int) -> torch.Tensor:
        return torch.as_tensor(rng.normal(size=shape))

    return Head(
        some(WIDTH, HEAD), some(WIDTH, HEAD), some(WIDTH, HEAD), scale * some(HEAD, WIDTH) / HEAD,
        some(HEAD),
    )  # fmt: skip


def build(layers: list[list[Head]]) -> Model:
    """An attention-only model without norms; every layer has as many heads."""
    embed = torch.zeros(VOCAB, WIDTH, dtype=F64)
    embed[range(NAMES), range(NAMES)] = 1.0
    embed[range(NAMES + 2, VOCAB), range(SPARE, SPARE + FILLERS)] = 1.0
    places = torch.zeros(5, WIDTH, dtype=F64)
    places[[0, 1, 2, 4], [START, FIRST, SECOND, LAST]] = 1.0
    unembed = torch.zeros(WIDTH, VOCAB, dtype=F64)
    unembed[range(OUT, OUT + NAMES), range(NAMES)] = 1.0
    blocks = []
    for heads in layers:
        w = {n: torch.stack([getattr(h, n) for h in heads]) for n in Head.__dataclass_fields__}
        attention = Attention(**w, b_K=None, b_O=None, q_norm=NONE, k_norm=NONE, scale=1.0)
        blocks.append(Block(NONE, attention, None, None))
    return Model(
        name="hydra", n_heads=len(layers[0]), n_kv_heads=len(layers[0]), parallel=False, n_ctx=5,
        embed_scale=1.0, W_E=embed, W_pos=places, blocks=tuple(blocks),
        ln_final=NONE, W_U=unembed, b_U=None,
    )  # fmt: skip


def prompts(n: int, seed: int, wrong: bool = True) -> Prompts:
    """Two different names in each, and two others in the corrupt ones."""
    rng = np.random.default_rng(seed)
    names = np.array([rng.permutation(NAMES)[:4] for _ in range(n)])
    filler = rng.integers(NAMES + 2, VOCAB, size=n)
    rows = [
        torch.as_tensor(np.stack([np.full(n, BOS), a, b, filler, np.full(n, END)], 1))
        for a, b in ((names[:, 0], names[:, 1]), (names[:, 2], names[:, 3]))
    ]
    right, other = (tuple((int(t),) for t in names[:, i]) for i in (0, 1))
    return Prompts(rows[0], rows[1], right, other if wrong else ((),) * n, 4)


def benches(model: Model, n: int = 24, wrong: bool = True) -> tuple[Bench, Bench]:
    """To choose on and to test on; what is out puts out nothing."""
    made = [
        make_bench(model, model.graph(), prompts(n, seed, wrong), ABLATIONS["zero"], chunk=16)
        for seed in (1, 2)
    ]
    return made[0], made[1]


def subject(model: Model, heads: dict[str, list[str]], wrong: bool = True) -> Subject:
    """A circuit of these heads (name -> roles), all edges among them."""
    choose, test = benches(model, wrong=wrong)
    graph = model.graph()
    keep = np.array([w == "input" or w in heads for w in graph.writers])
    read = np.array([not r.nodes or bool(keep[list(r.nodes)].any()) for r in graph.readers])
    mask = graph.legal & keep[:, None] & read[None]
    entries = {name: {"candidates": roles} for name, roles in heads.items()}
    loaded = replace(families.load("gpt2"), model=model)  # its tokenizer and bridge are not asked
    return Subject(
        Circuit(graph, mask, mask.astype(float)), loaded, choose, test, entries, seed=0, level=0.05,
    )  # fmt: skip


# ---- models -------------------------------------------------------------------------------------


def hydra() -> Model:
    """a0.h0 inhibits, a1.h0 moves what it leaves, a2.h0 is its backup, a3.h0 writes against.

    a3.h1 fires when anything of layer 1 is gone, the random head a1.h1, a1.h2 too: an alarm, no
    backup. a3.h2 always moves.
    """
    quiet = [noise(np.random.default_rng(i), 0.02) for i in range(9)]
    for head in quiet[:9]:
        head.W_O[:, [DONE, AVOID, ALIVE]] = 0
    primary = mover(1.0, done=1.0, both=True)
    layer1 = [primary, *quiet[2:4]]
    for head in layer1:  # each says that it is there, whatever it sees
        head.W_V[:, NAMES + 1], head.b_V[NAMES + 1], head.W_O[NAMES + 1] = 0.0, 1.0, 0.0
        head.W_O[NAMES + 1, ALIVE] = 1.0
    alarm = mover(0.5, watches=ALIVE, heeds=1.0, wants=3.0)
    return build([
        [inhibitor(), *quiet[:2]], layer1, [mover(0.8, heeds=1.0), *quiet[4:6]],
        [mover(-0.3), alarm, mover(0.4)],
    ])  # fmt: skip


HYDRA = {
    "a0.h0": ["S-inhibition"], "a1.h0": ["mover"], "a2.h0": [], "a3.h0": ["negative mover"],
    "a3.h1": [], "a3.h2": ["mover"],
}  # fmt: skip


def random_hydra(seed: int) -> tuple[Model, list[int], list[int]]:
    """A model with its primaries and backups (writers); all other heads do other things.

    Noise is at most so loud that what is planted still works: at 0.3 backups begin to fire always.
    """
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.05, 0.25)
    n_layers, n_heads = 4, 6
    heads = [[noise(rng, level) for _ in range(n_heads)] for _ in range(n_layers)]
    primaries, late = int(rng.integers(1, 3)), rng.permutation(2 * n_heads).tolist()
    heads[0][0] = inhibitor()
    for i in range(primaries):
        heads[1][i] = mover(rng.uniform(0.8, 1.5), done=1 / primaries, both=True)
    n_backups, n_movers = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    backups = list[int]()
    for i in range(n_backups + n_movers + 1):
        layer, head = divmod(late[i], n_heads)
        if i < n_backups:
            made = mover(rng.uniform(0.2, 1.0), heeds=rng.uniform(0.8, 1.5))
            backups.append((layer + 2, head))
        else:
            made = mover(rng.uniform(0.3, 1.0) * (1 if i < n_backups + n_movers else -1))
        heads[layer + 2][head] = made
    model = build(heads)
    graph = model.graph()
    return model, [graph.head(1, i) for i in range(primaries)], [graph.head(*b) for b in backups]
