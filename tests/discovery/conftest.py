"""Tokenizers small enough to read: a word with the space before it is one token."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
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


def make_sentencepiece(
    texts: Iterable[str], *, kind: str = "normalizer"
) -> PreTrainedTokenizerFast:
    """A tokenizer with SentencePiece's dummy prefix that knows the words and signs of `texts`.

    Every text gets a space of its own in front: by a normalizer even where it has one (Llama 2,
    Mistral), by a pre-tokenizer only where it has none.
    """
    cut = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = dict.fromkeys(piece for text in texts for piece, _ in cut.pre_tokenize_str(text))
    letters = dict.fromkeys("".join(words))
    scores = {"<unk>": 0.0, "<s>": 0.0, "\u2581": -9.0}
    scores |= dict.fromkeys(letters, -9.0) | {f"\u2581{word}": -5.0 for word in words}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    if kind == "normalizer":
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(name="make_sentencepiece", scope="session")
def make_sentencepiece_fixture() -> MakeTokenizer:
    return make_sentencepiece
