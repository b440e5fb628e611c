"""Prompts of several lengths in one run: as the lengths run apart, decision for decision."""

from functools import partial

import families
import numpy as np
import pytest
import torch

from acdc import attribution
from acdc.ablation import ABLATIONS, OTHER, Mean
from acdc.attribution import random_scores
from acdc.data import Data, floats
from acdc.errors import InputError
from acdc.gradient import MaskedRun
from acdc.iterative import How as Rounds
from acdc.iterative import iterative
from acdc.learned import How, learn, start
from acdc.metrics import METRICS
from acdc.minibatches import Minibatches
from acdc.parts import groups_of, shared
from acdc.prompts import PAD, Prompts, together
from acdc.search import acdc

LENGTHS = (4, 6, 4, 5, 6, 6, 5, 4)


def mixed(lengths=LENGTHS, seed=0):
    """Random prompts; the mark "last" is each one's last token but one."""
    draw = np.random.default_rng(seed)
    clean, corrupt = ([draw.integers(0, 50, n).tolist() for n in lengths] for _ in range(2))
    answers = [(int(t),) for t in draw.integers(0, 25, len(lengths))]
    wrong = [(30 + i % 10, 40 + i % 10) for i in range(len(lengths))]
    marks, kinds = {"last": [n - 2 for n in lengths]}, {"kind": range(len(lengths))}
    return Prompts.of_rows(clean, corrupt, answers, wrong, marks, kinds)


PROMPTS = mixed()


def data(ablation="resample", part=3, prompts=PROMPTS, family="llama", **how):
    model = families.view(family)
    prompts = prompts.with_others(1) if ablation == "other" else prompts
    return Data(model, model.graph(), prompts, {**ABLATIONS, "other": OTHER}[ablation], part, **how)


def apart(whole):
    """The same prompts, a data set a length, and the rows of each."""
    groups = list(whole.prompts.alike().values())
    model, graph = whole.model, whole.graph
    parts = [Data(model, graph, whole.prompts.take(rows), whole.ablation, 99) for rows in groups]
    return parts, groups


def masks(graph, n=3):
    return [graph.legal & (np.random.default_rng(i).random(graph.legal.shape) < 0.5)
            for i in range(n)]  # fmt: skip


# ---- the prompts themselves ----------------------------------------------------------------------


def test_shorter_prompts_end_where_the_others_do():
    some = Prompts.of_rows([[1, 2], [3, 4, 5]], [[1, 9], [3, 4, 6]], [(7,), (8,)], [(), ()],
                           marks={"a": (0, 1)}, features={"f": (3, 4)})  # fmt: skip
    assert some.clean.tolist() == [[PAD, 1, 2], [3, 4, 5]]
    assert some.corrupt.tolist() == [[PAD, 1, 9], [3, 4, 6]]
    assert (some.lengths, some.extent, some.answer_position) == ((2, 3), "2 to 3", 2)
    assert some.alike() == {(2, 0): [0], (3, 0): [1]} and some.rows() == [(1, 2), (3, 4, 5)]
    assert some.marks == {"a": (1, 1)}  # columns: clean[row, column] is the marked token
    short = some.take([0])
    assert short.clean.tolist() == [[1, 2]] and short.marks == {"a": (0,)}
    assert (short.extent, short.answer_position, short.tokens(0)) == ("2", 1, [1, 2])
    again = together(short, some.take([1]))
    assert torch.equal(again.clean, some.clean) and torch.equal(again.corrupt, some.corrupt)
    assert (again.marks, again.features, again.answers) == (some.marks, some.features, some.answers)
    some.check_vocabulary(10)
    with pytest.raises(InputError, match="prompt 1: corrupt token 9 at position 1 is outside"):
        some.check_vocabulary(9)


@pytest.mark.parametrize(
    "clean, corrupt, message",
    [
        ([[1, PAD], [3, 4]], [[1, 2], [3, 4]], "prompt 1: clean and corrupt have different"),
        ([[1, 2], [PAD, 4]], [[1, 2], [3, 4]], "prompt 2: clean and corrupt have different"),
        ([[1, 2, 3], [1, PAD, 3]], [[1, 2, 3], [1, PAD, 3]], "prompt 2: padding stands between"),
        ([[1, 2], [3, PAD]], [[1, 2], [3, PAD]], "prompt 2: padding stands between"),
        ([[1, 2], [PAD, PAD]], [[1, 2], [PAD, PAD]], "prompt 2: padding stands between"),
    ],
)  # fmt: skip
def test_padding_stands_before_prompts_only(clean, corrupt, message):
    with pytest.raises(InputError, match=message):
        Prompts(torch.tensor(clean), torch.tensor(corrupt), ((),) * 2, ((),) * 2, len(clean[0]) - 1)
    with pytest.raises(InputError, match="prompt 1: clean and corrupt have different numbers"):
        Prompts.of_rows([[1, 2]], [[1]], [()], [()])


def test_partners_have_the_same_length():
    lengths = np.array(LENGTHS)
    paired = PROMPTS.with_others(seed=0)
    rows = [PROMPTS.rows().index(row) for row in paired.swapped().rows()]
    assert (lengths[rows] == lengths).all() and sorted(rows) == list(range(8))
    assert all(rows[i] != i for i in range(8))
    alone = r"prompt 4 of 5 has 0 other prompts of its 7 tokens, and draws=1 are wanted"
    with pytest.raises(InputError, match=alone):
        mixed((4, 4, 5, 7, 5)).with_others(seed=0)


# ---- parts ---------------------------------------------------------------------------------------


def test_a_part_has_one_length_and_what_is_said_stands_in_the_order_of_the_prompts():
    assert groups_of(PROMPTS, 2) == [(0, 2), (1, 4), (3, 6), (5,), (7,)]
    assert groups_of(PROMPTS.take([0, 2, 7]), 2) == [(0, 1), (2,)]
    whole = data()
    assert [len(set(whole.prompts_of(i).lengths)) for i in range(whole.n_parts)] == [1, 1, 1]
    assert whole.n_pos == 6
    kinds = whole.each(lambda f: np.array(f.prompts.features["kind"]))
    assert whole.join(kinds).tolist() == list(range(8)) != np.concatenate(kinds).tolist()
    for i, forward in enumerate(whole):
        at = list(forward.prompts.marks["last"])
        assert at == [forward.n_pos - 2] * len(at) and forward.rows == whole[i].rows
    logits = whole.join(whole.each(lambda f: floats(f.clean.logits)))
    for row, tokens in enumerate(PROMPTS.rows()):
        (alone,) = data(prompts=mixed().take([row]))
        assert alone.prompts.rows() == [tokens]
        np.testing.assert_allclose(logits[row], alone.clean.logits[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("n, kept", [(1, 3), (3, 3), (4, 6), (99, 8)])
def test_the_first_prompts_are_the_first_of_every_length(n, kept, hold):
    whole = data("mean", hold=hold)
    for made in (False, True):  # before the runs of all were made, and after
        few = whole.at_least(n)
        assert few.prompts.rows() == PROMPTS.rows()[:kept]
        mask = masks(whole.graph)
        every = whole.circuits(METRICS["kl"], mask)[:, :kept] if made else None
        own = few.circuits(METRICS["kl"], mask)  # the means are of all
        if every is not None:
            np.testing.assert_allclose(own, every, rtol=0, atol=1e-10)


def test_minibatches_take_turns():
    whole = data(part=4)
    for size, most in ((3, 3), (2, 2), (8, 8)):
        batches = Minibatches(whole, size, 0)
        sizes = [sum(len(f.prompts) for f in batches.at(i)) for i in range(len(batches))]
        assert max(sizes) <= most and sum(sizes) == 8
        rows = [r for i in range(len(batches)) for f in batches.at(i) for r in f.rows]
        assert sorted(rows) == list(range(8))


# ---- as the lengths run apart --------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric, ablation, padded",
    [("kl", "resample", False), ("logit_diff", "mean", False), ("js", "other", False),
     ("prob_diff", "zero", False), ("logit_diff", "resample", True), ("kl", "other", True),
     ("prob_diff", "zero", True)],
)  # fmt: skip
def test_circuits_and_scores_are_those_of_the_lengths_apart(metric, ablation, padded):
    metric, whole = METRICS[metric], data(ablation, part=4, padded=padded)
    assert any(f.prompts.padding is not None for f in whole) == padded
    parts, groups = apart(whole)
    for verb in ("circuits", "errors"):
        got = getattr(whole, verb)(metric, masks(whole.graph))
        for part, rows in zip(parts, groups, strict=True):
            own = getattr(part, verb)(metric, masks(whole.graph))
            np.testing.assert_allclose(got[:, rows], own, rtol=0, atol=1e-9)
    methods = [partial(attribution.eap_ig_activations, steps=2)]
    methods += [attribution.exact] if ablation == "mean" else []
    methods += [] if metric.flat_at_clean else [attribution.eap]
    methods += [] if ablation == "zero" else [partial(attribution.eap_ig, steps=2)]
    for method in methods:
        expected = sum(method(p, metric) * (len(p) / len(whole)) for p in parts)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(method(whole, metric), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "metric, ablation, threshold, padded",
    [("kl", "resample", 0.02, False), ("js", "mean", 0.01, False), ("kl", "resample", 0.02, True)],
)
@pytest.mark.unchecked
@pytest.mark.quick("kl-resample-0.02-True")
def test_every_decision_of_a_search_is_that_of_the_lengths_apart(
    metric, ablation, threshold, padded
):
    """Each test again, one dense run of the circuit a length, and their mean over prompts."""
    metric = METRICS[metric]
    whole = data(ablation, part=4, family="attention_only", padded=padded)
    assert any(f.prompts.padding is not None for f in whole) == padded
    parts, _ = apart(whole)

    def value(mask):
        return sum(p.circuits(metric, [mask]).sum() for p in parts) / len(whole)

    mask, kept = whole.graph.legal.copy(), []
    now = value(mask)
    for step in acdc(whole, metric, threshold):
        for test in step.tests:
            trial = mask.copy()
            trial[slice(None) if test.writer is None else test.writer, test.reader] = False
            after = value(trial)
            assert test.after == pytest.approx(after, abs=1e-9)
            assert test.effect == pytest.approx(metric.sign * (after - now), abs=1e-9)
            assert test.kept == (metric.sign * (after - now) >= threshold)
            kept.append(test.kept)
            if not test.kept:
                mask, now = trial, after
        if step.reason == "disconnected":
            mask[:, step.visit.reader] = False
    assert (step.mask == mask).all() and 0 < sum(kept) < len(kept)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("method", ["learned", "iterative"])
def test_what_is_learnt_does_not_depend_on_the_order_of_the_prompts(method, padded):
    """All prompts in every step; the sums are of other parts in another order."""
    metric, found = METRICS["kl"], []
    for order, pads in ((range(8), False), ([3, 1, 7, 0, 5, 2, 6, 4], padded)):
        whole = data(prompts=PROMPTS.take(order), part=8, padded=pads)
        if method == "iterative":
            *_, last = iterative(whole, metric, 10, Rounds(batch=8, points=2), 0)
            found.append(last.left.astype(float))
        else:
            first = start(random_scores(whole.graph, 0), whole.graph.legal)
            how = How(smallest=5.0, largest=60.0, steps=6, batch=8)
            *_, last = learn(whole, metric, whole.graph.legal, first, how, 0)
            found.append(last.scores.numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-9)
    assert np.ptp(found[0]) > 0


def test_gradients_of_masks_add_up():
    whole = data()

    def gradient(forward):
        run = MaskedRun(forward, torch.full(whole.graph.legal.shape, 0.7), whole.graph.legal)
        return run.gradient(forward.bound(METRICS["kl"]).of_logits(run.logits))

    parts, _ = apart(whole)
    expected = sum(gradient(p[0]) for p in parts)
    torch.testing.assert_close(sum(map(gradient, whole)), expected, atol=1e-9, rtol=0)


# ---- padded: neighbouring lengths in one part ----------------------------------------------------


@pytest.mark.parametrize(
    "lengths, numbers, most, cost, ranges",
    [
        # 4 x 10 + 4 x 11 + 2 x 5 = 94 apart, 8 x 11 + 5 = 93 together
        ((10, 11), (4, 4), 8, 5.0, [(0, 2)]),
        ((10, 11), (4, 4), 8, 3.0, [(0, 1), (1, 2)]),  # 90 apart, 91 together
        ((10, 11), (4, 4), 4, 5.0, [(0, 1), (1, 2)]),  # two parts either way
        ((5, 6, 30), (3, 3, 3), 32, 20.0, [(0, 2), (2, 3)]),  # 166; all 290, apart 183
        ((7,), (5,), 2, 9.0, [(0, 1)]),
    ],
)
def test_lengths_share_parts_where_that_costs_less(lengths, numbers, most, cost, ranges):
    assert shared(lengths, numbers, most, cost) == ranges


def test_answers_of_as_many_tokens_share_parts():
    rows = [[1] * n for n in (3, 4, 5, 3)]
    prompts = Prompts.of_rows(rows, rows, [(1,)] * 4, [()] * 4, forced=[0, 1, 1, 0])
    assert groups_of(prompts, 9, part_cost=99.0) == [(0, 3), (1, 2)]
    whole = Data(families.view("llama"), families.view("llama").graph(), prompts, padded=True)
    assert [whole.prompts_of(i).lengths for i in range(3)] == [(3, 3), (3, 4), (4, 5)]
    assert whole.tokens == [3, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("family", [*families.FAMILIES, *families.PARTICULAR])
def test_padding_changes_nothing_in_any_family(family):
    """Positions, windows, soft caps, sinks, experts: runs, a circuit, gradients of a mask."""
    padded, plain = (data(family=family, part=8, padded=p) for p in (True, False))
    assert padded.n_parts == 1 and plain.n_parts == 3
    graph, kl = plain.graph, METRICS["kl"]

    def gradient(forward):
        run = MaskedRun(forward, torch.full(graph.legal.shape, 0.7), graph.legal)
        return run.gradient(forward.bound(kl).of_logits(run.logits))

    logits = [d.join(d.each(lambda f: floats(f.clean.logits))) for d in (padded, plain)]
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        *(d.circuits(kl, masks(graph)) for d in (padded, plain)), rtol=0, atol=1e-9
    )
    np.testing.assert_allclose(*(sum(map(gradient, d)) for d in (padded, plain)), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        *(attribution.eap(d, METRICS["logit_diff"]) for d in (padded, plain)), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("host", [False, True])
def test_of_padded_prompts_some_are_looked_at_with_what_was_run(host):
    whole, mask = data(part=8, padded=True, host=host), masks(data().graph)
    every = whole.circuits(METRICS["kl"], mask)  # all runs are made and held
    assert len(whole[0].prompts.padding) == 8
    for rows in ([0, 2, 7], [2, 3], [1, 5, 0, 6]):
        own = whole.take(rows)
        np.testing.assert_allclose(
            own.circuits(METRICS["kl"], mask), every[:, rows], rtol=0, atol=1e-9
        )
    few = replace_part(whole, 3).at_least(4)
    np.testing.assert_allclose(few.circuits(METRICS["kl"], mask), every[:, : len(few)], atol=1e-9)
    for some in (range(0, 1), range(2, 5)):
        piece = whole[0].piece(some)
        got = [floats(piece.values(METRICS["kl"], piece.final(m))) for m in mask]
        np.testing.assert_allclose(got, every[:, some.start : some.stop], rtol=0, atol=1e-9)


def replace_part(whole, part):
    """Smaller parts, all of them run."""
    other = whole.arranged(part, whole.hold, whole.batch_bytes, whole.host)
    assert other.padded and all(len(f.prompts) <= part for f in other)
    return other


def test_what_goes_by_positions_is_not_padded():
    whole = data(part=8, padded=True)
    mean = whole.under(ABLATIONS["mean"])
    assert not mean.padded and mean.n_parts == 3
    expected = data("mean", part=8).circuits(METRICS["kl"], masks(whole.graph))
    np.testing.assert_allclose(mean.circuits(METRICS["kl"], masks(whole.graph)), expected)
    assert not data("mean", padded=True).padded
    assert [f.prompts.padding for f in whole.apart()] == [None] * 3
    one = data(prompts=PROMPTS.take([0, 2]), padded=True)
    runs = one[0].clean
    assert one.apart()[0].clean is runs  # nothing is run again where there is nothing to part


def test_a_mean_needs_reference_prompts_of_every_length():
    whole = data().under(Mean("mean", False, reference=mixed((4, 5, 4, 6), seed=3)))
    assert np.isfinite(whole.circuits(METRICS["kl"], masks(whole.graph))).all()
    with pytest.raises(InputError, match="reference prompts have 4 or 5 tokens, the task's 6"):
        data().under(Mean("mean", False, reference=mixed((4, 5, 4), seed=3)))[1].ablated  # noqa: B018


@pytest.mark.parametrize(
    "n, most, sizes",
    [(41, 40, [20, 21]), (81, 40, [27] * 3), (7, 3, [2, 2, 3]), (42, 40, [40, 2]), (3, 2, [2, 1]),
     (1, 40, [1]), (40, 40, [40]), (2, 1, [1, 1])],
)  # fmt: skip
def test_no_part_is_one_prompt_alone_where_that_can_be_helped(n, most, sizes):
    parts = groups_of(families.prompts(n), most)
    assert [len(part) for part in parts] == sizes
    assert [row for part in parts for row in part] == list(range(n))
