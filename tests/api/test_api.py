"""The Python interface: the same runs as the commands', by the same laws."""

import gc
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import GPT2Config, GPT2LMHeadModel

import discovery as cd
from acdc.metrics import Metric
from discovery.job import pipeline
from discovery.methods import Found, Method
from discovery.settings.run import CompareSettings, GraphSettings, Settings, read_settings
from discovery.validation.runs import Validated, table
from discovery.validation.verdicts import Verdict

ROOT = Path(__file__).parents[2]
SIZED = {"n_edges": 20}


@pytest.fixture(scope="module")
def model():
    return cd.load("induction")


@pytest.fixture(scope="module")
def task(model):
    return cd.task("induction", model, n=16)


@pytest.fixture(scope="module")
def found(model, task):
    return cd.discover(model, task, "eap_ig", test=20, tune=20, **SIZED)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=20, n_positions=12)
    return GPT2LMHeadModel(config)


ROWS = [
    {"clean_ids": [i, 2, 3, 4], "corrupt_ids": [i, 3, 2, 4], "answers": [i], "wrong": [i + 1]}
    for i in range(4, 12)
]


def test_defaults_are_those_of_the_commands():
    """A call's signature shows them; they are the settings' own."""
    for call, settings in ((cd.discover, Settings), (cd.compare, CompareSettings)):
        shown = {n: p.default for n, p in inspect.signature(call).parameters.items()}
        for name, about in settings.model_fields.items():
            if name in shown and not about.is_required():
                own = "disabled" if name == "tracking" else about.default  # a notebook's choice
                assert shown[name] == getattr(own, "name", own), (call, name)
    assert inspect.signature(cd.discover).parameters["kv"].default == GraphSettings().kv


def test_importing_takes_nothing_in():
    code = "import sys, discovery; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert set(cd.__all__) <= set(dir(cd))
    for name in cd.__all__:
        assert getattr(cd, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'discovr'"):
        cd.discovr  # noqa: B018


def test_a_run_is_the_command_s(found, tmp_path):
    words = ["method=eap_ig", "method.n_edges=20", "task.n=16", "tune=20", "test=20"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(
            compose("config", [*words, "tracking=disabled"]), resolve=True
        )
    pipeline.discover(read_settings(config), tmp_path / "run", [], lambda _: None)
    for name in ("circuit.json", "edges.jsonl", "heads.json"):
        assert (found.folder / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    for name in ("n_edges", "splits", "holds", "model", "task"):
        own = json.loads((tmp_path / "run" / "result.json").read_text())
        assert json.loads(json.dumps(found.result[name])) == own[name]


def test_all_edges_are_the_model_and_no_edge_is_nothing(found, task):
    whole = found.circuit | cd.Circuit(
        found.circuit.graph, found.circuit.graph.legal, model=found.circuit.model
    )
    fresh = task.fresh(12)
    for circuit, share in ((whole, 1.0), (whole - whole, 0.0)):
        measured = circuit.evaluate(fresh)
        assert measured.n == 12
        assert measured.faithfulness == pytest.approx(share, abs=1e-5)
        assert measured.kl_share == pytest.approx(share, abs=1e-5)
        assert f"{len(circuit)} edges on 12 prompts" in repr(measured)


def test_a_circuit_is_measured_on_models_of_its_shape_only(found, tiny):
    task = cd.pairs(ROWS, cd.load(tiny))
    with pytest.raises(cd.InputError, match="task: it is for 2 layers x 2 heads"):
        found.circuit.evaluate(task, ablation="resample")


def test_on_its_own_prompts_a_circuit_is_as_good_as_its_run_says(found, task):
    measured = found.circuit.evaluate(task)
    own = found.result["splits"]["search"]
    assert measured.circuit == own["circuit"] and measured.kl_share == own["kl_share"]
    assert measured.ablation == "other"
    other = found.circuit.evaluate(task, metric="kl", ablation="resample")
    assert other.metric == "kl" and other.circuit != measured.circuit


def test_fresh_prompts_are_none_that_the_run_used(found, task):
    job_prompts = {tuple(row) for row in task.prompts.clean.tolist()}
    fresh = {tuple(row) for row in task.fresh(30).prompts.clean.tolist()}
    again = {tuple(row) for row in task.fresh(30).prompts.clean.tolist()}
    other = {tuple(row) for row in task.fresh(30, seed=2).prompts.clean.tolist()}
    assert len(fresh) == 30 and fresh == again and not fresh & job_prompts and fresh != other
    with pytest.raises(cd.InputError, match="these prompts are to judge on"):
        cd.discover(found.circuit.model, task.fresh(5), "random", n_edges=5)
    tuned = inspect.signature(task.fresh).parameters["tune"].default
    assert tuned == Settings.model_fields["tune"].default


def test_of_a_file_fresh_prompts_are_the_lines_left(tiny):
    model = cd.load(tiny)
    task = cd.pairs([dict(row, split="search") for row in ROWS], model)
    with pytest.raises(cd.InputError, match=r"fresh\(1\): the task has only 0 prompts"):
        task.fresh(1)
    parts = ["search"] * 4 + ["tune"] * 2 + ["test"] * 2
    split = [dict(row, split=part) for row, part in zip(ROWS, parts, strict=True)]
    task = cd.pairs(split, model)
    assert len(task) == 4
    assert task.fresh(2).prompts.clean[:, 0].tolist() == [10, 11]


def test_a_module_and_rows_that_were_handed_over(tiny, tmp_path):
    model = cd.load(tiny, name="mine")
    assert model.name == "mine" and "2 layers x 2 heads" in repr(model)
    task = cd.pairs(ROWS, model, name="first_token")
    found = cd.discover(
        model, task, "eap_ig", n_edges=9, tune=0, test=0, ablation="resample",
        folder=tmp_path / "run",
    )  # fmt: skip
    assert found.result["model"] == "mine" and found.result["task"] == "first_token"
    assert len(found.circuit) <= 9 and found.folder == tmp_path / "run"
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert Path(config["task"]["path"]).name == "first_token.jsonl"
    rows = Path(config["task"]["path"]).read_text().splitlines()
    assert [json.loads(row) for row in rows] == ROWS
    assert config["model"]["name"] == "given:mine"
    again = read_settings(config)
    assert again.model.load("cpu") is model.loaded
    other = cd.load(GPT2LMHeadModel(tiny.config), name="mine")  # another of the same name
    assert other.settings.model.name == "given:mine-2"
    del other
    gc.collect()
    assert cd.load(GPT2LMHeadModel(tiny.config), name="yours").name == "yours"


def test_what_is_no_longer_there_is_named():
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=20, n_positions=12)
    model = cd.load(GPT2LMHeadModel(config), name="gone")
    choice = model.settings.model
    del model
    gc.collect()
    with pytest.raises(cd.InputError, match="'given:gone' was handed over in Python, and is not"):
        choice.load("cpu")


class Last(Method):
    """Only what the logits read."""

    def find(self, data, metric, seed, resume=None):
        mask = data.graph.legal.copy()
        mask[:, :-1] = False
        yield Found(mask, 1.0 * mask, "1 = kept", ranks=False)


def test_a_method_and_a_metric_of_ones_own(model, task):
    def least(logits, prompts, clean):
        return logits.amin(-1)

    own = Metric("least", "logits", False, least)
    found = cd.discover(model, task, Last(), metric=own, tune=0, test=10)
    assert found.circuit.nodes[-1] == "logits"
    assert all(edge.endswith("->logits") for edge in found.circuit)
    assert found.result["metric"] == "least"
    assert found.circuit.evaluate(task.fresh(5)).metric == "least"
    with pytest.raises(cd.InputError, match="method: n_edges are the method's own to say"):
        cd.discover(model, task, Last(), n_edges=3)


def test_a_circuit_is_kept_read_and_drawn(found, model, tmp_path):
    found.circuit.save(tmp_path / "c.json")
    read = cd.Circuit.load(tmp_path / "c.json", model)
    best = read.top(5)  # less what is on no path
    assert 0 < len(best) <= 5 and best <= read
    assert read.score == found.circuit.score and read.score.startswith("eap_ig, in logits")
    assert not (read ^ found.circuit) and np.array_equal(read.scores, found.circuit.scores)
    named = cd.Circuit.of(found.circuit.edges, model)
    assert not (named ^ found.circuit) and named.model is model
    assert isinstance(found.circuit & read, cd.Circuit) and (found.circuit & read).model is model
    html = found.circuit._repr_html_()
    assert html.startswith("<iframe") and 'sandbox="allow-scripts"' in html and "http" not in html
    assert "no edges to draw" in (read - read)._repr_html_()
    assert f"{len(read)} of 257 edges of induction" in repr(read)
    assert "<iframe" in found._repr_html_()
    assert found.tests and found.heads
    kept = found.save(tmp_path / "kept")
    assert (kept / "result.json").exists()
    with pytest.raises(cd.InputError, match="it is there already"):
        found.save(tmp_path / "kept")


def test_a_run_and_a_bare_circuit_are_validated(found, task):
    asked = {"prompts": 76, "budget": 0.03, "scrubbing": {"prompts": 40}}
    run = cd.validate(found, **asked)
    bare = cd.validate(cd.Circuit.of(found.circuit.edges, task.model), task, **asked)
    assert run.figures["circuit_values"] == bare.figures["circuit_values"]
    assert run.figures["n_edges"] == len(found.circuit) and run.verdicts
    assert "Of the model's logit_diff" in repr(run) and "<iframe" in run._repr_html_()
    assert run.report.exists() and bare.figures["method"] == "given"
    with pytest.raises(cd.InputError, match="a circuit needs the task that it is for"):
        cd.validate(found.circuit)
    with pytest.raises(cd.InputError, match="prompts=3: at least 76"):
        cd.validate(found, prompts=3)


@pytest.mark.slow
def test_several_circuits_are_validated_at_once_and_shown_as_one_table(found, task):
    asked = {"prompts": 76, "budget": 0.03, "scrubbing": {"prompts": 40}}
    edges = found.circuit.edges
    halves = [cd.Circuit.of(edges[i::2], task.model) for i in range(2)]
    several = cd.validate([found, *halves], task, **asked)
    sizes = [one.figures["n_edges"] for one in several]
    assert sizes == [len(edges), -(-len(edges) // 2), len(edges) // 2]
    values = [one.figures["circuit_values"]["kl"] for one in several]
    alone = cd.validate(halves[1], task, **asked).figures["circuit_values"]["kl"]
    assert values[2] == alone and len(set(values)) == 3
    signs = {True: "+", False: "-", None: "?"}
    rows = {row.pop("property"): list(row.values()) for row in several.rows()}
    for i, one in enumerate(several):
        said = {name: signs[holds] for name, holds in one.verdicts.items()}
        said["verdict"] = one.verdict
        assert {name: row[i] for name, row in rows.items() if row[i]} == said
    assert all(name in repr(several) and name in several._repr_html_() for name in rows)
    with pytest.raises(cd.InputError, match="no circuit"):
        cd.validate([])


def test_circuits_of_one_size_have_a_column_each():
    verdict = Verdict("faithful", "is it?", True, "yes")
    some = [verdict], [replace(verdict, holds=False)]
    about = {"method": "given", "n_edges": 3, "decision": {"verdict": "holds"}}
    alike = [Validated(Path(), about, verdicts, Path()) for verdicts in some]
    assert table(alike) == [
        {"property": "verdict", "given (3), 1": "holds", "given (3), 2": "holds"},
        {"property": "faithful", "given (3), 1": "+", "given (3), 2": "-"},
    ]


def test_where_one_works_may_change_between_runs(model, task, tmp_path, monkeypatch):
    """W&B's process keeps the folder in which it began; the log is in the run's all the same."""
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        cd.discover(
            model, task, "random", n_edges=5, tune=0, test=0, folder="run", tracking="wandb_offline"
        )
        assert list((tmp_path / place).glob("run/wandb/offline-run-*/run-*.wandb"))


def test_methods_are_compared(model, task):
    compared = cd.compare(
        model, task, ["random", cd.method("eap", backward="gim")], targets=[0.5, 0.9], tune=20,
        test=20,
    )  # fmt: skip
    rows = compared.needed
    assert [(row["method"], row["target"]) for row in rows] == [
        ("random", 0.5), ("random", 0.9), ("eap, backward=gim", 0.5), ("eap, backward=gim", 0.9),
    ]  # fmt: skip
    assert rows[2]["edges"] < rows[0]["edges"]
    circuit = compared.circuit("eap, backward=gim", 0.9)
    assert len(circuit) == rows[3]["edges"]
    assert circuit.model is model and circuit.ablation == "other"
    with pytest.raises(
        cd.InputError, match=r"circuit\('eap', 0.9\): there are \('random', 0.5\), "
    ):
        compared.circuit("eap", 0.9)
    assert len(compared.figure().axes[0].lines) == 4
    assert compared._repr_html_().count("<tr>") == 1 + 4 + 1 + 2 and "| random" in repr(compared)


@pytest.mark.parametrize(
    "ask, says",
    [
        (lambda m, t: cd.load(3), "load: int is no model"),
        (lambda m, t: cd.load("induction", device="tpu"), "device='tpu'"),
        (lambda m, t: cd.load("/no/such"), "model.name='/no/such'"),
        (lambda m, t: cd.load("induction", name="x"), "tokenizer, name: they are for a module"),
        (lambda m, t: cd.task("oi", m), "task.name='oi': allowed are induction, ioi"),
        (lambda m, t: cd.task("induction", m, lenght=9), "task.lenght: there is no such field"),
        (lambda m, t: cd.task("ioi", m), "tokenizer"),
        (lambda m, t: cd.pairs("nothing.jsonl", m), "task.path='nothing.jsonl': there is no such"),
        (lambda m, t: cd.pairs([{"clean_ids": [1], "corrupt_ids": [1, 2]}], m), "corrupt 2"),
        (lambda m, t: cd.pairs([{"clean_ids": {1}}], m), "pairs: rows must be dicts of"),
        (lambda m, t: cd.method("eap", step=3), "method.step: there is no such field"),
        (lambda m, t: cd.discover(m, t, "acdd"), "method.name='acdd': allowed are acdc"),
        (lambda m, t: cd.discover(m, t, threshold=-1), "method.threshold=-1"),
        (lambda m, t: cd.discover(m, t, metric="rank"), "metric.name='rank'"),
        (lambda m, t: cd.discover(m, t, target=2.0), "target=2"),
        (lambda m, t: cd.discover(cd.load("induction"), t), "made for another model"),
        (lambda m, t: cd.compare(cd.load("induction"), t, ["random"]), "made for another model"),
        (lambda m, t: cd.compare(m, t.fresh(3), ["random"]), "these prompts are to judge on"),
        (lambda m, t: cd.compare(m, t, []), "methods=[]: name at least one"),
        (lambda m, t: cd.compare(m, t, ["random"], rule="best"), "rule='best': input should be"),
        (lambda m, t: cd.compare(m, t, ["random"], targets=[2.0]), "targets.0=2.0"),
        (lambda m, t: cd.Circuit.of(["a->b"], m), "edge 'a->b' does not exist"),
        (lambda m, t: cd.Circuit.load("no.json", m), "circuit file no.json"),
    ],
)
def test_refusals(model, task, ask, says):
    with pytest.raises(cd.InputError) as error:
        ask(model, task)
    assert says in str(error.value)
