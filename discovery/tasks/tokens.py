"""From text to token ids, and the few questions every task asks on the way.

The idea: a task that compares prompts position by position works only if every slot is one token
and every prompt has one length. Tokenizers differ, so tasks ask here what the tokenizer at hand
does, and drop what does not fit. Knows tokenizers, but no task, no model and no configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from acdc.errors import InputError

Item = TypeVar("Item")
BEFORE = "the"  # stands before a word that is looked at inside a text


def require_tokenizer(
    tokenizer: PreTrainedTokenizerBase | None, task_name: str
) -> PreTrainedTokenizerBase:
    """The tokenizer itself; InputError if the model has none, naming tasks that can do without."""
    if tokenizer is None:
        raise InputError(
            f"task={task_name} is made of text and needs a tokenizer, but this model has none; use"
            " task=pairs with clean_ids and corrupt_ids, or task=induction"
        )
    return tokenizer


def check_count(n: int) -> None:
    """Raise InputError unless at least one prompt is asked for."""
    if n < 1:
        raise InputError(f"task.n={n}: at least 1 prompt is needed")


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of the text, without any special token."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, text: str, prepend_bos: bool = False
) -> list[int]:
    """Token ids of the text, after the BOS id if asked for; InputError if there is no BOS."""
    ids = encode(tokenizer, text)
    return with_bos(ids, bos_id(tokenizer)) if prepend_bos else ids


def with_bos(ids: list[int], bos: int) -> list[int]:
    """The ids after BOS, which stands once: a text or its tokenizer may have put it there."""
    return ids if ids[:1] == [bos] else [bos, *ids]


def bos_id(tokenizer: PreTrainedTokenizerBase | None, field: str = "task.prepend_bos") -> int:
    """Id of the token that begins a text; InputError naming field and tokenizer if there is none.

    Only of a tokenizer as it was read: TransformerLens gives one without BOS another token as BOS.
    """
    bos = None if tokenizer is None else tokenizer.bos_token_id
    if not isinstance(bos, int):
        missing = "this model has no tokenizer"
        if tokenizer is not None:
            missing = f"the tokenizer has none ({_name(tokenizer)})"
        raise InputError(
            f"{field}=true asks for a beginning-of-text token, but {missing}; use {field}=false"
        )
    return bos


def known_bos(tokenizer: PreTrainedTokenizerBase | None, d_vocab: int) -> int | None:
    """The BOS id, if there is one and the model has an embedding for it."""
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos if isinstance(bos, int) and bos < d_vocab else None


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    place = getattr(tokenizer, "name_or_path", "")
    return type(tokenizer).__name__ + (f" of {place!r}" if place else "")


def single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of a text that is exactly one known token, otherwise None."""
    ids = encode(tokenizer, text)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        return None
    return ids[0]


def require_single_token(
    tokenizer: PreTrainedTokenizerBase, text: str, what: str, more: str = ""
) -> int:
    """The id of a text that is exactly one known token; InputError, with a hint, for any other.

    `what` begins the sentence and names the value; `more` ends it.
    """
    token = single_token(tokenizer, text)
    if token is not None:
        return token
    parts = spell(tokenizer, encode(tokenizer, text)) or "nothing"
    raise InputError(
        f"{what}, which must be exactly one known token but splits into {parts}"
        f"{_hint(tokenizer, text)}{more}"
    )


def _hint(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """What of nearly the same text is one token, if anything is."""
    spaced, bare = f" {text}", text[1:]
    if single_token(tokenizer, spaced) is not None:
        return f"; did you mean {spaced!r}, with a leading space?"
    if not text.startswith(" "):
        own = _puts_space(tokenizer)
        return "" if own else "; words inside a text need a leading space"
    token = single_token(tokenizer, bare)
    if token is not None and token == word_token(tokenizer, bare):
        return f"; this tokenizer puts the space there itself, so {bare!r} is the one token"
    return ""


def _puts_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a word is the same at the start of a text as after a space."""
    ids = encode(tokenizer, BEFORE)
    known = tokenizer.unk_token_id not in ids
    return known and encode(tokenizer, f"{BEFORE} {BEFORE}") == ids + ids


def word_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int | None:
    """The id of a word that is one known token after a space inside a text, otherwise None.

    Asked inside a text: SentencePiece puts a space before every text by itself (Llama 2, Mistral,
    Gemma), so that " to" alone has two.
    """
    before, after = encode(tokenizer, BEFORE), encode(tokenizer, f"{BEFORE} {word}")
    if after[:-1] != before or after[-1] == tokenizer.unk_token_id:
        return None
    return after[-1]


def single_token_words(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Words that are one token after a space, with that token's id, in order; how many are not."""
    ids = {word: word_token(tokenizer, word) for word in words}
    kept = {word: token for word, token in ids.items() if token is not None}
    return kept, len(words) - len(kept)


def char_spans(tokenizer: PreTrainedTokenizerBase, text: str, what: str) -> list[tuple[int, int]]:
    """Of each token of a text the characters that it holds, from and to before.

    InputError, which begins with `what`, for a tokenizer that cannot tell.
    """
    if not tokenizer.is_fast:
        raise InputError(f"{what} needs a fast tokenizer, which this one is not")
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(int(start), int(end)) for start, end in found["offset_mapping"]]


def spell(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The tokens as quoted texts, for messages: 'The', ' cat'."""
    return ", ".join(repr(tokenizer.decode([token])) for token in ids)


def keep_common_length(
    items: Sequence[Item], length: Callable[[Item], int]
) -> tuple[list[Item], int]:
    """The items of the most common length (ties: the shorter), in order; how many were dropped."""
    lengths = [length(item) for item in items]
    counts = Counter(lengths)
    common = min(counts, key=lambda value: (-counts[value], value), default=0)
    kept = [item for item, value in zip(items, lengths, strict=True) if value == common]
    return kept, len(items) - len(kept)
