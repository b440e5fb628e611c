"""Indirect object identification (Wang et al. 2022, arXiv 2211.00593).

"Then, Mary and John went to the store. John gave a drink to" is continued with " Mary", the
indirect object (IO), and not with " John", the subject (S). Half of the prompts name IO first
(ABBA), half S (BABA). Two corruptions: "abc" puts three other names in the three places (p_ABC of
the paper), so nothing tells who is meant; "flip" puts IO in the place of the second S, so the right
answer becomes S. Knows no model and no metric; reviewing uses the marks, the search does not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.tasks.tokens import (
    check_count,
    encode_prompt,
    keep_common_length,
    require_tokenizer,
    single_token_words,
)

CORRUPTIONS = ("abc", "flip")
MIN_NAMES = 6  # two in the clean prompt, three others in the corrupt one, and a choice

# {A} and {B} are IO and S in either order, {S} is the second subject; each stands after a space
TEMPLATES: tuple[str, ...] = (
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "Later, {A} and {B} walked to the {place}. {S} handed a {object} to",
    "Today, {A} and {B} drove to the {place}. {S} offered a {object} to",
    "Once, {A} and {B} met at the {place}. {S} sold a {object} to",
    "Then, {A} and {B} stayed at the {place}. {S} sent a {object} to",
    "When {A} and {B} came back to the {place}, {S} gave a {object} to",
    "After {A} and {B} went back to the {place}, {S} handed a {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "When {A} and {B} were waiting at the {place}, {S} passed a {object} to",
    "After {A} and {B} had arrived at the {place}, {S} offered a {object} to",
)

NAMES = tuple(
    """Mary John Tom James Dan Martin Amy Sarah Michael David Robert William Richard Thomas
    Charles Joseph Daniel Matthew Anthony Mark Paul Steven Andrew Kenneth George Joshua Kevin
    Brian Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry
    Justin Scott Brandon Benjamin Samuel Gregory Frank Alexander Raymond Patrick Jack Dennis Jerry
    Tyler Aaron Jose Adam Nathan Henry Douglas Peter Kyle Walter Carl Arthur Simon Alan Luke
    Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Karen Lisa Nancy Sandra Ashley
    Kimberly Emily Donna Michelle Carol Amanda Melissa Rebecca Laura Helen Anna Emma Nicole
    Christine Rachel Katherine Maria Alice Julia Kate Jane""".split()  # noqa: SIM905
)
PLACES = tuple(
    """store school park garden office station restaurant hospital house market library beach
    hotel church museum farm""".split()  # noqa: SIM905
)
OBJECTS = tuple(
    """drink book ring ball letter gift ticket phone key flower card box map coin hat
    bag""".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class _Words:
    """What of the lists above this tokenizer can use."""

    templates: Sequence[str]  # all of one length in tokens
    names: dict[str, int]  # name -> id of its one token
    places: list[str]
    objects: list[str]
    dropped: dict[str, int]  # name of the list -> how many of it cannot be used

    @property
    def available(self) -> int:
        """Number of different clean prompts, both orders together."""
        frames = len(self.templates) * len(self.places) * len(self.objects)
        return 2 * frames * len(self.names) * (len(self.names) - 1)


@dataclass(frozen=True)
class _Draw:
    """One prompt before tokenization."""

    template: str
    place: str
    object: str
    io: str
    s: str
    others: tuple[str, str, str]  # stand for IO, S1, S2 under "abc"
    abba: bool  # IO before S

    def text(self, io: str, s1: str, s2: str) -> str:
        a, b = (io, s1) if self.abba else (s1, io)
        return self.template.format(A=a, B=b, S=s2, place=self.place, object=self.object)

    def corrupt_names(self, corruption: str) -> tuple[str, str, str]:
        """Names in the places of IO, S1 and S2."""
        return self.others if corruption == "abc" else (self.io, self.s, self.io)


@dataclass(frozen=True)
class _Pair:
    """One prompt as token ids."""

    clean: list[int]
    corrupt: list[int]
    io: int  # token id
    s: int  # token id
    marks: tuple[int, int, int]  # positions of IO, S1, S2


def build(
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    n: int,
    seed: int,
    prepend_bos: bool,
    corruption: str,
) -> Prompts:
    """n different prompts [n, pos] of one length; the first m of them do not depend on n.

    Answers are (IO id,), wrong ones (S id,); marks are the positions of "io", "s1", "s1+1", "s2"
    and "end", BOS counted. The clean prompts of a seed are the same for every corruption.
    Raises InputError: no tokenizer, n < 1 or more than there are different prompts, an unknown
    corruption, no BOS to prepend, or a tokenizer for which too few names are one token.
    """
    tokenizer = require_tokenizer(tokenizer, "ioi")
    check_count(n)
    if corruption not in CORRUPTIONS:
        raise InputError(
            f"task.corruption={corruption!r} is unknown; allowed: {', '.join(CORRUPTIONS)}"
        )
    words = _usable_words(tokenizer)
    if n > words.available:
        raise InputError(
            f"task.n={n}: this tokenizer allows only {words.available} different ioi prompts"
        )
    draws = _draw_all(words, n, random.Random(seed))
    pairs = [_encode_pair(tokenizer, draw, words, prepend_bos, corruption) for draw in draws]
    return _collect(pairs, {**words.dropped, "names": len(words.names), "corruption": corruption})


def _usable_words(tokenizer: PreTrainedTokenizerBase) -> _Words:
    """Drop what is not one token; InputError if too little is left."""
    names, names_dropped = single_token_words(tokenizer, NAMES)
    places, places_dropped = single_token_words(tokenizer, PLACES)
    objects, objects_dropped = single_token_words(tokenizer, OBJECTS)
    for what, left, least in (
        ("names", names, MIN_NAMES),
        ("places", places, 1),
        ("objects", objects, 1),
    ):
        if len(left) < least:
            raise InputError(
                f"task=ioi: only {len(left)} of its {what} are one token of this tokenizer, at"
                f" least {least} needed; use task=pairs with your own prompts"
            )
    name, place, thing = next(iter(names)), next(iter(places)), next(iter(objects))
    templates, templates_dropped = keep_common_length(
        TEMPLATES,
        lambda t: len(
            encode_prompt(tokenizer, t.format(A=name, B=name, S=name, place=place, object=thing))
        ),
    )
    dropped = {
        "names_dropped": names_dropped,
        "places_dropped": places_dropped,
        "objects_dropped": objects_dropped,
        "templates_dropped": templates_dropped,
    }
    return _Words(templates, names, list(places), list(objects), dropped)


def _draw_all(words: _Words, n: int, rng: random.Random) -> list[_Draw]:
    """n different draws, ABBA and BABA in turn; one that was there already is drawn again."""
    draws: list[_Draw] = []
    seen: set[str] = set()
    while len(draws) < n:
        draw = _draw_one(words, abba=len(draws) % 2 == 0, rng=rng)
        # templates hold A, B and S, so equal texts are equal prompts; order is told by S
        text = draw.text(draw.io, draw.s, draw.s)
        if text not in seen:
            seen.add(text)
            draws.append(draw)
    return draws


def _draw_one(words: _Words, *, abba: bool, rng: random.Random) -> _Draw:
    template, place = rng.choice(words.templates), rng.choice(words.places)
    thing = rng.choice(words.objects)
    io, s, *others = rng.sample(list(words.names), 5)
    return _Draw(template, place, thing, io, s, (others[0], others[1], others[2]), abba)


def _encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    draw: _Draw,
    words: _Words,
    prepend_bos: bool,
    corruption: str,
) -> _Pair:
    """Token ids and positions; InputError if clean and corrupt differ outside the three names."""
    io, s = words.names[draw.io], words.names[draw.s]
    clean = encode_prompt(tokenizer, draw.text(draw.io, draw.s, draw.s), prepend_bos)
    new = draw.corrupt_names(corruption)
    corrupt = encode_prompt(tokenizer, draw.text(*new), prepend_bos)
    at_io = [i for i, token in enumerate(clean) if token == io]
    at_s = [i for i, token in enumerate(clean) if token == s]
    expected = list(clean)
    for position, name in zip(at_io + at_s, new, strict=False):
        expected[position] = words.names[name]
    if len(at_io) != 1 or len(at_s) != 2 or corrupt != expected:
        raise InputError(
            "task=ioi: this tokenizer joins names with their neighbours in"
            f" {draw.text(draw.io, draw.s, draw.s)!r}; use task=pairs with your own prompts"
        )
    return _Pair(clean, corrupt, io, s, (at_io[0], at_s[0], at_s[1]))


def _collect(pairs: Sequence[_Pair], notes: Mapping[str, int | str]) -> Prompts:
    """All pairs as one batch; InputError if their lengths differ."""
    lengths = sorted({len(pair.clean) for pair in pairs})
    if len(lengths) > 1:
        raise InputError(f"task=ioi: this tokenizer gives prompts of lengths {lengths}, not of one")
    end = lengths[0] - 1
    io, s1, s2 = zip(*(pair.marks for pair in pairs), strict=True)
    return Prompts(
        clean=torch.tensor([pair.clean for pair in pairs]),
        corrupt=torch.tensor([pair.corrupt for pair in pairs]),
        answers=tuple((pair.io,) for pair in pairs),
        wrong=tuple((pair.s,) for pair in pairs),
        answer_position=end,
        marks={
            "io": io,
            "s1": s1,
            "s1+1": tuple(position + 1 for position in s1),
            "s2": s2,
            "end": (end,) * len(pairs),
        },
        features={
            "indirect object": tuple(pair.io for pair in pairs),
            "subject": tuple(pair.s for pair in pairs),
            "order": tuple(int(pair.marks[0] > pair.marks[1]) for pair in pairs),
            "name position": io,
        },
        notes=notes,
    )
