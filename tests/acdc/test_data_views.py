"""The same prompts otherwise: which runs are shared, which are made again, what is measured."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch

from acdc import data as module
from acdc.ablation import ABLATIONS, RESAMPLE, Mean
from acdc.data import BATCH_BYTES, PART, Data, floats
from acdc.errors import InputError
from acdc.metrics import KL, LOGIT_DIFF

MODEL = families.view("llama")
GRAPH = MODEL.graph()
PROMPTS = replace(families.prompts(n=5, length=4), features={"order": (0, 1, 0, 1, 0)})


def data(prompts=PROMPTS, ablation=RESAMPLE, part=2, **settings):
    return Data(MODEL, GRAPH, prompts, ablation, part, **settings)


def masks():
    noise = np.random.default_rng(0).random(GRAPH.legal.shape)
    return [GRAPH.legal, GRAPH.legal & (noise < 0.5), GRAPH.legal & False]


@pytest.fixture
def runs(monkeypatch):
    """How many plain runs were made, by their number of prompts."""
    made, plain = [], module.trace

    def trace(model, tokens, lean=False):
        made.append((len(tokens), lean))
        return plain(model, tokens, lean)

    monkeypatch.setattr(module, "trace", trace)
    return made


def test_what_it_holds():
    some = data()
    assert (len(some), some.n_parts, some.n_pos, some.part) == (5, 3, 4, 2)
    assert [f.rows for f in some] == [(0, 1), (2, 3), (4,)]
    assert [f.prompts.answers for f in some] == [PROMPTS.answers[i : i + 2] for i in (0, 2, 4)]
    assert all(f.n_pos == 4 and f.ablation is RESAMPLE for f in some)
    usual = Data(MODEL, GRAPH, PROMPTS)
    assert (usual.part, usual.hold, usual.batch_bytes) == (PART, True, BATCH_BYTES)
    assert usual.ablation is RESAMPLE and usual.n_parts == 1


def test_parts_are_run_when_their_turn_comes(runs):
    some = data()
    assert runs == []
    some[1]  # noqa: B018
    assert runs == [(2, False), (2, True)]
    list(some)
    list(some)
    assert runs == [(2, False), (2, True)] * 2 + [(1, False), (1, True)]
    runs.clear()
    again = data(hold=False)
    list(again)
    list(again)
    assert len(runs) == 12


def test_prompts_without_corrupt_ones_are_run_once(runs):
    some = data(replace(PROMPTS, corrupt=PROMPTS.clean))
    assert some[0].corrupt is some[0].clean
    assert runs == [(2, False)]


def test_a_clean_run_keeps_streams_and_no_attention_a_corrupt_one_neither():
    forward = data()[0]
    assert forward.clean.patterns == () and forward.corrupt.patterns == ()
    assert forward.clean.streams.shape == (5, 2, 4, 32)
    assert forward.corrupt.streams.shape == (0, 2, 4, 32)


def test_other_values_on_cut_edges_need_no_other_runs(runs):
    some = data()
    list(some)
    runs.clear()
    for name in ("zero", "mean"):
        other = some.under(ABLATIONS[name])
        assert other[0].clean is some[0].clean and other[0].corrupt is some[0].corrupt
        assert other.ablation.name == other[0].ablation.name == name
        assert not torch.equal(other[0].ablated.rest, some[0].ablated.rest)
    assert runs == [] and some.ablation is RESAMPLE and some[0].ablation is RESAMPLE


def test_other_features_of_the_same_runs(runs):
    some = data()
    list(some)
    runs.clear()
    other = some.with_features({"order": (5, 6, 7, 8, 9), "more": (1,) * 5})
    assert [f.prompts.features["order"] for f in other] == [(5, 6), (7, 8), (9,)]
    assert other[2].clean is some[2].clean and runs == []
    assert some.prompts.features == {"order": (0, 1, 0, 1, 0)}
    assert some[0].prompts.features == {"order": (0, 1)}


def test_the_first_parts_keep_what_was_seen_of_all(runs):
    some = data(ablation=ABLATIONS["mean"])
    runs.clear()
    first = some.at_least(3)
    assert (len(first), first.n_parts, first.prompts.answers) == (4, 2, PROMPTS.answers[:4])
    assert [len(f.prompts) for f in first] == [2, 2]
    assert torch.equal(first[1].ablated.rest, some[1].ablated.rest)
    assert runs == [] and len(some) == 5 and some.n_parts == 3
    own = data(PROMPTS.take(range(4)), ABLATIONS["mean"])
    assert not torch.allclose(first[1].ablated.rest, own[1].ablated.rest)


@pytest.mark.parametrize("n, kept", [(1, 2), (2, 2), (3, 4), (5, 5), (9, 5)])
def test_as_few_parts_as_have_so_many_prompts(n, kept):
    """Of parts of two, two and one."""
    assert len(data().at_least(n)) == kept


def test_some_prompts_alone_have_their_own_mean():
    some = data(ablation=ABLATIONS["mean"], hold=False, batch_bytes=77)
    taken = some.take([3, 0, 0])
    assert taken.prompts.answers == tuple(PROMPTS.answers[i] for i in (3, 0, 0))
    assert (taken.part, taken.hold, taken.batch_bytes) == (2, False, 77)
    corrupt = torch.cat([f.corrupt.writers.rest for f in taken], dim=1)
    torch.testing.assert_close(
        taken[0].ablated.rest, corrupt.mean(1, keepdim=True).expand(-1, 2, -1, -1)
    )


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("forced", [0, 1])
def test_some_prompts_have_the_runs_that_are_held(name, forced, runs):
    """Alone, again and in another order within a part; those of two parts are run again."""
    wrong = ((),) * 5 if forced else PROMPTS.wrong
    prompts = replace(PROMPTS, forced=(forced,) * 5, wrong=wrong)
    whole = data(prompts, ABLATIONS[name], part=3)
    whole.each(lambda forward: forward.clean)
    made = len(runs)
    for rows, again in (([4], False), ([1, 0, 0], False), ([2, 3], True)):
        some = whole.take(rows)
        found = some.circuits(KL, masks())
        assert (len(runs) > made) is again
        fresh = data(prompts.take(rows), ABLATIONS[name], part=3)
        np.testing.assert_allclose(found, fresh.circuits(KL, masks()), atol=1e-10)
        made = len(runs)


@pytest.mark.parametrize("part, hold, shared", [(2, True, True), (3, True, False), (2, False, 0)])
def test_arranged_anew_runs_that_fit_are_kept(part, hold, shared):
    some = data(ablation=ABLATIONS["mean"])
    list(some)
    other = some.arranged(part, hold, 99)
    assert (other.part, other.hold, other.batch_bytes) == (part, hold, 99)
    assert (other[0].clean is some[0].clean) is bool(shared)
    assert (some.part, some.hold, some.batch_bytes) == (2, True, BATCH_BYTES)
    for left, right in zip(some.circuits(KL, masks()), other.circuits(KL, masks()), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-12)


def test_measures_are_those_of_one_circuit_on_one_prompt_at_a_time():
    some, singly = data(), data(part=1)
    circuits, errors = some.circuits(LOGIT_DIFF, masks()), some.errors(LOGIT_DIFF, masks())
    model = some.values(LOGIT_DIFF, lambda f: f.clean.logits)
    assert circuits.shape == errors.shape == (3, 5) and model.shape == (5,)
    for i, mask in enumerate(masks()):
        for j, forward in enumerate(singly):
            (value,) = forward.bound(LOGIT_DIFF).of_logits(forward.run(mask)).tolist()
            assert circuits[i, j] == pytest.approx(value, abs=1e-10)
            assert errors[i, j] == pytest.approx(abs(value - model[j]), abs=1e-10)
    np.testing.assert_allclose(circuits[0], model, rtol=0, atol=1e-10)
    assert errors[2].min() > 0
    logits = some.join(some.each(lambda f: floats(f.clean.logits)))
    assert logits.shape == (5, families.VOCAB)
    for j, forward in enumerate(singly):
        np.testing.assert_allclose(logits[j], forward.clean.logits[0], atol=1e-10, rtol=0)
    assert some.each(lambda f: f.rows[0]) == [0, 2, 4]
    single = floats(torch.ones(2, dtype=torch.float32, requires_grad=True))
    assert single.dtype == np.float64


def test_what_is_refused():
    for part in (0, -1):
        with pytest.raises(InputError, match=f"part={part}: at least 1"):
            data(part=part)
    assert data(part=1).n_parts == 5
    longest = families.prompts(n=1, length=32)
    assert data(longest).n_pos == MODEL.n_ctx == 32
    with pytest.raises(InputError, match="^prompts have 33 tokens; the model takes 32"):
        data(families.prompts(n=1, length=33))
    with pytest.raises(InputError, match="^ablation=mean: its prompts have 33 tokens"):
        data(ablation=Mean("mean", reference=families.prompts(length=33)))
    outside = replace(PROMPTS, clean=PROMPTS.clean + families.VOCAB)
    with pytest.raises(InputError, match="vocabulary"):
        data(outside)
    with pytest.raises(InputError, match="vocabulary"):
        data(ablation=Mean("mean", reference=outside))


def test_a_reference_set_is_run_part_by_part_and_without_streams(runs):
    reference = families.prompts(n=5, length=4, seed=3)
    some = data(ablation=Mean("mean", reference=reference))
    assert runs == [(2, True), (2, True), (1, True)]
    wanted = torch.cat([f.clean.writers.rest for f in data(reference)], dim=1).mean(1)
    torch.testing.assert_close(some[0].ablated.rest[:, 0], wanted)


def test_runs_made_in_inference_mode_may_be_passed_by_gradients():
    with torch.inference_mode():
        some = data(ablation=Mean("mean", reference=PROMPTS))
        forward = some[0]
        assert not forward.clean.logits.is_inference()
    assert not forward.clean.logits.requires_grad


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_pieces_of_a_part_are_the_same_runs(ablation, runs):
    whole = data(ablation=ABLATIONS[ablation], part=5)[0]
    mask = masks()[1]
    logits = whole.run(mask)
    runs.clear()
    found = list(data(ablation=ABLATIONS[ablation], part=5)[0].pieces(2))
    assert [f.rows for f in found] == [(0, 1), (2, 3), (4,)]
    assert [f.prompts.answers for f in found] == [PROMPTS.answers[i : i + 2] for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat([f.run(mask) for f in found]), logits, atol=1e-11, rtol=0)
    values = torch.cat([f.bound(KL).of_logits(f.run(mask)) for f in found])
    torch.testing.assert_close(values, whole.bound(KL).of_logits(logits), atol=1e-11, rtol=0)
    assert runs == [(5, False), (5, True)]  # cut, not run again
    later = found[2].pieces(1)
    assert [f.rows for f in later] == [(4,)]
