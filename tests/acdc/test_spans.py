"""Spans of positions: which there are, and every engine against the twin, token by token."""

import itertools
import json
from dataclasses import replace

import families
import numpy as np
import pytest
import torch
from test_incremental import trials_are_runs
from twin import Twin
from twin import run as twin_run

from acdc.ablation import ABLATIONS
from acdc.attribution import eap, eap_ig, exact
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.gradient import LOSSES, MaskedRun
from acdc.graph import Graph
from acdc.live import run_live
from acdc.masked import masked_run, masked_values
from acdc.metrics import METRICS, two_sided
from acdc.prompts import Prompts, together
from acdc.schema import ALL, Spans
from acdc.search import Budget, Guide, Order, acdc
from acdc.selection import top_n
from acdc.spans import Layout, spans_of
from discovery.flow.scores import edge_flow
from discovery.flow.uniform import uniform_shares
from discovery.statistics.random_circuits import random_mask, random_masks
from discovery.validation.chance import misplaced
from discovery.validation.resampling import ResampledCuts

CASES = [("gpt2", "per_query_head"), ("llama", "per_group"), ("pythia", "per_query_head"),
         ("gemma2", "per_query_head")]  # fmt: skip
IDS = ["-".join(case) for case in CASES]


def marked(n=2, length=4, seed=0) -> Prompts:
    """In every second prompt x and y have changed places; the last token is `end`."""
    some = families.prompts(n, length, seed)
    x, y = (tuple((1, 2)[(i + j) % 2] for i in range(n)) for j in (0, 1))
    return replace(some, marks={"x": x, "y": y, "end": (length - 1,) * n})


# of the prompts above, written down
IN_WORDS = [["start", "x", "y", "end"], ["start", "y", "x", "end"]]


def graph_of(model, prompts, kv="per_query_head", positions="spans") -> Graph:
    return replace(model.graph(kv), spans=spans_of(prompts, positions))


# ---- which there are -----------------------------------------------------------------------------


def test_marks_are_spans_and_what_lies_between_belongs_to_the_next_mark_in_its_place():
    """x and y change places, so only what follows both is told apart."""
    rows = [list(range(9))] * 2
    marks = {"x": [1, 3], "y": [3, 1], "s": [5, 5], "end": [7, 7], "again": [5, 6]}
    prompts = Prompts.of_rows(rows, rows, [(0,)] * 2, [(1,)] * 2, marks)
    spans = spans_of(prompts, "spans")
    assert spans.names == ("start", "x", "y", "..s", "s", "..end", "end", "after")
    layout = Layout.make(spans, prompts)
    words = [[spans.names[s] for s in own] for own in layout.of.tolist()]
    assert words[0] == ["start", "x", "..s", "y", "..s", "s", "..end", "end", "after"]
    assert words[1] == ["start", "y", "..s", "x", "..s", "s", "..end", "end", "after"]
    assert spans.last == (False,) * 7 + (True,)
    sees = {(spans.names[q], spans.names[k]) for q, k in np.argwhere(spans.sees).tolist()}
    assert {("x", "y"), ("y", "x"), ("..s", "x"), ("x", "..s"), ("end", "start")} <= sees
    assert not sees & {("start", "x"), ("x", "s"), ("s", "..end"), ("end", "after")}


def test_spans_of_prompts_of_mixed_lengths_and_answers_of_several_tokens():
    rows, marks = [[1, 2, 3, 4], [5, 6, 7, 8, 9]], {"s": [1, 2], "end": [2, 3]}
    prompts = Prompts.of_rows(rows, rows, [(0,)] * 2, [()] * 2, marks, forced=[1, 1])
    spans = spans_of(prompts, "spans")
    assert spans.names == ("start", "s", "end", "after") and spans.last == (
        False,
        False,
        True,
        True,
    )
    assert Layout.make(spans, prompts.take([1]).reading(0)).of.tolist() == [[0, 0, 1, 2]]


def test_tokens_are_spans_by_their_place():
    spans = spans_of(families.prompts(n=2, length=3), "tokens")
    assert spans.names == ("0", "1", "2") and spans.last == (False, False, True)
    assert np.array_equal(spans.sees, np.tri(3, dtype=bool))
    assert spans_of(families.prompts(), "none") == ALL


def test_prompts_without_spans_are_refused():
    with pytest.raises(InputError, match="positions=spans: the prompts mark no tokens"):
        spans_of(families.prompts(), "spans")
    with pytest.raises(InputError, match="a mark is called 'a->b'; not allowed are start"):
        spans_of(replace(marked(), marks={"a->b": (1, 1)}), "spans")
    with pytest.raises(InputError, match="positions=tokens: prompts have 3 to 4 tokens"):
        spans_of(together(families.prompts(2, 3), families.prompts(2, 4)), "tokens")
    elsewhere = replace(marked(), marks={"x": (1, 1), "y": (2, 2), "end": (2, 3)})
    with pytest.raises(InputError, match="token 3 of prompt 1 is in none of the spans start, x"):
        Layout.make(spans_of(marked(), "spans"), elsewhere)


# ---- engines -------------------------------------------------------------------------------------


@pytest.mark.unchecked
@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
@pytest.mark.parametrize("ablation", ["resample", "mean"])
def test_both_runs_of_a_mask_are_the_twins(family, kv, ablation):
    model, prompts = families.view(family), marked()
    graph = graph_of(model, prompts, kv)
    forward = families.run(model, graph, prompts, ablation)
    slow = Twin(model, graph, prompts, ablation, "kl", IN_WORDS)
    noise, values = np.random.default_rng(3).random(graph.legal.shape), []
    for share in (1.0, 0.9, 0.5, 0.1):
        mask = graph.legal & (noise < share)
        _, wanted = twin_run(model, graph, prompts.clean, mask, slow.abl, IN_WORDS)
        for found in (masked_run(forward, mask), forward.run(mask)):
            torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)
        values.append(wanted)
        close = mask & (np.random.default_rng(4).random(mask.shape) < 0.95)
        found = model.unembed(forward.final(close, known=forward.known(mask)))
        torch.testing.assert_close(found, masked_run(forward, close), atol=1e-10, rtol=0)
    assert (values[0] - values[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
def test_an_edge_cut_at_all_its_spans_is_the_edge_cut(family, kv):
    """And cut at the last token alone it is what `at="answer"` says, of any mask."""
    model, prompts = families.view(family), marked(n=4)
    plain, graph = model.graph(kv), graph_of(model, prompts, kv)
    once, split = (families.run(model, g, prompts) for g in (plain, graph))
    some = plain.legal & (np.random.default_rng(0).random(plain.legal.shape) < 0.7)
    everywhere = np.zeros_like(graph.legal)
    for columns in graph.columns:
        everywhere[:, columns] = some
    torch.testing.assert_close(split.run(everywhere), once.run(some), atol=1e-12, rtol=0)
    answer = graph.legal.copy()
    answer[:, graph.columns[graph.spans.names.index("end")]] = some
    wanted = once.run(some, at="answer")
    torch.testing.assert_close(split.run(answer), wanted, atol=1e-10, rtol=0)
    torch.testing.assert_close(split.run(everywhere, at="answer"), wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
def test_the_gradient_is_the_definition_differentiated(family, kv):
    model, prompts = families.view(family), marked()
    data = Data(model, graph_of(model, prompts, kv), prompts)
    rng, legal = np.random.default_rng(1), data.graph.legal
    weights = torch.tensor(rng.uniform(-0.2, 1.2, legal.shape))
    for share in (1.0, 0.3):
        within = legal & (rng.random(legal.shape) < share)
        loss = LOSSES["share"](data, METRICS["kl"])
        run = MaskedRun(data[0], weights, within)
        mask = (weights * torch.tensor(within)).requires_grad_()
        logits = masked_run(data[0], mask)
        torch.testing.assert_close(run.logits, logits, atol=1e-10, rtol=0)
        loss(data[0], logits).sum().backward()
        found = run.gradient(loss(data[0], run.logits))
        wanted = mask.grad * torch.tensor(within)
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
def test_scores_are_those_of_the_mask_and_add_up_to_those_without_spans(family, kv):
    """EAP is the definition's gradient; a span's score is its tokens' part of the whole."""
    model, prompts, metric = families.view(family), marked(n=3), METRICS["logit_diff"]
    graph = graph_of(model, prompts, kv)
    data, plain = Data(model, graph, prompts, part=2), Data(model, model.graph(kv), prompts)
    mask = torch.tensor(graph.legal, dtype=torch.float64, requires_grad=True)
    total = torch.cat(list(masked_values(data, metric, mask))).mean()
    slope = torch.autograd.grad(metric.sign * total, mask)[0].numpy()
    scores = eap(data, metric)
    np.testing.assert_allclose(scores, -slope, atol=1e-10)
    for method in (lambda d: eap(d, metric), lambda d: eap_ig(d, METRICS["kl"], 3)):
        split = Circuit(graph, graph.legal, method(data)).without_spans()
        np.testing.assert_allclose(split.scores, method(plain), atol=1e-10)
    cuts = exact(data, metric)
    for w, r in np.argwhere(graph.legal)[::17].tolist():
        less = graph.legal.copy()
        less[w, r] = False
        both = data.circuits(metric, [less, graph.legal]).mean(1)
        assert cuts[w, r] == pytest.approx(metric.sign * (both[0] - both[1]), abs=1e-10)


@pytest.mark.parametrize("family, kv", CASES[:2], ids=IDS[:2])
@pytest.mark.parametrize("how", ["flow", "uniform"])
def test_flows_of_spans_add_up_to_those_without(family, kv, how):
    """A token's flow is its span's; what the tokens of no other span have is nothing."""
    model, prompts = families.view(family), marked(n=3)
    graph = graph_of(model, prompts, kv)
    layout = Layout.make(graph.spans, prompts)

    def scores(of, layout=None):
        if how == "uniform":
            return uniform_shares(model, of, prompts.clean, 2, layout)
        aim = dict(right=prompts.answers, wrong=prompts.wrong, batch_size=2)
        return edge_flow(model, of, prompts.clean, layout=layout, **aim).scores

    split = scores(graph, layout)
    whole = Circuit(graph, graph.legal, split).without_spans().scores
    np.testing.assert_allclose(whole, scores(graph.plain), atol=1e-12)
    at = graph.spans.names.index("start")  # the first token alone
    q = split[:, graph.columns[at, graph.plain.reader(1, "q", 0)]]
    assert (q == 0).all() if how == "flow" else q.sum() == pytest.approx(0.25)


# ---- the search ----------------------------------------------------------------------------------


RULES = [  # order of readers, gates, ablation, metric, threshold
    ("layer", True, "resample", "kl", 0.02),
    ("layer", False, "mean", "logit_diff", 0.1),
    ("head", True, "zero", "kl", 0.2),
    ("layer", True, "resample", "logit_diff", 0.01),
]


@pytest.mark.unchecked
@pytest.mark.parametrize("case", range(len(CASES)), ids=IDS)
@pytest.mark.quick("gpt2-per_query_head", "llama-per_group")
def test_same_decisions_and_effects_as_the_twin(case):
    (family, kv), (reader_order, gates, ablation, metric, limit) = CASES[case], RULES[case]
    model, prompts = families.view(family), marked()
    graph = graph_of(model, prompts, kv)
    twin = Twin(model, graph, prompts, ablation, metric, IN_WORDS)
    mask, _, tests, value = twin.search(limit, reader_order, gates)
    data = Data(model, graph, prompts, ABLATIONS[ablation], part=1)
    for chunk in (3, None):
        *_, end = steps = list(acdc(data, METRICS[metric], limit, Order(reader_order, gates=gates),
                                    chunk))  # fmt: skip
        found = [t for s in steps for t in s.tests]
        assert [(t.name(graph), t.kept) for t in found] == [(n, k) for n, _, k in tests]
        np.testing.assert_allclose([t.effect for t in found], [e for _, e, _ in tests], atol=1e-9)
        assert (end.mask == mask).all() and end.metric == pytest.approx(value, abs=1e-9)
    uneven = [m for m in graph.by_span(mask)[..., :-1].any((0, 1)) if m]
    assert 5 < mask.sum() < graph.n_edges and uneven
    assert (graph.by_span(mask).any(0) != graph.by_span(mask).all(0)).any()


@pytest.mark.unchecked
def test_a_search_from_a_circuit_within_a_budget_is_its_twins():
    model, prompts = families.view("llama"), marked()
    graph, metric = graph_of(model, prompts, "per_group"), two_sided(METRICS["logit_diff"])
    some = random_mask(graph.plain, graph.plain.n_edges // 2, np.random.default_rng(0))
    start = np.zeros_like(graph.legal)
    for columns in graph.columns:
        start[:, columns] = some
    twin = Twin(model, graph, prompts, "resample", metric.name, IN_WORDS)
    empty = twin.value(np.zeros_like(graph.legal))
    budget = Budget(0.3 * empty, 0.5)
    mask, _, tests, value = twin.search(
        0.0, "layer", True, start=start, budget=(budget.total, budget.power)
    )
    steps = list(acdc(Data(model, graph, prompts), metric, budget, guide=Guide(start=start)))
    found = [t for s in steps for t in s.tests]
    assert [(t.name(graph), t.kept) for t in found] == [(n, k) for n, _, k in tests]
    assert (steps[-1].mask == mask).all() and 0 < mask.sum() < start.sum()


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "family, kv",
    [pytest.param(*c, marks=pytest.mark.slow if i in (0, 2) else ()) for i, c in enumerate(CASES)],
)
@pytest.mark.quick("llama-per_group")
def test_every_trial_is_a_run_of_its_mask(family, kv):
    """Of prompts of two lengths; see trials_are_runs."""
    model, prompts = families.view(family), together(marked(length=5), marked(length=4, seed=1))
    graph, rng = graph_of(model, prompts, kv), np.random.default_rng(0)
    apart, padded = (Data(model, graph, prompts, padded=p) for p in (False, True))
    assert (apart.n_parts, padded.n_parts) == (2, 1)
    trials_are_runs(padded, METRICS["kl"], np.random.default_rng(0))
    masks = [graph.legal & (rng.random(graph.legal.shape) < 0.5) for _ in range(3)]
    values = [d.circuits(METRICS["kl"], masks) for d in (padded, apart)]
    np.testing.assert_allclose(*values, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
def test_one_span_of_all_positions_is_the_search_without_bit_for_bit(family, kv):
    model, prompts = families.view(family, torch.float32), marked(n=3)
    graphs = [replace(model.graph(kv), spans=s)
              for s in (ALL, Spans(("all",), ((True,),), (True,)))]  # fmt: skip
    plain, one = (Data(model, graph, prompts) for graph in graphs)
    for metric, limit in (("kl", 0.02), ("logit_diff", 0.1)):
        ends = [list(acdc(data, METRICS[metric], limit)) for data in (plain, one)]
        facts = [[(t.effect, t.after, t.kept) for s in steps for t in s.tests] for steps in ends]
        assert facts[0] == facts[1] and (ends[0][-1].mask == ends[1][-1].mask).all()
        assert ends[0][-1].metric == ends[1][-1].metric
    assert np.array_equal(eap(plain, METRICS["logit_diff"]), eap(one, METRICS["logit_diff"]))
    assert "@all" in graphs[1].edge_name(0, 0) and "@" not in graphs[0].edge_name(0, 0)


# ---- circuits ------------------------------------------------------------------------------------


def test_only_edges_on_a_path_from_token_to_token_stay():
    """What a head reads at a token behind those where it is read does nothing."""
    spans = Spans(("a", "b"), ((True, False), (True, True)), (False, True))
    graph = Graph(2, 1, 1, 4, spans=spans)
    kept = ["input->a0.h0<v>@a", "a0.h0->m0@b", "m0->logits"]
    dead = ["input->a0.h0<q>@a", "input->m0@a", "a0.h0->a1.h0<q>@b", "a0.h0->m1@a", "m1->logits"]
    circuit = Circuit(graph, graph.mask([*kept, *dead]))
    assert circuit.pruned().edges == sorted(kept, key=lambda e: graph.edge(e))


@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
def test_what_pruning_takes_away_does_nothing(family, kv):
    model, prompts = families.view(family), marked()
    graph = graph_of(model, prompts, kv)
    forward, rng, fewer = families.run(model, graph, prompts), np.random.default_rng(0), 0
    for share in (0.05, 0.1, 0.2, 0.4):
        mask = graph.legal & (rng.random(graph.legal.shape) < share)
        less = Circuit(graph, mask).pruned().mask
        torch.testing.assert_close(forward.run(less), forward.run(mask), atol=1e-12, rtol=0)
        fewer += int(mask.sum() - less.sum())
    assert fewer > 0


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_a_file_keeps_spans_and_other_programs_get_a_circuit_without(kv):
    model, prompts = families.view("llama"), marked()
    graph = graph_of(model, prompts, kv)
    scores = np.random.default_rng(0).normal(size=graph.legal.shape) * graph.legal
    circuit = top_n(graph, scores, 40).circuit
    for given in (None, model.graph(kv), graph):
        back = Circuit.from_json(json.loads(json.dumps(circuit.to_json())), given)
        assert back.graph == graph and (back.mask == circuit.mask).all()
        assert np.array_equal(back.scores, circuit.scores)
    plain = circuit.without_spans()
    assert plain.graph == model.graph(kv)
    assert plain.edges == [e for e in model_edges(plain.graph) if any(
        name.partition("@")[0] == e for name in circuit.edges)]  # fmt: skip
    broken = circuit.to_json()
    broken["graph"]["spans"]["last"] = [True]
    with pytest.raises(InputError, match="circuit file: spans .* must be different names"):
        Circuit.from_json(broken)


def model_edges(graph):
    return [graph.edge_name(w, r) for w, r in itertools.product(
        range(len(graph.writers)), range(len(graph.readers))) if graph.legal[w, r]]  # fmt: skip


# ---- what validation stands on -------------------------------------------------------------------


def test_random_circuits_are_paths_from_token_to_token():
    model, prompts = families.view("llama"), marked()
    graph = graph_of(model, prompts, "per_group")
    rng = np.random.default_rng(0)
    weights = rng.random(graph.legal.shape) * graph.legal
    for masks in (random_masks(graph, 60, 4, rng), random_masks(graph, 60, 4, rng, weights)):
        for mask in masks:
            assert mask.sum() == 60 and not (mask & ~graph.legal).any()
            assert (Circuit(graph, mask).pruned().mask == mask).all()
    moved = misplaced(graph, masks[0], rng)
    assert moved.sum() == 60 and (moved != masks[0]).any() and not (moved & ~graph.legal).any()
    assert (graph.by_span(moved).sum((1, 2)) == graph.by_span(masks[0]).sum((1, 2))).all()


@pytest.mark.parametrize("family, kv", CASES, ids=IDS)
def test_resampling_of_a_circuit_is_that_of_its_tokens(family, kv):
    """One draw shared by all edges is a patched run from the drawn prompts."""
    model, prompts = families.view(family), marked(n=4)
    graph = graph_of(model, prompts, kv)
    forward = families.run(model, graph, prompts)
    cuts = ResampledCuts(forward, "shared", np.random.default_rng(1))
    drawn = replace(prompts, corrupt=prompts.clean[cuts.shared])
    for share in (0.8, 0.3):
        mask = graph.legal & (np.random.default_rng(2).random(graph.legal.shape) < share)
        wanted = masked_run(families.run(model, graph, drawn), mask)
        final = run_live(model, graph, prompts.clean, mask, cuts, layout=forward.layout)
        torch.testing.assert_close(model.unembed(final), wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "spans",
    [["s"], {"names": 3}, {"names": ["s"], "sees": [[True], []], "last": [True]},
     {"names": ["a", "a->b"], "sees": [[True] * 2] * 2, "last": [True] * 2},
     {"names": ["a", "b@c"], "sees": [[True] * 2] * 2, "last": [True] * 2}],
)  # fmt: skip
def test_a_file_with_broken_spans_is_refused(spans):
    model = families.view("gpt2")
    broken = Circuit(model.graph(), model.graph().legal).to_json()
    broken["graph"]["spans"] = spans
    with pytest.raises(InputError, match="circuit file: "):
        Circuit.from_json(broken)
