"""What a search says of itself, worked by hand on the OR gate, where every effect is 0 or 1.

Its circuit is m0->logits and one head->m0: the heads' inputs do not matter, their biases do.
"""

import json

import families
import numpy as np
import pytest
import torch
from toys import or_gate, or_prompts

from acdc.ablation import ABLATIONS
from acdc.data import BATCH_BYTES, Data
from acdc.metrics import METRICS, two_sided
from acdc.search import (
    Budget,
    Checkpoint,
    Guide,
    Order,
    Search,
    acdc,
    batch_size,
    itinerary,
    sender_order,
)  # fmt: skip

GRAPH = or_gate().graph()
READERS = [r.name for r in GRAPH.readers]


def fresh(
    threshold=0.5, chunk=None, guide=None, batch_bytes=BATCH_BYTES, dtype=torch.float64, **order
):
    model = or_gate().to(dtype)
    data = Data(model, model.graph(), or_prompts(), ABLATIONS["zero"], batch_bytes=batch_bytes)
    return Search(data, METRICS["logit_diff"], threshold, Order(**order), chunk, guide)


def shortlist(*names):
    return Guide(shortlist=GRAPH.mask(list(names)))


def test_every_step_by_hand():
    steps = list(fresh().steps())
    heads = [f"a0.h{h}<{part}>" for part in "vkq" for h in (1, 0)]
    assert [(s.visit.kind, READERS[s.visit.reader]) for s in steps] == [
        ("edges", "logits"), ("edges", "m0"), *(("gate", h) for h in heads),
        *(("edges", h) for h in heads),
    ]  # fmt: skip
    reasons = ["tested"] * 2 + ["disconnected", "tested"] * 3 + ["disconnected", "gate removed"] * 3
    assert [s.reason for s in steps] == reasons
    assert [s.n_edges for s in steps] == [10, 8, 7, 6, 5, 4, 3, 2] + [2] * 6
    assert [s.n_kept for s in steps] == [1] + [2] * 13
    assert [s.n_settled for s in steps] == [4] + [7] * 7 + list(range(8, 14))
    assert [s.n_tests for s in steps] == [4, 7, 7, 8, 8, 9, 9, 10] + [10] * 6
    assert [s.n_passes for s in steps] == [2, 4, 4] + [5] * 11
    assert [s.metric for s in steps] == [1.0] * 14
    assert all(s.n_skipped == 0 and s.damage == 0 for s in steps)
    for step in steps:
        assert step.n_edges == step.mask.sum() and not step.mask.flags.writeable
    found = [
        (t.order, t.name(GRAPH), t.effect, t.after, t.kept, t.tie) for s in steps for t in s.tests
    ]
    assert found == [
        (0, "m0->logits", 1.0, 0.0, True, False),
        (1, "a0.h1->logits", 0.0, 1.0, False, False),
        (2, "a0.h0->logits", 0.0, 1.0, False, False),
        (3, "input->logits", 0.0, 1.0, False, False),
        (4, "a0.h1->m0", 0.0, 1.0, False, False),
        (5, "a0.h0->m0", 1.0, 0.0, True, False),
        (6, "input->m0", 0.0, 1.0, False, False),
        (7, "a0.h0<v>", 0.0, 1.0, False, False),
        (8, "a0.h0<k>", 0.0, 1.0, False, False),
        (9, "a0.h0<q>", 0.0, 1.0, False, False),
    ]
    assert (steps[-1].mask == GRAPH.mask(["m0->logits", "a0.h0->m0"])).all()


def test_from_a_circuit_its_edges_alone_are_tried():
    """Of the two heads either does; where the first is out from the start, the other counts."""
    start = GRAPH.mask(["m0->logits", "a0.h1->m0", "input->m0"])
    steps = list(fresh(guide=Guide(start=start | ~GRAPH.legal)).steps())
    found = [(t.name(GRAPH), t.effect, t.kept) for s in steps for t in s.tests]
    assert found == [("m0->logits", 1.0, True), ("a0.h1->m0", 1.0, True), ("input->m0", 0.0, False)]
    assert (steps[-1].mask == GRAPH.mask(["m0->logits", "a0.h1->m0"])).all()
    assert steps[0].n_edges == 3 and steps[-1].n_settled == GRAPH.n_edges


def test_as_a_function_it_takes_the_same():
    """Order, cuts in a batch and a guide: each changes the steps."""
    order, seen = Order(reader_order="head", gates=False), []
    guide = shortlist("m0->logits", "a0.h0->m0", "input->a0.h0<v>")
    data = Data(or_gate(), GRAPH, or_prompts(), ABLATIONS["zero"])
    for own in ({}, {"order": order}, {"chunk": 1}, {"guide": guide}):
        given = {"order": None, "chunk": None, "guide": None} | own
        found, wanted = (
            [(s.visit, s.tests, s.n_passes) for s in steps]
            for steps in (
                acdc(data, METRICS["logit_diff"], 0.5, *given.values()),
                Search(data, METRICS["logit_diff"], 0.5, **given).steps(),
            )
        )
        assert found == wanted and found not in seen
        seen.append(found)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_what_a_budget_allows_after_each_edge_by_hand(power):
    """A share s of the 13 edges settled: total * s ** power; a gate settles all of its reader's."""
    error = two_sided(METRICS["logit_diff"])
    data = Data(or_gate(), GRAPH, or_prompts(), ABLATIONS["zero"])
    heads = [f"a0.h{h}<{part}>" for part in "vkq" for h in (1, 0)]
    edges = [f"{w}->logits" for w in ("m0", "a0.h1", "a0.h0", "input")]
    edges += ["a0.h1->m0", "a0.h0->m0", "input->m0", *(f"input->{h}" for h in heads)]
    wanted = {edge: 26 * (i / 13) ** power for i, edge in enumerate(edges, 1)}
    for reader in ("logits", "m0", *heads):
        wanted[reader] = [v for edge, v in wanted.items() if edge.endswith(f">{reader}")][-1]
    found = Search(data, error, Budget(26.0, power)).allowed
    names = {k: READERS[k[0]] if k[1] is None else GRAPH.edge_name(k[1], k[0]) for k in found}
    assert {names[k]: value for k, value in found.items()} == pytest.approx(wanted)


def test_what_is_cut_lowers_the_metric_so_far():
    steps = list(fresh(threshold=1.5).steps())  # nothing is worth keeping
    assert [s.metric for s in steps] == [0.0] * 14
    assert steps[0].n_edges == 9 and steps[-1].n_edges == 0 and steps[-1].n_kept == 0
    assert [t.effect for t in steps[0].tests] == [1.0, 0.0, 0.0, 0.0]
    assert [s.reason for s in steps] == ["tested"] + ["disconnected"] * 13
    assert steps[-1].n_settled == 13


@pytest.mark.parametrize(
    "threshold, kept, tie",
    [(1.0, True, True), (1 + 5e-7, False, True), (1 + 2e-6, False, False), (1 - 2e-6, True, False)],
)
def test_a_tie_is_within_a_millionth_of_the_threshold(threshold, kept, tie):
    first = next(fresh(threshold).steps()).tests[0]
    assert (first.effect, first.kept, first.tie) == (1.0, kept, tie)
    assert not any(t.tie for t in next(fresh(1e-6).steps()).tests)  # effects of 0: a whole one off


@pytest.mark.parametrize("threshold, tie", [(1.007, True), (1.009, False)])
def test_in_half_precision_a_tie_is_within_a_unit_of_rounding(threshold, tie):
    assert torch.finfo(torch.bfloat16).eps == 0.0078125
    assert next(fresh(threshold, dtype=torch.bfloat16).steps()).tests[0].tie is tie
    assert not next(fresh(threshold, dtype=torch.float32).steps()).tests[0].tie


def test_the_last_tests_say_how_many_are_tried():
    """Each batch leaves .7 of the count before it; of 4.1 with .05 failed, 21 are tried."""
    search, counts = fresh(), []
    assert search._size() == batch_size(0.05 / 4.1, 3.0) == 21
    for step in search.steps():
        counts.append((search.passed, search.failed))
        passes = step.n_passes
    # m0 fails at once, three pass; of the next reader h1 passes and h0 fails, one passes; three
    # gates pass
    first = 0.7 * (0.7 * 4) + 3, 0.7
    second = 0.7 * (0.7 * first[0] + 1) + 1, 0.7 * (0.7 * first[1] + 1)
    third = 0.7 * second[0] + 3, 0.7 * second[1]
    wanted = [first, second, second, *[third] * 11]  # h1 is cut off: of it nothing is tried
    np.testing.assert_allclose(counts, wanted, atol=1e-12)
    assert passes == 5
    failing = (third[1] + 0.05) / (sum(third) + 0.1)
    assert search._size() == batch_size(failing, 3.0) == 6


@pytest.mark.parametrize("failing", [0.9, 0.5, 0.2, 0.05, 0.01, 0.001])
@pytest.mark.parametrize("cost", [3.0, 50.0])
def test_a_batch_decides_the_most_that_one_can_for_its_cost(failing, cost):
    def worth(size):
        return (1 - (1 - failing) ** size) / (cost + size)

    assert worth(batch_size(failing, cost)) == max(worth(size) for size in range(1, 1000))


@pytest.mark.parametrize(
    "batch_bytes, passes", [(1, 4), (255, 4), (256, 3), (383, 3), (384, 2), (512, 2), (513, 2)]
)
def test_a_batch_stays_within_its_bytes(batch_bytes, passes):
    """A variant at the logits: 8 prompts x 1 position x 2 numbers of 8 bytes, 128."""
    assert next(fresh(batch_bytes=batch_bytes).steps()).n_passes == passes
    assert next(fresh(batch_bytes=batch_bytes, chunk=4).steps()).n_passes == 2  # chunk decides


@pytest.mark.parametrize("chunk, passes", [(1, 10), (2, 7), (3, 5), (1000, 5)])
def test_a_fixed_chunk(chunk, passes):
    steps = list(fresh(chunk=chunk).steps())
    assert steps[-1].n_passes == passes
    assert steps[-1].n_tests == 10


def test_a_shortlist_by_hand():
    guide = shortlist("m0->logits", "a0.h0->m0", "a0.h1->m0", "input->a0.h0<v>")
    steps = list(fresh(guide=guide).steps())
    kinds = ["skip", "edges"] * 2 + ["skip"] * 6 + ["gate"] * 6 + ["edges"] * 6
    assert [s.visit.kind for s in steps] == kinds
    assert [s.n_skipped for s in steps] == [3, 0, 1, 0] + [0, 0, 0, 1, 0, 1] + [0] * 12
    assert [s.reason for s in steps] == [
        "skipped", "tested", "skipped", "tested",
        *("disconnected", "skipped") * 3,
        "disconnected", "tested", *("disconnected", "skipped") * 2,
        "disconnected", "gate removed", *("disconnected", "skipped") * 2,
    ]  # fmt: skip
    assert [s.n_edges for s in steps[:4]] == [10, 10, 9, 8]
    assert [s.n_settled for s in steps[:5]] == [0, 4, 4, 7, 7]
    assert steps[-1].n_settled == 13 and steps[-1].n_kept == 2 and steps[-1].n_edges == 2
    assert [s.n_passes for s in steps] == [1, 2, 3, 4, 4, 4, 4] + [5] * 4 + [6] * 11
    assert [s.n_tests for s in steps][-1] == 4
    assert all(s.damage == 0 and s.metric == 1.0 for s in steps)


def test_the_damage_of_what_is_skipped():
    search = fresh(guide=shortlist("input->logits", "a0.h0->logits"), chunk=1)
    first, second, *rest = search.steps()
    assert (first.damage, first.metric, first.n_skipped, first.n_edges) == (1.0, 0.0, 2, 11)
    assert [(t.name(GRAPH), t.effect) for t in second.tests] == [
        ("a0.h0->logits", 0.0), ("input->logits", 0.0)
    ]  # fmt: skip
    assert all(s.damage == 0 and s.metric == 0.0 for s in (second, *rest))
    assert rest[-1].n_edges == 0


def test_several_readers_are_skipped_in_one_pass_each_with_its_own_damage():
    """Of two heads' values, whichever batch they share."""
    model = families.view("gpt2")
    data = Data(model, model.graph(), families.prompts(n=2, length=4))
    graph = data.graph
    listed = graph.legal.copy()
    off = [graph.edge(name) for name in ("m0->a1.h3<v>", "input->a1.h3<v>", "m0->a1.h0<k>")]
    for w, r in off:
        listed[w, r] = False
    for chunk, passes in ((None, 1), (1, 2)):
        search = Search(data, METRICS["kl"], -1e9, None, chunk, Guide(shortlist=listed))
        steps = list(search.steps())
        places = [i for i, s in enumerate(steps) if s.n_skipped]
        skips = [steps[i] for i in places]
        assert [s.n_skipped for s in skips] == [2, 1]
        assert skips[1].n_passes - steps[places[0] - 1].n_passes == passes
        mask = graph.legal.copy()
        before = data.circuits(METRICS["kl"], [mask]).mean()
        for step, cut in zip(skips, (off[:2], off[2:]), strict=True):
            for w, r in cut:
                mask[w, r] = False
            after = data.circuits(METRICS["kl"], [mask]).mean()
            assert step.damage == pytest.approx(after - before, abs=1e-10)
            assert step.metric == pytest.approx(after, abs=1e-10) and step.damage > 1e-4
            before = after


def test_the_weakest_go_first_and_ties_in_the_order_of_senders():
    scores = np.zeros(GRAPH.legal.shape)
    scores[:, -1] = [0.5, -2.0, 0.5, 1.0]  # input, h0, h1, m0
    first = next(fresh(guide=Guide(weakest_first=scores)).steps())
    names = [t.name(GRAPH) for t in first.tests]
    assert names == ["a0.h1->logits", "input->logits", "m0->logits", "a0.h0->logits"]


@pytest.mark.parametrize("listed", [(), ("m0->logits", "a0.h0->m0", "input->a0.h0<v>")])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"chunk": 1},
        {"reader_order": "head", "gates": False},
        # head 0 is dead, and the state knows it before the steps have come there
        {"reader_order": "head", "sender_heads": "ascending"},
    ],
)
def test_a_search_goes_on_from_a_checkpoint_that_was_a_file(kwargs, listed):
    kwargs = kwargs | ({"guide": shortlist(*listed)} if listed else {})
    whole, search = list(fresh(**kwargs).steps()), fresh(**kwargs)
    assert search.at_rest is False  # nothing was visited
    n = 0
    for done, _ in enumerate(search.steps(), start=1):
        if search.at_rest:
            n += 1
            saved = search.checkpoint()
            again = fresh(**kwargs)
            again.restore(Checkpoint(json.loads(json.dumps(saved.about)), saved.tensors))
            assert [str(s) for s in again.steps()] == [str(s) for s in whole[done:]]
            assert (again.passed, again.failed) == last_tests(kwargs)
        else:
            with pytest.raises(ValueError, match="between groups of visits"):
                search.checkpoint()
    assert n == len(search.groups) and done == len(whole)


def last_tests(kwargs):
    search = fresh(**kwargs)
    list(search.steps())
    return search.passed, search.failed


def test_orders_by_name():
    graph = families.view("llama").graph("per_group")  # four heads, two groups
    names = [r.name for r in graph.readers]
    by_head = [names[v.reader] for v in itinerary(graph, Order("head", gates=False))]
    assert by_head[:10] == [
        "logits", "m1", "a1.kv1<v>", "a1.kv1<k>", "a1.h3<q>", "a1.h2<q>",
        "a1.kv0<v>", "a1.kv0<k>", "a1.h1<q>", "a1.h0<q>",
    ]  # fmt: skip
    visits = itinerary(graph, Order("head"), shortlist=True)
    assert [(names[v.reader], v.kind) for v in visits[2:14]] == [
        ("m1", "skip"), ("m1", "edges"),
        *((n, kind) for kind in ("skip", "gate", "edges") for n in by_head[2:5]),
        ("a1.h2<q>", "skip"),
    ]  # fmt: skip
    by_layer = [names[v.reader] for v in itinerary(graph, Order(gates=False))]
    assert by_layer[2:10] == [
        "a1.kv1<v>", "a1.kv0<v>", "a1.kv1<k>", "a1.kv0<k>",
        "a1.h3<q>", "a1.h2<q>", "a1.h1<q>", "a1.h0<q>",
    ]  # fmt: skip


def test_senders_by_name():
    graph = families.view("llama").graph()

    def names(**order):
        return [graph.writers[w] for w in sender_order(graph, Order(**order))]

    down, up = ([f"h{h}" for h in hs] for hs in ((3, 2, 1, 0), (0, 1, 2, 3)))
    for heads, kind in ((down, "descending"), (up, "ascending")):
        layers = [["m1", *(f"a1.{h}" for h in heads)], ["m0", *(f"a0.{h}" for h in heads)]]
        assert names(sender_heads=kind) == [*layers[0], *layers[1], "input"]
    assert names() == names(sender_heads="descending")
    mixed = names(sender_heads="random")
    assert mixed == names(sender_heads="random", seed=0) != names(sender_heads="random", seed=1)
    assert [mixed[0], mixed[5], mixed[10]] == ["m1", "m0", "input"]
    assert sorted(mixed[1:5]) == [f"a1.h{h}" for h in range(4)]
    assert sorted(mixed[6:10]) == [f"a0.h{h}" for h in range(4)]
