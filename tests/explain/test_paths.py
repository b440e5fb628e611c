"""The walk: induction found again in the embedded model, and what is picked is not what is told."""

import json
from dataclasses import replace
from functools import cache

import families
import numpy as np
import pytest
from scipy import stats
from trained import bench, subject

from acdc.ablation import ABLATIONS
from discovery.explanation.figures import adjusted
from discovery.explanation.paths import part as paths
from discovery.explanation.paths.drawing import draw_walk, layout
from discovery.explanation.paths.patching import path_effects
from discovery.explanation.paths.positions import marked
from discovery.explanation.paths.walk import Limits, p_value, picked, walk
from discovery.explanation.section import drawn
from discovery.settings.explanation import Paths
from discovery.validation.bench import make_bench

LIMITS = Limits(depth=2, width=1, edges=3)


@cache
def found(**changes):
    asked = {"depth": 3, "width": 2, "edges": 4, "screen": 8, **changes}
    return paths.explain(subject(), Paths(**asked), {})


@cache
def walked(seed=2):
    one = subject()
    rng = np.random.default_rng(0)
    return walk(one.choose, bench(seed), one.circuit.mask, LIMITS, rng)


def by_edge(section):
    return {f"{p['sender']}->{p['receiver']}": p for p in section.found["paths"]}


@pytest.fixture(scope="module")
def section():
    return found()


def test_the_walk_goes_from_the_answer_to_the_induction_head_to_the_token_before(section):
    steps = section.found["steps"]
    assert steps[0] == ["logits"] and "a1.h3" in steps[1] and "a0.h3" in steps[2]
    edges = by_edge(section)
    for name in ("a1.h3->logits", "a0.h3->a1.h3<k>", "input->a1.h3<v>", "input->a0.h3<v>"):
        assert edges[name]["significant"] and edges[name]["effect"]["estimate"] < -1, name
    direct = [p for p in section.found["paths"] if p["step"] == 0]
    assert direct[0]["sender"] == "a1.h3"  # strongest first
    keys = [p for p in section.found["paths"] if p["receiver"] == "a1.h3<k>"]
    assert keys[0]["sender"] == "a0.h3"
    assert abs(keys[0]["effect"]["estimate"]) > 10 * abs(keys[1]["effect"]["estimate"])


def test_where_a_path_moves_the_answer(section):
    """The token before is read in the keys at the match, and its own token at the end."""
    some = {one["path"]: one for one in section.found["positions"]}
    keys = some["a0.h3->a1.h3<k>"]
    assert keys["where"] == "match" and list(keys["effects"])[-1] == "elsewhere"
    whole = by_edge(section)["a0.h3->a1.h3<k>"]["effect"]["estimate"]
    own = keys["effects"]["match"]["estimate"]
    assert own < 0.5 * whole < 0 and abs(keys["effects"]["end"]["estimate"]) < 0.1 * abs(own)
    assert f"a0.h3->a1.h3<k> at match ({own:+.3f}" in section.says[-1]
    one = subject()
    every = marked(one.test.data.prompts)
    assert (np.sum(list(every.values()), axis=0) == 1).all()


def test_what_the_circuit_has_for_nothing_and_what_it_lacks_is_said_first(section):
    edges = by_edge(section)
    idle = edges["a0.h1->a1.h3<v>"]
    assert idle["in_circuit"] and not idle["significant"]
    silent = edges["input->a1.h3<q>"]  # the last token is the same on both prompts
    assert silent["silent"] and silent["effect"]["estimate"] == pytest.approx(0, abs=1e-4)
    first, second, third = section.says[:3]
    assert first.startswith("2 of the circuit's 6 edges into these readers do not move the answer")
    assert "a0.h1->a1.h3<v>" in first and "2 of them change nothing on any prompt" in second
    assert "paths that are not in the circuit" in third and "a1.h2->logits" in third
    assert "a1.h3->logits" in section.says[3]
    json.dumps(section.found)


def test_denoising_is_told_with_the_other_sign():
    edges = by_edge(found(direction="denoising", depth=2, width=1))
    assert edges["input->a1.h3<v>"]["effect"]["estimate"] > 0.5
    # keys alone: it looks at the right place, where the corrupt prompt has the wrong token
    assert edges["a0.h3->a1.h3<k>"]["effect"]["estimate"] < -1


def test_recomputed_is_frozen_where_there_are_no_mlps():
    other = by_edge(found(mlps="recomputed", depth=2, width=1))
    plain = by_edge(found(depth=2, width=1))
    assert other.keys() == plain.keys()
    for name, path in plain.items():
        assert other[name]["effect"]["estimate"] == pytest.approx(
            path["effect"]["estimate"], abs=1e-3
        )


def test_figures_are_of_prompts_that_nothing_was_picked_on():
    one = subject()
    picks = picked(one.choose, one.circuit.mask, LIMITS, "frozen", "noising")
    here, there = walked(2), walked(3)
    edges = [{(p.sender, p.receiver): p for p in w.paths} for w in (here, there)]
    assert edges[0].keys() == edges[1].keys()
    assert len(edges[0]) == sum(len(e) for step in picks for e in step.values())
    for key, path in edges[0].items():
        assert path.estimate == edges[1][key].estimate
    moved = [abs(p.effect.estimate - edges[1][k].effect.estimate) for k, p in edges[0].items()]
    assert max(moved) > 0.05
    assert here == walked.__wrapped__(2)


def test_all_at_once_into_the_logits_is_the_corrupt_run(section):
    one = subject()
    into = {i["receiver"]: i for i in section.found["readers"]}
    whole = into["logits"]["effect"]["estimate"]
    assert whole == pytest.approx(one.test.empty.score.mean() - one.test.model.score.mean(), 1e-4)
    assert into["a0.h3<v>"]["senders"] == 1


def test_p_values_are_uniform_where_nothing_happens_and_corrected():
    rng = np.random.default_rng(0)
    ps = [p_value(rng.normal(size=40)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09
    assert p_value(np.full(8, 1e-6)) == 1.0 and p_value(np.full(8, -2.0)) == 0.0
    some = rng.normal(0.3, size=40)
    assert p_value(some) == pytest.approx(stats.ttest_1samp(some, 0).pvalue, rel=1e-9)
    assert adjusted([]).tolist() == []
    np.testing.assert_allclose(adjusted(np.array([[0.01], [0.04]])), [[0.02], [0.04]])


def test_keys_that_heads_share_are_walked_once():
    """Of two heads of one group, followed in different steps, the second adds its queries alone."""
    model = families.view("qwen2")
    graph = model.graph("per_group")
    some = make_bench(model, graph, families.prompts(12, seed=1), ABLATIONS["resample"])
    limits = Limits(depth=3, width=3, edges=6)
    steps = picked(some, graph.legal, limits, "frozen", "noising")
    readers = [graph.readers[r].name for step in steps for r in step]
    assert len(readers) == len(set(readers))
    assert [graph.readers[r].name for r in steps[2]] == ["a0.h0<q>", "a0.h3<q>"]
    found = walk(some, some, graph.legal, limits, np.random.default_rng(0))
    edges = [(p.sender, p.receiver) for p in found.paths]
    assert len(edges) == len(set(edges)) and len(found.steps) == len(steps)


def test_denoising_without_corrupt_prompts_is_refused():
    one = subject()
    same = replace(one.test.data.prompts, corrupt=one.test.data.prompts.clean)
    test = type(one.test)(type(one.test.data)(one.model, one.graph, same), "logit_diff")
    reason = paths.check(replace(one, test=test), Paths(direction="denoising"))
    assert reason == "direction=denoising needs corrupt prompts, and the task has none; use noising"
    assert paths.check(one, Paths(direction="denoising")) is None


def test_the_picture_has_every_layer_above_the_one_before(section):
    some = walked()
    places = layout([p for p in some.paths if p.significant])
    for p in some.paths:
        if p.significant:
            assert places[p.sender][1] < places[p.node][1]
    assert "a1.h3-&gt;logits" in section.pictures[0].svg
    again = draw_walk(walked(), "logits")
    assert drawn(again, "").svg == drawn(draw_walk(walked(), "logits"), "").svg


def test_without_corrupt_prompts_cut_edges_carry_what_the_run_cut_by():
    one = subject()
    assert paths.source(one.test).data.ablation.name == "resample"
    same = replace(one.test.data.prompts, corrupt=one.test.data.prompts.clean)
    data = type(one.test.data)(one.model, one.graph, same, ABLATIONS["zero"], 8)
    bench = paths.source(type(one.test)(data, "logit_diff"))
    mask = one.graph.legal.copy()
    writer, reader = one.graph.edge("a0.h3->a1.h3<k>")
    mask[writer, reader] = False
    effects = path_effects(bench, [[writer]], [reader])[0]
    cut = bench.circuit(mask).score - bench.model.score
    np.testing.assert_allclose(effects, cut, atol=1e-4)
    assert effects.mean() < -1


def test_a_circuit_that_has_no_part_in_it_says_so():
    empty = subject(edges=())
    lines = paths.says(walk_of(empty), "logits")
    assert lines[0] == "No edge of the circuit leads into these readers"


def walk_of(one):
    limits = Limits(depth=1, width=1, edges=2)
    return walk(one.choose, one.test, one.circuit.mask, limits, np.random.default_rng(0))
