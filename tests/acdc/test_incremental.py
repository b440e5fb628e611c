"""The state of a search: every trial is a run of the mask, and nothing drifts on the way down."""

import math

import families
import numpy as np
import pytest
import torch
from toys import or_gate, or_prompts

from acdc.data import Data
from acdc.incremental import Cut, States
from acdc.masked import masked_run
from acdc.metrics import METRICS

EVERY = [(f, "per_query_head") for f in families.FAMILIES] + [("llama", "per_group")]
IDS = ["-".join(case) for case in EVERY]


def stages(graph):
    """(layer, part, its readers at all spans) from the logits down."""
    plain = graph.plain
    yield graph.n_layers, "logits", [len(graph.readers) - 1]
    for layer in reversed(range(graph.n_layers)):
        if graph.has_mlp:
            yield layer, "mlp", graph.columns[:, plain.reader(layer, "mlp")].tolist()
        first, behind = plain.reader(layer, "q"), plain.reader(layer, "v", graph.n_kv_readers)
        yield layer, "attn", graph.columns[:, first:behind].flatten().tolist()


def cuts_of(state, readers, gates, generator):
    """A third of the kept edges one by one, or of some readers a third at once, shuffled."""
    cuts = []
    for r in (r for r in readers if state.kept.get(r)):
        kept = state.kept[r]
        some = [w for w in kept if generator.random() < 0.4] or kept[:1]
        cuts += [Cut(r, tuple(some), gate=True)] if gates else [Cut(r, (w,)) for w in some]
    return [cuts[i] for i in generator.permutation(len(cuts))]


@pytest.mark.unchecked
@pytest.mark.parametrize("family, kv", EVERY, ids=IDS)
@pytest.mark.parametrize("seed, size", [(0, 3), (1, 2)])
def test_every_trial_is_a_run_of_its_mask(family, kv, seed, size):
    model, metric = families.view(family), METRICS["kl" if seed else "logit_diff"]
    data = Data(model, model.graph(kv), families.prompts(n=3, length=4), part=size)
    trials_are_runs(data, metric, np.random.default_rng(seed))


def trials_are_runs(data, metric, generator):
    """At every stage, edges and gates, alone and cumulative; then some of the cuts are made."""
    graph, state = data.graph, States(data, metric)
    mask, effects = graph.legal.copy(), []

    def value(of):
        bound = [(f.bound(metric), masked_run(f, of)) for f in data]
        return torch.cat([b.of_logits(logits) for b, logits in bound]).mean().item()

    for layer, part, readers in stages(graph):
        if part != "logits":
            state.enter(layer, part)
        for gates in (True, False):
            cuts = cuts_of(state, readers, gates, generator)
            if not cuts:
                continue
            for single in (True, False):
                trial, tried = state.trial(cuts, single), mask.copy()
                for cut, found in zip(cuts, state.values(trial), strict=True):
                    tried = mask.copy() if single else tried
                    tried[list(cut.writers), cut.reader] = False
                    assert found == pytest.approx(value(tried), abs=1e-10)
                    effects.append(found - state.value)
            made = int(generator.integers(len(cuts)))
            state.commit(trial, made)
            for cut in cuts[: made + 1]:
                mask[list(cut.writers), cut.reader] = False
            for part_state in state.parts:
                assert (part_state.mask & graph.legal <= mask).all()
                wanted = masked_run(part_state.forward, mask)
                found = part_state.forward.model.unembed(part_state.final[0])
                torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)
            assert state.value == pytest.approx(value(mask), abs=1e-10)
    assert 0 < mask.sum() < graph.n_edges and np.ptp(effects) > 0.01
    assert value(state.mask) == pytest.approx(state.value, abs=1e-10)  # dead readers' edges dropped


@pytest.mark.parametrize("family, kv", [("llama", "per_group"), ("attention_only", "per_group")])
def test_from_a_circuit_trials_are_runs_of_its_mask_too(family, kv):
    """Where it begins, and after cuts into every stage; what nothing reads is cut with it."""
    model, metric = families.view(family), METRICS["nll"]
    data = Data(model, model.graph(kv), families.prompts(n=3, length=4), part=2)
    graph, generator = data.graph, np.random.default_rng(4)
    mask = graph.legal & (generator.random(graph.legal.shape) < 0.7)
    state = States(data, metric, mask)
    value = lambda m: data.circuits(metric, [m]).mean()  # noqa: E731
    assert state.value == pytest.approx(value(mask), abs=1e-10)
    for layer, part, readers in stages(graph):
        if part != "logits":
            state.enter(layer, part)
        cuts = cuts_of(state, readers, False, generator)
        if not cuts:
            continue
        trial, tried = state.trial(cuts), mask.copy()
        for cut, found in zip(cuts, state.values(trial), strict=True):
            tried[list(cut.writers), cut.reader] = False
            assert found == pytest.approx(value(tried), abs=1e-10)
        state.commit(trial, len(cuts) - 1)
        mask = tried


def test_what_nothing_reads_is_dead():
    """Cut from the logits on: a head and an MLP without an edge out have no edge in."""
    data = Data(families.view("gpt2"), families.view("gpt2").graph(), families.prompts(length=4))
    graph, state = data.graph, States(data, METRICS["kl"])
    logits = len(graph.readers) - 1
    writers = [graph.mlp(1), graph.head(1, 2), graph.head(1, 0)]
    trial = state.trial([Cut(logits, (w,)) for w in writers])
    state.commit(trial, 1)
    state.enter(1, "mlp")
    state.enter(1, "attn")
    dead = [graph.reader(1, "mlp"), *graph.head_readers(1, 2)]
    assert not state.mask[:, dead].any() and not any(r in state.kept for r in dead)
    (part,) = state.parts
    heads = [graph.head(1, h) for h in (0, 1, 3)]
    assert part.live == {0: [], 1: heads}
    q, k, v = graph.head_readers(1, 0)
    assert (part.span[logits], part.span[q], part.span[k], part.span[v]) == (1, 1, 4, 4)
    state.enter(0, "mlp")
    assert part.span[graph.reader(0, "mlp")] == 4  # keys and values read it everywhere
    assert part.kept[q] == list(range(graph.senders[q]))


def test_a_variant_takes_its_live_inputs_at_the_widest_tensor():
    """Counted by hand: 3 prompts, d_model 32, q of 8 numbers; readers' positions times prompts."""
    model = families.view("gpt2")
    data = Data(model, model.graph(), families.prompts(n=3, length=4))
    state = States(data, METRICS["kl"])
    assert state.bytes_per_variant() == 3 * 1 * 32 * 8  # logits, one position
    state.enter(1, "mlp")  # its change, and 128 neurons five times on the way
    mlp = 32 + 5 * 128 + 4 * 32
    assert state.bytes_per_variant() == 3 * (2 * 32 + mlp) * 8
    state.enter(1, "attn")  # 4 x q at one position, k and v at four; 4 x 8 is no wider than 32
    assert state.bytes_per_variant() == 3 * ((2 + 4 * (1 + 4 + 4)) * 32 + mlp) * 8
    state.enter(0, "mlp")  # at all four positions; only one MLP works at a time
    more = 4 * (32 + 32) + 3 * (5 * 128 + 4 * 32)
    assert state.bytes_per_variant() == 3 * ((2 + 4 * (1 + 4 + 4)) * 32 + mlp + more) * 8
    two = States(Data(model, data.graph, data.prompts, part=2), METRICS["kl"])
    assert two.bytes_per_variant() == 3 * 1 * 32 * 8
    wide = States(Data(or_gate(), or_gate().graph(), or_prompts(8)), METRICS["logit_diff"])
    wide.enter(0, "mlp")
    wide.enter(0, "attn")  # two heads; d_model 2, but q, k, v, scores and z of 1 each
    one = 2 + 5 * 1 + 4 * 2  # an MLP of one neuron
    assert wide.bytes_per_variant() == 8 * ((2 + 2 * (1 + 2 + 2)) * 4 + one) * 8


def test_what_is_kept_for_coming_back_is_what_the_clean_run_does_not_give():
    model = families.view("llama")
    data = Data(model, model.graph(), families.prompts(n=3, length=4), part=2)
    state, logits = States(data, METRICS["kl"]), len(data.graph.readers) - 1
    alive = ["0/kept", "0/span", "1/kept", "1/span"]
    assert sorted(state.tensors()) == alive  # nothing has moved
    trial = state.trial([Cut(logits, (3,))])
    (value,) = state.values(trial)
    state.commit(trial, 0)
    assert sorted(state.tensors()) == sorted([*alive, f"0/x.{logits}", f"1/x.{logits}"])
    state.enter(1, "mlp")
    state.enter(1, "attn")
    found = state.tensors()
    (first, _), graph = state.parts, data.graph
    for name in ("act", "pattern", "out"):
        held = sorted(f"0/{name}.{i}" for i in getattr(first, name))
        assert held and held == sorted(n for n in found if n.startswith(f"0/{name}."))
    again = States(data, METRICS["kl"])
    again.restore(state.mask, state.ends, found)
    assert again.value == value and (again.mask == state.mask).all()
    assert again.mask is not state.mask
    for old, new in zip(state.parts, again.parts, strict=True):
        assert new.span == old.span and new.kept == old.kept and new.live == old.live
        for name in ("x", "act", "pattern", "out"):
            ours, theirs = getattr(old, name), getattr(new, name)
            assert {i: t.tolist() for i, t in ours.items()} == {
                i: t.tolist() for i, t in theirs.items()
            }
    cuts = [Cut(graph.reader(1, "v", 1), (w,)) for w in (0, 2)]
    values = [list(s.values(s.trial(cuts))) for s in (state, again)]
    assert values[0] == values[1] and math.isfinite(values[0][1])
