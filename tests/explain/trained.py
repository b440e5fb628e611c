"""The embedded induction model, its prompts, the known circuit; a query composed by hand."""

from functools import cache

import torch
from toys import F64, NONE

from acdc.ablation import ABLATIONS
from acdc.bridge import from_bridge
from acdc.circuit import Circuit
from acdc.model import Attention, Block, Model
from discovery.explanation.subject import Subject
from discovery.models.induction import load_induction
from discovery.tasks.induction import build
from discovery.validation.bench import make_bench

LENGTH = 16
EDGES = (
    "input->a0.h3<v>", "a0.h3->a1.h3<k>", "input->a1.h3<q>", "input->a1.h3<v>", "a1.h3->logits",
    "a0.h1->a1.h3<v>",
)  # fmt: skip


@cache
def loaded():
    return from_bridge(load_induction(), None, "induction")


def bench(seed, n=16):
    model = loaded().model
    some = build(d_vocab=model.d_vocab, n=n, seed=seed, length=LENGTH)
    return make_bench(model, model.graph(), some, ABLATIONS["resample"], chunk=8)


def subject(edges=EDGES):
    graph = loaded().model.graph()
    circuit = Circuit(graph, graph.mask(edges))
    return Subject(circuit, loaded(), bench(1), bench(2), {}, seed=1, level=0.05)


def q_composition():
    """a0.h0 writes the mean of all tokens into dimensions 4-7; a1.h0's query reads those alone.

    Its key reads the token at each position: a1.h0 looks where the token is that a0.h0 told it of.
    """
    eye, none = torch.eye(4, dtype=F64), torch.zeros(4, 4, dtype=F64)
    low, high = torch.cat([eye, none]), torch.cat([none, eye])
    zero = torch.zeros(8, 4, dtype=F64)

    def heads(q, k, v, o):
        return Attention(
            W_Q=q[None], W_K=k[None], W_V=v[None], W_O=o[None], b_Q=None, b_K=None, b_V=None,
            b_O=None, q_norm=NONE, k_norm=NONE, scale=2.0,
        )  # fmt: skip

    first = heads(zero, zero, low, high.T)
    second = heads(high, low, zero, high.T)
    return Model(
        name="q", n_heads=1, n_kv_heads=1, parallel=False, n_ctx=16, embed_scale=1.0,
        W_E=low.T.contiguous(), W_pos=None,
        blocks=(Block(NONE, first, None, None), Block(NONE, second, None, None)), ln_final=NONE,
        W_U=low, b_U=None,
    )  # fmt: skip
