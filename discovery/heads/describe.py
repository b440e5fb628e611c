"""What heads.json holds: for each head of a circuit where it looks, what it writes, its scores.

All of it is of the clean run. Descriptive, but for the cut queries of `inhibition_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from acdc.ablation import RESAMPLE
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.forward import PatchedForward, layers, trace
from acdc.names import parse
from discovery.heads import roles, rules
from discovery.heads.attention import head_attention
from discovery.heads.roles import Scores
from discovery.statistics.intervals import mean_interval
from discovery.tasks.tokens import known_bos

SHOWN = 4  # prompts whose attention is kept
MOST_CELLS = 300_000  # numbers of attention kept in all
WRITES = 6  # tokens that a head writes for most, and as many that it writes against
RESAMPLES = 1000  # of an interval's bootstrap
IOI_MARKS = {"io", "s1", "s2", "end"}

Head = tuple[int, int]  # layer, head
Summary = dict[str, dict[str, float | None]]  # value and, where there is one, low and high


def describe_heads(
    circuit: Circuit, forward: PatchedForward, loaded: LoadedModel, seed: int
) -> dict[str, Any]:
    """The content of heads.json: what scores mean, the shown prompts, an entry for each head.

    Of each head: `attention`, mean between marked tokens; `scores` (95 % intervals over sequences
    or prompts, of 8 or more) and the `candidates` that they suggest, see discovery/heads/rules.py;
    `patterns` of the shown prompts, a row a query up to itself; `writes` at the answer and at
    marked positions of the shown prompts: tokens with logits, largest and smallest. In circuits of
    very many heads only those with the strongest edges have patterns.
    """
    heads = _heads_of(circuit)
    forward = replace(forward, clean=trace(forward.model, forward.prompts.clean))  # with patterns
    scores = _all_scores(heads, forward, loaded, seed)
    n_prompts, drawn = _drawn(circuit, heads, forward)
    entries = {}
    for layer, head in heads:
        pattern, found = forward.clean.patterns[layer][:, head], scores[layer, head]
        shown = pattern[:n_prompts] if (layer, head) in drawn else []
        entries[f"a{layer}.h{head}"] = {
            "attention": head_attention(pattern, forward.prompts),
            "scores": found,
            "candidates": rules.candidates(found),
            "patterns": [_triangle(p) for p in shown],
            "writes": _writes(forward, loaded, layer, head, n_prompts),
        }
    prompts = _prompts(forward, loaded, n_prompts)
    return {"about": rules.about(), "prompts": prompts, "heads": entries}


def _heads_of(circuit: Circuit) -> list[Head]:
    names = map(parse, circuit.nodes)
    return [(name.layer, name.index) for name in names if name and name.kind == "head"]


# ---- scores ------------------------------------------------------------------------------------


def _all_scores(
    heads: list[Head], forward: PatchedForward, loaded: LoadedModel, seed: int
) -> dict[Head, Summary]:
    """Two rounds: what movers are has to be known before what turns them."""
    rng = np.random.default_rng(seed)
    tokens = roles.candidate_tokens(forward.prompts)
    repeated = on_repeated_tokens(heads, loaded, seed)
    found = {head: _one(head, repeated[head], forward, tokens, rng) for head in heads}
    movers = [head for head in heads if rules.is_mover(found[head])]
    prompts = forward.prompts
    if set(prompts.marks) >= IOI_MARKS and prompts.has_wrong and prompts.has_corrupt:
        for head in heads:
            end_to_s2 = _mark_to_mark(forward, *head, "end", "s2")
            found[head] |= _summary({"S2 attention": end_to_s2}, rng)
            if end_to_s2.mean() > rules.ATTENDS:
                turning = roles.inhibition_scores(forward.under(RESAMPLE), *head, movers)
                found[head] |= _summary(turning, rng)
    return found


def on_repeated_tokens(heads: Sequence[Head], loaded: LoadedModel, seed: int) -> dict[Head, Scores]:
    """Scores of attention on random tokens that come twice (roles.diagonal_scores), by sequence.

    None of them where the context has no room for LEAST tokens twice.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    bos = known_bos(tokenizer, model.d_vocab)
    special = getattr(tokenizer, "all_special_ids", ())
    tokens = roles.repeated_tokens(model.d_vocab, model.n_ctx, seed, bos, special)
    n = (tokens.shape[1] - (bos is not None)) // 2
    if n < roles.LEAST:
        return {head: {} for head in heads}
    found = {}
    for number, layer in enumerate(layers(model, tokens.to(model.device))):
        for head in (h for at, h in heads if at == number):
            found[number, head] = roles.diagonal_scores(layer.pattern[:, head], n)
    return found


def _one(
    at: Head, repeated: Scores, forward: PatchedForward, tokens: list[int], rng: np.random.Generator
) -> Summary:
    """All scores of one head that need no other head."""
    layer, head = at
    pattern, added = forward.clean.patterns[layer][:, head], _added(forward, layer, head)
    found = _summary(repeated | roles.answer_scores(forward.prompts, pattern, added), rng)
    whole = {"attention and writing": roles.moving(forward.prompts, pattern, added)}
    if tokens and forward.model.d_vocab >= roles.COPY_VOCABULARY:
        shares = roles.copying(forward.model, layer, head, tokens)
        whole["copying"], whole["anti-copying"] = shares
    for name, value in whole.items():
        if value is not None:
            found[name] = {"value": round(value, 4)}
    return found


def _added(forward: PatchedForward, layer: int, head: int) -> Float[Tensor, "batch vocab"]:
    """What the head adds to the logits at the answer."""
    out = forward.clean.writers[forward.graph.head(layer, head)][:, -1]
    return roles.attributed_logits(forward.model, out, forward.clean.streams[-1][:, -1])


def _mark_to_mark(
    forward: PatchedForward, layer: int, head: int, start: str, end: str
) -> roles.Sample:
    marks, pattern = forward.prompts.marks, forward.clean.patterns[layer][:, head]
    rows = torch.arange(len(pattern))
    return pattern[rows, list(marks[start]), list(marks[end])].double().cpu().numpy()


def _summary(scores: Scores, rng: np.random.Generator) -> Summary:
    """Means, with bootstrap intervals where there are samples enough."""
    found: Summary = {}
    for name, values in scores.items():
        found[name] = {"value": round(float(values.mean()), 4)}
        if len(values) >= roles.FEWEST:
            interval = mean_interval(values, rng, resamples=RESAMPLES)
            found[name] |= {k: _rounded(getattr(interval, k)) for k in ("low", "high")}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)


# ---- patterns and writing ----------------------------------------------------------------------


def _drawn(
    circuit: Circuit, heads: list[Head], forward: PatchedForward
) -> tuple[int, frozenset[Head]]:
    """How many prompts are shown, and the heads whose patterns there is room for."""
    cells = forward.n_pos * (forward.n_pos + 1) // 2
    most = max(1, MOST_CELLS // (cells * max(1, len(heads))))
    n_prompts = min(SHOWN, most, len(forward.prompts))
    strength = circuit.strength

    def strongest(head: Head) -> float:
        return strength[circuit.graph.head(*head)]

    room = max(1, MOST_CELLS // (cells * n_prompts))
    return n_prompts, frozenset(sorted(heads, key=strongest, reverse=True)[:room])


def _triangle(pattern: Float[Tensor, "pos pos"]) -> list[list[float]]:
    return [[round(v, 3) for v in row[: i + 1]] for i, row in enumerate(pattern.tolist())]


def _prompts(forward: PatchedForward, loaded: LoadedModel, n: int) -> list[dict[str, Any]]:
    p = forward.prompts
    return [
        {
            "tokens": [_text(loaded, token) for token in p.clean[row].tolist()],
            "answers": [_text(loaded, token) for token in p.answers[row]],
            "wrong": [_text(loaded, token) for token in p.wrong[row][:20]],
            "marks": {name: at[row] for name, at in p.marks.items()},
        }
        for row in range(n)
    ]


def _writes(
    forward: PatchedForward, loaded: LoadedModel, layer: int, head: int, n_prompts: int
) -> list[list[dict[str, Any]]]:
    """By shown prompt and position: the tokens whose logits the head raises and lowers most."""
    out = forward.clean.writers[forward.graph.head(layer, head)]
    final = forward.clean.streams[-1]
    found = []
    for row in range(n_prompts):
        marked = (at[row] for at in forward.prompts.marks.values())
        places = sorted(dict.fromkeys([*marked, forward.n_pos - 1]))
        added = roles.attributed_logits(forward.model, out[row, places], final[row, places])
        found.append(
            [
                {"position": at, "for": _top(loaded, logits), "against": _top(loaded, -logits, -1)}
                for at, logits in zip(places, added, strict=True)
            ]
        )
    return found


def _top(loaded: LoadedModel, logits: Float[Tensor, " vocab"], sign: int = 1) -> list[Any]:
    values, ids = logits.topk(min(WRITES, len(logits)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [[_text(loaded, token), round(sign * value, 3)] for token, value in pairs]


def _text(loaded: LoadedModel, token: int) -> str:
    """As text; part of a letter has only the name that the vocabulary gives it."""
    if loaded.tokenizer is None:
        return str(token)
    text = loaded.tokenizer.decode([token])
    return loaded.tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else text
