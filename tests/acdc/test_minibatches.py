"""Minibatches whose prompts have other partners each time: their runs, and who may be one."""

import families
import numpy as np
import pytest
import test_answers
import test_lengths
import torch

from acdc.ablation import Other
from acdc.data import Data
from acdc.forward import PatchedForward
from acdc.minibatches import Minibatches


def alone(forward):
    """The same prompts and partners, run for themselves."""
    return Data(forward.model, forward.graph, forward.prompts, forward.ablation, 99)[0]


def pairs(forward):
    """(place among all, clean, corrupt) of each prompt."""
    sides = forward.prompts.clean.tolist(), forward.prompts.corrupt.tolist()
    return list(zip(forward.rows, *sides, strict=True))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_another_prompt_is_another_one_each_time(family):
    model = families.view(family)
    prompts = families.prompts(n=7, length=4).with_others(0)
    batches = Minibatches(Data(model, model.graph(), prompts, Other("other"), part=4), 2, 3)
    clean, met = prompts.clean.tolist(), set()
    for step in range(4 * len(batches)):
        for forward in batches.at(step):
            for row, own, other in pairs(forward):
                assert own == clean[row] and other in clean and other != own
                assert row // 4 == clean.index(other) // 4  # of those that are run together
                met.add((row, tuple(other)))
            (again,) = batches.at(step)
            assert pairs(again) == pairs(forward)
    assert len(met) > 1.5 * len(prompts)


def test_runs_are_those_of_the_new_pairs():
    model = families.view("llama")
    prompts = families.prompts(n=6, length=4).with_others(0)
    data = Data(model, model.graph(), prompts, Other("other"))
    masks = test_lengths.masks(data.graph)
    for step in range(4):
        (forward,) = Minibatches(data, 3, 1).at(step)
        for mask in (*masks, np.zeros_like(masks[0])):
            wanted = alone(forward).run(mask)
            torch.testing.assert_close(forward.run(mask), wanted, rtol=0, atol=1e-10)


def test_given_pairs_stay_as_they_are():
    model = families.view("llama")
    data = Data(model, model.graph(), families.prompts(n=6, length=4))
    for step in range(3):
        (forward,) = Minibatches(data, 3, 1).at(step)
        wanted = [data.prompts.corrupt[row].tolist() for row in forward.rows]
        assert forward.prompts.corrupt.tolist() == wanted


def test_partners_have_the_length_and_where_asked_the_marks():
    some = test_lengths.mixed((4, 4, 5, 4, 6))
    assert some.partners() == [[1, 3], [0, 3], [], [0, 1], []]
    twice = some.take([0, 1, 0, 3])  # one prompt is not its own partner
    assert twice.partners() == [[1, 3], [0, 2, 3], [1, 3], [0, 1, 2]]
    moved = {"last": (3, 3, 3, 2, 4)}
    object.__setattr__(some, "marks", moved)
    assert some.partners("marks") == [[1], [0], [], [], []]


def test_a_prompt_without_partners_keeps_its_pair():
    """One of them is alone in its part: its minibatch is as it was."""
    whole = test_lengths.data("other", part=3, padded=True)
    kept, drawn = 0, 0
    batches = Minibatches(whole, 3, 0)
    for step in range(2 * len(batches)):
        for forward in batches.at(step):
            own = [whole.prompts.take([row]).corrupt.tolist()[0] for row in forward.rows]
            short = [forward.prompts.take([i]).corrupt.tolist()[0] for i in range(len(own))]
            kept, drawn = kept + (own == short), drawn + (own != short)
            mask = test_lengths.masks(whole.graph)[0]
            torch.testing.assert_close(
                forward.run(mask), alone(forward).run(mask), rtol=0, atol=1e-10
            )
    assert kept and drawn


def test_all_tokens_of_an_answer_have_the_same_partner():
    whole = test_answers.data("other", part=4)
    batches = Minibatches(whole, 3, 0)
    for step in range(2 * len(batches)):
        by_row = dict[int, list[list[int]]]()
        for forward in batches.at(step):
            assert isinstance(forward, PatchedForward)
            for row, clean, corrupt in pairs(forward):
                assert len(clean) == len(corrupt)
                by_row.setdefault(row, []).append(corrupt)
        for seen in by_row.values():
            assert all(longer[: len(seen[0])] == seen[0] for longer in seen)
