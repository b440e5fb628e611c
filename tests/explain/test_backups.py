"""Knock-outs and who takes over: a slow twin, laws, and models whose backups are known."""

from dataclasses import replace
from functools import cache

import families
import hydras
import numpy as np
import pytest
import torch
from toys import or_gate, or_prompts

from acdc.ablation import ABLATIONS
from acdc.model import Norm
from discovery.explanation.backups import part as backups
from discovery.explanation.backups import together
from discovery.explanation.backups.knocked import KnockOuts, heads_after
from discovery.explanation.backups.takeover import (
    account,
    by_chance,
    candidates,
    controls_for,
    p_rises,
    random_like,
    rises,
)
from discovery.heads.roles import answer_scores, attributed_logits
from discovery.settings.explanation import Backups
from discovery.validation.bench import make_bench, without

view = cache(families.view)
FAMILIES = ("gpt2", "llama", "pythia", "gemma", "attention_only")


def runs_of(family, ablation="resample", n=5, wrong=True):
    model, prompts = view(family), families.prompts(n)
    if not wrong:
        prompts = replace(prompts, wrong=((),) * n)
    return KnockOuts(make_bench(model, model.graph(), prompts, ABLATIONS[ablation], chunk=3))


def some_sets(graph, seed=0):
    """The input, single nodes, the first and the last among them, and sets."""
    rng, n = np.random.default_rng(seed), len(graph.writers)
    return [
        (0,),
        (1,),
        (n - 1,),
        *(tuple(sorted(rng.choice(range(1, n), 3, False).tolist())) for _ in range(3)),
    ]


# ---- the slow twin -----------------------------------------------------------------------------


def twin(model, graph, tokens, ablated, out):
    """Outputs of all writers [writers, batch, pos, d] and attention, with some replaced.

    A loop over single heads, in plain PyTorch.
    """

    def kept(writer, made):
        return ablated[writer] if writer in out else made

    n = tokens.shape[1]
    x = kept(0, model.embed(tokens))
    writers, patterns = [x], []
    for layer, block in enumerate(model.blocks):
        attn, start, normed = block.attn, x, block.ln1(x)
        for h in range(model.n_heads):
            g = model.kv_head(h)

            def linear(weight, bias, i, norm, normed=normed, layer=layer):
                y = normed @ weight[i] + (0 if bias is None else bias[i])
                return y if norm is None else model.rotate(layer, norm(y), slice(n))

            q = linear(attn.W_Q, attn.b_Q, h, attn.q_norm)
            k = linear(attn.W_K, attn.b_K, g, attn.k_norm)
            v = linear(attn.W_V, attn.b_V, g, None)
            scores = q @ k.mT * attn.scale
            scores = scores + torch.full((n, n), -torch.inf, dtype=x.dtype).triu(1)
            patterns.append(scores.softmax(-1))
            writers.append(kept(graph.head(layer, h), patterns[-1] @ v @ attn.W_O[h]))
            x = x + writers[-1]
        x = x if attn.b_O is None else x + attn.b_O
        if block.mlp is not None:
            seen = start if model.parallel else x
            writers.append(kept(graph.mlp(layer), block.mlp(block.ln2(seen))))
            x = x + writers[-1]
    return torch.stack(writers), torch.stack(patterns), x


@pytest.mark.parametrize(
    ("family", "ablation", "wrong"),
    [*((family, "resample", True) for family in FAMILIES), ("llama", "resample", False),
     ("pythia", "zero", True), ("gpt2", "mean", True)],
)  # fmt: skip
def test_a_knocked_out_run_is_its_slow_twin(family, ablation, wrong):
    runs = runs_of(family, ablation, wrong=wrong)
    graph, model = runs.graph, runs.bench.data.model
    for out in some_sets(graph):
        own, row = runs.of(out), 0
        for f in runs.bench.data:
            writers, patterns, x = twin(model, graph, f.prompts.clean, f.ablated.dense(), out)
            here = slice(row, row + len(f.prompts))
            row = here.stop
            score = runs.bench.score_of(f, model.unembed(x[:, -1]))
            np.testing.assert_allclose(own.score[here], score, atol=1e-9)
            for w in range(len(graph.writers)):
                added = attributed_logits(model, writers[w, :, -1], x[:, -1])
                found = answer_scores(f.prompts, patterns[0], added)["direct effect"]
                np.testing.assert_allclose(own.direct[w, here], found, atol=1e-9)
            for i, pattern in enumerate(patterns):
                there = [
                    sum(float(pattern[b, -1, s]) for s, t in enumerate(f.prompts.clean[b].tolist())
                        if t in f.prompts.answers[b])
                    for b in range(len(f.prompts))
                ]  # fmt: skip
                looks = own.looks[divmod(i, graph.n_heads)][here]
                np.testing.assert_allclose(looks, there, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_knocked_out_run_is_the_circuit_whose_edges_it_lacks(family):
    runs = runs_of(family)
    for out in some_sets(runs.graph, seed=1):
        cut = runs.bench.circuit(without(runs.graph.legal, out)).score
        np.testing.assert_allclose(runs.of(out).score, cut, atol=1e-9)


# ---- laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_direct_effects_and_biases_add_up_to_the_reading(family, wrong):
    runs = runs_of(family, wrong=wrong)
    for out in [(), *some_sets(runs.graph)]:
        own = runs.of(out)
        np.testing.assert_allclose(own.direct.sum(0), own.reading, atol=1e-9)
    if wrong:
        np.testing.assert_allclose(runs.clean.reading, runs.clean.score, atol=1e-9)


def test_nothing_out_changes_nothing_and_all_out_is_the_empty_circuit():
    runs = runs_of("gpt2")
    np.testing.assert_array_equal(runs.clean.score, runs.bench.model.score)
    np.testing.assert_array_equal(runs.clean.direct, runs.clean.held)
    every = runs.of(range(len(runs.graph.writers)))
    np.testing.assert_allclose(every.score, runs.bench.empty.score, atol=1e-9)


def test_what_comes_before_is_changed_by_the_norms_scale_alone():
    runs = runs_of("llama")
    out = (runs.graph.head(1, 2),)
    own, before = runs.of(out), list(range(runs.graph.writers_before(1)))
    np.testing.assert_allclose(own.held[before], runs.clean.direct[before], atol=1e-12)
    assert np.abs(own.direct[before] - runs.clean.direct[before]).max() > 1e-3
    mlp = runs.graph.mlp(1)
    assert np.abs(own.held[mlp] - runs.clean.direct[mlp]).max() > 1e-3


def test_an_account_adds_up():
    runs = runs_of("llama", n=8)
    out = (runs.graph.head(0, 1),)
    found = account(runs, out, [runs.graph.head(1, 0)], 0.05, np.random.default_rng(0))
    value = {name: getattr(found, name).estimate for name in found.__dataclass_fields__}
    assert value["lost"] - value["fall"] == pytest.approx(value["made_up"])
    assert value["found"] + value["scale"] + value["unexplained"] == pytest.approx(value["made_up"])
    assert value["other_heads"] + value["mlps"] == pytest.approx(value["unexplained"])
    assert min(abs(v) for v in value.values()) > 1e-6


def test_p_values_are_of_means_above_0():
    rng = np.random.default_rng(0)
    p = p_rises(rng.normal(size=(2000, 20)))
    assert 0.035 < (p <= 0.05).mean() < 0.065
    assert p_rises(np.ones((1, 5))) == 0 and p_rises(-np.ones((1, 5))) == 1
    assert p_rises(np.zeros((1, 5))) == 1 and p_rises(np.zeros((0, 5))).shape == (0,)


def test_random_nodes_are_like_those_they_stand_for():
    graph = view("gpt2").graph()
    rng, taboo = np.random.default_rng(0), [graph.head(1, 0), graph.head(1, 1)]
    found = {random_like(graph, (graph.head(1, 2), graph.mlp(1)), taboo, rng) for _ in range(20)}
    assert found == {(graph.mlp(0), graph.head(1, 3))}  # 1.3 is the last of its layer
    assert random_like(graph, (graph.mlp(0), graph.mlp(1)), taboo, rng) is None
    assert controls_for(graph, (graph.mlp(0), graph.mlp(1)), taboo, 3, rng) == []
    assert heads_after(graph, (graph.head(0, 1), graph.head(1, 2))) == [
        graph.head(1, h) for h in (0, 1, 3)
    ]


# ---- planted truth -----------------------------------------------------------------------------


@cache
def hydra_section():
    return backups.explain(hydras.subject(hydras.hydra(), hydras.HYDRA), Backups(), {})


def test_the_backup_is_found_and_nothing_else():
    rows = hydra_section().found["take_overs"]
    sure = {(r["out"], r["head"]) for r in rows if r["confirmed"]}
    assert sure == {("mover", "a2.h0"), ("a1.h0", "a2.h0")}
    (one,) = [r for r in rows if (r["out"], r["head"]) == ("a1.h0", "a2.h0")]
    assert one["rise"]["estimate"] == pytest.approx(0.8, abs=0.02)
    assert one["before"]["estimate"] == pytest.approx(0, abs=0.02)
    assert one["looks"]["estimate"] > 0.95
    assert one["control"]["estimate"] == pytest.approx(0, abs=0.02)


def test_an_alarm_that_any_knock_out_sets_off_is_no_backup():
    rows = {(r["out"], r["head"]): r for r in hydra_section().found["take_overs"]}
    alarm = rows["a1.h0", "a3.h1"]
    assert alarm["rise"]["estimate"] == pytest.approx(0.5, abs=0.02)
    assert alarm["control"]["estimate"] == pytest.approx(0.5, abs=0.02)
    assert not alarm["confirmed"]


def test_what_the_backup_does_not_explain_comes_first():
    section = hydra_section()
    for says, name in zip(
        section.says, ["the class mover adds +1.40", "a1.h0 adds +1.00"], strict=False
    ):
        assert says.startswith(f"Not explained: {name}")
        assert "the backups found (+0.80)" in says and "other heads +0.49" in says  # the alarm
    negative = [s for s in section.says if s.startswith("Against the answer")]
    assert len(negative) == 1 and "a3.h0 -0.30" in negative[0]
    assert section.found["negative_movers"] == ["a3.h0"]
    assert len(section.pictures) == 1 and len(section.tables[0].rows) == 7


def test_the_inhibitor_and_its_mover_are_a_chain():
    pairs = {(p["a"], p["b"]): p for p in hydra_section().found["pairs"]}
    chain = pairs["a0.h0", "a1.h0"]
    assert chain["interaction"]["estimate"] < -0.5
    steps = hydra_section().found["greedy"]
    assert [s["nodes"] for s in steps] == [("a1.h0", "a2.h0"), ("a1.h0", "a2.h0", "a3.h1")]
    backup = pairs["a1.h0", "a2.h0"]
    assert backup["interaction"]["estimate"] == pytest.approx(0.8, abs=0.02)


def backup_scores(runs, out, sets, heads):
    """[heads]: what each writes anew for the answer, in the mean, less the same by chance."""
    _, change = rises(runs.clean, runs.of(out), heads)
    chance = [by_chance(runs, sets, head) for head in heads]
    return np.array([
        (c if r is None else c - r).mean() for c, r in zip(change, chance, strict=True)
    ])  # fmt: skip


def test_without_the_control_the_alarm_would_be_a_backup():
    choose, test = hydras.benches(hydras.hydra())
    graph, runs = test.graph, KnockOuts(test)
    heads = heads_after(graph, (graph.head(1, 0),))
    sets = [(graph.head(1, 1),), (graph.head(1, 2),)]
    bare = backup_scores(runs, (graph.head(1, 0),), [], heads)
    fair = backup_scores(runs, (graph.head(1, 0),), sets, heads)
    alarm = heads.index(graph.head(3, 1))
    assert bare[alarm] == pytest.approx(0.5, abs=0.02) and abs(fair[alarm]) < 0.02
    assert fair[heads.index(graph.head(2, 0))] == pytest.approx(0.8, abs=0.02)


def test_a_rise_by_the_norms_scale_alone_is_no_backup():
    """Once the primary is gone there is less in the stream, and what is left counts for more."""
    model = hydras.hydra()
    model = replace(
        model, ln_final=Norm("rms", torch.ones(hydras.WIDTH, dtype=torch.float64), eps=1e-6)
    )
    one = hydras.subject(model, hydras.HYDRA)
    found = backups.explain(one, Backups(), {}).found
    assert {t["head"] for t in found["take_overs"] if t["confirmed"]} == {"a2.h0"}
    runs = KnockOuts(one.test)
    graph = runs.graph
    two, always = (graph.head(1, 0), graph.head(2, 0)), graph.head(3, 2)
    assert (runs.of(two).direct - runs.clean.direct)[always].mean() > 0.1
    assert account(runs, two, [], 0.05, np.random.default_rng(0)).scale.estimate > 0.1
    outs = {"two": two}
    assert always not in [head for _, head in candidates(runs, outs, 0.01, 0.05)]


def auroc(scores, truth):
    """Share of (backup, other) pairs in the right order; a tie is wrong."""
    yes, no = scores[truth], scores[~truth]
    return (yes[:, None] > no[None]).mean()


def test_backups_of_random_models_are_told_from_other_heads():
    """By model, and all heads of all models ranked together."""
    areas, every = [], []
    for seed in range(20):
        model, primaries, planted = hydras.random_hydra(seed)
        (choose, runs), out = map(KnockOuts, hydras.benches(model, n=16)), tuple(primaries)
        picked = [head for _, head in candidates(choose, {"out": out}, 0.01, 0.05)]
        sets = controls_for(runs.graph, out, picked, 3, np.random.default_rng(seed))
        heads = heads_after(runs.graph, out)
        scores, truth = backup_scores(runs, out, sets, heads), np.isin(heads, planted)
        areas.append(auroc(scores, truth))
        every.append((scores, truth))
    together_ = auroc(*(np.concatenate(x) for x in zip(*every, strict=True)))
    assert np.mean(areas) >= 0.91 and together_ >= 0.91, (np.mean(areas), together_)


# ---- together ----------------------------------------------------------------------------------


def table(values, n=6):
    return together.Table(*(np.full(n, float(v)) for v in values))


def test_gates_by_the_book():
    cases = {
        (1, 0, 0, 0): "AND", (1, 1, 1, 0): "OR", (2, 1, 1, 0): "ADDER", (3, 1, 2, 0): "ADDER",
        (1, 1, 1, 1): "none", (0, 1, 1, 0): "mixed", (10, 9, 7, 0): "mixed", (1, 1, 0, 0): "mixed",
    }  # fmt: skip
    for values, name in cases.items():
        assert together.gate(table(values)) == name, values
        assert together.gate(table([-v for v in values])) == name, values


def test_two_heads_of_an_or_gate_make_up_for_each_other():
    model = or_gate()
    runs = KnockOuts(make_bench(model, model.graph(), or_prompts(), ABLATIONS["zero"], chunk=4))
    rng = np.random.default_rng(0)
    (pair,) = together.pairs(runs, [(1, 2)], 0.05, rng)
    assert (pair.gate, pair.interaction.estimate) == ("OR", 1.0)
    assert (pair.loss_a.estimate, pair.loss.estimate, pair.denoise_a.estimate) == (0, 1, 1)
    steps = together.greedy(runs, runs, [(1, 2), (2, 3)], 3, 0.01, 0.05, rng)
    assert [s.nodes for s in steps] == [("a0.h0", "a0.h1")]
    chain = together.pairs(runs, [(1, 3)], 0.05, rng)[0]  # a head and the MLP that reads it
    assert chain.interaction.estimate == 0  # the head alone costs nothing


def test_backups_are_paired_though_they_cost_nothing_alone():
    assert together.pairs_to_try([1, 5], [(7, 2), (7, 2), (5, 1), (9, 3)], 2) == [(1, 5), (2, 7)]


@pytest.mark.slow
def test_equal_questions_have_equal_answers_and_a_task_without_wrong_answers_is_in_nats():
    def found():
        one = hydras.subject(hydras.hydra(), hydras.HYDRA, wrong=False)
        return backups.explain(one, Backups(strongest=2, controls=1), {})

    first, second = found(), found()
    assert first.found == second.found and first.pictures == second.pictures
    assert "score in nats" in first.tables[0].caption
    confirmed = [t for t in first.found["take_overs"] if t["confirmed"]]
    assert ("a1.h0", "a2.h0") in [(t["out"], t["head"]) for t in confirmed]


def test_a_circuit_without_nodes_is_not_asked():
    one = hydras.subject(hydras.hydra(), {})
    assert backups.check(one, Backups()) == "the circuit has no head and no MLP to knock out"
