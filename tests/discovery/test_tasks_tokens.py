"""Text to token ids: what is one token, what is dropped, what is refused."""

from __future__ import annotations

import pytest

from acdc.errors import InputError
from discovery.tasks import tokens


def test_single_token_is_one_known_token(make_tokenizer):
    tokenizer = make_tokenizer(["The cat sat"])
    (cat,) = tokenizer.encode(" cat", add_special_tokens=False)
    assert tokens.single_token(tokenizer, " cat") == cat
    assert tokens.single_token(tokenizer, "cat") is None  # unknown without its space
    assert tokens.single_token(tokenizer, " cat sat") is None
    assert tokens.single_token(tokenizer, "") is None


def test_single_token_words_keep_order_and_count_the_rest(make_tokenizer):
    tokenizer = make_tokenizer(["a sat cat"])
    kept, dropped = tokens.single_token_words(tokenizer, ["cat", "dog", "sat"])
    assert list(kept) == ["cat", "sat"] and dropped == 1
    assert all(tokenizer.decode([token]) == f" {word}" for word, token in kept.items())


def test_bos_comes_first_only_when_asked_for(make_tokenizer):
    tokenizer = make_tokenizer(["The cat"])
    plain = tokens.encode_prompt(tokenizer, "The cat", prepend_bos=False)
    assert tokens.encode_prompt(tokenizer, "The cat", prepend_bos=True) == [
        tokenizer.bos_token_id,
        *plain,
    ]
    assert len(plain) == 2


def test_bos_without_a_bos_token_is_refused(make_tokenizer):
    tokenizer = make_tokenizer(["The"], bos=False)
    tokenizer.name_or_path = "some/model"
    named = f"tokenizer has none .{type(tokenizer).__name__} of 'some/model'"
    with pytest.raises(InputError, match=f"task.prepend_bos=true .* {named}"):
        tokens.encode_prompt(tokenizer, "The", prepend_bos=True)
    with pytest.raises(InputError, match="task.prepend_bos=true .* no tokenizer"):
        tokens.bos_id(None)


def test_bos_stands_once(make_tokenizer):
    tokenizer = make_tokenizer(["The cat"])
    plain = tokens.encode_prompt(tokenizer, "The cat", prepend_bos=True)
    assert tokens.encode_prompt(tokenizer, "<bos>The cat", prepend_bos=True) == plain
    assert plain.count(tokenizer.bos_token_id) == 1 and len(plain) == 3


def test_a_bos_without_an_embedding_is_none(make_tokenizer):
    tokenizer = make_tokenizer(["The"])
    bos = tokenizer.bos_token_id
    assert tokens.known_bos(tokenizer, bos + 1) == bos
    assert tokens.known_bos(tokenizer, bos) is None and tokens.known_bos(None, 9) is None


@pytest.mark.parametrize("kind", ["normalizer", "pre_tokenizer"])
def test_words_of_a_tokenizer_that_puts_the_space_itself(make_sentencepiece, kind):
    tokenizer = make_sentencepiece(["the cat sat to"], kind=kind)
    kept, dropped = tokens.single_token_words(tokenizer, ["cat", "dog", "sat"])
    assert tokenizer.convert_ids_to_tokens(list(kept.values())) == ["\u2581cat", "\u2581sat"]
    assert list(kept) == ["cat", "sat"] and dropped == 1


def test_hints_where_the_tokenizer_puts_the_space_itself(make_sentencepiece):
    tokenizer = make_sentencepiece(["the cat sat to"])
    assert tokens.require_single_token(tokenizer, "to", "x") == tokens.word_token(tokenizer, "to")
    with pytest.raises(InputError, match="puts the space there itself, so 'to' is the one token$"):
        tokens.require_single_token(tokenizer, " to", "answers holds ' to'")
    with pytest.raises(InputError) as caught:
        tokens.require_single_token(tokenizer, "to sat", "x")
    assert "leading space" not in str(caught.value)


def test_require_tokenizer(make_tokenizer):
    tokenizer = make_tokenizer(["The"])
    assert tokens.require_tokenizer(tokenizer, "ioi") is tokenizer
    with pytest.raises(InputError, match="task=ioi .* clean_ids .* task=induction"):
        tokens.require_tokenizer(None, "ioi")


@pytest.mark.parametrize("items, kept", [
    (["a", "bb", "cc", "d", "ee"], ["bb", "cc", "ee"]),
    (["bb", "a", "cc", "d"], ["a", "d"]),  # a tie goes to the shorter
    ([], []),
])  # fmt: skip
def test_keep_common_length(items, kept):
    assert tokens.keep_common_length(items, len) == (kept, len(items) - len(kept))


def test_check_count():
    tokens.check_count(1)
    with pytest.raises(InputError, match="task.n=0"):
        tokens.check_count(0)
