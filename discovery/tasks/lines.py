"""One line of one's own prompts, understood: token ids, answers, marks, variables.

Knows no file and no other line. What is wrong is told in one sentence that begins with the line's
place. Answers of several tokens are asked at the first token where right and wrong ones differ
(`answers="first"`): what they share before it is put at the end of both prompts. Or the right one
is asked whole, teacher-forced (`answers="sequence"`), and wrong ones are not.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from discovery.tasks.choices import PARTS, Part
from discovery.tasks.jsonl import kind
from discovery.tasks.tokens import (
    bos_id,
    char_spans,
    encode,
    require_single_token,
    single_token,
    spell,
    with_bos,
)

Answers = Literal["single", "first", "sequence"]
Span = tuple[int, int]  # first and last token
KEYS = (
    "clean", "corrupt", "clean_ids", "corrupt_ids", "answers", "wrong", "answer_position", "marks",
    "variables", "split",
)  # fmt: skip
END = "end"  # the mark of the answer position
TEXTS = 2**32  # values of variables from here on are texts


@dataclass(frozen=True)
class Reader:
    """What is needed to understand a line."""

    where: Callable[[int], str]  # a line's place, as messages begin
    tokenizer: PreTrainedTokenizerBase | None
    d_vocab: int
    prepend_bos: bool
    needs: Mapping[str, bool]  # "answers", "wrong" -> whether the metric needs it
    corrupt_for: str | None  # who needs corrupt prompts of the lines
    answers: Answers = "single"


@dataclass(frozen=True)
class Line:
    """One line, understood; BOS is in the ids and counted in positions. Ids end at the answer."""

    number: int  # in the file, from 1, blank lines counted
    clean: list[int]
    corrupt: list[int] | None
    answers: tuple[int, ...]
    wrong: tuple[int, ...]
    blank: bool  # whether the text that is read up to there ends in a blank
    marks: Mapping[str, Span]
    variables: Mapping[str, int]
    split: Part | None
    is_text: bool
    several: bool = False  # whether an answer has several tokens
    shared: int = 0  # tokens that all of them begin with, put at the end of the prompt
    forced: tuple[int, ...] = ()  # of the one right answer all but its last token


def understand(reader: Reader, number: int, item: dict[str, object]) -> Line:
    """A line; InputError for whatever is wrong with it."""
    where = reader.where(number)
    unknown = [key for key in item if key not in KEYS]
    if unknown:
        raise InputError(f"{where}: unknown field {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    clean, corrupt = _prompt_ids(reader, where, item)
    position = _position(where, item, len(clean))
    asked = _answers(reader, where, item)
    blank = position == len(clean) - 1 and any(
        str(item.get(key, ""))[-1:].isspace() for key in ("clean", "corrupt")
    )
    marks = _marks(reader, where, item, clean, position)
    whole = _prefixed(reader, [*clean[: position + 1], *asked.shared])
    added = len(whole) - position - 1 - len(asked.shared)
    if corrupt is not None:
        corrupt = _prefixed(reader, [*corrupt[: position + 1], *asked.shared])
        if len(corrupt) != len(whole):
            raise InputError(f"{where}: BOS begins one of clean and corrupt only")
    return Line(
        number, whole, corrupt, asked.answers, asked.wrong, blank,
        {name: (first + added, last + added) for name, (first, last) in marks.items()},
        _variables(reader, where, item), _split(where, item), "clean" in item, asked.several,
        len(asked.shared), asked.forced,
    )  # fmt: skip


def _split(where: str, item: dict[str, object]) -> Part | None:
    if "split" not in item:
        return None
    for part in PARTS:
        if item["split"] == part:
            return part
    raise InputError(f"{where}: split is {item['split']!r}; allowed are {', '.join(PARTS)}")


def _prefixed(reader: Reader, ids: list[int]) -> list[int]:
    return with_bos(ids, bos_id(reader.tokenizer)) if reader.prepend_bos else ids


# ---- prompts -------------------------------------------------------------------------------------


def _prompt_ids(
    reader: Reader, where: str, item: dict[str, object]
) -> tuple[list[int], list[int] | None]:
    """(clean, corrupt) ids of one length, without BOS; None for a line without corrupt."""
    as_text = [key for key in ("clean", "corrupt") if key in item]
    as_ids = [key for key in ("clean_ids", "corrupt_ids") if key in item]
    if as_text and as_ids:
        raise InputError(
            f"{where}: has both text ({as_text[0]}) and ids ({as_ids[0]}); give one of them"
        )
    wanted = ("clean_ids", "corrupt_ids") if as_ids else ("clean", "corrupt")
    read = _ids_field if as_ids else _text_field
    for key in wanted:
        if key not in item and (key == wanted[0] or reader.corrupt_for is not None):
            raise InputError(f"{where}: {_missing(reader, key, wanted, bool(as_text or as_ids))}")
    clean = read(reader, where, wanted[0], item[wanted[0]])
    if wanted[1] not in item:
        return clean, None
    corrupt = read(reader, where, wanted[1], item[wanted[1]])
    if len(clean) != len(corrupt):
        raise InputError(
            f"{where}: clean has {len(clean)} tokens, corrupt {len(corrupt)}, but they are"
            f" compared position by position{_spelled(reader, clean, corrupt, bool(as_text))}"
        )
    return clean, corrupt


def _missing(reader: Reader, key: str, wanted: tuple[str, str], other_there: bool) -> str:
    if key == wanted[0]:
        size = 2 if reader.corrupt_for is not None else 1
        other = "" if other_there else f" (or {' and '.join(('clean_ids', 'corrupt_ids')[:size])})"
        return f"field {key!r} is missing; {' and '.join(wanted[:size])}{other} must be there"
    return (
        f"field {key!r} is missing, and {reader.corrupt_for} needs corrupt prompts;"
        " ablation=other does without"
    )


def _spelled(reader: Reader, clean: list[int], corrupt: list[int], is_text: bool) -> str:
    if not is_text or reader.tokenizer is None:
        return ""
    texts = spell(reader.tokenizer, clean), spell(reader.tokenizer, corrupt)
    return f"; clean: {texts[0]}; corrupt: {texts[1]}"


def _text_field(reader: Reader, where: str, key: str, value: object) -> list[int]:
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a string, got {kind(value)}")
    if reader.tokenizer is None:
        raise InputError(
            f"{where}: {key} is text, but this model has no tokenizer; give {key}_ids instead"
        )
    ids = encode(reader.tokenizer, value)
    if not ids:
        raise InputError(f"{where}: {key} is empty")
    return [_token_id(reader, where, key, token) for token in ids]


def _ids_field(reader: Reader, where: str, key: str, value: object) -> list[int]:
    return [_token_id(reader, where, key, token) for token in _items(where, key, value)]


def _items(where: str, key: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} must be a list, got {kind(value)}")
    if not value:
        raise InputError(f"{where}: {key} is empty")
    return value


def _token_id(reader: Reader, where: str, key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: {key} must hold whole numbers, got {kind(value)}")
    if not 0 <= value < reader.d_vocab:
        raise InputError(
            f"{where}: {key} holds token {value}, outside the model's vocabulary"
            f" 0..{reader.d_vocab - 1}"
        )
    return value


# ---- answers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """The token that is asked, and what stands before it."""

    answers: tuple[int, ...]  # right ones
    wrong: tuple[int, ...] = ()
    several: bool = False  # whether any answer has several tokens
    shared: tuple[int, ...] = ()  # what right and wrong answers begin with
    forced: tuple[int, ...] = ()  # what the one right answer begins with, itself asked


def _answers(reader: Reader, where: str, item: dict[str, object]) -> Asked:
    named = {key: _targets(reader, where, item, key) for key in ("answers", "wrong")}
    if reader.answers == "sequence":
        return _whole(where, named["answers"])
    every = [ids for some in named.values() for ids in some]
    shared = _shared(every) if named["wrong"] else ()
    at = len(shared)
    answers, wrong = (tuple(dict.fromkeys(ids[at] for ids in named[key])) for key in named)
    both = [token for token in answers if token in wrong]
    if both:
        raise InputError(f"{where}: token {both[0]} is both in answers and in wrong")
    return Asked(answers, wrong, any(len(ids) > 1 for ids in every), shared)


def _whole(where: str, right: Sequence[tuple[int, ...]]) -> Asked:
    """The one answer, all of its tokens."""
    if len(right) > 1:
        raise InputError(
            f"{where}: answers holds {len(right)} answers; task.answers=sequence asks for one"
        )
    ids = right[0] if right else ()
    return Asked(ids[-1:], several=len(ids) > 1, forced=ids[:-1])


def _shared(every: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What all of them begin with, and end after."""
    shared = list[int]()
    for tokens in zip(*(ids[:-1] for ids in every), strict=False):  # as long as the shortest
        if len(set(tokens)) > 1:
            break
        shared.append(tokens[0])
    return tuple(shared)


def _targets(
    reader: Reader, where: str, item: dict[str, object], key: str
) -> list[tuple[int, ...]]:
    """Ids of each of `answers` or `wrong`; empty if the field is absent and not needed."""
    if key not in item:
        if reader.needs[key]:
            whole = reader.answers == "sequence" and key == "answers"
            by = "task.answers=sequence" if whole else "the chosen metric"
            raise InputError(f"{where}: field {key!r} is missing, and {by} needs it")
        return []
    found = [_target(reader, where, key, value) for value in _items(where, key, item[key])]
    twice = [ids for ids, count in Counter(found).items() if count > 1]
    if twice:
        one = f"token {twice[0][0]}" if len(twice[0]) == 1 else f"{list(twice[0])}"
        raise InputError(f"{where}: {key} holds {one} more than once")
    return found


def _target(reader: Reader, where: str, key: str, value: object) -> tuple[int, ...]:
    if isinstance(value, list) and reader.answers != "single":
        return tuple(_token_id(reader, where, key, token) for token in _items(where, key, value))
    if not isinstance(value, str):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{where}: {key} must hold strings or token ids, got {kind(value)}")
        return (_token_id(reader, where, key, value),)
    if reader.tokenizer is None:
        raise InputError(
            f"{where}: {key} holds the text {value!r}, but this model has no tokenizer; give ids"
        )
    ids = encode(reader.tokenizer, value)
    if reader.answers == "single" or not ids or reader.tokenizer.unk_token_id in ids:
        what = f"{where}: {key} holds {value!r}"
        more = "; task.answers=first asks for the first that differs, sequence for all of them"
        more = "" if len(ids) < 2 else more
        ids = [require_single_token(reader.tokenizer, value, what, more)]
    return tuple(_token_id(reader, where, key, token) for token in ids)


# ---- places and values ---------------------------------------------------------------------------


def _position(where: str, item: dict[str, object], tokens: int) -> int:
    """Index of the answer position among the line's own tokens, from 0."""
    value = item.get("answer_position", -1)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: answer_position must be a whole number, got {kind(value)}")
    if not -tokens <= value < tokens:
        raise InputError(
            f"{where}: answer_position {value} is outside the prompt's {tokens} tokens"
        )
    return value % tokens


def _marks(
    reader: Reader, where: str, item: dict[str, object], clean: Sequence[int], position: int
) -> dict[str, Span]:
    """First and last token of each mark, among the line's own tokens."""
    given = item.get("marks", {})
    if not isinstance(given, dict):
        raise InputError(f"{where}: marks must be an object of names and places, got {kind(given)}")
    found = dict[str, Span]()
    for name, place in given.items():
        what = f"{where}: mark {name!r}"
        if name == END:
            raise InputError(f"{what} is the answer's position and there by itself")
        if isinstance(place, (list, str)):
            first, last = _char_span(reader, what, item, place)
        else:
            first = last = _token(what, place, len(clean))
        if last > position:
            raise InputError(f"{what} is token {last}, behind the answer's position {position}")
        found[name] = (first, last)
    return found


def _token(what: str, place: object, tokens: int) -> int:
    if not isinstance(place, int) or isinstance(place, bool):
        raise InputError(
            f"{what} must be a token's number, characters [start, end], or a text of clean, got"
            f" {kind(place)}"
        )
    if not -tokens <= place < tokens:
        raise InputError(f"{what}: token {place} is outside the prompt's {tokens} tokens")
    return place % tokens


def _char_span(
    reader: Reader, what: str, item: dict[str, object], place: list[object] | str
) -> Span:
    """Tokens that hold some characters of the clean text: from, to before; or a text of it."""
    text, tokenizer = item.get("clean"), reader.tokenizer
    if not isinstance(text, str) or tokenizer is None:
        raise InputError(f"{what}: characters need a text; give a token's number")
    start, end = _found(what, text, place) if isinstance(place, str) else _pair(what, text, place)
    spans = char_spans(tokenizer, text, f"{what}: a place in characters")
    inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    if not inside:
        raise InputError(f"{what}: no token holds the characters {text[start:end]!r}")
    return inside[0], inside[-1]


def _found(what: str, text: str, part: str) -> Span:
    times = text.count(part) if part else 0
    if times != 1:
        raise InputError(
            f"{what}: {part!r} stands in clean {times} times; give [start, end] in characters"
        )
    return text.index(part), text.index(part) + len(part)


def _pair(what: str, text: str, place: list[object]) -> Span:
    whole = [p for p in place if isinstance(p, int) and not isinstance(p, bool)]
    if len(place) != 2 or len(whole) != 2 or not 0 <= whole[0] < whole[1] <= len(text):
        raise InputError(
            f"{what}: {place} is no span of its {len(text)} characters; [start, end] with"
            " 0 <= start < end is"
        )
    return whole[0], whole[1]


def _variables(reader: Reader, where: str, item: dict[str, object]) -> dict[str, int]:
    """Values as numbers: a text that is one token is that token, any other has its own number."""
    given = item.get("variables", {})
    if not isinstance(given, dict):
        raise InputError(
            f"{where}: variables must be an object of names and values, got {kind(given)}"
        )
    return {name: _value(reader, f"{where}: variable {name!r}", v) for name, v in given.items()}


def _value(reader: Reader, what: str, value: object) -> int:
    if isinstance(value, int):
        return int(value)
    if not isinstance(value, str):
        raise InputError(f"{what} must be a text or a whole number, got {kind(value)}")
    token = None if reader.tokenizer is None else single_token(reader.tokenizer, value)
    return TEXTS + zlib.crc32(value.encode()) if token is None else token
