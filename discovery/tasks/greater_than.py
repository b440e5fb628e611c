"""Greater-than (Hanna et al. 2023, arXiv 2305.00586).

"The war lasted from the year 1732 to the year 17" must be continued with a later year. How numbers
are split decides the question, and it is asked of the tokenizer in context, on the whole prompt:
"two-digit" (GPT-2: "17" "32"): right are the two-digit tokens > 32, wrong those <= 32;
"single-digit" (SmolLM2, Llama 2: "1" "7" "3" "2"): the next token is the decade digit, right are
digits > 3, wrong digits < 3; the decade 3 itself is neither, for the last digit then decides.
The corrupt prompt starts in the year 1701, after which nearly every year is right. Knows no model
and no metric.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.tasks.tokens import (
    check_count,
    encode,
    encode_prompt,
    keep_common_length,
    require_tokenizer,
    single_token,
)

NOUNS = tuple(
    """abduction accord affair agreement appraisal assignment assault attack attempt battle
    campaign case ceremony challenge chaos clash collaboration coma competition confrontation
    conflict consultation contract conversation crisis debate decline demonstration development
    disagreement discussion dispute domination drought effort election employment engagement
    evaluation event exchange exercise expedition exploration fight flood friendship growth
    insurgency investigation invasion journey kidnapping marriage mission operation partnership
    pilgrimage plot practice process program project quest raid reforms reign relationship
    retaliation riot rise romance rule sanctions shift siege slaughter struggle study test testing
    therapy tour treaty trial trip unemployment voyage war work""".split()  # noqa: SIM905
)
CORRUPT_YEAR = "01"


@dataclass(frozen=True)
class _Mode:
    """How this tokenizer writes the last two digits of a year."""

    name: str  # "two-digit" or "single-digit"
    width: int  # digits in one token
    ids: dict[str, int]  # digits of one token -> its id
    years: range  # start years that leave room on both sides

    def tokens(self, year: str) -> list[int | None]:
        """Ids of the two digits, in one token or two; None for what is no token."""
        return [self.ids.get(year[i : i + self.width]) for i in range(0, 2, self.width)]

    def answers(self, year: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(right, wrong) ids after a start year."""
        start = int(year[: self.width])
        limit = start if self.width == 2 else start - 1  # the start's own decade is open
        right = tuple(token for digits, token in self.ids.items() if int(digits) > start)
        wrong = tuple(token for digits, token in self.ids.items() if int(digits) <= limit)
        return right, wrong


@dataclass(frozen=True)
class _Pair:
    """One prompt as token ids."""

    clean: list[int]
    corrupt: list[int]
    year: str  # last two digits of the start year
    at: int  # position of the first token of these digits


def build(
    tokenizer: PreTrainedTokenizerBase | None, *, n: int, seed: int, prepend_bos: bool
) -> Prompts:
    """n different prompts [n, pos] of one length; the first m of them do not depend on n.

    Marks: "yy" (first token of the start year's last two digits) and "end", BOS counted; the note
    "mode" tells how numbers are split. Raises InputError: no tokenizer, no BOS to prepend, n < 1
    or more than there are different prompts, or numbers split in neither of the two ways.
    """
    tokenizer = require_tokenizer(tokenizer, "greater_than")
    check_count(n)
    nouns, dropped = keep_common_length(NOUNS, lambda noun: len(encode(tokenizer, _head(noun))))
    mode = _find_mode(tokenizer, nouns[0])
    rng = random.Random(seed)
    candidates = [(noun, f"{year:02d}") for noun in nouns for year in mode.years]
    rng.shuffle(candidates)
    pairs: list[_Pair] = []
    for noun, year in candidates:
        pair = _encode_pair(tokenizer, noun, year, mode, prepend_bos)
        if pair is not None:
            pairs.append(pair)
        if len(pairs) == n:
            return _collect(pairs, mode, dropped)
    raise InputError(
        f"task.n={n}: this tokenizer allows only {len(pairs)} different greater_than prompts"
    )


def _head(noun: str) -> str:
    return f"The {noun} lasted from the year 17"


def _prompt(noun: str, year: str) -> str:
    return f"{_head(noun)}{year} to the year 17"


def _modes(tokenizer: PreTrainedTokenizerBase, noun: str) -> Iterator[_Mode]:
    yield _Mode("two-digit", 2, _number_ids(tokenizer, noun, 2), range(2, 99))
    yield _Mode("single-digit", 1, _number_ids(tokenizer, noun, 1), range(20, 80))


def _find_mode(tokenizer: PreTrainedTokenizerBase, noun: str) -> _Mode:
    """The first mode in which some prompt is split as the mode says; InputError if none is."""
    for mode in _modes(tokenizer, noun):
        years = (f"{year:02d}" for year in mode.years)
        if any(_encode_pair(tokenizer, noun, year, mode, False) for year in years):
            return mode
    raise InputError(
        "task=greater_than needs a tokenizer that writes 1732 as 17 + 32 or digit by digit, and"
        " this one does neither; use task=pairs with your own prompts"
    )


def _number_ids(tokenizer: PreTrainedTokenizerBase, noun: str, width: int) -> dict[str, int]:
    """Digits -> id of the one token that adds them to a prompt, for all numbers of this width.

    Where the tokenizer joins "17" with the digits ("1776" may be one token), the digits alone are
    asked: the model can still answer with them.
    """
    context = _prompt(noun, CORRUPT_YEAR)
    before = encode(tokenizer, context)
    ids: dict[str, int] = {}
    for number in range(10**width):
        digits = f"{number:0{width}d}"
        after = encode(tokenizer, context + digits)
        alone = single_token(tokenizer, digits)
        if after[:-1] == before and after[-1] != tokenizer.unk_token_id:
            ids[digits] = after[-1]
        elif alone is not None:
            ids[digits] = alone
    return ids


def _encode_pair(
    tokenizer: PreTrainedTokenizerBase, noun: str, year: str, mode: _Mode, prepend_bos: bool
) -> _Pair | None:
    """The pair; None unless both start years split as the mode says and nothing else moves."""
    head = encode_prompt(tokenizer, _head(noun), prepend_bos)
    clean = encode_prompt(tokenizer, _prompt(noun, year), prepend_bos)
    corrupt = encode_prompt(tokenizer, _prompt(noun, CORRUPT_YEAR), prepend_bos)
    tail = clean[len(head) + len(mode.tokens(year)) :]
    fits = clean == head + mode.tokens(year) + tail
    fits = fits and corrupt == head + mode.tokens(CORRUPT_YEAR) + tail
    return _Pair(clean, corrupt, year, len(head)) if fits else None


def _collect(pairs: list[_Pair], mode: _Mode, nouns_dropped: int) -> Prompts:
    right, wrong = zip(*(mode.answers(pair.year) for pair in pairs), strict=True)
    end = len(pairs[0].clean) - 1
    return Prompts(
        clean=torch.tensor([pair.clean for pair in pairs]),
        corrupt=torch.tensor([pair.corrupt for pair in pairs]),
        answers=right,
        wrong=wrong,
        answer_position=end,
        marks={"yy": tuple(pair.at for pair in pairs), "end": (end,) * len(pairs)},
        notes={"mode": mode.name, "nouns_dropped": nouns_dropped},
    )
