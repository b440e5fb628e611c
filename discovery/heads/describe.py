"""What heads.json holds: for each head of a circuit where it looks, what it writes, its scores.

All of it is of the clean run. Descriptive, but for the cut queries of `inhibition_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from acdc.ablation import RESAMPLE
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.data import Data, Floats
from acdc.forward import PatchedForward, layers, trace
from acdc.names import parse
from acdc.prompts import Prompts
from discovery.heads import roles, rules
from discovery.heads.attention import Seen, head_attention
from discovery.heads.roles import Scores
from discovery.statistics.intervals import mean_interval
from discovery.tasks.tokens import known_bos

SHOWN = 32  # prompts whose attention is kept, if there is room
WRITTEN = 4  # of them, those for which it is kept what a head writes
MOST_CELLS = 300_000  # numbers of attention kept in all
WRITES = 6  # tokens that a head writes for most, and as many that it writes against
RESAMPLES = 1000  # of an interval's bootstrap
IOI_MARKS = {"io", "s1", "s2", "end"}

Head = tuple[int, int]  # layer, head
Summary = dict[str, dict[str, float | None]]  # value and, where there is one, low and high


def describe_heads(circuit: Circuit, data: Data, loaded: LoadedModel, seed: int) -> dict[str, Any]:
    """The content of heads.json: what scores mean, the shown prompts, an entry for each head.

    Of each head: `attention`, mean between marked tokens; `scores` (95 % intervals over sequences
    or prompts, of 8 or more) and the `candidates` that they suggest, see discovery/heads/rules.py;
    `patterns` of the shown prompts, a row a query up to itself; `writes` at the answer and at
    marked positions of the first of them: tokens with logits, largest and smallest. In circuits of
    very many heads only those with the strongest edges have patterns.
    """
    heads, runs = _heads_of(circuit), Runs.of(data)
    scores = _all_scores(heads, runs, loaded, seed)
    n_prompts, drawn = _drawn(circuit, heads, data)
    shown = [runs.one(row) for row in range(n_prompts)]
    entries = {}
    for layer, head in heads:
        found = scores[layer, head]
        patterns = [own.clean.patterns[layer][0, head] for own in shown]
        entries[f"a{layer}.h{head}"] = {
            "attention": head_attention(runs.patterns(layer, head)),
            "scores": found,
            "candidates": rules.candidates(found),
            "patterns": [_triangle(p) for p in patterns] if (layer, head) in drawn else [],
            "writes": [_writes(own, loaded, layer, head) for own in shown[:WRITTEN]],
        }
    prompts = [_prompt(own.prompts, loaded) for own in shown]
    return {"about": rules.about(), "prompts": prompts, "heads": entries}


@dataclass(frozen=True)
class Runs:
    """The parts of some prompts, their clean runs with patterns."""

    data: Data
    parts: tuple[PatchedForward, ...]

    @classmethod
    def of(cls, data: Data) -> Runs:
        """Of all of the data: every pattern is held."""
        return cls(data, tuple(replace(f, clean=trace(f.model, f.prompts.clean)) for f in data))

    def one(self, row: int) -> PatchedForward:
        """The runs of one prompt."""
        part = next(f for f in self.parts if row in f.rows)
        at = part.rows.index(row)
        return part.piece(range(at, at + 1))

    def patterns(self, layer: int, head: int) -> list[Seen]:
        """Each part's prompts and the head's attention on them."""
        return [(f.prompts, f.clean.patterns[layer][:, head]) for f in self.parts]

    def scores(self, of: Callable[[PatchedForward], Scores]) -> Scores:
        """What a function says of each part, together."""
        return self.joined([of(f) for f in self.parts])

    def joined(self, parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
        """By prompt, in order: what all parts have. Parts may have different numbers of prompts."""
        return {
            name: self.data.join([own[name] for own in parts])
            for name in parts[0]
            if all(name in own for own in parts)
        }


def _heads_of(circuit: Circuit) -> list[Head]:
    names = map(parse, circuit.nodes)
    return [(name.layer, name.index) for name in names if name and name.kind == "head"]


# ---- scores ------------------------------------------------------------------------------------


def _all_scores(
    heads: list[Head], runs: Runs, loaded: LoadedModel, seed: int
) -> dict[Head, Summary]:
    """Two rounds: what movers are has to be known before what turns them."""
    rng, prompts = np.random.default_rng(seed), runs.data.prompts
    tokens = roles.candidate_tokens(prompts)
    repeated = on_repeated_tokens(heads, loaded, seed)
    found = {head: _one(head, repeated[head], runs, tokens, rng) for head in heads}
    movers = [head for head in heads if rules.is_mover(found[head])]
    if set(prompts.marks) >= IOI_MARKS and prompts.has_wrong and prompts.has_corrupt:
        for head in heads:
            end_to_s2 = runs.scores(
                lambda f, head=head: {"S2 attention": _mark_to_mark(f, *head, "end", "s2")}
            )
            found[head] |= _summary(end_to_s2, rng)
            if end_to_s2["S2 attention"].mean() > rules.ATTENDS:
                turning = runs.scores(
                    lambda f, head=head: roles.inhibition_scores(f.under(RESAMPLE), *head, movers)
                )
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
    at: Head, repeated: Scores, runs: Runs, tokens: list[int], rng: np.random.Generator
) -> Summary:
    """All scores of one head that need no other head."""
    layer, head = at
    model, added = runs.data.model, [_added(f, layer, head) for f in runs.parts]
    seen = [(*own, logits) for own, logits in zip(runs.patterns(layer, head), added, strict=True)]
    parts = [roles.answer_scores(*own) for own in seen]
    found = _summary(repeated | runs.joined(parts), rng)
    whole = {"attention and writing": roles.moving(seen)}
    if tokens and model.d_vocab >= roles.COPY_VOCABULARY:
        shares = roles.copying(model, layer, head, tokens)
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


def _drawn(circuit: Circuit, heads: list[Head], data: Data) -> tuple[int, frozenset[Head]]:
    """How many prompts are shown, and the heads whose patterns there is room for."""
    cells = data.n_pos * (data.n_pos + 1) // 2
    most = max(1, MOST_CELLS // (cells * max(1, len(heads))))
    n_prompts = min(SHOWN, most, len(data))
    strength = circuit.strength

    def strongest(head: Head) -> float:
        return strength[circuit.graph.head(*head)]

    room = max(1, MOST_CELLS // (cells * n_prompts))
    return n_prompts, frozenset(sorted(heads, key=strongest, reverse=True)[:room])


def _triangle(pattern: Float[Tensor, "pos pos"]) -> list[list[float]]:
    return [[round(v, 3) for v in row[: i + 1]] for i, row in enumerate(pattern.tolist())]


def _prompt(p: Prompts, loaded: LoadedModel) -> dict[str, Any]:
    """Of one prompt."""
    return {
        "tokens": [_text(loaded, token) for token in p.tokens(0)],
        "answers": [_text(loaded, token) for token in p.answers[0]],
        "wrong": [_text(loaded, token) for token in p.wrong[0][:20]],
        "marks": {name: at[0] for name, at in p.marks.items()},
    }


def _writes(
    forward: PatchedForward, loaded: LoadedModel, layer: int, head: int
) -> list[dict[str, Any]]:
    """By position of one prompt: the tokens whose logits the head raises and lowers most."""
    out = forward.clean.writers[forward.graph.head(layer, head)]
    marked = (at[0] for at in forward.prompts.marks.values())
    places = sorted(dict.fromkeys([*marked, forward.n_pos - 1]))
    final = forward.clean.streams[-1]
    added = roles.attributed_logits(forward.model, out[0, places], final[0, places])
    return [
        {"position": at, "for": _top(loaded, logits), "against": _top(loaded, -logits, -1)}
        for at, logits in zip(places, added, strict=True)
    ]


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
