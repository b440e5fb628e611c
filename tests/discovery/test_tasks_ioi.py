"""Indirect object identification: the laws of the prompts, read back by decoding them."""

from __future__ import annotations

import pytest
import torch

from acdc.errors import InputError
from discovery.tasks import ioi

N = 40


def every_text():
    """Texts that show every word of the task to the tokenizer."""
    yield " " + " ".join([*ioi.NAMES, *ioi.PLACES, *ioi.OBJECTS])
    for template in ioi.TEMPLATES:
        yield template.format(A="x", B="x", S="x", place="x", object="x")


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(every_text())


def build(tokenizer, **changes):
    given = {"n": N, "seed": 0, "prepend_bos": False, "corruption": "abc"} | changes
    return ioi.build(tokenizer, **given)


def at(ids, prompts, mark):
    """The token of each prompt at a mark."""
    return [int(row[i]) for row, i in zip(ids, prompts.marks[mark], strict=True)]


@pytest.mark.parametrize("corruption", ioi.CORRUPTIONS)
def test_same_seed_same_data_and_the_first_do_not_depend_on_n(tokenizer, corruption):
    one, two = (build(tokenizer, corruption=corruption) for _ in range(2))
    assert torch.equal(one.clean, two.clean) and torch.equal(one.corrupt, two.corrupt)
    assert (one.answers, one.marks, one.notes) == (two.answers, two.marks, two.notes)
    fewer = build(tokenizer, corruption=corruption, n=7)
    assert torch.equal(fewer.clean, one.clean[:7]) and torch.equal(fewer.corrupt, one.corrupt[:7])
    other = build(tokenizer, corruption=corruption, seed=1)
    assert not torch.equal(other.clean, one.clean)


def test_clean_prompts_do_not_depend_on_the_corruption(tokenizer):
    abc, flip = (build(tokenizer, corruption=corruption) for corruption in ioi.CORRUPTIONS)
    assert torch.equal(abc.clean, flip.clean) and not torch.equal(abc.corrupt, flip.corrupt)


def test_all_templates_have_15_tokens_and_prompts_differ(tokenizer):
    prompts = build(tokenizer, n=200)
    assert prompts.clean.shape == (200, 15) and prompts.notes["templates_dropped"] == 0
    assert len({tuple(row) for row in prompts.clean.tolist()}) == 200


@pytest.mark.parametrize("prepend_bos", [False, True])
def test_answers_and_marks_read_back(tokenizer, prepend_bos):
    prompts = build(tokenizer, prepend_bos=prepend_bos)
    io, s1, s2 = (at(prompts.clean, prompts, mark) for mark in ("io", "s1", "s2"))
    assert [(token,) for token in io] == list(prompts.answers)
    assert s1 == s2 and [(token,) for token in s1] == list(prompts.wrong)
    assert {tokenizer.decode([token])[1:] for token in io + s1} <= set(ioi.NAMES)
    for row, answer in zip(prompts.clean.tolist(), prompts.answers, strict=True):
        assert tokenizer.decode(row).endswith(" to") and row.count(answer[0]) == 1
        assert (row[0] == tokenizer.bos_token_id) == prepend_bos
    assert prompts.marks["s1+1"] == tuple(i + 1 for i in prompts.marks["s1"])
    assert set(prompts.marks["end"]) == {prompts.answer_position} == {prompts.clean.shape[1] - 1}


@pytest.mark.parametrize("kind", ["normalizer", "pre_tokenizer"])
def test_a_tokenizer_that_puts_the_space_itself(make_sentencepiece, kind):
    tokenizer = make_sentencepiece(every_text(), kind=kind)
    prompts = build(tokenizer)
    assert prompts.notes["names"] == len(ioi.NAMES) and prompts.notes["names_dropped"] == 0
    io = at(prompts.clean, prompts, "io")
    assert [(token,) for token in io] == list(prompts.answers)
    words = {name.removeprefix("\u2581") for name in tokenizer.convert_ids_to_tokens(io)}
    assert words <= set(ioi.NAMES) and len(words) > 5


def test_half_abba_half_baba(tokenizer):
    prompts = build(tokenizer)
    triples = zip(prompts.marks["io"], prompts.marks["s1"], prompts.marks["s2"], strict=True)
    abba = [io < s1 for io, s1, _ in triples]
    assert abba == [True, False] * (N // 2)
    assert all(s1 < s2 for s1, s2 in zip(prompts.marks["s1"], prompts.marks["s2"], strict=True))


@pytest.mark.parametrize("corruption", ioi.CORRUPTIONS)
def test_corrupt_differs_only_at_the_names(tokenizer, corruption):
    prompts = build(tokenizer, corruption=corruption)
    changed = ("io", "s1", "s2") if corruption == "abc" else ("s2",)
    for i, row in enumerate(prompts.clean != prompts.corrupt):
        assert row.nonzero().flatten().tolist() == sorted(prompts.marks[m][i] for m in changed)


def test_abc_has_three_other_names(tokenizer):
    prompts = build(tokenizer, n=200)
    names = [at(prompts.corrupt, prompts, mark) for mark in ("io", "s1", "s2")]
    for a, b, c, (io,), (s,) in zip(*names, prompts.answers, prompts.wrong, strict=True):
        assert len({a, b, c, io, s}) == 5
        assert all(tokenizer.decode([name])[1:] in ioi.NAMES for name in (a, b, c))


def test_flip_makes_the_subject_right(tokenizer):
    prompts = build(tokenizer, corruption="flip")
    assert [(token,) for token in at(prompts.corrupt, prompts, "s2")] == list(prompts.answers)
    assert [(token,) for token in at(prompts.corrupt, prompts, "s1")] == list(prompts.wrong)


def test_names_of_more_than_one_token_are_dropped_and_counted(make_tokenizer):
    missing = [f" {name}" for name in ioi.NAMES[:90]]
    prompts = build(make_tokenizer(every_text(), without=[*missing, " store"]))
    assert prompts.notes["names_dropped"] == 90 and prompts.notes["places_dropped"] == 1
    assert prompts.notes["names"] == len(ioi.NAMES) - 90


def test_templates_of_another_length_are_dropped(tokenizer, monkeypatch):
    longer = "Then, {A} and {B} had fun at the {place}. {S} gave a {object} to"
    monkeypatch.setattr(ioi, "TEMPLATES", (longer, *ioi.TEMPLATES))
    prompts = build(tokenizer)
    assert prompts.clean.shape[1] == 15 and prompts.notes["templates_dropped"] == 1


def test_too_few_names(make_tokenizer):
    tokenizer = make_tokenizer(every_text(), without=[f" {name}" for name in ioi.NAMES[5:]])
    with pytest.raises(InputError, match="only 5 of its names .* at least 6"):
        build(tokenizer)


def test_all_prompts_there_are_and_not_one_more(make_tokenizer, monkeypatch):
    monkeypatch.setattr(ioi, "TEMPLATES", ioi.TEMPLATES[:1])
    monkeypatch.setattr(ioi, "PLACES", ("store",))
    monkeypatch.setattr(ioi, "OBJECTS", ("drink",))
    monkeypatch.setattr(ioi, "NAMES", ioi.NAMES[:6])
    tokenizer = make_tokenizer(every_text())
    prompts = build(tokenizer, n=60)  # 6 x 5 pairs in two orders
    assert len({tuple(row) for row in prompts.clean.tolist()}) == 60
    with pytest.raises(InputError, match="task.n=61: .* only 60"):
        build(tokenizer, n=61)


@pytest.mark.parametrize("changes, message", [
    ({"n": 0}, "task.n=0"),
    ({"corruption": "zero"}, "task.corruption='zero' .* abc, flip"),
])  # fmt: skip
def test_refused_values(tokenizer, changes, message):
    with pytest.raises(InputError, match=message):
        build(tokenizer, **changes)


def test_refused_without_bos_or_tokenizer(make_tokenizer):
    with pytest.raises(InputError, match="task.prepend_bos"):
        build(make_tokenizer(every_text(), bos=False), prepend_bos=True)
    with pytest.raises(InputError, match="task=ioi .* tokenizer"):
        build(None)
