"""A hand-built model: two yes-no variables, each in one direction of a head's output.

Prompt: v, w, two tokens of noise, and the end. Head 0 attends to all alike and its z, of eight
numbers, is a rotation of (v, w, six of noise); W_O turns it back, and writes v and w into the
logits of the four answers, 2 v + w. The noise is larger than v and w. Head 1 writes nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from acdc.ablation import RESAMPLE
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.model import Attention, Block, Model, Norm
from acdc.prompts import Prompts
from discovery.explanation.subject import Subject
from discovery.validation.bench import make_bench

F64, NONE, WIDTH = torch.float64, Norm("none"), 8
NOISE = 40  # tokens of it, after 4 answers, 2 values of v and 2 of w


def rotation() -> torch.Tensor:
    """[8, 8]: column 0 is v's direction in z, column 1 is w's."""
    rng = np.random.default_rng(7)
    return torch.tensor(np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0])


def model() -> Model:
    vocab, rng = 8 + NOISE, np.random.default_rng(3)
    codes = torch.zeros(vocab, WIDTH, dtype=F64)
    codes[4:6, 0] = torch.tensor([-5.0, 5.0], dtype=F64)
    codes[6:8, 1] = torch.tensor([-5.0, 5.0], dtype=F64)
    codes[8:, 2:] = torch.tensor(20 * rng.standard_normal((NOISE, WIDTH - 2)))
    out = torch.zeros(WIDTH, vocab, dtype=F64)
    out[0, :4] = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=F64)
    out[1, :4] = torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=F64)
    turn = rotation()
    value = torch.stack([codes @ turn.T, codes.flip(1)])
    write = torch.stack([turn @ out, torch.zeros_like(out)])
    zero = torch.zeros(2, vocab, WIDTH, dtype=F64)
    attention = Attention(
        W_Q=zero, W_K=zero, W_V=value, W_O=write, b_Q=None, b_K=None, b_V=None, b_O=None,
        q_norm=NONE, k_norm=NONE, scale=1.0,
    )  # fmt: skip
    return Model(
        name="two variables", n_heads=2, n_kv_heads=2, parallel=False, n_ctx=8, embed_scale=1.0,
        W_E=torch.eye(vocab, dtype=F64), W_pos=None,
        blocks=(Block(NONE, attention, None, None),), ln_final=NONE,
        W_U=torch.eye(vocab, dtype=F64), b_U=None,
    )  # fmt: skip


def prompts(n: int, seed: int) -> Prompts:
    """v and w drawn anew each; the corrupt prompt is another one's."""
    rng = np.random.default_rng(seed)
    v, w = rng.integers(0, 2, (2, n))
    noise = rng.integers(8, 8 + NOISE, (n, 3))
    tokens = torch.tensor(np.column_stack([4 + v, 6 + w, noise]))
    answers = 2 * v + w
    return Prompts(
        tokens, tokens.roll(1, 0), tuple((int(a),) for a in answers),
        tuple((int(3 - a),) for a in answers), 4,
        marks={"v": (0,) * n, "end": (4,) * n},
        features={"v": tuple(v.tolist()), "w": tuple(w.tolist())},
    )  # fmt: skip


def subject(n: int = 32, chunk: int = 64, **changed: Any) -> Subject:
    """Both heads are in the circuit."""
    one = changed.pop("model", None) or model()
    graph = one.graph()
    make = changed.pop("prompts", prompts)
    choose, test = (make_bench(one, graph, make(n, seed), RESAMPLE, chunk) for seed in (1, 2))
    return Subject(Circuit(graph, graph.legal), loaded(one), choose, test, {}, 0, 0.05)


def loaded(one: Model) -> LoadedModel:
    """Without a bridge, which no part needs."""
    out = LoadedModel.__new__(LoadedModel)
    for name, value in (("model", one), ("tokenizer", None), ("bridge", None)):
        object.__setattr__(out, name, value)
    return out
