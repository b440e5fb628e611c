"""Corrupt prompts made of the other lines, where that can be checked.

    given       the lines' own
    other       another line's prompt
    swap:NAME   the tokens of a mark replaced by those of another line's mark

The other line has as many tokens (of the mark, for a swap), which differ, and other answers where
lines name them, so that the corrupt prompt would be answered otherwise. What a swap makes of a text
must be split into these very tokens. A line without such a partner is dropped, and counted. The
partner is the first that fits in an order drawn by seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from discovery.tasks.lines import Line
from discovery.tasks.tokens import encode

GIVEN, OTHER, SWAP = "given", "other", "swap:"


def check_corrupt(field: str, corrupt: str) -> None:
    """Raise InputError unless it says where corrupt prompts come from."""
    swaps = corrupt.startswith(SWAP) and corrupt != SWAP
    if corrupt not in (GIVEN, OTHER) and not swaps:
        raise InputError(f"{field}={corrupt!r}: allowed are {GIVEN}, {OTHER} and {SWAP}MARK")


def with_counterfactuals(
    lines: Sequence[Line], corrupt: str, tokenizer: PreTrainedTokenizerBase | None, seed: int
) -> tuple[list[Line], dict[str, int | str]]:
    """The lines that have a partner, with corrupt prompts; and how many were dropped, by reason.

    InputError for lines that have corrupt prompts of their own, an unknown mark, and if no line
    has a partner.
    """
    if lines[0].corrupt is not None:
        raise InputError(f"task.corrupt={corrupt}: the lines have corrupt prompts; use given")
    mark = corrupt.removeprefix(SWAP) if corrupt.startswith(SWAP) else None
    if mark is not None and mark not in lines[0].marks:
        known = ", ".join(lines[0].marks) or "none"
        raise InputError(f"task.corrupt={corrupt}: the lines have no mark {mark!r}; marks: {known}")
    rng, made, lonely, resplit = random.Random(seed), list[Line](), 0, 0
    order = rng.sample(range(len(lines)), len(lines))
    for row, place in sorted(zip(order, range(len(order)), strict=True)):
        others = (lines[i] for i in (*order[place + 1 :], *order[:place]))
        found = list(_candidates(lines[row], others, mark, tokenizer))
        if found and found[-1] is not None:
            made.append(replace(lines[row], corrupt=found[-1]))
        elif found:
            resplit += 1
        else:
            lonely += 1
    if not made:
        raise InputError(
            f"task.corrupt={corrupt}: no line has a partner of as many tokens with other answers"
            f" ({lonely} have none, {resplit} would be split into other tokens)"
        )
    dropped: dict[str, int | str] = {"corrupt": corrupt}
    dropped |= {"lines_without_partner": lonely} if lonely else {}
    return made, dropped | ({"lines_split_otherwise": resplit} if resplit else {})


def _candidates(
    line: Line, others: Iterable[Line], mark: str | None, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[list[int] | None]:
    """From each partner: None where its text would be split otherwise; ends with the first good."""
    for other in others:
        same = line.forced == other.forced and set(line.answers) & set(other.answers)
        if line.answers and same:
            continue
        if mark is None:
            new = other.clean
        else:
            (first, last), (a, b) = line.marks[mark], other.marks[mark]
            new = [*line.clean[:first], *other.clean[a : b + 1], *line.clean[last + 1 :]]
        if len(new) != len(line.clean) or new == line.clean:
            continue
        if mark is None or not line.is_text or tokenizer is None or _reads_so(tokenizer, new):
            yield new
            return
        yield None


def _reads_so(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> bool:
    """Whether the text of these tokens is split into them."""
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return encode(tokenizer, str(text)) == ids
