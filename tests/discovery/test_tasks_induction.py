"""Induction: the answer by looking back for the last token, and what the corruption takes away."""

from __future__ import annotations

import pytest
import torch

from acdc.errors import InputError
from discovery.tasks import induction


def build(**changes):
    given = {"d_vocab": 50, "n": 100, "seed": 0, "length": 20}
    return induction.build(**(given | changes))


@pytest.fixture(params=[{}, {"prepend_bos": True, "bos_id": 7, "low": 3}], ids=["plain", "bos"])
def prompts(request):
    return build(**request.param)


def test_same_seed_same_data_prefix_and_length():
    one, two, fewer = build(), build(), build(n=5)
    assert torch.equal(one.clean, two.clean) and torch.equal(one.corrupt, two.corrupt)
    assert torch.equal(fewer.clean, one.clean[:5]) and torch.equal(fewer.corrupt, one.corrupt[:5])
    assert not torch.equal(build(seed=1).clean, one.clean)
    assert one.clean.shape == build(prepend_bos=True, bos_id=0).clean.shape == (100, 20)


def test_answer_is_what_followed_the_last_token(prompts):
    for i, row in enumerate(prompts.clean.tolist()):
        earlier = [k for k, token in enumerate(row[:-1]) if token == row[-1]]
        assert earlier == [prompts.marks["previous"][i]]
        assert prompts.marks["match"][i] == earlier[0] + 1
        assert prompts.answers[i] == (row[earlier[0] + 1],)


def test_nothing_repeats_apart_from_the_segment(prompts):
    for i, row in enumerate(prompts.clean.tolist()):
        distance = len(row) - 1 - prompts.marks["previous"][i]
        repeats = [k for k in range(len(row)) if row[k] in row[:k]]
        assert repeats == list(range(repeats[0], len(row)))  # one run, up to the end
        assert all(row[k] == row[k - distance] for k in repeats)
        assert repeats[0] - distance >= 1  # something stands before the segment


def test_corrupt_has_no_match_and_changes_the_first_segment_only(prompts):
    for i in range(len(prompts)):
        clean, corrupt = prompts.clean[i].tolist(), prompts.corrupt[i].tolist()
        assert len(set(corrupt)) == len(corrupt)
        changed = [k for k in range(len(clean)) if clean[k] != corrupt[k]]
        assert changed == list(range(changed[0], changed[-1] + 1))
        assert len(changed) == len(clean) - 1 - prompts.marks["previous"][i]
        assert not {corrupt[k] for k in changed} & set(clean)
        match = prompts.marks["match"][i]
        assert match in changed and prompts.wrong[i] == (corrupt[match],)


def test_distance_and_place_vary(prompts):
    assert len(set(prompts.marks["previous"])) > 5
    assert set(prompts.marks["end"]) == {prompts.answer_position} == {19}


def test_bos_and_ids_below_low_are_not_drawn():
    prompts = build(prepend_bos=True, bos_id=7, low=3, n=300)
    assert (prompts.clean[:, 0] == 7).all() and (prompts.corrupt[:, 0] == 7).all()
    drawn = torch.cat([prompts.clean[:, 1:], prompts.corrupt[:, 1:]]).unique().tolist()
    assert drawn == [token for token in range(3, 50) if token != 7]
    assert 7 not in build(bos_id=7).clean


def test_the_smallest_vocabulary_is_enough_for_all_draws():
    assert build(length=20, d_vocab=29, n=500).clean.max() <= 28
    with pytest.raises(InputError, match="task.length=20 takes up to 29 .* only 28"):
        build(length=20, d_vocab=28)


def test_the_shortest_length_has_two_distances():
    assert len(set(build(length=6).marks["previous"])) >= 2


@pytest.mark.parametrize("changes, message", [
    ({"n": 0}, "task.n=0"),
    ({"length": 5}, "task.length=5: at least 6"),
    ({"length": 6, "prepend_bos": True, "bos_id": 1}, "task.length=6: at least 7"),
    ({"prepend_bos": True}, "task.prepend_bos"),
])  # fmt: skip
def test_refused_values(changes, message):
    with pytest.raises(InputError, match=message):
        build(**changes)
