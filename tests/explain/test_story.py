"""A story that writes itself: planted truths found, made data that agree, slow twins, refusals."""

from dataclasses import replace
from functools import cache

import families
import numpy as np
import pytest
import torch

import discovery as cd
from acdc.ablation import RESAMPLE
from acdc.circuit import Circuit
from acdc.model import Attention, Block, Model, Norm
from acdc.prompts import Prompts
from discovery.explanation.story.claims import (
    Chance,
    carried_over,
    claims,
    groups_of,
    places,
    role_of,
    split_off,
    with_other_heads,
    with_paths,
    without,
)
from discovery.explanation.story.data import Agreeing, Pool, Variable, variables
from discovery.explanation.story.judge import Change, Judge
from discovery.explanation.story.part import tell
from discovery.explanation.story.runs import Recent
from discovery.explanation.story.search import Rule, Writer, shown, write
from discovery.scrubbing.engine import scrub
from discovery.scrubbing.hypothesis import Claim
from discovery.scrubbing.samplers import Exact
from discovery.scrubbing.transformer import transformer
from discovery.settings.explanation import Story as Asked
from discovery.validation.bench import make_bench

NONE, F64 = Norm("none"), torch.float64
VOCAB, LENGTH, N = 12, 8, 40


# ---- an induction model written by hand ----------------------------------------------------------
# stream: token (VOCAB) | position (LENGTH) | token before (VOCAB) | what is said (VOCAB)
# a0.h0 attends to the position before and writes its token into the third part; a1.h0's query is
# the token, its keys the token before, its value the token, which it says. a0.h1 and a1.h1 attend
# anywhere and write nothing.


@cache
def induction() -> Model:
    """All exact: attention is 1 up to e^-60."""
    d, hard = 3 * VOCAB + LENGTH, 60.0
    token, place, before, said = torch.eye(d, dtype=F64).split([VOCAB, LENGTH, VOCAB, VOCAB])
    size = max(VOCAB, LENGTH)

    def pad(x):  # [n, d] -> [d, size]
        return torch.nn.functional.pad(x.T, (0, size - len(x)))

    shift = torch.roll(torch.eye(LENGTH, dtype=F64), -1, 0) @ place  # p looks for p - 1
    first = [pad(shift * hard), pad(place), pad(token), pad(before).T]
    second = [pad(token * hard), pad(before), pad(token), 20 * pad(said).T]
    generator = torch.Generator().manual_seed(0)
    idle = [torch.randn(m.shape, generator=generator, dtype=F64) * 0.1 for m in first]
    idle[3] *= 0
    blocks = []
    for heads in ([first, idle], [second, idle]):
        q, k, v, o = (torch.stack(parts) for parts in zip(*heads, strict=True))
        attention = Attention(
            W_Q=q, W_K=k, W_V=v, W_O=o, b_Q=None, b_K=None, b_V=None, b_O=None, q_norm=NONE,
            k_norm=NONE, scale=1.0,
        )  # fmt: skip
        blocks.append(Block(NONE, attention, None, None))
    return Model(
        name="induction", n_heads=2, n_kv_heads=2, parallel=False, n_ctx=LENGTH, embed_scale=1.0,
        W_E=token, W_pos=place, blocks=tuple(blocks), ln_final=NONE,
        W_U=said.T.contiguous(), b_U=None,
    )  # fmt: skip


def induction_prompts(n: int = N, seed: int = 0) -> Prompts:
    """... A B ... A: the answer is B; only the match position is free among 1..5."""
    rng = np.random.default_rng(seed)
    clean, corrupt, answers, wrong, match = [], [], [], [], []
    for _ in range(n):
        row = rng.permutation(VOCAB)
        tokens, at = row[:LENGTH].copy(), int(rng.integers(2, 5))
        tokens[-1] = tokens[at - 1]
        other = tokens.copy()
        other[at - 1], other[at] = row[LENGTH], row[LENGTH + 1]
        clean.append(tokens)
        corrupt.append(other)
        answers.append((int(tokens[at]),))
        wrong.append((int(other[at]),))
        match.append(at)
    marks = {
        "previous": tuple(m - 1 for m in match), "match": tuple(match), "end": (LENGTH - 1,) * n,
    }  # fmt: skip
    return Prompts(
        torch.tensor(np.array(clean)), torch.tensor(np.array(corrupt)), tuple(answers),
        tuple(wrong), LENGTH - 1, marks, {"parity": tuple(i % 2 for i in range(n))},
    )  # fmt: skip


EDGES = (
    "input->a0.h0<v>", "input->a1.h0<q>", "a0.h0->a1.h0<k>", "input->a1.h0<v>", "a1.h0->logits",
    "input->logits",
)  # fmt: skip
ASKED = Asked(references=N, draws=1, controls=2)


@cache
def planted():
    """The whole part on the hand-made model."""
    model, prompts = induction(), induction_prompts(2 * N)
    graph = model.graph()
    choose, test = (
        make_bench(model, graph, prompts.take(rows), RESAMPLE)
        for rows in (range(N), range(N, 2 * N))
    )
    circuit = Circuit(graph, graph.mask(EDGES))
    rng = np.random.default_rng(0)
    return tell(circuit, choose, test, prompts, {"a1.h0": "induction heads"}, ASKED, 0.05, rng)


@pytest.mark.unchecked
def test_the_planted_story_is_found_and_recovers_all():
    told = planted()
    found = {g: shown(c) for g, c in told.written.story.items()}
    assert found == {
        "induction heads": "token at match",
        "induction heads<q> input": "token at previous",
        "induction heads<k> a0.h0": "token at previous and position of previous",
        "induction heads<v> input": "token at match and position of previous",
        "induction heads<k> a0.h0<v> input": "token at previous and position of previous",
    }
    m = told.measured
    assert m.recovered.value == pytest.approx(1, abs=1e-9)
    assert m.kl_share == pytest.approx(1, abs=1e-6)
    assert max(m.permuted) < 0.35 and max(m.random) < 0.05
    assert all(c.cost > 0.5 and c.p_value < 0.001 for c in m.claims)
    assert m.broken is not None and m.broken.recovered.value < 0.3
    assert "token at end" in told.variables[1].also or "token at end" in told.variables[0].also


def judge_of(prompts: Prompts | None = None):
    model = induction()
    graph = model.graph()
    bench = make_bench(model, graph, prompts or induction_prompts(), RESAMPLE)
    found = places(Circuit(graph, graph.mask(EDGES)), {}, 40)
    return Judge(bench, [p.node for p in found], N, 32), found


def test_a_wrong_variable_recovers_less():
    judge, found = judge_of()
    by_name = {v.name: v for v in variables(judge.bench.data.prompts)[0]}
    wrong = dict.fromkeys([p.group for p in found]) | {"a1.h0<q> input": (by_name["parity"],)}
    right = {**wrong, "a1.h0<q> input": (by_name["token at previous"],)}
    shares = [judge.share(judge.scrub(found, s, Chance(0))) for s in (wrong, right)]
    assert shares[0] < 0.4 and shares[1] == pytest.approx(1, abs=1e-9)


def test_a_claim_that_was_dropped_wrongly_comes_back_with_all_above_it():
    judge, found = judge_of()
    some, _ = variables(judge.bench.data.prompts)
    writer = Writer(judge, found, some, Rule(0.05, 0.01, 0.05), Chance(0, True))
    whole, key = writer.story, "a1.h0<k> a0.h0"
    writer.story = without(found, whole, key)
    writer.now = judge.scrub(found, writer.story, writer.chance)
    assert judge.share(writer.now) < 0.5
    assert writer.strengthen()
    names = "token at previous and position of previous"
    assert list(writer.story) == list(whole)
    assert [shown(writer.story[g]) for g in (key, f"{key}<v> input")] == [names, names]
    assert judge.share(writer.now) == pytest.approx(1, abs=1e-9)
    assert not writer.strengthen()


def test_the_story_is_the_same_every_time():
    again, first = planted.__wrapped__(), planted()
    assert again.measured == first.measured and again.written == first.written


# ---- variables and data --------------------------------------------------------------------------


def test_variables_of_the_prompts():
    found, left_out = variables(induction_prompts())
    by_name = {v.name: v for v in found}
    assert list(by_name) == [
        "parity", "token at previous", "token at match", "position of previous",
        "token before previous", "token before end",
    ]  # fmt: skip
    assert by_name["token at previous"].also == ("token at end", "token before match")
    assert by_name["position of previous"].also == ("position of match",)
    assert by_name["token at match"].answer and not by_name["token at previous"].answer
    assert by_name["token at match"].made and not by_name["parity"].made
    assert left_out == ["position of end has one value in all prompts, so no claim can be on it"]


def test_a_variable_of_one_class_is_one_sentence():
    prompts = replace(induction_prompts(), features={"kind": (1,) * N, "id": tuple(range(N))})
    _, left_out = variables(prompts)
    assert "kind has one value in all prompts, so no claim can be on it" in left_out
    assert any(s.startswith("id differs from prompt to prompt (40 values in 40)") for s in left_out)


def test_drawn_data_agree_and_are_what_renaming_makes_of_a_prompt():
    prompts = induction_prompts()
    pool, found = Pool(prompts), {v.name: v for v in variables(prompts)[0]}
    carried = tuple(found[n] for n in ("token at previous", "token at match", "parity"))
    reference = np.repeat(np.arange(N), 3)
    rows = pool.draw(carried, reference, (1,))
    again = pool.draw(carried, rows, (2,))  # a made datum as the reference
    for drawn in (rows, again):
        for v in carried:
            assert (pool.values(v, drawn) == pool.values(v, reference)).all()
    assert (rows >= N).all() and len(np.unique(pool.base(rows))) > N / 2
    made, donors = pool.tokens(rows).numpy(), prompts.clean[pool.base(rows)].numpy()
    for one, donor in zip(made, donors, strict=True):  # a renaming keeps what equals what
        assert ((one[:, None] == one) == (donor[:, None] == donor)).all()
    assert (pool.values(found["position of previous"], rows)
            != pool.values(found["position of previous"], reference)).any()  # fmt: skip


def test_tokens_that_are_equal_in_some_prompts_only_agree_all_the_same():
    tokens = torch.arange(40).reshape(10, 4) % 37
    tokens[:4, 1] = tokens[:4, 0]
    marks = {"one": (0,) * 10, "other": (1,) * 10}
    prompts = Prompts(tokens, tokens, ((0,),) * 10, ((1,),) * 10, 3, marks)
    pool, carried = Pool(prompts), [Variable(m, "token", m, made=True) for m in marks]
    every = np.arange(10)
    rows = pool.draw(carried, every, (1,))
    for v in carried:
        assert (pool.values(v, rows) == pool.values(v, every)).all()
    assert pool.agreeing(carried, every).sum(1).tolist() == [4] * 4 + [6] * 6


def test_data_are_drawn_evenly_among_agreeing_prompts_and_the_reference_is_one():
    prompts = induction_prompts()
    pool, parity = Pool(prompts), Variable("parity", "feature", "parity")
    rows = pool.draw((parity,), np.zeros(500 * N, int), (3,))
    count = np.bincount(rows, minlength=N)
    assert (count[1::2] == 0).all() and abs(count[::2] - 1000).max() < 150
    sampler = Agreeing(pool, (parity,), (3,))
    assert (sampler.class_sizes(np.arange(N)) == N / 2).all()
    assert sampler.class_sizes(np.arange(N)) is not None
    assert Agreeing(pool, (), (3,)).class_sizes(np.arange(N)) is None


def test_other_prompts_values():
    prompts = induction_prompts()
    pool = Pool(prompts)
    other = np.roll(np.arange(N), 1)
    parity = Variable("parity", "feature", "parity")
    rows = Agreeing(pool, (parity,), (3,), other).draw(np.arange(N), N, np.random.default_rng())
    assert (pool.values(parity, rows) != pool.values(parity, np.arange(N))).all()


# ---- slow twins ----------------------------------------------------------------------------------


def test_a_judge_is_scrub_on_all_data_at_once():
    """The lazy, kept computation against scrub() on a plain computation of every datum."""
    judge, found = judge_of()
    by_name = {v.name: v for v in variables(judge.bench.data.prompts)[0]}
    story = dict.fromkeys([p.group for p in found])
    story["a1.h0<k> a0.h0"] = (by_name["token at previous"],)
    story["a1.h0"] = (by_name["token at match"], by_name["parity"])
    for _ in range(2):  # the second time from what is kept
        fast = judge.scrub(found, story, Chance(5), 2)
    pool, model, prompts = judge.pool, induction(), judge.bench.data.prompts
    every = np.arange(len(pool._tokens))
    data = replace(prompts.take(pool.base(every).tolist()), clean=pool.tokens(every))
    plain = transformer(model, model.graph(), data, [p.node for p in found])
    slow = scrub(
        plain, claims(found, story, pool, Chance(5)), np.arange(N), np.random.default_rng(9), 2,
        measure=judge._measure,
    )  # fmt: skip
    np.testing.assert_allclose(fast.loss, slow.output[..., 0], atol=1e-9)
    np.testing.assert_allclose(fast.kl, slow.output[..., 1], atol=1e-9)


def test_kept_values_change_nothing():
    model, prompts = families.view("gpt2"), families.prompts(6)
    computation = transformer(model, model.graph(), prompts, ["input", "a0.h1", "a1.h2", "m0"])

    def tree(sampler):
        key = Claim("a0.h1", sampler, path=("a1.h2<k>",))
        return Claim("logits", Exact(), (Claim("a1.h2", Exact(), (key,)), Claim("m0", Exact())))

    pool = Pool(replace(prompts, marks={"end": (5,) * 6}))
    some = [Agreeing(pool, (), (i,)) for i in range(2)]
    kept = Recent(10**9)
    for sampler in (some[0], some[1], some[0], Exact()):
        runs = [
            scrub(computation, tree(sampler), np.arange(6), np.random.default_rng(0), 2, kept=k)
            for k in (None, kept)
        ]
        np.testing.assert_array_equal(runs[0].output, runs[1].output)
    size = len(kept)
    scrub(computation, tree(Exact()), np.arange(6), np.random.default_rng(0), 2, kept=kept)
    assert len(kept) == size > 0


def test_recent_holds_the_last_asked_for():
    kept = Recent(3 * 80)
    for i in range(3):
        kept[i] = torch.zeros(10, dtype=F64)
    assert kept.get(0) is not None
    kept[3] = torch.zeros(10, dtype=F64)
    assert list(kept) == [2, 0, 3] and kept.held == 240


def test_nothing_claimed_is_the_baseline_and_everything_the_circuit():
    judge, found = judge_of()
    nothing = judge.scrub(found, {}, Chance(0), 2)
    assert judge.share(nothing) == pytest.approx(0, abs=1e-12)
    logits = judge.runs.logits
    score = [[float(logits[d, a] - logits[d, w]) for d in range(N)] for (a,), (w,) in zip(
        judge.bench.data.prompts.answers, judge.bench.data.prompts.wrong, strict=True)]  # fmt: skip
    np.testing.assert_allclose(judge.baseline[:, 0], -np.mean(score, 1), atol=1e-9)
    every = dict.fromkeys([p.group for p in found])
    assert judge.share(judge.scrub(found, every, Chance(0))) == pytest.approx(1, abs=1e-9)


# ---- the tree ------------------------------------------------------------------------------------


def test_places_groups_and_what_is_left_without_one():
    graph = induction().graph()
    found = places(Circuit(graph, graph.mask(EDGES)), {"a1.h0": "induction heads"}, 40)
    assert [p.label for p in found] == [
        "input", "a1.h0", "a1.h0<q> input", "a1.h0<k> a0.h0", "a1.h0<v> input",
        "a1.h0<k> a0.h0<v> input",
    ]  # fmt: skip
    story = dict.fromkeys([p.group for p in found])
    assert list(without(found, story, "induction heads<k> a0.h0")) == [
        "input", "induction heads", "induction heads<q> input", "induction heads<v> input",
    ]  # fmt: skip
    few = places(Circuit(graph, graph.mask(EDGES)), {}, 5)
    assert len(few) == 5 and not few[3].opened and few[1].opened
    assert role_of("a1.h0", ["mover", "induction"]) == "induction heads"
    assert role_of("a1.h0", ["unheard of"]) == "a1.h0"


def test_a_head_is_split_off_its_group_with_all_that_it_is_computed_from():
    model = families.view("gpt2")
    graph = model.graph()
    edges = ("a1.h0->logits", "a1.h1->logits", "a0.h0->a1.h0<k>", "a0.h0->a1.h1<k>",
             "a0.h1->a1.h1<k>", "input->a0.h0<v>")  # fmt: skip
    role = {"a1.h0": "movers", "a1.h1": "movers", "a0.h0": "first", "a0.h1": "first"}
    found = places(Circuit(graph, graph.mask(edges)), role, 40)
    groups = ["movers", "movers<k> first", "movers<k> first<v> input"]
    assert list(dict.fromkeys(p.group for p in found)) == groups
    tree, own = split_off(found, "movers", "a1.h1")
    assert own == "a1.h1" and [p.label for p in tree] == [p.label for p in found]
    assert {p.label: p.group for p in tree} == {
        "a1.h0": "movers", "a1.h1": "a1.h1", "a1.h0<k> a0.h0": "movers<k> first",
        "a1.h1<k> a0.h0": "a1.h1<k> first", "a1.h1<k> a0.h1": "a1.h1<k> first",
        "a1.h0<k> a0.h0<v> input": "movers<k> first<v> input",
        "a1.h1<k> a0.h0<v> input": "a1.h1<k> first<v> input",
    }  # fmt: skip
    story = {"movers": None, "movers<k> first": ()}
    want = {"movers": None, "a1.h1": None, "movers<k> first": (), "a1.h1<k> first": ()}
    assert carried_over(found, tree, story) == want
    deeper, own = split_off(found, "movers<k> first", "a0.h1")
    assert own == "movers<k> a0.h1"
    moved = [(p.label, p.group) for p, q in zip(deeper, found, strict=True) if p != q]
    assert moved == [("a1.h1<k> a0.h1", own)]


def test_of_a_group_the_one_head_that_needs_more_is_split_off():
    """a1.h1 writes nothing, so the token is needed by a1.h0 alone; parity does for the other."""
    model = induction()
    graph = model.graph()
    bench = make_bench(model, graph, induction_prompts(), RESAMPLE)
    circuit = Circuit(graph, graph.mask(["a1.h0->logits", "a1.h1->logits"]))
    found = places(circuit, dict.fromkeys(["a1.h0", "a1.h1"], "movers"), 40)
    judge = Judge(bench, [p.node for p in found], N, 32)
    some, _ = variables(bench.data.prompts)
    by_name = {v.name: v for v in some}
    writer = Writer(judge, found, some, Rule(0.05, 0.01, 0.05), Chance(0, True))
    writer.story = {"movers": (by_name["parity"],)}
    writer.now = judge.scrub(found, writer.story, writer.chance)
    better = writer.strengthen()
    assert better is not None
    told = {g: [p.node for p in own] for g, own in groups_of(better.found).items()}
    assert told == {"a1.h0": ["a1.h0"], "movers": ["a1.h1"]}
    assert {g: shown(c) for g, c in better.story.items()} == {
        "a1.h0": "parity and token at match", "movers": "parity",
    }  # fmt: skip
    assert better.steps[-1].place == "a1.h0"
    assert judge.share(better.now) == pytest.approx(1, abs=1e-9)
    assert writer.story == {"movers": (by_name["parity"],)}  # the writer before is as it was
    both = Writer(judge, found, some, Rule(0.05, 0.01, 0.05), Chance(0, True))
    assert both.strengthen() is None


def test_paths_that_were_found_strong_are_spoken_of():
    graph = induction().graph()
    circuit = Circuit(graph, graph.mask(EDGES[:3]))
    tried = [("a1.h0", "logits", 2.0), ("input", "logits", 0.1), ("a1.h1", "logits", 1.0),
             ("input", "a1.h0<v>", -3.0), ("a0.h1", "a1.h0<k>", 2.0), ("a0.h0", "a1.h0<k>", 9.0),
             ("a0.h0", "a1.h1<k>", 9.0)]  # fmt: skip
    paths = [
        {"sender": s, "receiver": r, "estimate": e, "node": r.partition("<")[0]}
        for s, r, e in tried
    ]
    more, added = with_paths(circuit, paths)
    # not: weak beside the strongest, not from or into nodes of the circuit, there already
    assert added == ["a1.h0->logits", "input->a1.h0<v>"]
    assert set(more.edges) == {*circuit.edges, *added}
    assert with_paths(circuit, [])[0].n_edges == circuit.n_edges


def test_other_heads_of_the_same_layers():
    graph = induction().graph()
    circuit = Circuit(graph, graph.mask(EDGES))
    found = places(circuit, {}, 40)
    other = with_other_heads(found, circuit, np.random.default_rng(0))
    assert [p.node for p in other] == ["input", "a1.h1", "input", "a0.h1", "input", "input"]
    assert [p.label for p in other] == [p.label for p in found]


@pytest.mark.parametrize(
    "change, lost, tests, counts",
    [
        (Change(-0.3, 0.001), 0.0, 10, True),
        (Change(0.3, 0.001), 0.0, 10, True),  # what held the score down counts too
        (Change(-0.3, 0.001), 0.0, 100, False),  # Bonferroni
        (Change(-0.009, 1e-9), 0.9, 1, False),  # negligible
        (Change(-0.02, 0.9), 0.04, 1, False),
        (Change(-0.02, 0.9), 0.06, 1, True),  # it adds up
        (Change(0.02, 0.9), 0.06, 1, False),
    ],
)
def test_what_counts(change, lost, tests, counts):
    assert Rule(0.05, 0.01, 0.05).counts(change, lost, tests) == counts


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
def test_any_model_of_ours_has_a_story_to_try(family):
    """MLPs and shared keys: a random model's story is whatever it is, and is deterministic."""
    model = families.view(family)
    graph = model.graph("per_group" if family == "llama" else "per_query_head")
    rng = np.random.default_rng(0)
    prompts = families.prompts(24)
    marks = {"first": tuple(rng.integers(1, 4, 24).tolist()), "end": (5,) * 24}
    prompts = replace(prompts, marks=marks, features={"half": (0, 1) * 12})
    bench = make_bench(model, graph, prompts, RESAMPLE)
    mask = graph.legal & (rng.random(graph.legal.shape) < 0.3)
    found = places(Circuit(graph, mask), {}, 12)
    judge = Judge(bench, [p.node for p in found], 24, 10)
    some, _ = variables(prompts)
    written = write(judge, found, some, Rule(0.05, 0.01, 0.05), Chance(1, True), 1)
    assert (
        judge.share(judge.scrub(found, written.story, Chance(1, True))) == written.steps[-1].share
    )


@pytest.mark.slow
def test_the_embedded_model_s_story_is_induction():
    """Found by itself: who the heads are, what queries and keys carry; and it holds."""
    task = cd.task("induction", cd.load("induction"), n=64)
    found = cd.discover(task.model, task, "eap_ig", n_edges=20)
    told = cd.explain(found, parts=["roles", "story"])["story"].found
    assert told["recovered"]["value"] >= 0.8 and max(told["permuted"] + told["random"]) <= 0.2
    carried = {claim["group"]: claim for claim in told["claims"]}
    assert carried["induction heads"]["nodes"] == ["a1.h2", "a1.h3", "a1.h4", "a1.h6"]
    assert carried["induction heads<q> input"]["carries"] == ["previous token"]
    (key,) = [c for g, c in carried.items() if g == "induction heads<k> previous token heads"]
    assert key["nodes"] == ["a0.h3"] and "previous token" in key["carries"]
