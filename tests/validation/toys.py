"""Hand-built models whose circuits are known by enumeration."""

import torch

from acdc.model import MLP, Attention, Block, Model, Norm
from acdc.prompts import Prompts

NONE = Norm("none")
F64 = torch.float64


def or_gate() -> Model:
    """One layer, two heads; each writes 1 into dimension 0, the MLP an OR of them into dimension 1.

    The logit of token 1 is dimension 1, that of token 0 is 0, so the logit difference is 1 unless
    both heads are gone (ACDC's OR gate, under zero ablation).
    """
    zero = torch.zeros(2, 2, 1, dtype=F64)
    out = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]], dtype=F64)
    attention = Attention(
        W_Q=zero, W_K=zero, W_V=zero, W_O=out, b_Q=None, b_K=None,
        b_V=torch.ones(2, 1, dtype=F64), b_O=None, q_norm=NONE, k_norm=NONE, scale=1.0,
    )  # fmt: skip
    mlp = MLP(  # 1 - relu(1 - s), the 1 in front as the MLP's output bias
        W_in=torch.tensor([[-1.0], [0.0]], dtype=F64), b_in=torch.ones(1, dtype=F64), W_gate=None,
        b_gate=None, W_out=torch.tensor([[0.0, -1.0]], dtype=F64),
        b_out=torch.tensor([0.0, 1.0], dtype=F64), act=torch.relu,
    )  # fmt: skip
    return Model(
        name="or", n_heads=2, n_kv_heads=2, parallel=False, n_ctx=4, embed_scale=1.0,
        W_E=torch.zeros(2, 2, dtype=F64), W_pos=None,
        blocks=(Block(NONE, attention, NONE, mlp),), ln_final=NONE,
        W_U=torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=F64), b_U=None,
    )  # fmt: skip


def or_prompts(n: int = 8) -> Prompts:
    """Prompts of one length; the answer is token 1."""
    tokens = torch.zeros(n, 2, dtype=torch.long)
    return Prompts(tokens, tokens, ((1,),) * n, ((0,),) * n, 1)
