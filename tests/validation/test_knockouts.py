"""Completeness and minimality on circuits whose truth is known."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_resampling import bench_of, view
from toys import or_gate, or_prompts

from acdc.ablation import ABLATIONS
from acdc.attribution import eap
from discovery.statistics.random_circuits import random_mask, random_masks
from discovery.statistics.search_worst import Effort
from discovery.validation.bench import SCORES, make_bench, two_sided, without
from discovery.validation.chance import (
    likely_masks,
    misplaced,
    scrubbed_scores,
    shape_masks,
)
from discovery.validation.faithfulness import faithfulness_cells, other_ablations, spread
from discovery.validation.knockouts import _Trial, circuit_nodes, completeness, minimality_tests

SMALL = Effort(random=4, runs=1, iterations=2, candidates=2)


def or_bench():
    model = or_gate()
    return make_bench(model, model.graph(), or_prompts(), ABLATIONS["zero"], chunk=4)


def one_head(graph):
    return graph.mask(["input->a0.h0<v>", "a0.h0->m0", "m0->logits"])


def test_a_circuit_without_the_backup_is_faithful_but_not_complete():
    bench = or_bench()
    mask = one_head(bench.graph)
    np.testing.assert_allclose(bench.circuit(mask).score, bench.model.score)  # OR: one is enough
    found = completeness(bench, mask, np.random.default_rng(0), {}, SMALL)
    assert found.empty_gap.estimate == pytest.approx(0.0)
    assert found.worst.nodes == ("a0.h0",) and found.worst.gap == pytest.approx(1.0)
    assert found.worst_gap.estimate == pytest.approx(-1.0)  # the model has its backup, C does not
    both = bench.graph.mask(["a0.h0->m0", "a0.h1->m0", "m0->logits"])
    whole = completeness(bench, both, np.random.default_rng(0), {}, SMALL)
    assert whole.worst.gap == pytest.approx(0.0)


def test_the_whole_model_is_complete_and_its_classes_are_tried():
    bench = bench_of("attention_only", n=4)  # eight nodes: all 256 sets are tried
    classes = {"first": ["a0.h0", "a0.h1"], "elsewhere": ["a9.h9"]}
    found = completeness(bench, bench.graph.legal, np.random.default_rng(0), classes, SMALL)
    assert all(t.gap == pytest.approx(0.0, abs=1e-10) for t in found.tried)
    named = {t.search: t.nodes for t in found.tried}
    assert named["class first"] == ("a0.h0", "a0.h1") and "class elsewhere" not in named


def test_an_empty_circuit_is_as_incomplete_as_it_is_unfaithful():
    bench = or_bench()
    found = completeness(bench, bench.graph.legal & False, np.random.default_rng(0), {}, SMALL)
    assert found.worst.nodes == () and found.evaluations == 1
    assert found.worst_gap.estimate == found.empty_gap.estimate == pytest.approx(-1.0)


@pytest.mark.slow
def test_an_added_edge_that_does_nothing_is_superfluous():
    """A head that sees nothing of the prompt says the same on all of them."""
    bench = bench_of("gpt2", n=12)
    graph = bench.graph
    mask = graph.legal & ~without(graph.legal, [graph.mlp(1), graph.mlp(0), 0])
    dead = graph.edge("a1.h3->logits")
    mask[:, list(graph.head_readers(1, 3))] = False  # a1.h3 sees nothing of the prompt: constant
    mask[dead] = True
    found = minimality_tests(bench, mask, np.random.default_rng(0), [[]], 40, 0.05)
    rows = {r["edge"]: r for r in found.edges.extra["edges"]}
    assert rows["a1.h3->logits"]["effect"] == pytest.approx(0.0, abs=1e-12)
    assert "a1.h3->logits" in found.edges.extra["superfluous_bh"]
    assert rows["m1->logits"]["exceeds"] > rows["a1.h3->logits"]["exceeds"] == 0
    assert (found.edges.name, found.nodes.name) == ("minimality of edges", "minimality of nodes")
    assert "every edge" in found.edges.null
    assert "every node" in found.nodes.null and "edge" not in found.nodes.null
    nodes = {r["edge"]: r["effect"] for r in found.nodes.extra["edges"]}
    assert nodes["a1.h3"] == pytest.approx(0.0, abs=1e-12)
    assert nodes["m1"] > 1e-6


def test_partners_reveal_what_a_backup_hides():
    """In OR no head matters alone; with the other one gone each does."""
    bench = or_bench()
    graph = bench.graph
    both = graph.mask(["a0.h0->m0", "a0.h1->m0", "m0->logits"])
    alone = [graph.head(0, 0)], [graph.head(0, 1)]
    effects = []
    for partners in ([[]], [[], *alone]):
        cuts = [without(both, [w]) for (w,) in alone]
        effects.append(_Trial(bench, partners).squares(both, cuts).mean(-1))
    np.testing.assert_allclose(effects, [[0.0, 0.0], [1.0, 1.0]])


def test_circuit_nodes_are_named_without_the_input():
    graph = view("gpt2").graph()
    mask = graph.mask(["input->a0.h1<q>", "a0.h1->logits"])
    assert [graph.writers[n] for n in circuit_nodes(bench_of("gpt2"), mask)] == ["a0.h1"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_a_misplaced_circuit_has_the_same_shape(family, kv):
    graph = view(family).graph(kv)
    mask = random_mask(graph, 20, np.random.default_rng(0))
    for seed in range(5):
        moved = misplaced(graph, mask, np.random.default_rng(seed))
        assert moved.sum() == mask.sum() and not (moved & ~graph.legal).any()
        assert sorted(moved.sum(1).tolist()) == sorted(mask.sum(1).tolist())
        for layer in range(graph.n_layers):
            heads = slice(graph.head(layer, 0), graph.head(layer, graph.n_heads))
            assert moved[heads].sum() == mask[heads].sum()
    assert (misplaced(graph, mask, np.random.default_rng(0)) != mask).any()


def test_a_misplaced_circuit_keeps_its_heads_whole():
    """What a head read and who read it move together."""
    graph = view("gpt2").graph()
    mask = graph.mask(["a0.h1->a1.h2<q>", "input->a0.h1<v>", "a1.h2->logits"])
    moved = misplaced(graph, mask, np.random.default_rng(2))
    (first,) = [n for n in graph.writers if n[:2] == "a0" and moved[graph.writer_index[n]].any()]
    (second,) = [n for n in graph.writers if n[:2] == "a1" and moved[graph.writer_index[n]].any()]
    expected = [f"{first}->{second}<q>", f"input->{first}<v>", f"{second}->logits"]
    assert (moved == graph.mask(expected)).all()


def test_families_of_random_circuits():
    bench = bench_of("gpt2", n=6)
    for family in (partial(random_masks, bench.graph), partial(likely_masks, bench)):
        masks, again = (family(12, 5, np.random.default_rng(0)) for _ in range(2))
        assert [m.sum() for m in masks] == [12] * 5 and (np.array(masks) == np.array(again)).all()
        scrubbed = [scrubbed_scores(bench, masks, np.random.default_rng(1)) for _ in range(2)]
        assert scrubbed[0].shape == (5, 6) and (scrubbed[0] == scrubbed[1]).all()
    every = shape_masks(bench.graph, bench.graph.legal, 3, np.random.default_rng(0))
    moved = scrubbed_scores(bench, every, np.random.default_rng(0))
    np.testing.assert_allclose(moved, bench.model.score[None].repeat(3, 0), atol=1e-10)


def test_likely_circuits_have_the_larger_attributions():
    bench = bench_of("gpt2", n=6)
    effects = np.abs(eap(bench.data, SCORES[bench.score]))
    random, likely = (
        np.mean([effects[m].sum() for m in masks])
        for masks in (
            random_masks(bench.graph, 30, 20, np.random.default_rng(0)),
            likely_masks(bench, 30, 20, np.random.default_rng(0)),
        )
    )
    assert likely > 1.1 * random


def matrix(bench, mask, rng):
    """The run's own ablation, then the others."""
    own = bench.data.ablation
    return faithfulness_cells(bench, mask, [own, *other_ablations(bench)], rng)


def test_the_others_are_what_the_run_did_not_ask_and_can_be_had():
    assert [a.name for a in other_ablations(bench_of("gpt2"))] == ["zero", "mean"]
    assert [a.name for a in other_ablations(or_bench())] == ["mean"]  # no corrupt prompts
    mean = bench_of("gpt2").under(ABLATIONS["mean"])
    assert [a.name for a in other_ablations(mean)] == ["resample", "zero"]


def test_two_sided_measures_see_errors_that_cancel():
    bench = bench_of("gpt2", n=6)
    model, empty = bench.model, bench.empty
    error = np.array([2.0, -2.0, 2.0, -2.0, 2.0, -2.0])
    found = two_sided(replace(model, score=model.score + error), model, empty)
    lost = 2.0 / np.abs(empty.score - model.score).mean()
    assert found.error_share == pytest.approx(1 - lost) and found.kl_share == pytest.approx(1.0)
    expected = np.corrcoef(model.score + error, model.score)[0, 1]
    assert found.correlation == pytest.approx(expected) and found.accuracy == model.correct.mean()
    perfect, none = two_sided(model, model, empty), two_sided(empty, model, empty)
    assert (perfect.error_share, none.error_share, none.kl_share) == (1.0, 0.0, 0.0)
    assert two_sided(model, model, model).error_share is None
    constant = replace(model, score=np.full(6, 3.0))
    assert two_sided(constant, model, empty).correlation is None


def test_the_matrix_is_one_for_the_model_and_zero_for_nothing():
    rng = np.random.default_rng(0)
    for bench in (bench_of("gpt2", n=8), or_bench()):
        for mask, expected in ((bench.graph.legal, 1.0), (bench.graph.legal & False, 0.0)):
            cells = matrix(bench, mask, rng)
            own = bench.data.ablation.name
            assert [c.ablation for c in cells][0] == own and len({c.empty for c in cells}) == 1
            floors = {c.ablation: c.floor for c in reversed(cells) if c.positions == "all"
                      and c.direction == "sufficiency"}  # fmt: skip
            for cell in cells:
                wanted = expected if expected else cell.floor
                if expected and cell.direction == "noising":
                    wanted = 1 - floors[cell.ablation]
                if cell.ratio_of_means.estimate is not None:
                    assert cell.ratio_of_means.estimate == pytest.approx(wanted, abs=1e-9)
                if cell.ablation == own and cell.positions == "all":
                    for share in (cell.kl_share, cell.error_share):
                        assert share == pytest.approx(expected, abs=1e-6)
                if expected == 1.0 and (cell.direction == "sufficiency" or (
                    cell.direction == "noising" and cell.ablation == own
                )):  # fmt: skip
                    assert cell.gap.estimate == pytest.approx(0.0, abs=1e-9)
    found = spread(cells, "sufficiency")  # of the OR gate with nothing kept
    assert found["least"] == pytest.approx(0.0, abs=1e-9)
    assert found["largest"] == pytest.approx(1.0)  # all prompts are alike: their mean is the model


def test_directions_part_in_or():
    """Each head suffices (1), neither is necessary (0): noising misses backups."""
    bench = or_bench()
    cells = matrix(bench, one_head(bench.graph), np.random.default_rng(0))
    zero = {c.direction: c for c in cells if c.ablation == "zero" and c.granularity == "edges"
            and c.positions == "all"}  # fmt: skip
    assert zero["sufficiency"].ratio_of_means.estimate == pytest.approx(1.0)
    head = bench.graph.mask(["a0.h0->m0"])
    alone = matrix(bench, head, np.random.default_rng(0))
    noising = [c for c in alone if c.direction == "noising" and c.ablation == "zero"][0]
    assert noising.ratio_of_means.estimate == pytest.approx(0.0)
