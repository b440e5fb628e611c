"""Induction on random tokens (Olsson et al. 2022, arXiv 2209.11895): ... A B ... A -> B.

    prefix (p tokens) | segment (s tokens) | the first j tokens of the segment again

The last token stood once before, s positions earlier, and the answer is the token that followed it
there. Apart from the repeat all tokens of a prompt differ. s and j are drawn anew for each prompt,
so no fixed offset solves the task. The corrupt prompt has fresh tokens in the first segment:
nothing repeats, and nothing else changes. Needs a vocabulary size only: knows no tokenizer, no
text and no model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.tasks.tokens import check_count

MIN_TOKENS = 6  # the shortest that allows two distances


@dataclass(frozen=True)
class _Pair:
    """One prompt as token ids, without BOS."""

    clean: list[int]
    corrupt: list[int]
    previous: int  # position of the first occurrence of the last token


def build(
    *,
    d_vocab: int,
    n: int,
    seed: int,
    length: int,
    bos_id: int | None = None,
    prepend_bos: bool = False,
    low: int = 0,
) -> Prompts:
    """n prompts [n, length], BOS counted; the first m of them do not depend on n.

    Tokens are drawn from low..d_vocab-1 without bos_id. The answer is (token at "match",), the
    wrong one (the corrupt prompt's token there,). Marks, BOS counted: "previous" (where the last
    token stood first), "match" = previous + 1, and "end".
    Raises InputError: n < 1, a length too short for two distances, a vocabulary too small for
    different tokens, or prepend_bos without a bos_id.
    """
    check_count(n)
    bos = _bos(bos_id, prepend_bos)
    tokens = length - len(bos)
    if tokens < MIN_TOKENS:
        raise InputError(f"task.length={length}: at least {MIN_TOKENS + len(bos)} tokens needed")
    pool = [token for token in range(max(low, 0), d_vocab) if token != bos_id]
    needed = tokens - 1 + tokens // 2  # the longest segment, written twice
    if len(pool) < needed:
        raise InputError(
            f"task.length={length} takes up to {needed} different tokens, but the vocabulary has"
            f" only {len(pool)} to draw from; use a smaller task.length"
        )
    rng = random.Random(seed)
    pairs = [_draw_pair(pool, tokens, rng) for _ in range(n)]
    return _collect(pairs, bos)


def _bos(bos_id: int | None, prepend_bos: bool) -> list[int]:
    if not prepend_bos:
        return []
    if bos_id is None:
        raise InputError(
            "task.prepend_bos=true, but this model names no beginning-of-text token; use"
            " task.prepend_bos=false"
        )
    return [bos_id]


def _draw_pair(pool: list[int], tokens: int, rng: random.Random) -> _Pair:
    s = rng.randint(2, tokens // 2)
    j = rng.randint(1, s - 1)
    p = tokens - s - j  # at least 1, because j < s <= tokens / 2
    drawn = rng.sample(pool, p + 2 * s)
    prefix, segment, fresh = drawn[:p], drawn[p : p + s], drawn[p + s :]
    repeat = segment[:j]
    return _Pair(prefix + segment + repeat, prefix + fresh + repeat, p + j - 1)


def _collect(pairs: list[_Pair], bos: list[int]) -> Prompts:
    previous = tuple(pair.previous + len(bos) for pair in pairs)
    end = len(bos) + len(pairs[0].clean) - 1
    return Prompts(
        clean=torch.tensor([bos + pair.clean for pair in pairs]),
        corrupt=torch.tensor([bos + pair.corrupt for pair in pairs]),
        answers=tuple((pair.clean[pair.previous + 1],) for pair in pairs),
        wrong=tuple((pair.corrupt[pair.previous + 1],) for pair in pairs),
        answer_position=end,
        marks={
            "previous": previous,
            "match": tuple(position + 1 for position in previous),
            "end": (end,) * len(pairs),
        },
        features={
            "previous token": tuple(pair.clean[-1] for pair in pairs),
            "match position": tuple(position + 1 for position in previous),
        },
    )
