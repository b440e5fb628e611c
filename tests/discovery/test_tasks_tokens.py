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
    with pytest.raises(InputError, match="task.prepend_bos=true .* tokenizer has none"):
        tokens.encode_prompt(make_tokenizer(["The"], bos=False), "The", prepend_bos=True)
    with pytest.raises(InputError, match="task.prepend_bos=true .* no tokenizer"):
        tokens.bos_id(None)


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
