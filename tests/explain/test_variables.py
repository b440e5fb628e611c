"""Interchange interventions: a slow twin, laws, and a variable that was planted."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch
import two_variables as toy

from acdc.ablation import RESAMPLE
from acdc.circuit import Circuit
from acdc.data import Data
from acdc.errors import InputError
from acdc.forward import trace
from acdc.prompts import Prompts
from discovery.explanation.variables import carriers
from discovery.explanation.variables import part as variables
from discovery.explanation.variables.alignment import (
    Effort,
    Outcome,
    Site,
    first_order,
    interchange,
    learnt,
    loss,
    random_basis,
    tried,
)
from discovery.explanation.variables.counterfactual import (
    UNKNOWN,
    Pairs,
    Task,
    paired,
    pairs_of,
    permuted,
)
from discovery.explanation.variables.intervene import Change, Part, Runs, place
from discovery.settings.explanation import Variables
from discovery.validation.bench import make_bench

N = 4
SOME = ("a0.h1", "a1.h2", "m0", "stream 1", "stream 2", "input")


def angles(one, other):
    """Principal angles between two subspaces, radians, the smallest first."""
    return torch.linalg.svdvals(one.T @ other).clamp(-1, 1).arccos().numpy()


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def runs_of(model, prompts, part=3):
    data = Data(model, model.graph(), prompts, RESAMPLE, part)
    return Runs(model, prompts, [Part(model, f.clean, f.rows) for f in data])


# ---- the changed run -----------------------------------------------------------------------------


def twin(model, tokens, changes):
    """One prompt [pos], all positions, head by head; changes: (place, position, function)."""
    n = len(tokens)

    def put(value, kind, layer, head=0):
        for where, at, to in changes:
            if (where.kind, where.layer, where.head) == (kind, layer, head):
                value = value.clone()
                value[at] = to(value[at])
        return value

    x = model.embed(tokens[None])[0]
    for layer, block in enumerate(model.blocks):
        x = put(x, "stream", layer)
        total = x if block.attn.b_O is None else x + block.attn.b_O
        for head in range(model.n_heads):
            q = model.project(layer, "q", head, x[None], n)
            k, v = (model.project(layer, p, model.kv_head(head), x[None], n) for p in ("k", "v"))
            z = put(
                (model.pattern(layer, list(range(model.n_heads)), q, k) @ v)[0], "head", layer, head
            )
            total = total + z @ block.attn.W_O[head]
        if block.mlp is not None:
            mlp = model.mlp_out(layer, x if model.parallel else total)
            total = total + put(mlp, "mlp", layer)
        x = total
    return model.unembed(put(x, "stream", len(model.blocks)))[-1]


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "pythia", "attention_only"])
def test_the_changed_run_is_the_twins(family):
    model, some = families.view(family), families.prompts(5)
    runs, graph = runs_of(model, some), model.graph()
    base = torch.tensor([0, 4, 4, 2, 1, 3, 0])
    at = torch.tensor([2, 5, 3, 4, 5, 2, 3])
    tokens = torch.arange(50).expand(len(base), -1)
    names = [n for n in SOME if n != "m0" or graph.has_mlp]
    for group in ([n] for n in names):
        check_against_twin(runs, [(n, at) for n in group], base, tokens)
    check_against_twin(runs, [("a1.h2", at), ("stream 1", at - 1), ("a0.h1", at)], base, tokens)


def check_against_twin(runs, named, base, tokens):
    model = runs.model

    def change(name, at):
        where = place(model.graph(), name)
        shift = torch.randn(len(base), where.width(model), dtype=torch.float64)
        return Change(where, at, lambda value, which: 2 * value + shift[which]), where, at, shift

    made = [change(*one) for one in named]
    logits = runs.logits(base, [one[0] for one in made], tokens)
    for i, row in enumerate(base.tolist()):
        own = [(where, int(at[i]), lambda x, s=shift[i]: 2 * x + s) for _, where, at, shift in made]
        near(logits[i], twin(model, runs.prompts.clean[row], own))


def test_without_a_change_the_run_is_the_models():
    model, some = families.view("llama"), families.prompts(5)
    runs = runs_of(model, some)
    tokens = torch.arange(50).expand(5, -1)
    same = Change(place(model.graph(), "a0.h1"), None, lambda value, which: value)
    want = trace(model, some.clean).logits
    near(runs.logits(torch.arange(5), [], tokens), want)
    near(runs.logits(torch.arange(5), [same], tokens), want)


@pytest.mark.parametrize("name", ["a0.h1", "a1.h0", "m0"])
def test_a_whole_node_at_the_end_is_a_node_cut_from_the_circuit(name):
    """By acdc: every edge of the node cut, at the answer position, carrying the source's value."""
    model, some = families.view("gpt2"), families.prompts(5)
    graph, runs = model.graph(), runs_of(model, some)
    order = [1, 2, 3, 4, 0]
    forward = families.run(model, graph, replace(some, corrupt=some.clean[order]))
    mask = graph.legal.copy()
    mask[graph.writer_index[name]] = False
    pairs = two_way(some, np.arange(5), np.array(order))
    change = interchange(runs, Site(place(graph, name), "end"), pairs, "x")
    tokens = torch.arange(50).expand(5, -1)
    near(runs.logits(torch.arange(5), [change], tokens), forward.run(mask, at="answer"))


def test_a_subspace_of_coarse_numbers_is_learnt_in_finer_ones():
    """bfloat16 has no QR; a step of it would be lost in rounding."""
    some, effort = families.prompts(8), Effort(steps=3, batch=8, rate=1e-3)
    pairs = two_way(some, np.arange(8), np.roll(np.arange(8), 1))
    found = dict[torch.dtype, torch.Tensor]()
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        runs = runs_of(families.view("llama", dtype), some)
        site = Site(place(runs.model.graph(), "a0.h1"), "end")
        one = learnt(runs, site, pairs, "x", 2, effort, np.random.default_rng(0))
        assert one.basis is not None and one.basis.dtype == dtype
        found[dtype] = one.basis.double()
    eye = torch.eye(2, dtype=torch.float64)
    fine, coarse = found[torch.float32], found[torch.bfloat16]
    torch.testing.assert_close(coarse.T @ coarse, eye, rtol=0, atol=0.02)
    near(found[torch.float64].T @ found[torch.float64], eye)
    assert angles(fine, found[torch.float64]).max() < 0.01


def two_way(some, base, source):
    """Pairs whose answers are the source's."""
    right = np.array([a[0] for a in some.answers])
    tokens = np.stack([right[source], right[base]], axis=1)
    return Pairs(base, {"x": source}, right[source], tokens, right[source] != right[base])


def test_all_directions_are_the_whole_place():
    model, some = families.view("qwen2"), families.prompts(5)
    runs = runs_of(model, some)
    pairs = two_way(some, np.arange(5), np.array([2, 0, 1, 4, 3]))
    site = Site(place(model.graph(), "a0.h3"), "end")
    full = random_basis(8, 8, np.random.default_rng(0), model.W_E)
    near(torch.tensor(tried(runs, {"x": site.within(full)}, pairs).lead),
         torch.tensor(tried(runs, {"x": site}, pairs).lead))  # fmt: skip


def test_the_gradient_is_that_of_finite_differences():
    model, some = families.view("llama"), families.prompts(5)
    runs = runs_of(model, some)
    pairs = two_way(some, np.arange(5), np.array([2, 0, 1, 4, 3]))
    site = Site(place(model.graph(), "a0.h3"), "end")
    basis = random_basis(8, 2, np.random.default_rng(0), model.W_E).requires_grad_()
    loss(runs, site.within(basis), pairs, "x").backward()
    for i, j in ((0, 0), (3, 1), (7, 0)):
        step = torch.zeros(8, 2, dtype=torch.float64)
        step[i, j] = 1e-6
        with torch.no_grad():
            up, down = (loss(runs, site.within(basis + s), pairs, "x") for s in (step, -step))
        assert float(basis.grad[i, j]) == pytest.approx(float(up - down) / 2e-6, abs=1e-6)
        assert abs(float(basis.grad[i, j])) > 1e-4


def test_runs_of_some_parts_alone_are_those_of_all():
    model, some = families.view("gpt2"), families.prompts(5)
    runs, tokens = runs_of(model, some, part=2), torch.arange(50).expand(2, -1)
    where = place(model.graph(), "a0.h1")
    double = Change(where, torch.tensor([3, 4]), lambda value, which: 2 * value)
    base = torch.tensor([4, 0])  # none of the second part
    near(runs.logits(base, [double], tokens),
         runs_of(model, some, part=5).logits(base, [double], tokens))  # fmt: skip


def test_a_place_that_is_not_there_is_refused():
    graph = families.view("gpt2").graph()
    for name in ("a9.h0", "stream 3", "stream x", "logits"):
        with pytest.raises(InputError, match=f"place '{name}': allowed are"):
            place(graph, name)


# ---- labels --------------------------------------------------------------------------------------


def sentence_prompts():
    """X Y . Z X -> Y: the answer follows the first X."""
    rows = [[9, 5, 6, 8, 5], [5, 7, 1, 2, 5], [7, 3, 6, 5, 7], [1, 6, 7, 2, 6]]
    clean = torch.tensor(rows)
    answers, at = (6, 7, 3, 7), (2, 1, 1, 2)
    return Prompts(
        clean, clean, tuple((a,) for a in answers), ((0,),) * 4, 4,
        features={"key": (5, 5, 7, 6), "at": at, "answer": answers, "one": (1, 1, 2, 2)},
    )  # fmt: skip


def test_roles_and_labels_by_hand():
    task = Task.of(sentence_prompts())
    assert task.roles == {"key": "key", "at": "place", "answer": "answer", "one": "table"}
    base, source = np.array([0, 0, 1, 2]), np.array([1, 2, 3, 0])
    assert task.label(base, {"answer": source}).tolist() == [7, 3, 7, 6]
    assert task.label(base, {"at": source}).tolist() == [5, 5, 1, 6]
    # the key 7 is not in prompt 0, 6 not in 1, and what follows 5 in prompt 2 is 7
    assert task.label(base, {"key": source}).tolist() == [6, UNKNOWN, UNKNOWN, 7]
    assert task.label(base, {"one": source}).tolist()[0] == 6
    # the answer is behind the place, the place behind the key
    assert task.label(base, {"key": source, "at": base}).tolist() == task.answers[base].tolist()
    both = {"key": source, "at": source, "answer": base}
    assert task.label(base, both).tolist() == task.answers[base].tolist()


def names_prompts():
    """Two names and the second one's again: the other one is right."""
    rows = [[5, 6, 6], [5, 6, 5], [7, 8, 7], [7, 8, 8]]
    clean, io = torch.tensor(rows), (0, 1, 1, 0)
    answers, wrong = (5, 6, 8, 7), (6, 5, 7, 8)
    return Prompts(
        clean, clean, tuple((a,) for a in answers), tuple((w,) for w in wrong), 2,
        features={"order": io, "name": answers, "position": io, "subject": wrong},
    )  # fmt: skip


def test_an_order_turns_the_answer():
    task = Task.of(names_prompts(), {
        "order": "order", "name": "answer", "position": "place", "subject": "table",
    })  # fmt: skip
    assert Task.of(names_prompts()).roles["position"] == "place"
    base, source = np.array([0, 0, 2]), np.array([1, 3, 0])
    for name in ("order", "position"):
        assert task.label(base, {name: source}).tolist() == [6, 5, 7]
    assert task.label(base, {"subject": source}).tolist() == [UNKNOWN] * 3
    moved = replace(names_prompts(), features={"order": (3, 9, 9, 3)})
    assert Task.of(moved).roles == {"order": "order"}


def test_a_table_takes_all_variables_at_once():
    task = Task.of(toy.prompts(32, 1))
    assert task.roles == {"v": "table", "w": "table"}
    v, w = task.values("v"), task.values("w")
    base, one, two = np.random.default_rng(0).integers(0, 32, (3, 50))
    assert (task.label(base, {"v": one}) == 2 * v[one] + w[base]).all()
    assert (task.label(base, {"v": one, "w": two}) == 2 * v[one] + w[two]).all()


def test_pairs_hold_sources_that_change_nothing_too():
    task = Task.of(toy.prompts(32, 1))
    pairs = pairs_of(task, "v", np.random.default_rng(0), 2)
    v = task.values("v")
    assert (pairs.changes == (v[pairs.base] != v[pairs.sources["v"]])).all()
    assert pairs.changes.mean() == 0.5
    assert (pairs.base != pairs.sources["v"]).all()
    assert (np.bincount(pairs.base[pairs.changes]) == 2).all()
    assert (pairs.tokens[:, 0] == pairs.right).all()
    other = permuted(pairs, np.random.default_rng(0))
    assert (other.right == pairs.right).all() and (other.sources["v"] != pairs.sources["v"]).any()


def test_several_answers_are_refused():
    some = replace(names_prompts(), answers=((5, 6), (6,), (8,), (7,)))
    with pytest.raises(InputError, match="one right answer a prompt"):
        Task.of(some)


# ---- the planted variable ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    subject = toy.subject()
    choose = carriers.Half.of(subject.choose)
    return subject, choose, carriers.Half.of(subject.test, choose.task.roles)


@pytest.mark.parametrize("name, column", [("v", 0), ("w", 1)])
def test_das_finds_the_planted_direction(planted, name, column):
    subject, choose, test = planted
    rng = np.random.default_rng(0)
    site = Site(place(subject.graph, "a0.h0"), "end")
    pairs, held_out = (pairs_of(half.task, name, rng, 4) for half in (choose, test))
    effort = Effort(steps=60, batch=64)
    found = learnt(choose.runs, site, pairs, name, 1, effort, rng)
    truth = toy.rotation()[:, [column]]
    start = first_order(choose.runs, site, pairs, name, 1)
    assert angles(start, truth)[0] > 0.2  # learning has something to do
    assert angles(found.basis, truth)[0] < 0.1
    assert tried(test.runs, {name: found}, held_out).accuracy == 1
    exact = tried(test.runs, {name: site.within(truth)}, held_out)
    assert exact.accuracy == 1 and exact.share == pytest.approx(1)
    assert tried(test.runs, {name: site}, held_out).accuracy < 0.8  # the other variable came too
    other = learnt(choose.runs, site, permuted(pairs, rng), name, 1, effort, rng)
    nothing = [tried(test.runs, {name: other}, permuted(held_out, rng)) for _ in range(5)]
    assert np.mean([one.accuracy for one in nothing]) < 0.68
    random = [site.within(random_basis(8, 1, rng, truth)) for _ in range(10)]
    assert np.mean([tried(test.runs, {name: r}, held_out).accuracy for r in random]) < 0.6


def test_the_section_names_the_place_and_what_fails_of_it(planted):
    subject, _, _ = planted
    asked = Variables(k=(1,), steps=60, batch=64, nodes=1, streams=0, draws=2)
    assert variables.check(subject, asked) is None
    section = variables.explain(subject, asked, {})
    facts = section.found["variables"]
    assert all(f["mark"] == "end" and f["role"] == "table" for f in facts.values())
    assert all(f["place"] == "a0.h0" for f in facts.values())
    assert all(f["accuracy"] > 0.95 and f["q"] < 0.01 for f in facts.values())
    assert all(f["permuted"] < 0.7 and f["random"] < 0.7 for f in facts.values())
    assert section.found["together"]["accuracy"] > 0.95
    assert section.found["together"]["random"] < 0.6


def test_the_same_is_found_again():
    asked = Variables(k=(1,), steps=2, nodes=1, streams=0, sources=1)
    one, two = (variables.explain(toy.subject(16), asked, {}) for _ in range(2))
    assert one == two


def test_what_merely_spoils_the_answer_is_not_the_best_place():
    def outcome(lead, margin):
        one = np.ones(4)
        return Outcome(one, lead * one, -4 * one, margin * one, np.arange(4))

    graph = families.view("gpt2").graph()
    spoils, carries = (Site(place(graph, f"a0.h{h}"), "end") for h in (0, 1))
    found = [(spoils, outcome(3.0, -5.0)), (carries, outcome(1.0, 1.0))]
    assert found[0][1].share > found[1][1].share
    assert carriers.best_sites(found, 2) == [carries, spoils]


def test_a_node_read_at_the_end_alone_is_tried_there_alone():
    subject = toy.subject(16)
    names = [site.name for site in carriers.sites_of(subject, ["v", "end"], 1)]
    assert names == ["a0.h0 at end", "a0.h1 at end", "stream 1 at v", "stream 1 at end"]
    two = families.view("gpt2")
    keys = two.graph().mask(["a0.h0->a1.h1<k>", "a0.h2->a1.h1<q>", "a1.h1->logits"])
    bench = make_bench(two, two.graph(), families.prompts(4), RESAMPLE)
    other = replace(subject, circuit=Circuit(two.graph(), keys), choose=bench)
    names = [site.name for site in carriers.sites_of(other, ["v", "end"], 0)]
    assert names == ["a0.h0 at v", "a0.h0 at end", "a0.h2 at end", "a1.h1 at end"]


def test_joint_labels_are_of_both_sources(planted):
    _, _, test = planted
    task, rng = test.task, np.random.default_rng(0)
    base, one, two = rng.integers(0, 32, (3, 40))
    pairs = paired(task, base, {"v": one, "w": two})
    graph, turn = test.runs.model.graph(), toy.rotation()
    sites = {n: Site(place(graph, "a0.h0"), "end", turn[:, [i]]) for i, n in enumerate("vw")}
    assert tried(test.runs, sites, pairs).accuracy == 1
    assert tried(test.runs, {"v": sites["v"]}, pairs).accuracy < 0.9


def test_what_cannot_be_asked_is_said_before_the_work():
    subject = toy.subject()
    assert variables.check(subject, Variables(k=(9,))) == (
        "variables.k=9: the circuit's narrowest node has 8 numbers"
    )
    bare = toy.subject(prompts=lambda n, seed: replace(toy.prompts(n, seed), features={}))
    assert "names no variables" in variables.check(bare, Variables())
    one = toy.subject(
        prompts=lambda n, seed: replace(toy.prompts(n, seed), features={"x": (1,) * n})
    )
    assert "of no variable" in variables.check(one, Variables())
    with pytest.raises(InputError, match="k=9: the place has 8 numbers, so 1 to 8 are allowed"):
        random_basis(8, 9, np.random.default_rng(0), torch.zeros(1))


def test_an_order_needs_both_tokens_in_every_prompt():
    """v is 1 where the right token comes before the wrong one, which half of the prompts lack."""
    tokens = torch.tensor([[20, 30, 40], [21, 31, 41], [22, 42, 43], [23, 44, 45]])
    some = Prompts(
        tokens, tokens, ((20,), (21,), (22,), (23,)), ((30,), (31,), (32,), (33,)), 2,
        features={"v": (1, 1, 0, 0)},
    )  # fmt: skip
    assert Task.of(some).roles == {"v": "table"}
    both = replace(some, wrong=((30,), (31,), (42,), (44,)), features={"v": (1, 1, 1, 1)})
    assert Task.of(both).roles == {"v": "table"}  # of one value
    turned = tokens.clone()
    turned[2:] = torch.tensor([[42, 22, 43], [44, 23, 45]])
    both = replace(both, clean=turned, corrupt=turned, features={"v": (7, 7, 9, 9)})
    assert Task.of(both).roles == {"v": "order"}


def test_sources_that_change_nothing_are_no_more_than_those_that_do():
    """Of 8 prompts one has the other v: each of the others has one source that changes it."""
    many = toy.prompts(64, 0)
    v, w = (np.array(many.features[name]) for name in "vw")
    rows = [*np.flatnonzero((v == 0) & (w == 0))[:7], *np.flatnonzero((v == 1) & (w == 0))[:1]]
    task = Task.of(many.take([int(i) for i in rows]))
    pairs = pairs_of(task, "v", np.random.default_rng(0), 4)
    changed, kept = (
        np.bincount(pairs.base[x], minlength=8) for x in (pairs.changes, ~pairs.changes)
    )
    assert changed.tolist() == [1] * 7 + [4] and kept.tolist() == [1] * 7 + [0]


def test_a_place_that_names_neither_answer_tells_nothing():
    """The source's place holds a third token in the base: unknown, where both are always there."""
    tokens = torch.tensor([[20, 30, 40], [31, 21, 41], [22, 42, 32]])
    some = Prompts(
        tokens, tokens, ((20,), (21,), (22,)), ((30,), (31,), (32,)), 2,
        features={"v": (0, 1, 0)},
    )  # fmt: skip
    task = Task.of(some)
    assert task.roles == {"v": "place"}
    base, source = np.array([0, 1, 2, 2]), np.array([1, 0, 1, 0])
    assert task.label(base, {"v": source}).tolist() == [30, 31, UNKNOWN, 22]
    free = Task.of(replace(some, wrong=((90,), (90,), (90,))))
    assert free.label(base, {"v": source}).tolist() == [30, 31, 42, 22]


def test_of_each_prompt_one_pair_that_changes_and_one_that_does_not_is_kept():
    base = np.array([0, 0, 0, 0, 1, 1])
    changes = np.array([True, True, False, False, False, False])
    some = Pairs(base, {"v": np.arange(6)}, np.zeros(6, int), np.zeros((6, 2), int), changes)
    for seed in range(4):
        found = carriers.one_each(some, np.random.default_rng(seed))
        kept = list(zip(found.base.tolist(), found.changes.tolist(), strict=True))
        assert sorted(kept) == [(0, False), (0, True), (1, False)]
