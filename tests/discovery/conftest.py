"""Tokenizers small enough to read: a word with the space before it is one token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def make_tokenizer(
    texts: Iterable[str], *, digits: str = r"\d\d", bos: bool = True, without: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer that knows exactly the pieces of `texts`, less those in `without`.

    `digits` is the regular expression by which runs of digits are cut.
    """
    pattern = Regex(rf" ?[A-Za-z]+| ?{digits}|[^\sA-Za-z\d]|\s")
    cut = pre_tokenizers.Split(pattern, behavior="isolated")
    pieces = dict.fromkeys(piece for text in texts for piece, _ in cut.pre_tokenize_str(text))
    special = ["<unk>", "<bos>"] if bos else ["<unk>"]
    known = special + [piece for piece in pieces if piece not in set(without)]
    vocabulary = {piece: i for i, piece in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.Fuse()
    names = {"unk_token": "<unk>"} | ({"bos_token": "<bos>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(name="make_tokenizer", scope="session")
def make_tokenizer_fixture() -> MakeTokenizer:
    return make_tokenizer
