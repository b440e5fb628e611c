"""Greater-than: both ways of splitting numbers, and the order of years by brute force."""

from __future__ import annotations

import pytest
import torch

from acdc.errors import InputError
from discovery.tasks import greater_than

N = 60
DIGITS = {"two-digit": r"\d\d", "single-digit": r"\d"}


def every_text():
    numbers = [f"{number:02d}" for number in range(100)]
    years = " ".join(["17" + number for number in numbers] + [f"x{n}" for n in numbers])
    return [f"The lasted from the year 17 to {' '.join(greater_than.NOUNS)} {years}"]


@pytest.fixture(scope="module", params=list(DIGITS))
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer, mode):
    return make_tokenizer(every_text(), digits=DIGITS[mode])


def build(tokenizer, **changes):
    return greater_than.build(tokenizer, **({"n": N, "seed": 0, "prepend_bos": False} | changes))


def test_same_seed_same_data_prefix_and_no_duplicates(tokenizer):
    one, two, fewer = build(tokenizer), build(tokenizer), build(tokenizer, n=9)
    assert torch.equal(one.clean, two.clean) and one.answers == two.answers
    assert torch.equal(fewer.clean, one.clean[:9]) and fewer.wrong == one.wrong[:9]
    assert not torch.equal(build(tokenizer, seed=1).clean, one.clean)
    assert len({tuple(row) for row in one.clean.tolist()}) == N


@pytest.mark.parametrize("prepend_bos", [False, True])
def test_prompts_marks_and_mode(tokenizer, mode, prepend_bos):
    prompts = build(tokenizer, prepend_bos=prepend_bos)
    assert prompts.notes["mode"] == mode
    for i, row in enumerate(prompts.clean.tolist()):
        text = tokenizer.decode(row[int(prepend_bos) :])
        assert text.endswith(" to the year 17") and text.split()[1] in greater_than.NOUNS
        year = text.split()[6]
        assert tokenizer.decode(row[prompts.marks["yy"][i] :]).startswith(year[2:] + " to")
        expected = text.replace(year, "1701")
        assert tokenizer.decode(prompts.corrupt[i, int(prepend_bos) :]) == expected
    assert set(prompts.marks["end"]) == {prompts.answer_position} == {prompts.clean.shape[1] - 1}


def test_answers_by_comparing_numbers(tokenizer, mode):
    prompts = build(tokenizer, n=300)
    width = 2 if mode == "two-digit" else 1
    for row, at, right, wrong in zip(
        prompts.clean, prompts.marks["yy"], prompts.answers, prompts.wrong, strict=True
    ):
        start = int(tokenizer.decode([row[at]]))
        numbers = range(10**width)
        assert [int(tokenizer.decode([t])) for t in right] == [k for k in numbers if k > start]
        low = [k for k in numbers if k < start or (k == start and mode == "two-digit")]
        assert [int(tokenizer.decode([t])) for t in wrong] == low
        assert right and wrong
        assert mode == "two-digit" or 2 <= start <= 7
        assert all(len(tokenizer.decode([t])) == width for t in right + wrong)  # no space in it


def test_years_that_are_one_token_are_left_out_but_stay_answers(make_tokenizer):
    tokenizer = make_tokenizer(every_text() + ["1776"], digits=r"(?:1776|\d\d)")
    prompts = build(tokenizer, n=2000)
    assert prompts.notes["mode"] == "two-digit"
    marked = zip(prompts.clean, prompts.marks["yy"], strict=True)
    starts = {tokenizer.decode([row[i]]) for row, i in marked}
    assert "76" not in starts and len(starts) == 96  # 02..98 without 76
    answers = {tokenizer.decode([token]) for token in prompts.answers[0] + prompts.wrong[0]}
    assert answers == {f"{number:02d}" for number in range(100)}


def test_numbers_cut_in_threes_are_refused(make_tokenizer):
    with pytest.raises(InputError, match="17 . 32 or digit by digit"):
        build(make_tokenizer(every_text(), digits=r"\d{1,3}"))


def test_nouns_of_another_length_are_dropped(tokenizer, monkeypatch):
    monkeypatch.setattr(greater_than, "NOUNS", ("war of war", *greater_than.NOUNS))
    assert build(tokenizer).notes["nouns_dropped"] == 1


@pytest.mark.quick("single-digit")
def test_refused_values(tokenizer, mode):
    available = len(greater_than.NOUNS) * (97 if mode == "two-digit" else 60)
    with pytest.raises(InputError, match=f"task.n=1000000: .* only {available} "):
        build(tokenizer, n=1_000_000)
    with pytest.raises(InputError, match="task.n=0"):
        build(tokenizer, n=0)
    with pytest.raises(InputError, match="task=greater_than .* tokenizer"):
        build(None)


def test_refused_without_bos(make_tokenizer):
    with pytest.raises(InputError, match="task.prepend_bos"):
        build(make_tokenizer(every_text(), bos=False), prepend_bos=True)
