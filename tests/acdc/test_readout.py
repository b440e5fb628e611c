"""Metrics read out of final inputs: in blocks, as asked for, and in intervals that must hold."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from acdc import intervals, readout
from acdc.ablation import ABLATIONS
from acdc.data import Data
from acdc.incremental import Cut, States
from acdc.intervals import Reference, Split
from acdc.metrics import METRICS, two_sided
from acdc.model import NO_NORM
from acdc.prompts import Prompts
from acdc.readout import Readout, Worth
from acdc.search import Budget, Checkpoint, Search

BOUNDED = ["kl", "nll", "prob_diff", "kl_reverse"]


@pytest.fixture
def small(monkeypatch):
    """Intervals for a vocabulary of 50, of which seven tokens are the head."""
    monkeypatch.setattr(intervals, "HEAD", 7)
    monkeypatch.setattr(readout, "FEWEST_TOKENS", 0)


# ---- in full -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("block", [7, 50, 4096])
@pytest.mark.parametrize("family", ["gpt2", "pythia", "attention_only"])
def test_a_metric_is_read_out_alike_in_blocks_of_the_vocabulary(name, block, family, monkeypatch):
    monkeypatch.setattr(readout, "VOCAB_BLOCK", block)
    model, prompts = families.view(family), families.prompts()
    bias = torch.linspace(-1, 1, model.d_vocab, dtype=torch.float64)
    for b_U in (None, bias):
        model = replace(model, b_U=b_U)
        x = torch.randn(4, 3, model.d_model, generator=torch.Generator().manual_seed(2)).double()
        x[1] *= 30  # logits far apart: exp of a difference would overflow if not taken off
        bound = METRICS[name].bind(prompts, model.unembed(x[0]))
        wanted = bound.of_logits(model.unembed(x)).sum(-1)
        torch.testing.assert_close(Readout(model, [bound])([x]), wanted, atol=1e-9, rtol=1e-9)


def test_only_what_needs_the_vocabulary_reads_it(monkeypatch):
    def never(*_):
        raise AssertionError("the whole vocabulary was read")

    model, prompts = families.view("gpt2"), families.prompts()
    x = torch.randn(2, 3, model.d_model, dtype=torch.float64)
    monkeypatch.setattr(type(model), "unembed", never)
    for name, needs in (("logit_diff", False), *((name, True) for name in BOUNDED)):
        read = Readout(model, [METRICS[name].bind(prompts, torch.zeros(3, 50).double())])
        read([x])  # in blocks where it must
        with monkeypatch.context() as patch:
            patch.setattr(Readout, "_vocabulary", never)
            if not needs:
                read([x])
                continue
            with pytest.raises(AssertionError, match="was read"):
                read([x])


def test_values_are_read_as_asked_for_and_more_and_more_at_a_time(monkeypatch):
    model = families.view("gpt2")
    data = Data(model, model.graph(), families.prompts(n=3, length=4))
    state = States(data, METRICS["kl"])
    logits, asked, plain = len(data.graph.readers) - 1, [], Readout.__call__

    def values(self, inputs):
        asked.append([len(x) for x in inputs])
        return plain(self, inputs)

    trial = state.trial([Cut(logits, (w,)) for w in range(9)])
    whole = list(state.values(trial))
    monkeypatch.setattr(Readout, "__call__", values)
    cases = ((1, [1] * 9), (2, [1, 2, 2, 2, 2]), (4, [1, 2, 4, 2]), (100, [1, 2, 4, 2]))
    on_card = ((100, [9]), (4, [4, 4, 1]))
    for most, sizes in (*cases, *on_card):
        monkeypatch.setattr(state.readout, "most", most)
        monkeypatch.setattr(state.readout, "at_once", (most, sizes) in on_card)
        asked.clear()
        assert list(state.values(trial)) == pytest.approx(whole, abs=1e-12)
        assert asked == [[n] for n in sizes]
    monkeypatch.setattr(state.readout, "at_once", False)
    now, _ = state.value, asked.clear()
    reading = state.read(trial)
    assert reading.between(-1) == (now, now) and not asked
    assert reading.between(4) == (-np.inf, np.inf)
    assert reading.exact(4) == pytest.approx(whole[4], abs=1e-12)
    assert reading.between(4) == (reading.exact(4),) * 2
    assert asked == [[1]] and reading.n_read == 1


# ---- in intervals --------------------------------------------------------------------------------


def near(model, run, log_p=None):
    """Intervals that begin at a run, the tail's tokens expected to be as likely as there."""
    return Reference.of(Split.of(model, run.q.amax(0)), run, log_p)


def variants(model, n_prompts, dtype):
    """Final inputs of a run, and of runs ever farther from it: [variant, prompts, d_model]."""
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(n_prompts, model.d_model, generator=generator, dtype=torch.float64)
    steps = torch.randn(8, n_prompts, model.d_model, generator=generator, dtype=torch.float64)
    far = torch.tensor([0, 1e-6, 1e-3, 1e-2, 0.1, 0.5, 2, 30], dtype=torch.float64)
    return (start + far[:, None, None] * steps).to(dtype)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia"])
@pytest.mark.parametrize("error", [False, True])
@pytest.mark.parametrize("name", BOUNDED)
def test_the_value_lies_in_its_interval(name, error, family, dtype):
    """However far a run is; near the reference there is nothing but rounding between the ends."""
    model, prompts = families.view(family).to(dtype), families.prompts()
    model = replace(model, b_U=torch.linspace(-1, 1, model.d_vocab, dtype=dtype))
    x = variants(model, len(prompts), dtype)
    metric = two_sided(METRICS[name]) if error else METRICS[name]
    read = Readout(model, [metric.bind(prompts, model.unembed(x[0].flip(0)))])
    assert read.bounded
    (value,), (run,) = read.with_logits([x[:1]])
    reference = near(model, run, read.log_p)
    low, high = read.between([x], reference)
    exact = read([x])
    assert bool(((low <= exact) & (exact <= high)).all())
    np.testing.assert_allclose(value, exact[0], atol=1e-5 if dtype == torch.float32 else 1e-12)
    rounding = 2.1 * float(reference.rounding.sum())
    if name == "kl_reverse":
        rounding *= 2 * float(value) + 2
    assert float(high[0] - low[0]) <= rounding + 1e-14
    assert float(high[1] - low[1]) <= 2 * rounding + 1e-9  # of second order
    if dtype == torch.float64:
        assert rounding < 1e-11 and float(high[3] - low[3]) < 0.5  # they say something


@pytest.mark.usefixtures("small")
def test_an_interval_by_hand():
    """Two head tokens and a tail of two; one prompt, two dimensions, no norm.

    Columns (0, 0), (1, 0), (0, 1), (0, -1) and biases that make q .4, .3, .2, .1. Along the second
    axis only the tail moves: by t the sum is .7 + .2 e^t + .1 e^-t.
    """
    intervals.HEAD = 2  # the fixture puts it back
    model = families.view("gpt2")
    columns = torch.tensor([[0, 1, 0, 0], [0, 0, 1, -1]], dtype=torch.float64)
    bias = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    model = replace(
        model, ln_final=NO_NORM, W_pos=None, W_E=torch.zeros(4, 2).double(), W_U=columns, b_U=bias
    )
    y = torch.zeros(1, 1, 2).double()
    prompts = Prompts(torch.zeros(1, 1).long(), torch.zeros(1, 1).long(), ((0,),), ((1,),), 0)
    read = Readout(model, [METRICS["nll"].bind(prompts, model.unembed(y[0]))])
    split = Split.of(model, torch.tensor([0.5, 0.3, 0.1, 0.2]).double())
    run = read.with_logits([y])[1][0]
    reference = Reference.of(split, run)
    assert split.head.tolist() == [0, 1] and float(reference.tail) == pytest.approx(0.3)
    assert float(reference.ratio) == pytest.approx(2)  # .2 where .1 was expected
    t, mean = 0.5, 0.25  # the mean column is (.25, 0)
    x = torch.tensor([[[0.0, t]]]).double()
    low, high = (float(end) for end in reference.between(x))
    # head 0 and 0 less the mean, which t does not touch; tail .3, first moment t (.2 - .1)
    assert low == pytest.approx(np.log(0.7 + 0.3 + 0.1 * t), abs=1e-12)
    reach = t * np.sqrt(1 + mean**2) * intervals.SAFE  # the longest column less the mean
    phi = (np.exp(reach) - 1 - reach) / reach**2
    worst = 1.0 + 0.1 * t + intervals.SAFE**2 * phi * 2 * (0.1 + 0.2) * t**2
    assert high == pytest.approx(np.log(worst), abs=1e-12)
    assert low < np.log(0.7 + 0.2 * np.exp(t) + 0.1 * np.exp(-t)) < high
    # KL from a quarter each, which is a - 1 there
    log_p = torch.full((1, 4), 0.25).double().log()
    low, high = (float(end) for end in Reference.of(split, run, log_p).between(x))
    a = 1 + np.dot([0.4, 0.3, 0.2, 0.1], np.log([1.6, 1.2, 0.8, 0.4]))
    g = np.log([1.6, 1.2, 0.8, 0.4]) - a
    tail = 0.2 * (g[2] + (g[2] + 1) * t) + 0.1 * (g[3] - (g[3] + 1) * t)
    psi = (np.exp(reach) * (reach - 2) + reach + 2) / reach**3
    curved = [max(sign * (0.2 / 0.1) * (g[2] + 2), sign * (0.1 / 0.2) * (g[3] + 2), 0)
              for sign in (-1, 1)]  # fmt: skip
    rests = [intervals.SAFE**2 * (c * phi + 2 * reach * psi) * (0.1 + 0.2) * t**2 for c in curved]
    least, most = 1 + 0.1 * t, worst
    middle = 0.4 * g[0] + 0.3 * g[1] + tail
    below, above = middle - rests[0], middle + rests[1]
    assert low == pytest.approx(a + min(below / d - np.log(d) for d in (least, most)), abs=1e-6)
    where = (least, most, np.clip(-above, least, most))
    assert high == pytest.approx(a + max(above / d - np.log(d) for d in where), abs=1e-5)
    q = np.array([0.4, 0.3, 0.2 * np.exp(t), 0.1 * np.exp(-t)])
    q /= q.sum()
    assert low < (q * np.log(4 * q)).sum() < high


@pytest.mark.usefixtures("small")
def test_a_split_that_has_become_wrong_is_made_anew():
    """A token that was taken to be impossible and is the likeliest one joins the head."""
    model = families.view("gpt2")
    y = torch.randn(1, 3, model.d_model, generator=torch.Generator().manual_seed(5)).double()
    bound = METRICS["nll"].bind(families.prompts(), model.unembed(y[0]))
    (run,) = Readout(model, [bound]).with_logits([y])[1]
    token = int(run.q.amax(0).argmax())
    split = Split.of(model, run.q.amax(0).index_fill(0, torch.tensor([token]), 1e-9))
    found = Reference.of(split, run)
    assert token not in split.head and token in found.split.head
    assert float(found.ratio.max()) <= 1 + 1e-9
    assert Reference.of(found.split, run).split is found.split


@pytest.mark.usefixtures("small")
def test_who_asks_on_has_more_read_at_a_time():
    """Two, then twice as many after each other; begun again after a gap; one call where known."""
    model, asked = families.view("gpt2"), []
    data = Data(model, model.graph(), families.prompts(n=3, length=4))
    state = States(data, METRICS["kl"], bounds=True)
    trial = state.trial([Cut(len(data.graph.readers) - 1, (w,)) for w in range(9)])
    reading = state.read(trial)
    plain = reading.readout.with_logits
    reading.readout.with_logits = lambda inputs: asked.append(len(inputs[0])) or plain(inputs)
    whole = list(States(data, METRICS["kl"]).values(trial))
    assert reading.both(0) == pytest.approx((state.value, whole[0]), abs=1e-12)
    assert asked == [2]  # the value before was known
    for k in (1, 2, 7, 6):
        assert reading.both(k) == pytest.approx((whole[k - 1], whole[k]), abs=1e-12)
    assert asked == [2, 4, 2]  # 0 and 1; 2 to 5; 6 and 7


def test_a_tail_that_rises_is_not_overlooked(monkeypatch):
    """A token of probability 1e-4 that a cut makes the likeliest: first order sees next to nothing.

    Its logit rises by 12, so KL rises by log(1 + 1e-4 (e^12 - 1)), nearly 3 nats; by first order
    it is .001.
    """
    monkeypatch.setattr(intervals, "HEAD", 2)
    model = families.view("gpt2")
    columns = torch.tensor([[0.0, 0, 0, 12]]).double()
    p = torch.tensor([0.5, 0.3, 0.1999, 1e-4], dtype=torch.float64)
    model = replace(
        model,
        ln_final=NO_NORM,
        W_pos=None,
        W_E=torch.zeros(4, 1).double(),
        W_U=columns,
        b_U=p.log(),
    )
    prompts = Prompts(torch.zeros(1, 1).long(), torch.zeros(1, 1).long(), ((0,),), ((1,),), 0)
    x = torch.tensor([[[0.0]], [[1.0]]]).double()
    read = Readout(model, [METRICS["kl"].bind(prompts, model.unembed(x[0]))])
    reference = near(model, read.with_logits([x[:1]])[1][0])
    assert 3 not in reference.split.head.tolist()
    low, high = read.between([x], reference)
    rise = float(read([x])[1])
    assert rise == pytest.approx(np.log(1 + 1e-4 * (np.exp(12) - 1)) - 1e-4 * 12, abs=1e-9)
    assert float(low[1]) < 0.01 and rise > 2  # a careless bound would cut at any threshold below
    assert float(high[1]) >= rise
    read = Readout(model, [METRICS["kl_reverse"].bind(prompts, model.unembed(x[0]))])
    low, high = read.between([x], near(model, read.with_logits([x[:1]])[1][0], read.log_p))
    assert float(low[1]) < 0.1 and 2 < float(read([x])[1]) <= float(high[1])


@pytest.mark.parametrize(("name", "cap", "dtype", "bounded"), [
    ("kl", None, torch.float32, True), ("kl_reverse", None, torch.float32, True),
    ("logit_diff", None, torch.float32, False), ("js", None, torch.float32, False),
    ("kl", 30.0, torch.float32, False),
    ("kl", None, torch.bfloat16, False),
])  # fmt: skip
def test_intervals_only_where_they_are_known_and_pay(name, cap, dtype, bounded, monkeypatch):
    model, prompts = families.view("gpt2").to(dtype), families.prompts()
    model = replace(model, logit_cap=cap)
    read = Readout(model, [METRICS[name].bind(prompts, torch.randn(3, 50, dtype=dtype))])
    assert not read.bounded  # fifty tokens are not worth it
    monkeypatch.setattr(readout, "FEWEST_TOKENS", 50)
    assert read.bounded is bounded


def test_intervals_that_decide_nothing_rest_ever_longer_and_come_back():
    worth, rested = Worth(), list[int]()

    def verdict(read):
        worth.learn(30, read)
        assert not worth.rest, "fewer than 32 tests say nothing"
        worth.learn(2, 0)
        rested.append(worth.rest)
        while worth.rest:
            worth.learn(32, 32)

    for _ in range(6):
        verdict(read=30)  # 2 of 32 were spared
    verdict(read=10)  # 22 of 32
    verdict(read=45)  # no test less than none, though more were read than asked for
    assert rested == [32, 64, 128, 256, 512, 512, 0, 32]


# ---- decisions -----------------------------------------------------------------------------------


def searches(family, name, rule, dtype, chunk=None):
    model, prompts = families.view(family).to(dtype), families.prompts(n=3, length=4)
    data = Data(model, model.graph(), prompts, ABLATIONS["resample"], part=2)
    metric = two_sided(METRICS[name]) if isinstance(rule, Budget) else METRICS[name]
    return [Search(data, metric, rule, None, chunk, None, how) for how in ("bounds", "exact")]


@pytest.mark.unchecked
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "family", "chunk", "tried"), [
    ("kl", "gpt2", 7, 999), ("nll", "llama", None, 999), ("prob_diff", "pythia", 50, 999),
    ("kl_reverse", "gpt2", 7, 999), ("kl", "llama", None, 8), ("nll", "gpt2", 50, 8),
])  # fmt: skip
def test_every_decision_is_the_plain_searchs(name, family, chunk, tried, monkeypatch):
    """At thresholds and within budgets; what was not computed lies where it is said to."""
    monkeypatch.setattr(intervals, "HEAD", 25)
    monkeypatch.setattr(readout, "TRIED", tried)
    spared = rested = 0
    for rule in (0.002, 0.3, Budget(1.0)):
        bounds, exact = searches(family, name, rule, torch.float64, chunk)
        for one, other in zip(bounds.steps(), exact.steps(), strict=True):
            assert (one.visit, one.reason, one.n_edges) == (
                other.visit,
                other.reason,
                other.n_edges,
            )
            for test, wanted in zip(one.tests, other.tests, strict=True):
                assert (test.writer, test.kept, test.tie) == (
                    wanted.writer,
                    wanted.kept,
                    wanted.tie,
                )
                assert abs(test.effect - wanted.effect) <= test.within + 1e-9
                assert not (test.kept and test.within), "what is kept was computed"
                assert wanted.within == 0
                spared += test.within > 0
            rested += bounds.state.worth.rest > 0
        assert bounds.metric == pytest.approx(exact.metric, abs=1e-9)
        assert (bounds.mask == exact.mask).all()
    assert spared > (10 if tried == 999 else 0)
    assert (rested > 0) is (tried == 8), "intervals that are tried for long have no time to rest"


@pytest.mark.unchecked
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["kl", "kl_reverse"])
@pytest.mark.quick("kl")
def test_a_search_by_intervals_goes_on_from_a_checkpoint_that_was_a_file(
    name, tmp_path, monkeypatch
):
    monkeypatch.setattr(readout, "TRIED", 4)
    whole, search = (searches("llama", name, 0.02, torch.float32)[0] for _ in range(2))
    lines = [str(step) for step in whole.steps()]
    for done, _ in enumerate(search.steps(), start=1):
        if search.at_rest and done % 3 == 0:
            again = searches("llama", name, 0.02, torch.float32)[0]
            saved = search.checkpoint()
            save_file(dict(saved.tensors), tmp_path / "state.safetensors")
            again.restore(Checkpoint(saved.about, load_file(tmp_path / "state.safetensors")))
            assert [str(step) for step in again.steps()] == lines[done:]
