"""Role scores of attention heads; what they mean and suggest is in discovery/heads/rules.py.

Five scores look at random tokens, each sequence twice over, where only position and repetition can
guide attention (Olsson et al. 2022; thresholds as in ARENA). The mover's and the S-inhibition
head's are of the task's prompts (Wang et al. 2022, sections 3.1-3.3 and appendix). A role that is
suggested is a candidate: attention is no effect, and a head may serve in other ways besides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from acdc.forward import PatchedForward
from acdc.metrics import LOGIT_DIFF
from acdc.model import Model
from acdc.prompts import Prompts
from discovery.heads.rules import TOP

SEQUENCES, LENGTH = 10, 50  # random sequences, tokens of each before they come again
LEAST = 4  # of such tokens; with fewer uniform attention is above rules.ATTENDS
COPY_VOCABULARY = 20  # tokens; with fewer many are among the TOP by chance
FEWEST = 8  # values of which an interval is made; of fewer a bootstrap covers too little
MOST_CANDIDATES = 50  # tokens whose copying is tried

Sample = Float64[np.ndarray, " sample"]  # one value a sequence or prompt
Scores = dict[str, Sample]  # by name


# ---- position and repetition -------------------------------------------------------------------


def repeated_tokens(
    d_vocab: int, n_ctx: int, seed: int, bos: int | None = None, special: Sequence[int] = ()
) -> Int[Tensor, "sequence pos"]:
    """SEQUENCES rows of [bos] r_1..r_n r_1..r_n, the r of a row all different, none special.

    n is LENGTH or what the context and the vocabulary allow; there is no BOS if `bos` is None.
    """
    start = [] if bos is None else [bos]
    usable = np.setdiff1d(np.arange(d_vocab), [*special, *start])
    n = min(LENGTH, (n_ctx - len(start)) // 2, len(usable))
    rng = np.random.default_rng(seed)
    rows = [rng.choice(usable, n, replace=False).tolist() for _ in range(SEQUENCES)]
    return torch.tensor([start + row + row for row in rows], dtype=torch.long)


def diagonal_scores(pattern: Float[Tensor, "sequence pos pos"], n: int) -> Scores:
    """Mean attention along each role's diagonal, by sequence; the last 2n tokens are n twice.

    Duplicate and induction average over the second half only: A[t, t-n] and A[t, t-n+1].
    """

    def along(offset: int, last: int | None = None) -> Tensor:
        entries = pattern.diagonal(-offset, dim1=-2, dim2=-1)
        return (entries if last is None else entries[:, -last:]).mean(-1)

    found = {
        "previous token": along(1),
        "current token": along(0),
        "first token": pattern[:, :, 0].mean(-1),
        "duplicate token": along(n, n),
        "induction": along(n - 1, n),
    }
    return {name: values.double().cpu().numpy() for name, values in found.items()}


# ---- copying -----------------------------------------------------------------------------------


def candidate_tokens(prompts: Prompts) -> list[int]:
    """The tokens that the task names as right or wrong answers, each once; not all of very many."""
    named = (t for ids in zip(prompts.answers, prompts.wrong, strict=True) for i in ids for t in i)
    return list(dict.fromkeys(named))[:MOST_CANDIDATES]


def copying(model: Model, layer: int, head: int, tokens: Sequence[int]) -> tuple[float, float]:
    """Shares of tokens that the head's value-output path copies, and that it turns against.

    A token's state after embedding and the first MLP goes through the head as if attended to fully,
    then final norm and unembedding: is it among the TOP largest logits? Against: the same with
    the head's output negated (Wang et al. 2022, section 3.1 and appendix).
    """
    x = model.ln_embed(model.embed_scale * model.W_E[list(tokens)])
    if model.blocks[0].mlp is not None:
        x = x + model.mlp_out(0, x)
    value = model.project(layer, "v", model.kv_head(head), x, len(tokens))
    out = value @ model.blocks[layer].attn.W_O[head]
    own = torch.tensor(list(tokens), device=out.device)[:, None]
    shares = [
        (model.unembed(sign * out).topk(TOP, dim=-1).indices == own).any(-1).double().mean().item()
        for sign in (1, -1)
    ]
    return shares[0], shares[1]


# ---- the answer --------------------------------------------------------------------------------


def attributed_logits(
    model: Model, out: Float[Tensor, "*n d_model"], final: Float[Tensor, "*n d_model"]
) -> Float[Tensor, "*n vocab"]:
    """Direct logit attribution: what a writer's output adds to the logits, less its mean.

    The final norm's scale is frozen at the final stream; of a model that caps its logits they are
    those before the cap. A shift of all logits changes no probability, hence the mean over the
    vocabulary is taken off. Logits; additive over writers.
    """
    logits = model.ln_final.share(out, final) @ model.W_U
    return logits - logits.mean(-1, keepdim=True)


def places_of(
    tokens: Int[Tensor, "batch pos"], ids: Sequence[Sequence[int]]
) -> Bool[Tensor, "batch pos"]:
    """Where each prompt holds one of its own named tokens."""
    rows = zip(tokens, ids, strict=True)
    return torch.stack(
        [torch.isin(row, torch.tensor(list(own), device=row.device)) for row, own in rows]
    )


def answer_scores(
    prompts: Prompts, pattern: Float[Tensor, "batch pos pos"], added: Float[Tensor, "batch vocab"]
) -> Scores:
    """By prompt: attention from the answer position to right and wrong answers where the prompt
    holds them, and the direct effect (logits) on right ones less wrong ones, as far as named.
    """
    found = {}
    for name, ids in (("answer attention", prompts.answers), ("wrong attention", prompts.wrong)):
        there = places_of(prompts.clean, ids)
        if there.any(-1).all():
            found[name] = (pattern[:, -1] * there).sum(-1)
    if prompts.has_answers:
        found["direct effect"] = _mean_of(added, prompts.answers)
        if prompts.has_wrong:
            found["direct effect"] = found["direct effect"] - _mean_of(added, prompts.wrong)
    return {name: values.double().cpu().numpy() for name, values in found.items()}


def _mean_of(logits: Tensor, ids: Sequence[Sequence[int]]) -> Tensor:
    return torch.stack([row[list(i)].mean() for row, i in zip(logits, ids, strict=True)])


def moving(
    parts: Sequence[tuple[Prompts, Float[Tensor, "_ _ _"], Float[Tensor, "_ vocab"]]],
) -> float | None:
    """Correlation (Pearson) of attention to a named token with what is added to its logit.

    Of prompts, attention on them and logits, part by part. Points: every right or wrong answer that
    stands in its prompt. None with fewer than 3 points, or where either does not vary.
    """
    looks, writes = [], []
    for prompts, pattern, added in parts:
        for row, ids in enumerate(zip(prompts.answers, prompts.wrong, strict=True)):
            present = set(prompts.clean[row].tolist())
            for token in (t for i in ids for t in i if t in present):
                at = prompts.clean[row] == token
                looks.append(float(pattern[row, -1, at].sum()))
                writes.append(float(added[row, token]))
    if len(looks) < 3 or np.ptp(looks) == 0 or np.ptp(writes) == 0:
        return None
    return float(np.corrcoef(looks, writes)[0, 1])


# ---- S-inhibition ------------------------------------------------------------------------------


def inhibition_scores(
    forward: PatchedForward, layer: int, head: int, movers: Sequence[tuple[int, int]]
) -> Scores:
    """By prompt: what the head does to the movers (layer, head) through their queries.

    "logit diff through queries": how far the logit difference falls when the head's edges into the
    queries of all later movers are cut, all others kept. "movers turned to IO": how far a mover's
    attention from the end to IO less that to S1 falls when its own such edge is cut alone, mean
    over the movers. Both are positive for an S-inhibition head (Wang et al. 2022, section 3.2).
    Needs answers, wrong answers and the marks io and s1; empty if no mover comes after the head.
    """
    graph = forward.graph
    later = [(m, h) for m, h in movers if m > layer]
    if not later:
        return {}
    writer, mask = graph.head(layer, head), graph.legal.copy()
    turned = []
    for m, h in later:
        mask[writer, graph.reader(m, "q", h)] = False
        stream = forward.clean.streams[2 * m]
        change = forward.ablated[writer] - forward.clean.writers[writer]
        before = _toward_io(forward, m, h, stream)
        turned.append(before - _toward_io(forward, m, h, stream + change))
    metric = forward.bound(LOGIT_DIFF)
    whole = forward.run(graph.legal)  # the clean run, summed as the other one is
    fall = metric.of_logits(whole) - metric.of_logits(forward.run(mask))
    return {
        "logit diff through queries": fall.double().cpu().numpy(),
        "movers turned to IO": torch.stack(turned).mean(0).double().cpu().numpy(),
    }


def _toward_io(forward: PatchedForward, layer: int, head: int, queries: Tensor) -> Tensor:
    """[batch]: attention from the end to IO less that to S1, with queries from this stream."""
    model, prompts, n = forward.model, forward.prompts, forward.n_pos
    keys = forward.clean.streams[2 * layer]
    q = model.project(layer, "q", head, queries[:, -1:], n)
    k = model.project(layer, "k", model.kv_head(head), keys, n)
    row = model.pattern(layer, head, q, k)[:, 0]
    at = [torch.tensor(prompts.marks[mark], device=row.device)[:, None] for mark in ("io", "s1")]
    return (row.gather(1, at[0]) - row.gather(1, at[1]))[:, 0]
