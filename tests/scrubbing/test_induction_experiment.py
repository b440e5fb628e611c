"""The induction experiment: its rewrites are exact, its ends are the network and the baseline."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from acdc.errors import InputError
from discovery.experiments.induction import (
    Experiment,
    Hypothesis,
    Split,
    controls,
    hypotheses,
    rungs,
)
from discovery.experiments.induction_heads import (
    Heads,
    bigram_table,
    candidates,
    head_scores,
    named_heads,
    sources,
)
from discovery.experiments.markov_text import VOCABULARY, texts
from discovery.experiments.two_layer import FOLDER, TwoLayer, load_two_layer

HEADS = Heads(previous=0, near=(0, 1), same=(2,), induction=(1,))
ALL = Split(embedding=True, whole=(0, 1, 2))


def network(seed: int = 0) -> TwoLayer:
    """Untrained: 3 heads a layer, texts of up to 8 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return TwoLayer(
        embed=drawn(VOCABULARY, 12), positions=drawn(8, 12), query=drawn(2, 3, 12, 4),
        key=drawn(2, 3, 12, 4), value=drawn(2, 3, 12, 4), out=drawn(2, 3, 4, 12),
        scale=1 + drawn(3, 12) / 9, shift=drawn(3, 12), unembed=drawn(12, VOCABULARY),
    )  # fmt: skip


def experiment(weights: TwoLayer | None = None) -> Experiment:
    tokens = texts(40, 9, np.random.default_rng(0))
    counted = np.ones(VOCABULARY, bool)
    return Experiment(weights or network(), tokens, counted, HEADS.induction)


@pytest.mark.parametrize("hypothesis", hypotheses(HEADS, 3) + controls(HEADS), ids=lambda h: h.name)
def test_split_terms_add_up_to_the_network(hypothesis):
    one = experiment()
    found = one.computation(hypothesis.splits).run("output", np.arange(40))
    torch.testing.assert_close(found, one.network(torch.from_numpy(one.tokens[:, :-1])))


def test_claimed_terms_by_hand():
    """Head 0 at offset 1, head 2 as if it attended to the current token alone."""
    weights = network()
    stream = weights.embed[torch.tensor([[3, 5, 3, 7]])]
    pattern = weights.pattern(0, stream, stream)
    split = Split(offsets={0: (1,)}, estimated=(2,))
    normed = weights.normed(0, stream)
    written = torch.stack([normed @ weights.value[0, h] @ weights.out[0, h] for h in range(3)], 1)
    expected = written[0, 2].clone()
    for t in (1, 2, 3):
        expected[t] += pattern[0, 0, t, t - 1] * written[0, 0, t - 1]
    found = weights.attention(0, split.claimed(pattern), stream)[0]
    torch.testing.assert_close(found, expected)


def test_everything_claimed_is_the_network_and_nothing_claimed_the_baseline():
    one = experiment()
    every = Hypothesis("all", dict.fromkeys(("query", "key", "value"), ALL))
    np.testing.assert_allclose(one.scrubbed(every, 0), one.model(0), atol=1e-9)
    none = Hypothesis("none", dict.fromkeys(("query", "key", "value"), Split()))
    np.testing.assert_allclose(one.scrubbed(none, 0), one.baseline(0), atol=1e-9)
    assert not np.allclose(one.model(0), one.baseline(0))


def test_one_other_text_for_all_paths():
    """With the shared x', scrubbing all of keys and values equals that by both at once."""
    one = experiment()
    keys = Hypothesis("keys", {"key": Split(), "value": Split(), "query": ALL})
    query = Hypothesis("same", {"key": Split(), "value": Split()})
    np.testing.assert_allclose(one.scrubbed(keys, 3), one.scrubbed(query, 3), atol=1e-9)


def test_strict_keys_take_the_attention_of_the_other_text():
    one = experiment()
    splits = {"key": Split(offsets={0: (1,)})}
    loose, strict = (one.scrubbed(Hypothesis("key", splits, s), 0) for s in (False, True))
    assert np.abs(loose - strict).max() > 1e-3
    frozen = replace(one.network, query=torch.zeros_like(one.network.query))
    alike = experiment(frozen)  # attention that no text changes
    loose, strict = (alike.scrubbed(Hypothesis("key", splits, s), 0) for s in (False, True))
    np.testing.assert_allclose(loose, strict, atol=1e-9)


def test_heads_that_do_nothing_leave_nothing_to_divide_by():
    idle = network()
    idle.out[1, 1] = 0
    one = experiment(idle)
    with pytest.raises(InputError, match="nothing can be recovered"):
        next(rungs(one, HEADS, 0))


def test_sources_by_hand():
    assert sources(np.array([[4, 5, 4, 4, 5]])).tolist() == [[-1, -1, 1, 3, 2]]


def test_head_scores_by_hand():
    """Attention without preference: 1/4 to each of the four positions that the last query sees."""
    even = replace(network(), query=torch.zeros_like(network().query))
    scores = head_scores(even, np.array([[0, 4, 5, 4, 5]]))
    assert scores.previous == pytest.approx(np.full((2, 3), 1 / 4))
    assert scores.near == pytest.approx(np.full((2, 3), 3 / 4))
    assert scores.induction == pytest.approx(np.full((2, 3), 1 / 4))
    assert scores.same == pytest.approx(np.full((2, 3), 2 / 4))


def test_bigram_rows_are_probabilities():
    table = bigram_table(np.array([[1, 2, 1, 2, 1, 3]]))
    np.testing.assert_allclose(table.sum(1), 1)
    assert table[1].argmax() == 2 and table[2].argmax() == 1


def test_candidates_are_tokens_whose_followers_repeat():
    """Tokens 10..39 keep their follower within a text, tokens 100.. never do."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(600):
        a, b = generator.choice(np.arange(10, 40), 2, replace=False)
        x, *rest = generator.choice(np.arange(100, 130), 4, replace=False)
        rows.append([0, a, b, x, rest[0], a, b, x, rest[1], a, b, x, rest[2]])
    kept = candidates(np.array(rows))
    assert kept.sum() == kept[10:40].sum() == 12  # a fifth of the 60 that repeat


def test_tokens_too_rare_to_judge_are_refused():
    with pytest.raises(InputError, match="none repeats 20 times"):
        candidates(np.array([[0, 1, 2, 1, 2]]))


def test_texts_repeat_themselves_and_are_the_same_at_the_same_seed():
    first, second = (texts(200, 65, np.random.default_rng(1)) for _ in range(2))
    assert (first == second).all() and (first[:, 0] == 0).all() and (first[:, 1:] > 0).all()
    source = sources(first[:, :-1])
    again = source > 0
    hit = (np.take_along_axis(first, source.clip(0), 1) == first[:, 1:])[again].mean()
    assert 0.2 < hit < 0.8  # repeats help, distractors mislead


def test_unclear_networks_are_refused():
    with pytest.raises(InputError, match="previous-token head"):
        named_heads(head_scores(network(), texts(50, 9, np.random.default_rng(0))))


def test_shipped_network_is_the_one_that_was_trained():
    recorded = json.loads((FOLDER / "config.json").read_text())["sha256"]
    content = (FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == recorded
    assert len(content) <= 1_000_000


@pytest.mark.slow
def test_shape_of_the_ladder_on_the_shipped_network():
    """Naive jointly below each path; refined above naive; controls below their claim."""
    shipped = load_two_layer()
    tokens = texts(350, 65, np.random.default_rng([9, 9]))
    heads = named_heads(head_scores(shipped, tokens[:100]))
    counted = candidates(texts(2000, 65, np.random.default_rng([9, 8])))
    one = Experiment(shipped, tokens[100:], counted, heads.induction)
    score = {rung.name: rung.recovered for rung in rungs(one, heads, 0)}
    naive, refined = score["naive"], score["R1 + R2 + R3"]
    assert refined.low > naive.high
    assert all(naive.high < score[path].low for path in ("value", "query"))
    assert naive.value < score["key"].value  # of the same pairs of texts
    assert score["key without the previous-token head"].high < score["key"].low
    assert score["the network on x', labels of x"].high < 0
