"""The user's own clean/corrupt pairs: a JSONL file, one object a line.

    {"clean": "...", "corrupt": "...", "answers": [" Mary"], "wrong": [" John"]}
    {"clean_ids": [5, 9, 2], "corrupt_ids": [5, 7, 2], "answers": [4], "wrong": [3]}
    {"clean": "...", "marks": {"subject": [4, 9]}, "variables": {"number": "one"}, "split": "test"}

A file has corrupt prompts in all lines or in none, and equally each mark, each variable, and
`split`, which says whether a line is to search on, to tune on, or to test on; without it lines are
divided by seed. Lines may differ in length.
Every line of the file is checked, also those that are not used, and whatever is wrong is told with
file, line number and value, all faulty lines at once: a pair that does not line up would be patched
at the wrong positions without any error. Knows no model and no metric, only what the metric needs
of a line. What a line says is in lines.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.tasks.choices import PARTS, NoneLeft, Part
from discovery.tasks.counterfactuals import GIVEN, with_counterfactuals
from discovery.tasks.jsonl import Lines, refuse
from discovery.tasks.lines import END, Answers, Line, Reader, understand
from discovery.tasks.tokens import bos_id, check_count

FEW = 20  # lines below which all are searched on, unless told
TUNE = 0.4  # of the lines that are held out; the rest is to test on


@runtime_checkable
class Source(Protocol):
    """Where rows come from."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    def where(self, number: int) -> str:
        """The place of a row, as messages begin."""
        ...

    def read(self, make: Callable[[int, dict[str, object]], Any]) -> list[Any]:
        """What `make` makes of each row; InputError naming all that it refuses."""
        ...


def load(
    source: str | Path | Source,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    d_vocab: int,
    n: int | None,
    seed: int,
    prepend_bos: bool,
    length: int | None = None,
    needs_answers: bool,
    needs_wrong: bool,
    corrupt_for: str | None = "task=pairs",
    part: Part | None = None,
    parts: Sequence[Part] = PARTS,
    answers: Answers = "single",
    corrupt: str = "given",
) -> Prompts:
    """The lines of the file as prompts, in file order; n lines by seed, or all (None).

    `part` asks for those to search, tune or test on: as the lines themselves say, else n by seed to
    search on (None: half, or all of fewer than 20) and two fifths of the others to tune on; `parts`
    are those that lines of this file may be of.
    `length` keeps only lines of that many tokens, a prepended BOS counted. A line's positions count
    its own tokens, from 0 or backwards from -1, without BOS. Marks: the line's, and "end".
    `corrupt_for` is named where corrupt prompts are missing; None: nobody needs them, and without
    them `corrupt` equals `clean`. `answers` says what is asked of those of several tokens (see
    lines.py), `corrupt` where corrupt prompts come from (see counterfactuals.py).
    Raises InputError, one sentence with file and line number, for anything that cannot be used.
    """
    if n is not None:
        check_count(n)
    if prepend_bos:
        bos_id(tokenizer)  # refuses before the file is read
    if needs_wrong and answers == "sequence":
        raise InputError(
            "task.answers=sequence: the metric compares with wrong answers, which are not asked a"
            " token at a time; take metric=nll or kl, or task.answers=first"
        )
    rows: Source = Lines(Path(source)) if isinstance(source, (str, Path)) else source
    needs = {"answers": needs_answers or answers == "sequence", "wrong": needs_wrong}
    made = corrupt != GIVEN
    reader = Reader(
        rows.where, tokenizer, d_vocab, prepend_bos, needs, None if made else corrupt_for, answers
    )
    lines: list[Line] = rows.read(partial(understand, reader))
    _check_alike(reader, lines)
    _check_parts(reader, lines, parts)
    kept = _of_length(rows.name, lines, length)
    notes = {"lines": len(lines), "lines_dropped_by_length": len(lines) - len(kept)}
    used = _of_part(rows.name, kept, part, n, seed, parts)
    if made:
        used, dropped = with_counterfactuals(used, corrupt, tokenizer, seed)
        notes |= dropped
    return _collect(used, {**notes, **_several(used), **_blank_ends(used)})


def _check_alike(reader: Reader, lines: list[Line]) -> None:
    """Raise InputError unless all lines have a corrupt prompt, a split, a mark, or none has."""
    _all_or_none(reader, lines, "corrupt prompt", lambda line: line.corrupt is not None)
    _all_or_none(reader, lines, "split", lambda line: line.split is not None)
    for name in dict.fromkeys(name for line in lines for name in line.marks):
        _all_or_none(reader, lines, f"mark {name!r}", lambda line, n=name: n in line.marks)
    for name in dict.fromkeys(name for line in lines for name in line.variables):
        _all_or_none(reader, lines, f"variable {name!r}", lambda line, n=name: n in line.variables)


def _all_or_none(reader: Reader, lines: list[Line], what: str, has: Callable[[Line], bool]) -> None:
    having = [line.number for line in lines if has(line)]
    refuse(
        [
            f"{reader.where(line.number)}: has no {what}, but line {having[0]} has one; all lines"
            " need one, or none"
            for line in lines
            if having and not has(line)
        ]
    )


def _check_parts(reader: Reader, lines: list[Line], parts: Sequence[Part]) -> None:
    """Raise InputError for lines of a part that is in another file."""
    refuse(
        [
            f"{reader.where(line.number)}: split is {line.split!r}, but with task.held_out this"
            f" file's lines are to {' and '.join(parts)} on"
            for line in lines
            if line.split is not None and line.split not in parts
        ]
    )


def _of_length(name: str, lines: list[Line], length: int | None) -> list[Line]:
    """The lines of `length` tokens, or all."""
    kept = [line for line in lines if length in (None, len(line.clean))]
    if not kept:
        counts = sorted(Counter(len(line.clean) for line in lines).items())
        listing = ", ".join(f"{count} of {size} tokens" for size, count in counts)
        raise InputError(f"{name}: no line has task.length={length} tokens (lines: {listing})")
    return kept


def _several(lines: Sequence[Line]) -> dict[str, int | str]:
    """How many answers have several tokens, and how many prompts got tokens that they share."""
    several, shared = (sum(map(bool, own)) for own in zip(*((x.several, x.shared) for x in lines),
                                                          strict=True))  # fmt: skip
    cut = {"lines_with_answers_of_several_tokens": several} if several else {}
    return {**cut, **({"lines_with_shared_beginnings": shared} if shared else {})}


def _blank_ends(lines: list[Line]) -> dict[str, str]:
    """A warning of the commonest mistake: the blank belongs to the answer."""
    ends = [line.number for line in lines if line.blank]
    if not ends:
        return {}
    some = "1 prompt ends" if len(ends) == 1 else f"{len(ends)} prompts end"
    return {
        "warning": f"{some} in a blank (line {ends[0]}"
        + (" the first)" if len(ends) > 1 else ")")
        + ", where models continue badly: the blank belongs to the token that follows"
    }


def _of_part(
    name: str, lines: list[Line], part: Part | None, n: int | None, seed: int, parts: Sequence[Part]
) -> list[Line]:
    """The lines of a part, in file order; NoneLeft if it has none."""
    if part is None:
        return _sample(name, lines, n, seed)
    if lines[0].split is not None:
        own = [line for line in lines if line.split == part]
        own = _sample(name, own, n, seed) if part == "search" and own else own
    else:
        many = len(lines) >= FEW and len(parts) > 1
        size = n or (len(lines) // 2 if many else len(lines))
        search = _sample(name, lines, size, seed) if "search" in parts else []
        rest = [line for line in lines if line not in search]
        tune = _sample(name, rest, int(TUNE * len(rest)), seed)
        test = [line for line in rest if line not in tune]
        own = {"search": search, "tune": tune, "test": test}[part]
    if not own:
        raise NoneLeft(f"{name}: no line is left to {part} on")
    return own


def _sample(name: str, lines: list[Line], n: int | None, seed: int) -> list[Line]:
    if n is None:
        return lines
    if n > len(lines):
        raise InputError(f"{name}: task.n={n}, but only {len(lines)} lines can be used")
    return [lines[i] for i in sorted(random.Random(seed).sample(range(len(lines)), n))]


def _collect(lines: list[Line], notes: Mapping[str, int | str]) -> Prompts:
    marks = {name: [line.marks[name][1] for line in lines] for name in lines[0].marks}
    return Prompts.of_rows(
        [[*line.clean, *line.forced] for line in lines],
        [[*(line.corrupt or line.clean), *line.forced] for line in lines],
        [line.answers for line in lines],
        [line.wrong for line in lines],
        marks={**marks, END: [len(line.clean) - 1 for line in lines]},
        features={name: [x.variables[name] for x in lines] for name in lines[0].variables},
        notes=notes,
        forced=[len(line.forced) for line in lines],
    )
