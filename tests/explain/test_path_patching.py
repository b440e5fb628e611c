"""Path patching against hooks on the model itself, against TransformerLens, and by its laws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import BUILDERS, prompts, randomise, view

from acdc.ablation import ABLATIONS
from acdc.bridge import from_module
from acdc.errors import InputError
from acdc.forward import trace
from discovery.explanation.paths.patching import path_effects, path_estimates
from discovery.validation.bench import make_bench


def bench_of(model, kv="per_query_head", n=3):
    return make_bench(model, model.graph(kv), prompts(n), ABLATIONS["resample"], chunk=2)


def score(logits, some):
    pairs = zip(logits, some.answers, some.wrong, strict=True)
    return np.array([float(x[list(a)].mean() - x[list(w)].mean()) for x, a, w in pairs])


# ---- hooks on GPT-2's own modules, in float64 ----------------------------------------------------


def gpt2():
    module = BUILDERS["gpt2"]()
    randomise(module)
    return module.double().eval().requires_grad_(False)


class Hooked:
    """Three runs of the literal definition; shares nothing with the product."""

    def __init__(self, module, some):
        self.gpt, self.module, self.some = module.transformer, module, some
        self.size = module.config.n_embd // module.config.n_head
        self.a, _ = self.run(some.corrupt, self.keep)
        self.b, logits = self.run(some.clean, self.keep)
        self.before = score(logits, some)

    def run(self, tokens, *hooking):
        store, handles = {}, []
        for hook in hooking:
            hook(store, handles)
        logits = self.module(tokens).logits[:, -1]
        for handle in handles:
            handle.remove()
        return store, logits

    def places(self):
        yield "input", self.gpt.drop, False
        for i, block in enumerate(self.gpt.h):
            yield f"z{i}", block.attn.c_proj, True
            yield f"m{i}", block.mlp, False

    def keep(self, store, handles):
        for name, module, before in self.places():
            if before:
                handle = module.register_forward_pre_hook(
                    lambda m, x, name=name: store.__setitem__(name, x[0].clone())
                )
            else:
                handle = module.register_forward_hook(
                    lambda m, x, y, name=name: store.__setitem__(name, y.clone())
                )
            handles.append(handle)

    def freeze(self, sender, recomputed):
        """Pass C: heads as in B (MLPs too, unless recomputed), the sender as in A."""

        def value(name):
            out = self.b[name].clone()
            if name[0] == "z" and sender[0] == "a" and sender[1] == name[1]:
                at = slice(int(sender[-1]) * self.size, (int(sender[-1]) + 1) * self.size)
                out[..., at] = self.a[name][..., at]
            return self.a[name] if name == sender else out

        def hook(store, handles):
            for name, module, before in self.places():
                if before:
                    put = lambda m, x, name=name: (value(name),)  # noqa: E731
                    handles.append(module.register_forward_pre_hook(put))
                elif not (recomputed and name[0] == "m" and name != sender):
                    put = lambda m, x, y, name=name: value(name)  # noqa: E731
                    handles.append(module.register_forward_hook(put))
            for i, block in enumerate(self.gpt.h):
                for name, norm in ((f"x{i}", block.ln_1), (f"y{i}", block.ln_2)):
                    keep = lambda m, x, name=name: store.__setitem__(name, x[0].clone())  # noqa: E731
                    handles.append(norm.register_forward_pre_hook(keep))
            keep = lambda m, x: store.__setitem__("final", x[0].clone())  # noqa: E731
            handles.append(self.gpt.ln_f.register_forward_pre_hook(keep))

        return hook

    def patch(self, seen, receivers):
        """Pass D: the receivers read what pass C showed them."""

        def hook(store, handles):
            for receiver in receivers:
                if receiver == "logits":
                    put = lambda m, x: (seen["final"],)  # noqa: E731
                    handles.append(self.gpt.ln_f.register_forward_pre_hook(put))
                elif receiver[0] == "m":
                    put = lambda m, x, r=receiver: (seen[f"y{r[1]}"],)  # noqa: E731
                    norm = self.gpt.h[int(receiver[1])].ln_2
                    handles.append(norm.register_forward_pre_hook(put))
                else:
                    self.patch_head(seen, receiver, handles)

        return hook

    def patch_head(self, seen, receiver, handles):
        layer, head, part = int(receiver[1]), int(receiver[4]), receiver[6]
        block = self.gpt.h[layer]
        start = "qkv".index(part) * self.module.config.n_embd + head * self.size

        def put(m, x, y):
            weight, bias = m.weight, m.bias
            x = seen[f"x{layer}"]
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0)
                                                  + block.ln_1.eps).sqrt()  # fmt: skip
            x = x * block.ln_1.weight + block.ln_1.bias
            y = y.clone()
            at = slice(start, start + self.size)
            y[..., at] = x @ weight[:, at] + bias[at]
            return y

        handles.append(block.attn.c_attn.register_forward_hook(put))

    def effect(self, sender, receivers, recomputed):
        seen, _ = self.run(self.some.clean, self.freeze(sender, recomputed))
        _, logits = self.run(self.some.clean, self.patch(seen, receivers))
        return score(logits, self.some) - self.before


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
def test_every_sender_is_what_hooks_on_the_model_say(mlps):
    twin = Hooked(gpt2(), prompts(3))
    model = from_module(gpt2(), None, "gpt2").model  # of a copy: the bridge changes its module
    bench = bench_of(model)
    graph = bench.graph
    sets = [["logits"], ["a1.h2<q>"], ["a1.h1<k>"], ["a1.h0<v>"], ["m1"], ["a1.h2<q>", "a1.h3<q>"]]
    if mlps == "recomputed":  # Wang's: inputs are set, whatever lower receivers have changed
        sets.append(["a0.h1<k>", "a1.h2<q>", "m1", "logits"])
    for receivers in sets:
        readers = [graph.reader_index[r] for r in receivers]
        low = min(int(graph.senders[r]) for r in readers)
        senders = graph.writers[:low]
        ours = path_effects(bench, [[graph.writer_index[s]] for s in senders], readers, mlps)
        theirs = np.array([twin.effect(s, receivers, mlps == "recomputed") for s in senders])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9, err_msg=str(receivers))
        assert np.abs(theirs).max() > 1e-3


def test_direct_path_patching_of_transformerlens_is_denoising_of_one_edge():
    from transformer_lens import patching

    loaded = from_module(gpt2(), None, "gpt2")
    bench, some = bench_of(loaded.model), prompts(3)
    graph, bridge = bench.graph, loaded.bridge
    _, clean = bridge.run_with_cache(some.clean)
    _, corrupt = bridge.run_with_cache(some.corrupt)
    before = score(trace(loaded.model, some.corrupt).logits, some).mean()
    for part in ("q", "k", "v"):
        theirs = patching.get_act_patch_direct_path(
            bridge, some.corrupt, clean, corrupt,
            lambda logits: torch.tensor(score(logits[:, -1].detach(), some).mean()),
            0, 1, part, False,
        )  # fmt: skip
        for head in range(4):
            reader = [graph.reader(1, part, head)]
            ours = path_effects(bench, [[graph.head(0, 1)]], reader, direction="denoising").mean()
            assert ours == pytest.approx(float(theirs[1, head]) - before, abs=1e-6)  # kept as f32


# ---- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "pythia", "gemma", "attention_only"])
@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_frozen_is_the_model_with_these_edges_cut(family, kv):
    bench = bench_of(view(family), kv)
    graph = bench.graph
    for direction in ("noising", "denoising"):
        upper = range(graph.reader(1, "q"), len(graph.readers))
        for receivers, sets in (
            ([*range(len(graph.readers))], [[0]]),
            ([*upper], [[0], [2], [0, 3, 1]][: 3 if graph.has_mlp else 2]),
            ([graph.reader(1, "k", 0)], [[2], [0, 3, 1]]),
        ):
            ours = path_effects(bench, sets, receivers, direction=direction)
            for senders, effect in zip(sets, ours, strict=True):
                mask = graph.legal.copy()
                mask[np.ix_(senders, receivers)] = False
                parts = [f if direction == "noising" else f.swapped() for f in bench.data]
                cut = [bench.score_of(f, f.run(mask)) - bench.score_of(f, f.clean.logits)
                       for f in parts]  # fmt: skip
                np.testing.assert_allclose(effect, torch.cat(cut), rtol=0, atol=1e-9)
                assert np.abs(effect).max() > 1e-5


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "pythia", "attention_only"])
@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
def test_no_sender_changes_nothing_and_all_of_them_are_the_corrupt_run(family, mlps):
    bench = bench_of(view(family))
    graph = bench.graph
    everything, logits = range(len(graph.writers)), graph.reader(0, "logits")
    for direction, sign in (("noising", 1), ("denoising", -1)):
        none, whole = path_effects(bench, [[], everything], [logits], mlps, direction)
        swap = sign * (bench.empty.score - bench.model.score)
        np.testing.assert_allclose(none, 0, atol=1e-12)
        np.testing.assert_allclose(whole, swap, atol=1e-9)
        assert np.abs(swap).min() > 1e-3


def test_estimates_of_all_senders_add_up_to_what_all_of_them_do():
    bench = bench_of(view("gpt2"))
    graph = bench.graph
    readers = [graph.reader(1, "q", 1), graph.reader(1, "v", 2), graph.reader(0, "logits")]
    for mlps in ("frozen", "recomputed"):
        whole = np.array(
            [path_effects(bench, [range(graph.senders[r])], [r], mlps)[0] for r in readers]
        )
        together = path_estimates(bench, [range(len(graph.writers))], readers, mlps, steps=200)
        np.testing.assert_allclose(together[:, 0], whole, rtol=1e-3, atol=1e-5)
    with torch.inference_mode():  # whoever asks
        alone = path_estimates(bench, [[w] for w in range(len(graph.writers))], readers, steps=200)
    np.testing.assert_allclose(alone.sum(1), whole_frozen(bench, readers), rtol=1e-3, atol=1e-5)
    assert (alone[0, graph.senders[readers[0]] :] == 0).all()  # it does not read them


def whole_frozen(bench, readers):
    senders = bench.graph.senders
    return np.array([path_effects(bench, [range(senders[r])], [r])[0] for r in readers])


def test_a_frozen_sender_that_another_receiver_would_change_is_refused():
    bench = bench_of(view("attention_only"))
    graph = bench.graph
    receivers = [graph.reader_index["a0.h1<q>"], graph.reader_index["logits"]]
    with pytest.raises(InputError, match=r"a0\.h1 is not below a0\.h1<q>, logits"):
        path_effects(bench, [[0], [2]], receivers)
    path_effects(bench, [[0], [2]], receivers, "recomputed")


@pytest.mark.parametrize("mlps", ["frozen", "recomputed"])
@pytest.mark.parametrize("edge", ["input->a1.h1<k>", "input->a0.h2<v>", "input->m1"])
def test_at_one_position_is_the_path_from_a_prompt_that_differs_there_alone(mlps, edge):
    """Of the embedding, which is a position's own; in parts, so that rows must fit."""
    model, some = view("llama"), prompts(5)
    bench = make_bench(model, model.graph(), some, ABLATIONS["resample"], chunk=2)
    writer, reader = bench.graph.edge(edge)
    at = np.eye(6, dtype=bool)[[4, 5, 2, 5, 5]]
    mixed = torch.where(torch.as_tensor(at), some.corrupt, some.clean)
    twin = make_bench(
        model, model.graph(), replace(some, corrupt=mixed), ABLATIONS["resample"], chunk=5
    )
    found = path_effects(bench, [[writer]], [reader], mlps, "noising", at)
    np.testing.assert_allclose(found, path_effects(twin, [[writer]], [reader], mlps), atol=1e-9)
    every = path_effects(bench, [[writer]], [reader], mlps, "noising", at | True)
    np.testing.assert_allclose(every, path_effects(bench, [[writer]], [reader], mlps), atol=1e-12)
    assert (
        abs(found).max() > 1e-4
        and not path_effects(bench, [[writer]], [reader], mlps, "noising", at & False)
        .round(12)
        .any()
    )
