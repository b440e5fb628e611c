"""How a circuit comes about: checkpoints that are checked, figures against slow twins, one run."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from acdc import pretrained
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.forward import trace
from acdc.native import native_weights, untrained_bridge
from discovery.heads import roles
from discovery.job.faithfulness import measure
from discovery.job.prepare import prepare
from discovery.models.choices import HFModel, InductionModel
from discovery.models.induction import FOLDER, load_induction
from discovery.settings.run import AriseSettings, Settings, read_as
from discovery.studies import arise, arise_drawing

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))
script = importlib.import_module("arise")
train = importlib.import_module("train_induction")


def config(checkpoints=None, **changes):
    """A configuration as conf/arise.yaml makes it, with few prompts."""
    return {
        "model": {"kind": "induction"}, "task": {"name": "induction", "n": 8},
        "method": {"name": "eap_ig", "n_edges": 20, "steps": 2}, "tune": 0, "test": 16,
        "tracking": {"mode": "disabled"}, "checkpoints": checkpoints, **changes,
    }  # fmt: skip


def asked(checkpoints=None, **changes):
    return read_as(AriseSettings, config(checkpoints, **changes))


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    """The untrained model, one half way between, and the shipped one."""
    folder = tmp_path_factory.mktemp("ckpt")
    fields = json.loads((FOLDER / "config.json").read_text())["config"]
    start, end = native_weights(untrained_bridge({**fields, "seed": 0})), load_file(
        FOLDER / "model.safetensors"
    )  # fmt: skip
    for step, share in ((0, 0.0), (90, 0.5), (1000, 1.0)):
        place = folder / f"step-{step}"
        place.mkdir()
        shutil.copy(FOLDER / "config.json", place)
        mixed = {name: (1 - share) * start[name] + share * end[name] for name in end}
        save_file(mixed, place / "model.safetensors")
    return folder


# ---- checkpoints -------------------------------------------------------------------------------


def test_a_folder_of_checkpoints_is_taken_by_number(ckpt):
    states = arise.checkpoints(asked(str(ckpt)))
    assert [s.step for s in states] == [0, 90, 1000]
    assert [Path(s.name).name for s in states] == ["step-0", "step-90", "step-1000"]
    assert states[1].model == InductionModel(folder=str(ckpt / "step-90"))
    named = arise.checkpoints(asked([str(ckpt / "step-90"), str(ckpt / "step-0")]))
    assert [s.step for s in named] == [0, 1]  # numbers that fall are no steps


def test_steps_are_the_last_numbers_or_the_places():
    assert arise.steps_of(["a/run2/step-5", "b/checkpoint_12"]) == [5, 12]
    assert arise.steps_of(["early", "late"]) == [0, 1]
    assert arise.steps_of(["step7", "step7"]) == [0, 1]


def test_what_does_not_fit_is_refused_before_any_is_run(ckpt, tmp_path, monkeypatch):
    monkeypatch.setattr(arise, "prepare", lambda settings: pytest.fail("it was run"))
    for name in ("whole", "bare", "cut", "less"):
        shutil.copytree(ckpt / "step-0", tmp_path / name)
    (tmp_path / "bare" / "model.safetensors").unlink()
    tensors = load_file(ckpt / "step-0" / "model.safetensors")
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name][:-1].clone()}, tmp_path / "cut" / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / "less/model.safetensors")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{}")
    (tmp_path / "torn" / "model.safetensors").write_bytes(b"nothing")
    for other, said in [
        ("bare", "bare has no weights"), ("cut", f"cut has {name} of shape"),
        ("less", f"do not hold the same tensors: {name}"), ("whole", "whole is named twice"),
        ("nowhere", "nowhere has no config.json"), ("torn", "torn/model.safetensors cannot be"),
    ]:  # fmt: skip
        settings = config([str(tmp_path / "whole"), str(tmp_path / other)])
        with pytest.raises(InputError, match=said) as refusal:
            script.run(settings, tmp_path / f"run {other}", [])
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / f"run {other}").exists()
    with pytest.raises(InputError, match="at least two"):
        arise.checkpoints(asked([str(tmp_path / "whole")]))
    with pytest.raises(InputError, match="holds no folder with a number"):
        arise.checkpoints(asked(str(tmp_path / "run")))


def test_what_is_asked_wrongly_is_refused():
    for changes in ({}, {"revisions": ["a", "b"], "checkpoints": ["c", "d"]}):
        with pytest.raises(InputError, match="give one of checkpoints"):
            asked(**{"checkpoints": None, **changes})
    with pytest.raises(InputError, match="test=0: every figure is of the test prompts"):
        asked(["a", "b"], test=0)
    with pytest.raises(InputError, match="model=smollm2 does not come by folders"):
        arise.checkpoints(asked(["a", "b"], model={"kind": "smollm2"}))
    with pytest.raises(InputError, match="revisions: model=induction has none"):
        arise.checkpoints(asked(revisions=["a", "b"]))


def test_revisions_are_asked_of_the_hub(monkeypatch):
    states = arise.checkpoints(
        asked(revisions=["step0", "step512"], model={"kind": "hf", "name": "some/model"})
    )
    assert [(s.step, s.model.name, s.model.revision) for s in states] == [
        (0, "some/model", "step0"), (512, "some/model", "step512"),
    ]  # fmt: skip
    told = []

    class Fake:
        @staticmethod
        def from_pretrained(name, **kwargs):
            told.append(kwargs.get("revision"))
            return type("Config", (), {"get_text_config": lambda self: self, "vocab_size": 5})()

    monkeypatch.setattr(pretrained, "why_unreachable", lambda name: None)
    monkeypatch.setattr(pretrained, "AutoConfig", Fake)
    monkeypatch.setattr(pretrained, "AutoTokenizer", Fake)
    assert pretrained.read_outline("some/model", "step512").revision == "step512"
    assert pretrained.read_outline("some/model").revision is None
    assert told == ["step512", "step512", None, None]
    with pytest.raises(InputError, match="is a folder; give checkpoints"):
        HFModel(name=str(FOLDER)).at_revision("step0")


# ---- figures -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job():
    fields = {k: v for k, v in config().items() if k != "checkpoints"}
    with torch.no_grad():
        return prepare(read_as(Settings, fields))


def test_role_scores_are_those_of_every_heads_pattern(job):
    found = arise.role_scores(job.loaded, 3)
    model = job.loaded.model
    tokens = roles.repeated_tokens(model.d_vocab, model.n_ctx, 3)
    n = tokens.shape[1] // 2
    for layer, pattern in enumerate(trace(model, tokens).patterns):
        for head in range(model.n_heads):
            at = pattern[:, head]
            previous = [at[:, t, t - 1] for t in range(1, 2 * n)]
            follows = [at[:, t, t - n + 1] for t in range(n, 2 * n)]
            slow = {"previous token": previous, "induction": follows}
            for role, values in slow.items():
                wanted = float(torch.stack(values).mean())
                assert found[role][layer, head] == pytest.approx(wanted, abs=1e-6)
    assert found["induction"][1].max() > 0.9 and found["previous token"][0].max() > 0.8


def test_faithfulness_is_the_jobs_own_and_undefined_where_nothing_is_done(job):
    data, graph = job.held_out["test"], job.data.graph
    mask = graph.mask([graph.edge_name(w, r) for w, r in np.argwhere(graph.legal)[::2].tolist()])
    found = arise.faithful(data, job.metric, mask, np.random.default_rng(0))
    assert found.estimate == pytest.approx(measure(data, job.metric, mask).faithfulness, rel=1e-5)
    assert found.low <= found.estimate <= found.high
    whole = arise.faithful(data, job.metric, graph.legal, np.random.default_rng(0))
    assert whole.estimate == pytest.approx(1.0, abs=1e-5)


def test_halfway_is_where_a_curve_stays_above_the_middle():
    steps = [0, 10, 20, 30, 40]
    assert arise.halfway(steps, [0.0, 0.0, 0.6, 1.0, 1.0]) == 20
    assert arise.halfway(steps, [0.0, 0.9, 0.2, 0.8, 1.0]) == 30  # a bump before does not count
    assert arise.halfway(steps, [None, None, 0.0, 0.4, 1.0]) == 40
    assert arise.halfway(steps, [1.0, 1.0, 1.0, 1.0, 0.5]) is None
    assert arise.halfway(steps, [None] * 5) is None


def test_overlap_by_chance_is_that_of_random_circuits(job):
    graph, rng = job.data.graph, np.random.default_rng(0)
    edges = np.argwhere(graph.legal)

    def drawn(n):
        mask = np.zeros_like(graph.legal)
        mask[tuple(edges[rng.choice(len(edges), n, replace=False)].T)] = True
        return Circuit(graph, mask)

    final = drawn(60)
    shared = [drawn(40).jaccard(final) for _ in range(400)]
    assert arise.chance_overlap(drawn(40), final) == pytest.approx(np.mean(shared), abs=0.01)


# ---- one run -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_is_told_the_same_again(ckpt, tmp_path, capsys):
    for name in ("one", "two"):
        script.run(config(str(ckpt)), tmp_path / name, [])
    one, two = (json.loads((tmp_path / n / "arise.json").read_text()) for n in ("one", "two"))
    for data in (one, two):
        for own in data["points"]:
            assert own.pop("seconds") > 0
    assert one == two
    first, _, end = one["points"]
    assert [p["step"] for p in one["points"]] == [0, 90, 1000]
    assert end["overlap"] == 1.0 and first["overlap"] < 0.5
    assert end["faithfulness"]["estimate"] > 0.9 and end["scores"]["accuracy"]["estimate"] == 1.0
    assert np.max(end["heads"]["induction"]) > 0.9 > 0.2 > np.max(first["heads"]["induction"])
    assert one["halfway"]["induction"] == 1000
    assert (tmp_path / "one" / "arise.png").stat().st_size > 20_000
    said = capsys.readouterr().out
    assert "| 1000 |" in said and "half way up" in said
    svgs = [(tmp_path / name / "arise.svg").read_bytes() for name in ("one", "two")]
    assert svgs[0] == svgs[1]


def test_a_circuit_that_is_given_is_the_final_one(ckpt, tmp_path, job):
    graph = job.data.graph
    circuit = Circuit(graph, graph.mask(["a0.h3->a1.h3<k>", "input->a0.h3<v>", "a1.h3->logits"]))
    (tmp_path / "circuit.json").write_text(json.dumps(circuit.to_json()))
    settings = asked(
        [str(ckpt / "step-0"), str(ckpt / "step-1000")], circuit=str(tmp_path / "circuit.json")
    )
    points = list(arise.arise(settings, arise.checkpoints(settings), lambda text: None))
    for one in points:
        assert one.overlap == one.found.jaccard(circuit) < 1
    assert arise_drawing.figure_of(points, "given").axes


# ---- the training script -----------------------------------------------------------------------


def test_the_training_script_leaves_checkpoints_that_can_be_read(tmp_path):
    bridge = untrained_bridge({**train.CONFIG, "seed": 4})
    before = native_weights(bridge)
    train.train(bridge, 2, 4, train.checkpoint_writer(bridge, tmp_path, 2, 2, 4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0", "step-2"]
    start, end = (native_weights(load_induction(tmp_path / f"step-{n}")) for n in (0, 2))
    assert all(torch.equal(start[n], before[n]) for n in before)
    assert all(torch.equal(end[n], own) for n, own in native_weights(bridge).items())
    assert not torch.equal(start["embed.weight"], end["embed.weight"])
    states = arise.checkpoints(asked(str(tmp_path)))
    assert [s.step for s in states] == [0, 2]
