"""Answers of several tokens: every figure of a prompt is the sum over them, teacher-forced."""

import families
import numpy as np
import pytest
import torch
import twin

from acdc import attribution
from acdc.ablation import ABLATIONS, OTHER, Mean
from acdc.attribution import random_scores
from acdc.data import Data, floats
from acdc.errors import InputError
from acdc.gradient import lost_share
from acdc.iterative import How as Rounds
from acdc.iterative import iterative
from acdc.learned import How, learn, start
from acdc.metrics import METRICS, two_sided
from acdc.minibatches import Minibatches
from acdc.prompts import Prompts, together
from acdc.search import acdc
from acdc.share import Share

KL, NLL = METRICS["kl"], METRICS["nll"]
# tokens of each prompt and of its answer
SIZES = ((4, 1), (5, 2), (4, 3), (4, 1), (5, 2), (4, 3), (3, 3), (3, 3))


def asked(sizes=SIZES, seed=0):
    """(clean, corrupt, answers) as lists of random tokens."""
    draw = np.random.default_rng(seed)
    rows = [[draw.integers(0, 50, n).tolist() for n in (p, p, a)] for p, a in sizes]
    return [list(own) for own in zip(*rows, strict=True)]


def prompts(sizes=SIZES, seed=0):
    clean, corrupt, answers = asked(sizes, seed)
    forced = [answer[:-1] for answer in answers]
    return Prompts.of_rows(
        [c + f for c, f in zip(clean, forced, strict=True)],
        [c + f for c, f in zip(corrupt, forced, strict=True)],
        [(answer[-1],) for answer in answers], [()] * len(clean),
        marks={"end": [len(c) - 1 for c in clean]}, features={"place": range(len(clean))},
        forced=[len(f) for f in forced],
    )  # fmt: skip


PROMPTS = prompts()
MODEL = families.view("llama")
GRAPH = MODEL.graph()
SMALL = families.view("attention_only")


def data(ablation="resample", some=PROMPTS, model=MODEL, part=3, **how):
    some = some.with_others(1) if ablation == "other" else some
    return Data(model, model.graph(), some, {**ABLATIONS, "other": OTHER}[ablation], part, **how)


def masks(graph, n=3):
    return [graph.legal & (np.random.default_rng(i).random(graph.legal.shape) < 0.6)
            for i in range(n)]  # fmt: skip


# ---- the prompts themselves ----------------------------------------------------------------------


def test_a_reading_is_the_prompt_up_to_one_token_of_its_answer():
    some = Prompts.of_rows([[1, 2, 8], [3, 4, 5, 7, 6]], [[1, 9, 8], [3, 4, 9, 7, 6]], [(7,), (8,)],
                           [(), ()], marks={"end": (1, 2)}, forced=[1, 2])  # fmt: skip
    first, second = some.reading(0), some.reading(1)
    assert first.rows() == [(1, 2), (3, 4, 5)] and first.answers == ((8,), (7,))
    assert first.swapped().rows() == [(1, 9), (3, 4, 9)]
    assert second.rows() == [(1, 2, 8), (3, 4, 5, 7)] and second.answers == ((7,), (6,))
    assert first.forced == second.forced == (0, 0)
    for own in (some, first, second):  # the mark stays where it is among the prompt's tokens
        ends = [own.clean[i, at].item() for i, at in enumerate(own.marks["end"])]
        assert ends == [2, 5]
    assert some.take([1]).reading(2).answers == ((8,),)
    assert some.lengths_read == [3, 2, 5, 4, 3]
    assert some.asked == "2 of 2 to 3 tokens with answers of 2 to 3"
    assert families.prompts(3).asked == "3 of 6 tokens" and families.prompts(3).forced == (0,) * 3
    assert together(some, first).forced == (1, 2, 0, 0)
    with pytest.raises(InputError, match="reading=2: an answer has only 2 tokens"):
        some.reading(2)
    with pytest.raises(InputError, match="not compared with wrong ones"):
        Prompts.of_rows([[1, 2]], [[1, 3]], [(7,)], [(8,)], forced=[1])
    with pytest.raises(InputError, match="forced=2 leaves nothing of prompt 1's 2 tokens"):
        Prompts.of_rows([[1, 2]], [[1, 3]], [(7,)], [()], forced=[2])


def test_partners_have_answers_of_as_many_tokens_and_other_prompts():
    pairs = PROMPTS.with_others(0)
    rows = [PROMPTS.rows().index(row) for row in pairs.swapped().rows()]
    assert sorted(rows) == list(range(8)) and all(i != row for i, row in enumerate(rows))
    assert [SIZES[i] for i in rows] == list(SIZES)
    same = Prompts.of_rows([[1, 2, 8], [1, 2, 9]], [[1, 2, 8]] * 2, [(1,)] * 2, [()] * 2,
                           forced=[1, 1])  # fmt: skip
    with pytest.raises(InputError, match="prompt 2 of 2 has 0 other prompts|prompt 1 of 2 has 0"):
        same.with_others(0)


# ---- what is measured ----------------------------------------------------------------------------


def test_the_model_is_hugging_faces_and_so_is_a_cut_by_hand():
    """One pass of prompt and answer together, in plain Hugging Face, m1->logits cut by hand."""
    module = families.BUILDERS["gpt2"]()
    families.randomise(module)
    module = module.double().eval()
    some = data(model=families.view("gpt2"))
    cut = some.graph.legal.copy()
    cut[some.graph.writer_index["m1"], -1] = False
    nothing = np.zeros_like(cut)
    nll, kl = (some.circuits(m, [some.graph.legal, cut, nothing]) for m in (NLL, KL))
    for row, (clean, corrupt, answer) in enumerate(zip(*asked(), strict=True)):
        parts = [split_last(module, own + answer[:-1]) for own in (clean, corrupt)]
        finals = [parts[0][0] + parts[0][1], parts[0][0] + parts[1][1], parts[1][0] + parts[1][1]]
        log_p = [log_probabilities(module, x)[len(clean) - 1 :] for x in finals]
        for i, own in enumerate(log_p):
            assert len(own) == len(answer)
            expected = -sum(own[t, token].item() for t, token in enumerate(answer))
            assert nll[i, row] == pytest.approx(expected, abs=1e-9)
            divergence = (log_p[0].exp() * (log_p[0] - own)).sum().item()
            assert kl[i, row] == pytest.approx(divergence, abs=1e-9)
    assert kl[1].min() > 0.01


def split_last(module, ids):
    """[pos, d_model] each: the stream before the last MLP of a GPT-2, and what that adds."""
    with torch.no_grad():
        body = module.transformer
        streams = body(torch.tensor([ids]), output_hidden_states=True).hidden_states
        block = body.h[-1]
        mid = streams[-2] + block.attn(block.ln_1(streams[-2]))[0]
        return mid[0], block.mlp(block.ln_2(mid))[0]


def log_probabilities(module, final):
    with torch.no_grad():
        return module.lm_head(module.transformer.ln_f(final)).log_softmax(-1)


def whole_logits(model, mask, row, some, ablation):
    """[tokens, vocab]: of prompt and answer run once by the slow twin, at all answer positions."""
    one = some.take([row])
    graph = model.graph()
    corrupt, _ = twin.run(model, graph, one.corrupt, graph.legal, None)
    if ablation == "zero":
        corrupt = [torch.zeros_like(c) for c in corrupt]
    cur, _ = twin.run(model, graph, one.clean, mask, corrupt)
    x = sum(cur[w] if mask[w, -1] else corrupt[w] for w in range(len(cur)))
    x = x + sum((b.attn.b_O for b in model.blocks if b.attn.b_O is not None), start=0.0)
    logits = twin.norm(model.ln_final, x)[0] @ model.W_U
    logits = logits if model.b_U is None else logits + model.b_U
    return logits[-1 - some.forced[row] :]


def value_of(metric, model, mask, some, ablation="resample"):
    """[prompts] of kl and nll, from runs of prompt and answer together."""
    legal, found = model.graph().legal, []
    for row, (ids, forced) in enumerate(zip(some.rows(), some.forced, strict=True)):
        answer = [*ids[len(ids) - forced :], *some.answers[row]]
        q = whole_logits(model, mask, row, some, ablation).log_softmax(-1)
        found.append(-q[range(len(answer)), answer].sum())
        if metric == "kl":
            p = whole_logits(model, legal, row, some, ablation).log_softmax(-1)
            found[-1] = (p.exp() * (p - q)).sum()
    return np.array([float(v) for v in found])


@pytest.mark.parametrize("ablation", [
    "resample", *(pytest.param(one, marks=pytest.mark.slow) for one in ("zero", "other")),
])  # fmt: skip
def test_circuits_are_those_of_prompt_and_answer_run_once(ablation):
    some = data(ablation)
    for mask in masks(GRAPH, 2):
        for name in ("kl", "nll"):
            found = some.circuits(METRICS[name], [mask])[0]
            expected = value_of(name, MODEL, mask, some.prompts, ablation)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_an_error_is_the_sum_of_the_tokens_errors():
    """What one token gains and the next loses does not cancel."""
    some, (mask,) = data(), masks(GRAPH, 1)
    expected = np.zeros(len(SIZES))
    for forward in some:
        values = floats(forward.bound(NLL).of_logits(forward.run(mask)))
        model = floats(forward.bound(NLL).of_logits(forward.clean.logits))
        for row, error in zip(forward.rows, np.abs(values - model), strict=True):
            expected[row] += error
    found = some.errors(NLL, [mask])[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(some.circuits(two_sided(NLL), [mask])[0], found, rtol=0, atol=1e-10)
    change = some.circuits(NLL, [mask])[0] - some.values(NLL, lambda f: f.clean.logits)
    assert (found >= np.abs(change) - 1e-10).all() and found.sum() > np.abs(change).sum() + 0.1


@pytest.mark.parametrize("verb", ["circuits", "errors"])
def test_parts_and_order_change_nothing(verb):
    some = masks(SMALL.graph(), 2)

    def measured(own):
        return getattr(own, verb)(NLL, some)

    whole = measured(data(part=99, model=SMALL))
    for part in (2, 5):
        own = measured(data(part=part, hold=part != 2, model=SMALL))
        np.testing.assert_allclose(own, whole, rtol=0, atol=1e-10)
    order = [6, 1, 7, 0, 4, 2, 3, 5]
    own = measured(data(some=PROMPTS.take(order), model=SMALL))
    np.testing.assert_allclose(own, whole[:, order], rtol=0, atol=1e-10)
    few = data(model=SMALL).at_least(4)
    assert len(few) == 6
    np.testing.assert_allclose(measured(few), whole[:, :6], rtol=0, atol=1e-10)


def test_one_token_answers_are_as_they_were():
    """A figure each, joined without being added to anything: bit for bit."""
    some = data(some=families.prompts(7))
    assert some.n_parts == len(some.groups) == 3
    parts = [floats(f.bound(NLL).of_logits(f.clean.logits)) for f in some]
    assert some.join(parts).tolist() == np.concatenate(parts).tolist()
    hits = [np.array([1.0, 0.0, 1.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    assert some.join(hits, of=np.minimum).tolist() == [1, 0, 1, 1, 0, 0, 1]


def test_what_all_tokens_must_have_is_the_least_of_them():
    some = data(part=99)
    hits = some.each(lambda f: (np.array(f.rows) + f.token) % 2)
    expected = [min((row + t) % 2 for t in range(n)) for row, (_, n) in enumerate(SIZES)]
    assert some.join(hits, of=np.minimum).tolist() == expected and 1 in expected


# ---- methods -------------------------------------------------------------------------------------


def test_every_decision_of_a_search_is_that_of_prompt_and_answer_run_once():
    metric, threshold, few = "nll", 0.05, PROMPTS.take([1, 0])
    some = data(model=SMALL, some=few)
    mask, kept = some.graph.legal.copy(), []
    now = value_of(metric, SMALL, mask, few).mean()
    for step in acdc(some, METRICS[metric], threshold):
        for test in step.tests:
            trial = mask.copy()
            trial[slice(None) if test.writer is None else test.writer, test.reader] = False
            after = value_of(metric, SMALL, trial, few).mean()
            assert test.after == pytest.approx(after, abs=1e-9)
            assert test.kept == (after - now >= threshold)
            kept.append(test.kept)
            if not test.kept:
                mask, now = trial, after
        if step.reason == "disconnected":
            mask[:, step.visit.reader] = False
    assert (step.mask == mask).all() and 0 < sum(kept) < len(kept)


@pytest.mark.unchecked
def test_scores_are_sums_over_the_tokens():
    """Each token a prompt of its own: the mean over prompts times tokens a prompt."""
    some = data(model=SMALL)
    alone = [PROMPTS.take([i]).reading(t) for i, (_, n) in enumerate(SIZES) for t in range(n)]
    apart = data(some=together(*alone), model=SMALL)
    for method in (attribution.eap, attribution.exact, lambda d, m: attribution.eap_ig(d, m, 2)):
        expected = method(apart, NLL) * len(apart) / len(some)
        np.testing.assert_allclose(method(some, NLL), expected, rtol=0, atol=1e-9)
    assert len(apart) == sum(n for _, n in SIZES)
    (mask,) = masks(some.graph, 1)
    shares = [Share(own, NLL).each(mask) for own in (some, apart)]
    assert shares[0] == pytest.approx(shares[1], abs=1e-9) and set(shares[0]) == {"nll", "kl"}


def test_minibatches_have_whole_answers():
    batches = Minibatches(data(part=4), 3, 0)
    rows = []
    for i in range(len(batches)):
        seen = [(row, f.token) for f in batches.at(i) for row in f.rows]
        own = sorted({row for row, _ in seen})
        assert sorted(seen) == [(row, t) for row in own for t in range(SIZES[row][1])]
        assert sum(f.n_new for f in batches.at(i)) == len(own) <= 3
        rows += own
    assert sorted(rows) == list(range(8))


@pytest.mark.parametrize("loss", ["share", "metric"])
def test_what_is_learnt_is_told_per_prompt(loss):
    """The loss of the whole model's circuit is the metric's mean, or nothing of it is lost."""
    some = data(part=8)
    first = next(iterative(some, NLL, 30, Rounds(batch=8, points=1, loss=loss), 0))
    model = some.values(NLL, lambda f: f.clean.logits).mean()
    assert first.loss == pytest.approx(model if loss == "metric" else 0.0, abs=1e-9)
    begin = start(random_scores(GRAPH, 0), GRAPH.legal)
    how = How(smallest=5.0, largest=60.0, steps=2, batch=8)
    losses = [s.loss for s in learn(some, KL, GRAPH.legal, begin, how, 0)]
    lost = lost_share(some, KL)
    whole = sum(floats(lost(f, f.run(np.zeros_like(GRAPH.legal)))).sum() for f in some) / len(some)
    assert whole == pytest.approx(1.0, abs=1e-9) and all(0 < own < 3 for own in losses)


def test_means_are_of_all_lengths_that_are_read():
    some = data("mean")
    reference = prompts(SIZES[:3] + SIZES[6:], seed=2)
    again = some.under(Mean("mean", False, reference=reference))
    assert np.isfinite([d.circuits(KL, masks(GRAPH)) for d in (some, again)]).all()
