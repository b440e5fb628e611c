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
    start = [bos_id(tokenizer)] if prepend_bos else []
    return start + encode(tokenizer, text)


def bos_id(tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Id of the token that begins a text; InputError naming task.prepend_bos if there is none."""
    bos = None if tokenizer is None else tokenizer.bos_token_id
    if not isinstance(bos, int):
        missing = "this model has no tokenizer" if tokenizer is None else "the tokenizer has none"
        raise InputError(
            f"task.prepend_bos=true asks for a beginning-of-text token, but {missing}; use"
            " task.prepend_bos=false"
        )
    return bos


def single_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int | None:
    """The id of a text that is exactly one known token, otherwise None."""
    ids = encode(tokenizer, text)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        return None
    return ids[0]


def require_single_token(tokenizer: PreTrainedTokenizerBase, text: str, what: str) -> int:
    """The id of a text that is exactly one known token; InputError, with a hint, for any other.

    `what` begins the sentence and names the value.
    """
    token = single_token(tokenizer, text)
    if token is not None:
        return token
    parts = spell(tokenizer, encode(tokenizer, text)) or "nothing"
    spaced = f" {text}"
    hint = f"; did you mean {spaced!r}, with a leading space?"
    if single_token(tokenizer, spaced) is None:
        hint = "" if text.startswith(" ") else "; words inside a text need a leading space"
    raise InputError(f"{what}, which must be exactly one known token but splits into {parts}{hint}")


def single_token_words(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Words that are one token after a space, with that token's id, in order; how many are not."""
    ids = {word: single_token(tokenizer, f" {word}") for word in words}
    kept = {word: token for word, token in ids.items() if token is not None}
    return kept, len(words) - len(kept)


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
