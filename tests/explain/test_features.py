"""A node split by a sparse autoencoder: exact identities, slow twins, planted dictionaries."""

import json
from dataclasses import asdict, replace

import families
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from acdc.ablation import RESAMPLE
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.model import Attention, Block, Model, Norm
from acdc.prompts import Prompts
from discovery.choices.fields import checked
from discovery.explanation.features import part as features
from discovery.explanation.features.effects import (
    attribute,
    enough,
    keep_features,
    lost,
    node_effects,
)
from discovery.explanation.features.sae import (
    SAE,
    read_sae,
    train_sae,
    variance_explained,
    write_sae,
)
from discovery.explanation.features.sites import (
    run_from,
    sampled_text,
    site_at,
    site_of_node,
    stream_gradients,
)
from discovery.explanation.features.split import Split, splits
from discovery.explanation.subject import Subject
from discovery.settings.explanation import ExplainSettings, Features
from discovery.validation.bench import make_bench

F64 = torch.float64
FEW = Features(n_features=16, active=3, steps=10, text=2, strongest=3, k=(1, 4), draws=2)


def bench_of(family, n=5, part=3):
    model = families.view(family)
    return make_bench(model, model.graph(), families.prompts(n), RESAMPLE, part)


def some_sae(width, site, n=12, seed=0, kind="standard"):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=F64)

    threshold = draw(n).abs() * 0.3 if kind == "jumprelu" else None
    return SAE(draw(width, n), draw(n), draw(n, width), draw(width), kind, site.hook, site.head,
               threshold=threshold, k=3)  # fmt: skip


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ---- sites -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_rest_of_the_run_is_the_run(family):
    bench = bench_of(family)
    for forward in bench.data:
        for stream, x in enumerate(forward.clean.streams):
            if not (bench.graph.parallel and stream % 2):
                close(run_from(forward, stream, x), forward.clean.logits)


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia", "attention_only"])
def test_a_resampled_node_is_one_whose_edges_are_all_cut(family):
    bench = bench_of(family)
    for node in bench.graph.writers[1::2]:
        site = site_of_node(bench.data.model, bench.graph, node)
        parts = splits(bench, site, some_sae(site.width, site))
        mask = bench.graph.legal.copy()
        mask[site.node] = False
        slow = bench.model.score - bench.circuit(mask).score
        np.testing.assert_allclose(lost(parts, Split.resampled), slow, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "pythia", "attention_only"])
def test_gradients_are_those_of_small_steps(family):
    bench = bench_of(family, n=2)
    forward, step = bench.data[0], 1e-6
    for stream in range(len(forward.clean.streams)):
        x = forward.clean.streams[stream]
        gradient = stream_gradients(forward, bench.score_of, stream)[0]
        towards = torch.randn(x.shape, generator=torch.Generator().manual_seed(stream), dtype=F64)
        up, down = (
            bench.score_of(forward, run_from(forward, stream, x + s * towards)).sum()
            for s in (step, -step)
        )
        assert float((gradient * towards).sum()) == pytest.approx(
            float(up - down) / (2 * step), rel=1e-5, abs=1e-7
        )
        close(gradient, stream_gradients(forward, bench.score_of)[stream])


@pytest.mark.parametrize("family", ["llama", "gpt2", "attention_only"])
def test_hook_names_read_what_is_there(family):
    bench = bench_of(family)
    forward, model, graph = bench.data[0], bench.data.model, bench.graph
    writers, streams = forward.clean.writers, forward.clean.streams
    for layer in range(graph.n_layers):
        points = {"hook_resid_pre": 2 * layer, "hook_resid_post": 2 * layer + 2}
        points |= {"hook_resid_mid": 2 * layer + 1} if graph.has_mlp else {}
        for point, stream in points.items():
            site = site_at(model, graph, f"blocks.{layer}.{point}", None)
            assert site.stream == stream and site.node is None
            close(site.read(writers), streams[stream])
        attention = site_at(model, graph, f"blocks.{layer}.hook_attn_out", None)
        close(attention.read(writers), streams[2 * layer + 1] - streams[2 * layer])
        z = site_at(model, graph, f"blocks.{layer}.attn.hook_z", None)
        heads = range(graph.head(layer, 0), graph.head(layer, 0) + graph.n_heads)
        close(z.into_stream(z.read(writers)), writers.total(heads))
        one = site_at(model, graph, f"blocks.{layer}.attn.hook_z", 1)
        close(one.into_stream(one.read(writers)), writers[graph.head(layer, 1)])
        close(one.from_stream(streams[0]), streams[0] @ model.blocks[layer].attn.W_O[1].T)


def test_hook_names_that_are_not_there_are_refused():
    bench = bench_of("attention_only")
    for hook, head, said in [
        ("blocks.0.ln1.hook_normalized", None, "allowed are blocks.N.hook_resid_pre"),
        ("blocks.2.hook_resid_pre", None, "layers 0 to 1"),
        ("blocks.0.attn.hook_result", None, "which head"),
        ("blocks.0.attn.hook_z", 4, "heads 0 to 3"),
        ("blocks.0.hook_mlp_out", None, "no MLPs"),
        ("blocks.0.hook_resid_mid", None, "no stream within"),
    ]:
        with pytest.raises(InputError, match=said):
            site_at(bench.data.model, bench.graph, hook, head)
    with pytest.raises(InputError, match="must be a head"):
        site_of_node(bench.data.model, bench.graph, "input")


def test_text_is_the_same_for_a_seed_and_begins_with_bos():
    model = families.view("llama")
    one, two, other = (sampled_text(model, 4, 9, seed, 7) for seed in (0, 0, 1))
    assert one.shape == (4, 9) and torch.equal(one, two) and not torch.equal(one, other)
    assert (one[:, 0] == 7).all()


# ---- the split ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
@pytest.mark.parametrize("node", ["a0.h1", "m1"])
def test_features_bias_and_error_are_the_node(kind, node):
    bench = bench_of("llama")
    site = site_of_node(bench.data.model, bench.graph, node)
    sae = some_sae(site.width, site, kind=kind)
    for split in splits(bench, site, sae):
        own = split.own
        each = [own.features[..., [i]] * sae.W_dec[i] for i in range(sae.n_features)]
        close(sum(each) + sae.b_dec + own.error, split.forward.clean.writers[site.node])
        close(own.x - own.features @ sae.W_dec, sae.b_dec + own.error)
        close(own.x + split.other_features(), split.other.x - split.other.error + own.error)
        every = torch.ones(sae.n_features, dtype=F64)
        close(split.resampled(every), split.other_error())
        close(split.resampled(0 * every), split.resampled())
        close(sum(split.to_zero(i) for i in range(sae.n_features)), -own.features @ sae.W_dec)
        close(sum(split.to_other(i) for i in range(sae.n_features)), split.other_features())
        assert not split.lost(0 * own.x).abs().max() > 1e-9


@pytest.mark.parametrize("family", ["llama", "pythia", "attention_only"])
def test_attributions_add_up(family):
    bench = bench_of(family)
    nodes = list(range(1, len(bench.graph.writers)))
    effects = node_effects(bench, nodes)
    for i, node in enumerate(bench.graph.writers[1:]):
        site = site_of_node(bench.data.model, bench.graph, node)
        parts = splits(bench, site, some_sae(site.width, site))
        found = attribute(parts)
        whole = sum(float((s.slope * s.own.x).sum()) for s in parts) / bench.n
        assert found.zero.sum() + found.error_zero + found.bias == pytest.approx(whole, abs=1e-9)
        assert found.other.sum() + found.error_other == pytest.approx(effects[i], abs=1e-9)
        small = lost(parts, lambda s: 1e-6 * s.to_other(2)).mean() / 1e-6
        assert small == pytest.approx(found.other[2], rel=1e-3, abs=1e-6)


def test_changes_are_made_where_they_are_asked_for():
    model = families.view("llama")
    marks = {"s": (1, 2, 0, 1), "end": (5, 5, 5, 5)}
    prompts = replace(families.prompts(4), marks=marks)
    bench = make_bench(model, model.graph(), prompts, RESAMPLE, 4)
    site = site_of_node(model, bench.graph, "a0.h0")
    sae = some_sae(site.width, site)
    (everywhere,), (at_s,) = (splits(bench, site, sae, at) for at in ("all", "s"))
    assert at_s.places[:, :, 0].nonzero().tolist() == [[0, 1], [1, 2], [2, 0], [3, 1]]
    found = attribute([everywhere])
    assert list(found.at) == ["s", "answer"]  # `end` is the answer's position
    np.testing.assert_allclose(attribute([at_s]).other, found.at["s"], atol=1e-12)
    last = (everywhere.own.x * 0).index_fill(1, torch.tensor([5]), 1.0)
    close(at_s.lost(last), torch.zeros(4, dtype=F64))
    with pytest.raises(InputError, match="features.at=io: allowed are all, answer, s, end"):
        splits(bench, site, sae, "io")


def planted() -> tuple[Model, Prompts]:
    """One head adds the mean of the embeddings; the logit of token 1 is dimension 0 and no more."""
    zero, one = torch.zeros(1, 6, 6, dtype=F64), torch.eye(6, dtype=F64)[None]
    none = Norm("none")
    attention = Attention(zero, zero, one, one, None, None, None, None, none, none, 1.0)
    g = torch.Generator().manual_seed(0)
    W_U = torch.zeros(6, 20, dtype=F64)
    W_U[0, 1] = 1.0
    model = Model(
        "planted", 1, 1, False, 4, 1.0, torch.rand(20, 6, generator=g, dtype=F64), None,
        (Block(none, attention, None, None),), none, W_U, None,
    )  # fmt: skip
    ids = torch.randint(2, 20, (2, 24, 4), generator=g)
    return model, Prompts(ids[0], ids[1], ((1,),) * 24, ((0,),) * 24, 3)


def test_the_feature_that_does_it_is_found_and_kept():
    model, prompts = planted()
    bench = make_bench(model, model.graph(), prompts, RESAMPLE, 10)
    site = site_of_node(model, bench.graph, "a0.h0")
    eye, none = torch.eye(6, dtype=F64), torch.zeros(6, dtype=F64)
    parts = splits(bench, site, SAE(eye, none, eye, none, "standard", site.hook, site.head))
    found = attribute(parts)
    own, other = prompts.clean, prompts.corrupt
    gap = (model.W_E[own, 0] - model.W_E[other, 0]).mean(1)  # what dimension 0 adds to logit 1
    assert found.other[0] == pytest.approx(float(gap.mean()), abs=1e-12)
    assert not found.other[1:].any() and not found.zero[1:].any()
    whole = lost(parts, Split.resampled)
    np.testing.assert_allclose(whole, gap.numpy(), atol=1e-12)
    np.testing.assert_allclose(lost(parts, lambda s: s.to_other(0)), gap.numpy(), atol=1e-12)
    assert not lost(parts, lambda s: s.to_zero(3)).any()
    rng = np.random.default_rng(0)
    one, two = keep_features(parts, [0, 3, 4], [1, 2, 9], whole + 3, 4, rng)
    assert (one.k, two.k) == (1, 2)
    whole_lost = 3 / (3 + float(gap.mean()))  # `whole` is 3 more than the node loses
    assert one.own.estimate == pytest.approx(1.0) and one.top.estimate == pytest.approx(1.0)
    assert all(r == pytest.approx(1.0) or r == pytest.approx(whole_lost) for r in one.random)
    assert any(r == pytest.approx(whole_lost) for r in one.random)
    assert enough([one, two]) == {"top": 1, "own": 1} and enough([]) == {}
    weak = replace(one, top=replace(one.top, estimate=0.79))
    assert enough([weak, two]) == {"top": 2, "own": 1}
    assert enough([weak]) == {"top": 1, "own": 1}


@pytest.mark.parametrize("part", [3, 4, 12])
def test_parts_of_prompts_change_nothing(part):
    """Without corrupt prompts, too, and where a mark is at the answer in some parts alone."""
    model, some = families.view("gpt2"), families.prompts(13)
    end = some.answer_position
    marks = {"late": (end,) * 5 + (1,) + (end,) * 7, "end": (end,) * 13}
    some = replace(some, corrupt=some.clean, marks=marks)
    site = site_of_node(model, model.graph(), "m0")

    def told(chunk):
        bench = make_bench(model, model.graph(), some, RESAMPLE, chunk)
        parts = splits(bench, site, some_sae(site.width, site))
        effects = node_effects(bench, [1, 2])
        return attribute(parts), lost(parts, Split.resampled), effects

    (one, losses, effects), (whole, all_losses, all_effects) = told(part), told(13)
    assert list(one.at) == list(whole.at) == ["late", "answer"]
    np.testing.assert_allclose(one.at["late"], whole.at["late"], atol=1e-9)
    np.testing.assert_allclose(one.other, whole.other, atol=1e-9)
    np.testing.assert_allclose(losses, all_losses, atol=1e-9)
    np.testing.assert_allclose(effects, all_effects, atol=1e-9)
    assert abs(losses).min() > 1e-6  # none is its own other


# ---- training and files ------------------------------------------------------------------------


@pytest.mark.slow
def test_training_finds_a_planted_dictionary():
    g = torch.Generator().manual_seed(3)
    directions = torch.nn.functional.normalize(torch.randn(20, 24, generator=g), dim=-1)
    active = torch.rand(4000, 20, generator=g) < 0.1
    amounts = active * (0.5 + torch.rand(4000, 20, generator=g))
    bias = torch.randn(24, generator=g)
    x = (amounts @ directions + bias).double()
    sae = train_sae(x, "blocks.0.hook_mlp_out", n_features=32, active=3, steps=600, seed=0)
    cosines = (directions.double() @ torch.nn.functional.normalize(sae.W_dec, dim=-1).T).amax(1)
    assert cosines.min() > 0.9 and cosines.mean() > 0.97
    assert variance_explained(x, x - sae.decode(sae.encode(x))) > 0.9
    assert (sae.encode(x) > 0).sum(-1).max() <= 3


def test_training_is_the_same_for_a_seed():
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
    one, two, other = (
        train_sae(x, "", n_features=12, active=2, steps=30, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one.W_enc, two.W_enc) and torch.equal(one.b_dec, two.b_dec)
    assert not torch.equal(one.W_enc, other.W_enc)
    with pytest.raises(ValueError, match="the same"):
        train_sae(torch.ones(5, 8), "")


def test_variance_explained_is_1_for_no_error_and_0_for_the_mean():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert variance_explained(x, 0 * x) == 1.0
    assert variance_explained(x, x - x.mean(0)) == pytest.approx(0.0)


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_files_are_read_back(tmp_path, kind):
    bench = bench_of("gpt2", n=2)
    site = site_of_node(bench.data.model, bench.graph, "a1.h2")
    sae = some_sae(site.width, site, kind=kind).to(torch.zeros(1))
    write_sae(sae, tmp_path / "sae", model_name="tiny")
    assert sorted(p.name for p in (tmp_path / "sae").iterdir()) == [
        "cfg.json", "sae_weights.safetensors",
    ]  # fmt: skip
    cfg = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (cfg["d_in"], cfg["d_sae"], cfg["architecture"]) == (32, 12, kind)
    assert cfg["metadata"]["hook_name"] == cfg["hook_name"] == "blocks.1.attn.hook_result"
    back = read_sae(tmp_path / "sae")
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(back.encode(x), sae.encode(x))
    assert (back.kind, back.hook, back.head) == (sae.kind, site.hook, 2)


def test_encoders_are_saelens(tmp_path):
    """The three activations, spelt out slowly from SAELens' definitions."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    for kind in ("standard", "jumprelu", "topk"):
        for centred in (True, False):
            sae = some_sae(3, site=SAE_HOOK, kind=kind)
            sae = replace(sae, centred=centred)
            for row, found in zip(x, sae.encode(x), strict=True):
                before = (row - sae.b_dec * centred) @ sae.W_enc + sae.b_enc
                if kind == "topk":
                    least = sorted(before.tolist())[-3]
                    wanted = [max(v, 0.0) if v >= least else 0.0 for v in before.tolist()]
                elif kind == "jumprelu":
                    pairs = zip(before.tolist(), sae.threshold.tolist(), strict=True)
                    wanted = [v if v > t and v > 0 else 0.0 for v, t in pairs]
                else:
                    wanted = [max(v, 0.0) for v in before.tolist()]
                close(found, torch.tensor(wanted, dtype=F64))


class SAE_HOOK:
    hook, head = "blocks.0.hook_mlp_out", None


def written(folder, **changes):
    """An SAE of 32 numbers as SAELens 3 wrote it, with a few members changed."""
    sae = some_sae(32, SAE_HOOK).to(torch.zeros(1))
    write_sae(sae, folder)
    old = {"d_in": 32, "d_sae": 12, "hook_name": SAE_HOOK.hook, "activation_fn_str": "relu"}
    (folder / "cfg.json").write_text(json.dumps({**old, **changes}))
    return sae


def test_what_saelens_wrote_before_is_read(tmp_path):
    sae = written(tmp_path)
    assert read_sae(tmp_path).kind == "standard"
    written(tmp_path, activation_fn_str="topk", activation_fn_kwargs={"k": 2})
    assert (read_sae(tmp_path).kind, read_sae(tmp_path).k) == ("topk", 2)
    written(tmp_path, hook_name=None, hook_point="blocks.1.hook_resid_pre")
    assert read_sae(tmp_path).hook == "blocks.1.hook_resid_pre"
    written(tmp_path, architecture="topk", k=3, rescale_acts_by_decoder_norm=True,
            activation_fn_str=None)  # fmt: skip
    scaled, x = read_sae(tmp_path), torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    size = sae.W_dec.norm(dim=-1)
    slow = replace(sae, kind="topk", k=3, W_enc=sae.W_enc * size, b_enc=sae.b_enc * size)
    wanted = (slow.encode(x) / size) @ sae.W_dec + sae.b_dec
    torch.testing.assert_close(scaled.decode(scaled.encode(x)), wanted)


def test_files_that_do_not_fit_are_refused_in_a_sentence(tmp_path):
    for changes, said in [
        ({"architecture": "gated"}, "supported are standard, jumprelu, topk"),
        ({"normalize_activations": "layer_norm"}, "supported is none"),
        ({"activation_fn_str": "tanh-relu"}, "supported are relu and topk"),
        ({"architecture": "topk"}, "k=None: a topk keeps"),
        ({"architecture": "topk", "k": 99}, "k=99: a topk keeps 1 to 12"),
        ({"architecture": "jumprelu"}, "threshold is missing"),
        ({"hook_name": None}, "hook_point is missing"),
    ]:
        written(tmp_path, **changes)
        with pytest.raises(InputError, match=f"sae=.*{said}"):
            read_sae(tmp_path)
    written(tmp_path)
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    save_file(tensors | {"b_enc": torch.zeros(5)}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InputError, match=r"b_enc has shape \[5\], W_dec wants \[12\]"):
        read_sae(tmp_path)
    with pytest.raises(InputError, match="no SAELens folder"):
        read_sae(tmp_path / "nowhere")


# ---- the part ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject() -> Subject:
    loaded: LoadedModel = families.load("gpt2")
    graph = loaded.model.graph()
    benches = [
        make_bench(loaded.model, graph, families.prompts(12, seed=s), RESAMPLE, 8) for s in (0, 1)
    ]
    circuit = Circuit(graph, graph.mask(["input->a0.h1<v>", "a0.h1->m1", "m1->logits"]))
    return Subject(circuit, loaded, *benches, {}, 1, 0.05)


def test_the_part_is_told_whole_and_the_same_again(subject):
    assert features.check(subject, FEW) is None
    one, two = (features.explain(subject, FEW, {}) for _ in range(2))
    assert one == two
    json.dumps(asdict(one)["found"], allow_nan=False)
    assert one.says[0].startswith("Not explained: ")
    found = one.found
    assert f"{1 - found['variance_explained']:.0%} of the variance" in one.says[0]
    assert one.tables[0].rows[0]["feature"] == "error" and len(one.tables[0].rows) == 4
    assert [k["k"] for k in found["kept"]] == [1, 4]
    assert found["site"] in ("a0.h1", "m1") and found["trained_on"] > 0
    effects = np.abs(node_effects(subject.choose, subject.nodes))
    assert found["site"] == subject.graph.writers[subject.nodes[int(effects.argmax())]]


def test_how_many_features_are_enough_is_picked_on_the_choosing_prompts(subject):
    """With the choosing prompts made easy the count follows them, not the test prompts."""
    site = site_of_node(subject.model, subject.graph, "m1")
    asked = FEW.model_copy(update={"k": (1, 2, 4, 8)})
    sae = some_sae(site.width, site).to(torch.zeros(1))
    one = features.measure(subject, asked, site, sae)
    chosen = splits(subject.choose, site, sae)
    there = lost(chosen, Split.resampled)
    rng = np.random.default_rng(0)
    assert one.enough == enough(keep_features(chosen, one.order, asked.k, there, 0, rng))
    section = features.section(subject, asked, site, sae, one, 0)
    told = next(k for k in one.kept if k.k == one.enough["top"])
    assert f"The {told.k} strongest of" in section.says[2 - (site.node in subject.nodes)]


def test_a_given_sae_is_used_at_its_site(subject, tmp_path):
    site = site_at(subject.model, subject.graph, "blocks.1.hook_resid_pre", None)
    write_sae(some_sae(32, site), tmp_path / "fits")
    write_sae(some_sae(16, site), tmp_path / "narrow")
    asked = FEW.model_copy(update={"sae": str(tmp_path / "fits")})
    assert features.check(subject, asked) is None
    section = features.explain(subject, asked, {})
    assert section.title == "Features of the stream before layer 1"
    assert "trained" not in section.how and section.found["trained_on"] == 0
    narrow = asked.model_copy(update={"sae": str(tmp_path / "narrow")})
    with pytest.raises(InputError, match="reads 16 numbers, blocks.1.hook_resid_pre of this model"):
        features.check(subject, narrow)
    with pytest.raises(InputError, match="features.node=m0: the SAE is of the stream before"):
        features.check(subject, asked.model_copy(update={"node": "m0"}))


def test_what_cannot_be_asked_is_said_before_the_work(subject):
    with pytest.raises(InputError, match="features.node='a9.h9': must be a head a0.h0 or an MLP"):
        features.check(subject, FEW.model_copy(update={"node": "a9.h9"}))
    with pytest.raises(InputError, match="features.at=nowhere"):
        features.check(subject, FEW.model_copy(update={"at": "nowhere"}))
    empty = replace(subject, circuit=Circuit(subject.graph, subject.graph.legal & False))
    assert features.check(empty, FEW) == "the circuit has no heads and no MLPs"
    with pytest.raises(InputError, match="features.k"):
        checked(ExplainSettings, {"features": {"k": [0]}})


def test_nodes_outside_the_circuit_are_said_to_be(subject):
    section = features.explain(subject, FEW.model_copy(update={"node": "a1.h3"}), {})
    assert section.says[1] == "a1.h3 is not in the circuit."
