"""Resampled circuits: laws, and the sums written out."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc.ablation import RESAMPLE
from acdc.forward import bias_streams, stream_of
from acdc.live import run_live
from discovery.validation.bench import make_bench, node_mask, without
from discovery.validation.resampling import (
    HOWS,
    ResampledCuts,
    feature_classes,
    resampled_baseline,
    scrub_circuit,
)

view = families.view
FAMILIES = ("gpt2", "llama", "pythia", "attention_only")


def bench_of(family="gpt2", n=6, kv="per_query_head", **features):
    model, prompts = view(family), families.prompts(n)
    prompts = replace(prompts, features=features)
    return make_bench(model, model.graph(kv), prompts, RESAMPLE, chunk=4)


def random_mask(graph, share, seed=0):
    return graph.legal & (np.random.default_rng(seed).random(graph.legal.shape) < share)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_kept_is_the_model(family, how):
    bench = bench_of(family)
    found = scrub_circuit(bench, bench.graph.legal, how, 2, np.random.default_rng(0))
    np.testing.assert_allclose(found.score, bench.model.score[:, None].repeat(2, 1), atol=1e-10)


@pytest.mark.parametrize("how", ["shared", "per node"])
def test_nothing_kept_is_another_prompts_run(how):
    bench = bench_of(n=4)
    forward = bench.data[0]
    cuts = ResampledCuts(forward, how, np.random.default_rng(3))
    nothing = bench.graph.legal & False
    found = scrub_circuit(bench, nothing, how, 1, np.random.default_rng(3)).score[:, 0]
    rows = cuts._draw(len(bench.graph.readers) - 1)
    np.testing.assert_allclose(
        found, bench.score_of(forward, forward.clean.logits[rows]), atol=1e-10
    )


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_equal_prompts_leave_nothing_to_resample(how, kv):
    model, p = view("llama"), families.prompts(4).take([2, 2, 2, 2])
    bench = make_bench(model, model.graph(kv), p, RESAMPLE)
    found = scrub_circuit(bench, random_mask(bench.graph, 0.3), how, 1, np.random.default_rng(0))
    np.testing.assert_allclose(found.score[:, 0], bench.model.score, atol=1e-10)


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("how", HOWS)
def test_what_a_reader_gets_over_cut_edges_written_out(how, share):
    model, prompts = view("gpt2"), families.prompts(5)
    forward = families.run(model, model.graph(), prompts)
    graph, clean, biases = forward.graph, forward.clean.writers.dense(), bias_streams(model)
    mask = random_mask(graph, share)
    cuts = ResampledCuts(forward, how, np.random.default_rng(1))
    replay = np.random.default_rng(1)
    shared = replay.integers(5, size=5)  # drawn first, whatever the rule
    draws = {}
    for r, info in enumerate(graph.readers):
        kept = np.flatnonzero(mask[:, r]).tolist()
        cut = [w for w in range(graph.senders[r]) if w not in kept]
        got = cuts.base(r, kept, 3)
        if how == "per edge":
            rows = replay.integers(5, size=(len(cut), 5))
        else:
            node = info.nodes[0] if info.nodes else -1
            if how == "per node" and node not in draws:
                draws[node] = replay.integers(5, size=5)
            rows = [shared if how == "shared" else draws[node]] * len(cut)
        expected = biases[stream_of(graph, info.layer, info.part)].expand(5, 3, -1)
        for w, source in zip(cut, rows, strict=True):
            for i in range(5):
                change = torch.zeros_like(expected)
                change[i] = clean[w][int(source[i]), -3:]
                expected = expected + change
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


def test_inputs_that_agree_with_all_or_nobody():
    """Only the reference agrees with itself: as without the claim. All agree: not the model."""
    bench = bench_of(n=4, own=(0, 1, 2, 3), same=(7, 7, 7, 7))
    legal = bench.graph.legal
    alone = scrub_circuit(bench, legal, "shared", 1, np.random.default_rng(0), ["own"])
    np.testing.assert_allclose(alone.score[:, 0], bench.model.score, atol=1e-10)
    assert alone.lonely == 1.0 and alone.smallest_class == 1
    together = scrub_circuit(bench, legal, "shared", 1, np.random.default_rng(0), ["same"])
    assert np.abs(together.score[:, 0] - bench.model.score).max() > 0.1
    assert together.lonely == 0.0 and together.smallest_class == 4


class Unshared(ResampledCuts):
    """The same draws, and every reader's input made by itself."""

    def key(self, reader):
        return reader, reader


@pytest.mark.parametrize("agree", [None, np.zeros(5, dtype=np.int64)], ids=["own", "agreeing"])
@pytest.mark.parametrize("how", HOWS)
def test_readers_share_an_input_only_if_their_draws_are_one(how, agree):
    """Where inputs need only agree each node draws its own, also if all else is shared."""
    model, prompts = view("gpt2"), families.prompts(5)
    forward = families.run(model, model.graph(), prompts)
    for share in (0.3, 1.0):
        mask = random_mask(forward.graph, share)
        shared, alone = (
            run_live(
                model, forward.graph, prompts.clean, mask,
                cuts(forward, how, np.random.default_rng(2), agree),
            )
            for cuts in (ResampledCuts, Unshared)
        )  # fmt: skip
        torch.testing.assert_close(shared, alone, atol=1e-10, rtol=0)


def test_classes_of_several_features():
    bench = bench_of(n=4, a=(1, 1, 2, 2), b=(5, 6, 5, 5))
    forward = bench.data[0]
    assert len(set(feature_classes(forward, ["a", "b"]).tolist())) == 3
    assert feature_classes(forward, ["a"]).tolist() == [0, 0, 1, 1]
    assert feature_classes(forward, []).tolist() == [0, 0, 0, 0]


def test_the_baseline_is_the_mean_over_all_pairs():
    bench = bench_of(n=4)
    forward = bench.data[0]
    logits = forward.clean.logits
    for i, got in enumerate(resampled_baseline(bench).score.mean(1)):
        pairs = [bench.score_of(forward, logits[[j] * 4])[i].item() for j in range(4)]
        assert got == pytest.approx(np.mean(pairs), abs=1e-10)


def test_bench_joins_parts_and_signs_scores():
    bench = bench_of(n=6)
    whole = make_bench(view("gpt2"), bench.graph, families.prompts(6), RESAMPLE)
    np.testing.assert_allclose(bench.model.score, whole.model.score, atol=1e-10)
    assert (
        bench.first(3).n == 4
        and bench.first(6).n == 6
        and bench.first(99).n == 6
        and bench.score == "logit_diff"
    )
    no_wrong = replace(families.prompts(6), wrong=((),) * 6)
    probabilities = make_bench(view("gpt2"), bench.graph, no_wrong, RESAMPLE)
    assert probabilities.score == "log_prob" and (probabilities.model.score < 0).all()
    logits = whole.data[0].clean.logits
    top = [int(row.argmax()) in a for row, a in zip(logits, no_wrong.answers, strict=True)]
    assert probabilities.model.correct.tolist() == [float(t) for t in top]


def test_nodes_of_a_circuit_and_knock_outs():
    graph = view("gpt2").graph()
    mask = graph.mask(["a0.h1->a1.h2<q>", "a1.h2->logits"])
    nodes = node_mask(graph, mask)
    assert nodes[graph.edge("a0.h1->logits")] and nodes[graph.edge("a0.h1->a1.h2<k>")]
    assert not nodes[graph.edge("input->logits")] and not nodes[graph.edge("a0.h1->m1")]
    assert without(mask, [graph.head(0, 1)]).sum() == 1
