"""Where heads look and why: the embedded induction model, and prompts without marks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained import bench, q_composition, subject

from acdc.data import Data
from acdc.prompts import Prompts
from discovery.explanation.attention import part as attention
from discovery.explanation.attention.gazes import Gaze, gazes_of, keys_of, look_of
from discovery.explanation.attention.part import largest, mean_pairs, measured, says
from discovery.heads.attention import head_pattern
from discovery.settings.explanation import Attention
from discovery.validation.bench import Bench

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def section():
    return attention.explain(subject(), Attention(), {})


def test_an_induction_head_matches_its_token_with_what_the_previous_token_head_wrote(section):
    heads = {(h["name"], h["gaze"]["query"]): h for h in section.found["heads"]}
    found = heads["a1.h3", "end"]
    assert found["gaze"]["key"] == "match" and found["attention"] > 0.8
    best = found["pairs"][0]
    assert (best["query_writer"], best["key_writer"]) == ("token", "a0.h3")
    assert best["score"]["estimate"] > 0.8 * found["score"]["estimate"] > 4
    before = heads["a0.h3", "end"]
    assert before["gaze"]["key"] == "the token before"
    best = before["pairs"][0]
    assert (best["query_writer"], best["key_writer"]) == ("position", "position")
    assert best["score"]["estimate"] > 0.8 * before["score"]["estimate"]
    json.dumps(section.found)


def test_a_sentence_says_the_pair_and_heads_without_a_gaze_come_first(section):
    (said,) = [s for s in section.says if s.startswith("a1.h3 looks from end to match")]
    assert "from token at end with a0.h3 at match" in said
    model = q_composition()  # a0.h0 looks everywhere alike: 1/12 of its attention a token
    tokens = torch.tensor([[0, 1, 1, 2, 1, 2, 1, 1, 0, 1, 1, 2]] * 2)
    some = Prompts(tokens, tokens, ((0,), (0,)), ((1,), (1,)), 11)
    uniform = Bench(Data(model, model.graph(), some), "logit_diff")
    gazes, idle = gazes_of(uniform, [(0, 0), (1, 0)])
    assert idle == [(0, 0)] and [g.head for g in gazes] == [(1, 0)]
    lines = says([], ["a0.h0"], {(0, 0): "a0.h0", (1, 0): "a1.h0"})
    assert lines[0].startswith("1 of 2 heads spend less than 10% of their attention on every")


def test_pairs_writers_and_the_rest_add_up_to_the_contrast_of_scores():
    test = bench(2)
    gaze = Gaze((1, 3), "end", "match", None)
    (mean,) = mean_pairs(test, [gaze])
    everything = largest(mean, mean.size)
    (split,) = measured(test, [gaze], [everything], np.random.default_rng(0))
    total = split.score.estimate
    for parts in (split.pairs, split.by_query, split.by_key):
        assert sum(p.score.estimate for p in parts) == pytest.approx(total, abs=1e-4)
    assert split.rest == pytest.approx(0, abs=1e-4)
    scores = list[float]()  # by hand: a log of the pattern, less the others', without the first
    for forward in test.data:
        pattern = head_pattern(forward, 1, 3)
        for row, (at, there) in enumerate(
            zip(forward.prompts.marks["end"], forward.prompts.marks["match"], strict=True)
        ):
            log = pattern[row, at, : at + 1].log()
            others = [i for i in range(1, at + 1) if i != there]
            scores.append(float(log[there] - log[others].mean()))
    assert total == pytest.approx(np.mean(scores), abs=1e-3)
    few = largest(mean, 3)
    (split,) = measured(test, [gaze], [few], np.random.default_rng(0))
    assert split.rest + sum(p.score.estimate for p in split.pairs) == pytest.approx(total, abs=1e-4)


def test_against_another_mark_the_others_do_not_count():
    test = bench(2)
    gazes, _ = gazes_of(test, [(1, 3)], "mark")
    assert gazes[0].other in ("previous", "end") and gazes[0].key == "match"
    some = test.data.prompts
    look = look_of(some, gazes[0], test.data[0].clean.logits)
    assert (look.weights.abs().sum(1) == 2).all() and (look.weights.sum(1) == 0).all()
    there = torch.tensor(some.marks["match"])[:, None]
    assert (look.weights.gather(1, there) == 1).all()


def test_weights_of_a_look_are_a_contrast_up_to_the_query():
    some = bench(2).data.prompts
    like = torch.zeros(1, dtype=torch.float64)
    for query in ("end", "previous"):
        look = look_of(some, Gaze((0, 0), query, "the token before", None), like)
        torch.testing.assert_close(look.weights.sum(1), torch.zeros(16, dtype=torch.float64))
        after = torch.arange(look.weights.shape[1]) > look.query[:, None]
        assert (look.weights[after] == 0).all() and (look.weights[:, 0] == 0).all()


def test_without_marks_the_answers_position_is_asked():
    one = bench(2)
    bare = replace(one.data.prompts, marks={})
    test = Bench(Data(one.data.model, one.graph, bare, part=8), one.score)
    assert "position 3" in keys_of([bare], "end")
    gazes, idle = gazes_of(test, [(0, 3)])
    assert [(g.query, g.key) for g in gazes] == [("end", f"position {bare.answer_position - 1}")]
    assert idle == []


def test_a_key_that_some_prompts_have_after_the_query_is_none_whatever_the_parts():
    """`late` is before `end` but in the last two prompts; in the first parts it would be a key."""
    one = bench(2)
    prompts = one.data.prompts
    n, end = len(prompts), prompts.answer_position
    early, late = (2,) * n, (3,) * (n - 2) + (end, end)
    some = replace(prompts, marks={"query": (4,) * n, "late": late, "early": early})
    found = gazes_of(Bench(Data(one.data.model, one.graph, some, part=4), one.score), [(0, 3)])
    assert keys_of([some], "query") == ["query", "early", "the token before"]
    whole = gazes_of(Bench(Data(one.data.model, one.graph, some, part=n), one.score), [(0, 3)])
    assert found == whole
    choose = some.take(range(n - 2))  # where `late` would do
    assert "late" in keys_of([choose], "query") and "late" not in keys_of([choose, some], "query")
    test = Bench(Data(one.data.model, one.graph, some, part=4), one.score)
    few = Bench(Data(one.data.model, one.graph, choose, part=4), one.score)
    gazes, _ = gazes_of(few, [(0, 3)], also=[test.data])
    assert "late" not in [g.key for g in gazes]
    assert measured(test, gazes, [largest(m, 2) for m in mean_pairs(few, gazes)], RNG)
