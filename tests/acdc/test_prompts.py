"""Prompts: what they refuse, what they cut off, and which rows they give."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from acdc.errors import InputError
from acdc.prompts import Prompts

CLEAN = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]])
CORRUPT = torch.tensor([[0, 1, 9, 3], [4, 5, 6, 7]])
PROMPTS = Prompts(
    CLEAN, CORRUPT, answers=((1,), (2, 3)), wrong=((4, 5), (6,)), answer_position=2,
    marks={"io": (0, 1)}, features={"order": (3, 8)}, notes={"mode": "abc"},
)  # fmt: skip


def test_what_comes_after_the_answer_position_is_cut_off():
    assert PROMPTS.clean.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert PROMPTS.corrupt.tolist() == [[0, 1, 9], [4, 5, 6]]
    for position, length in ((0, 1), (3, 4)):
        cut = replace(PROMPTS, clean=CLEAN, corrupt=CORRUPT, answer_position=position)
        assert cut.clean.shape == cut.corrupt.shape == (2, length)
    assert len(PROMPTS) == 2


def test_only_tokens_and_answers_must_be_given():
    bare = Prompts(CLEAN, CORRUPT, answers=((1,), ()), wrong=((), ()), answer_position=2)
    assert (bare.marks, bare.features, bare.notes) == ({}, {}, {})


def test_one_prompt_that_differs_makes_them_corrupt_and_all_must_name_answers():
    assert PROMPTS.has_corrupt and not replace(PROMPTS, corrupt=PROMPTS.clean).has_corrupt
    assert PROMPTS.has_answers and not replace(PROMPTS, answers=((1,), ())).has_answers
    assert PROMPTS.has_wrong and not replace(PROMPTS, wrong=((), (1,))).has_wrong


@pytest.mark.parametrize(
    "change, message",
    [
        ({"corrupt": CORRUPT[:, :2]}, r"clean is \(2, 3\), corrupt \(2, 2\)"),
        ({"corrupt": CORRUPT[:1, :3]}, r"clean is \(2, 3\), corrupt \(1, 3\)"),
        ({"clean": CLEAN[:0], "corrupt": CLEAN[:0]}, r"empty batch \(0, 4\)"),
        ({"clean": CLEAN[:, :0], "corrupt": CLEAN[:, :0]}, r"empty batch \(2, 0\)"),
        ({"answer_position": 3}, r"answer_position 3 outside 0\.\.2"),
        ({"answer_position": -1}, r"answer_position -1 outside 0\.\.2"),
        ({"answers": ((1,),)}, "1 answers for 2 prompts"),
        ({"wrong": ((1,),)}, "for 2 prompts"),
    ],
)
def test_refusals(change, message):
    asked = SimpleNamespace(**{**vars(PROMPTS), **change})
    with pytest.raises(InputError, match=message):
        Prompts.__post_init__(asked)  # not Prompts(): in tests jaxtyping would refuse some before


def test_the_first_token_outside_the_vocabulary_is_named_with_its_place():
    PROMPTS.check_vocabulary(10)
    with pytest.raises(InputError, match=r"prompt 1: corrupt token 9 at position 2 .* 0\.\.8"):
        PROMPTS.check_vocabulary(9)
    with pytest.raises(InputError, match=r"prompt 2: clean token 5 at position 1 .* 0\.\.4"):
        PROMPTS.check_vocabulary(5)
    small = replace(PROMPTS, clean=PROMPTS.clean * 0, corrupt=PROMPTS.corrupt * 0)
    small.check_vocabulary(7)
    with pytest.raises(InputError, match=r"prompt 2: wrong token 6 is outside .* 0\.\.5"):
        small.check_vocabulary(6)
    with pytest.raises(InputError, match=r"prompt 2: answers token 3 is outside .* 0\.\.2"):
        small.check_vocabulary(3)
    for name in ("answers", "wrong"):
        replace(small, **{name: ((0,), (0,))}).check_vocabulary(7)
        with pytest.raises(InputError, match=f"prompt 1: {name} token -1 is outside"):
            replace(small, **{name: ((-1,), (0,))}).check_vocabulary(7)
    with pytest.raises(InputError, match="prompt 1: clean token -1 at position 0"):
        replace(PROMPTS, clean=PROMPTS.clean - 1).check_vocabulary(10)


def test_another_device_takes_both_runs_tokens_and_nothing_else():
    moved = PROMPTS.to("meta")
    assert moved.clean.is_meta and moved.corrupt.is_meta and not PROMPTS.clean.is_meta
    for name in set(vars(PROMPTS)) - {"clean", "corrupt"}:
        assert getattr(moved, name) == getattr(PROMPTS, name)


def test_rows_are_taken_in_the_order_asked_for_and_may_come_twice():
    taken = PROMPTS.take([1, 0, 1])
    assert taken.clean.tolist() == [[4, 5, 6], [0, 1, 2], [4, 5, 6]]
    assert taken.corrupt.tolist() == [[4, 5, 6], [0, 1, 9], [4, 5, 6]]
    assert taken.answers == ((2, 3), (1,), (2, 3)) and taken.wrong == ((6,), (4, 5), (6,))
    assert taken.marks == {"io": (1, 0, 1)} and taken.features == {"order": (8, 3, 8)}
    assert taken.notes == PROMPTS.notes and taken.answer_position == 2


def many(n=12, length=4, seed=0):
    tokens = torch.randint(0, 50, (n, length), generator=torch.Generator().manual_seed(seed))
    rows = tuple((int(row[0]),) for row in tokens)
    marks = {"a": tuple(i % 3 for i in range(n))}
    return Prompts(tokens, tokens, rows, ((),) * n, length - 1, marks=marks)


@pytest.mark.parametrize("draws", [1, 3])
def test_others_are_other_prompts_each_as_often(draws):
    prompts = many()
    paired = prompts.with_others(seed=1, draws=draws)
    assert len(paired) == 12 * draws and torch.equal(paired.clean, prompts.clean.repeat(draws, 1))
    clean = [tuple(row) for row in prompts.clean.tolist()]
    partners = [clean.index(tuple(row)) for row in paired.corrupt.tolist()]
    by_row = [partners[row::12] for row in range(12)]
    assert all(row not in own and len(set(own)) == draws for row, own in enumerate(by_row))
    assert sorted(partners) == sorted(list(range(12)) * draws)
    again = prompts.with_others(seed=1, draws=draws)
    assert torch.equal(again.corrupt, paired.corrupt)
    assert not torch.equal(prompts.with_others(2, draws).corrupt, paired.corrupt)
    assert paired.answers == prompts.answers * draws


def test_others_with_equal_tokens_are_no_others():
    prompts = many(4).take([0, 0, 0, 1])
    paired = prompts.with_others(seed=0)
    assert (paired.clean != paired.corrupt).any(1).all()
    with pytest.raises(InputError, match="ablation=other: prompt 1 of 2 has 0 other prompts"):
        many(1).take([0, 0]).with_others(seed=0)


def test_others_aligned_by_marks_have_them_at_the_same_places():
    prompts = many()
    paired = prompts.with_others(seed=3, draws=2, align="marks")
    clean = [tuple(row) for row in prompts.clean.tolist()]
    for row, partner in enumerate(paired.corrupt.tolist()):
        assert clean.index(tuple(partner)) % 3 == row % 3
    with pytest.raises(InputError, match="with the same marked positions, and draws=4 are"):
        prompts.with_others(seed=3, draws=4, align="marks")
