"""Every configuration file composes and validates; every wrong value is named."""

from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from acdc.errors import InputError
from discovery.choices.fields import checked
from discovery.settings.run import CompareSettings, MibSettings, Settings, read_settings

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("model", "task", "graph", "method", "metric", "ablation", "evaluation", "tracking")
FILES = [
    (p.parent.name, p.stem)
    for group in GROUPS
    for p in sorted((CONF / group).glob("*.yaml"))
    if p.stem != "own"  # is whatever it is told to be
]
# the question that searches were asked before there were others; laws of those are stated with it
AS_PUBLISHED = ("tracking=disabled", "metric=kl", "ablation=resample", "tune=0", "test=0")
FILE = CONF / "config.yaml"  # is there
REQUIRED = {
    "hf": ["model.name=gpt2"],
    "pairs": [f"task.path={FILE}"],
    "given": [f"method.circuit={FILE}"],
    "hf_dataset": ["task.path=some/set", "task.fields={clean: text}"],
}


@pytest.fixture(autouse=True)
def with_datasets(monkeypatch):
    """As where the extra is installed."""
    monkeypatch.setattr("discovery.tasks.hf_dataset.find_spec", lambda name: True)


@cache
def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(overrides)), resolve=True)


def settings(*overrides):
    return read_settings(composed(*overrides))


def test_there_are_files():
    assert len(FILES) >= 12


@pytest.mark.parametrize("group, name", FILES)
def test_every_file_is_valid(group, name):
    found = settings(f"{group}={name}", *REQUIRED.get(name, []))
    assert isinstance(found, Settings)


def test_yaml_and_schema_name_the_same_fields():
    """A field that only the schema knows would be a silent default."""
    for group, name in FILES:
        found = getattr(settings(f"{group}={name}", *REQUIRED.get(name, [])), group)
        fields = set(OmegaConf.load(CONF / group / f"{name}.yaml")) - {"defaults"}
        assert fields == set(type(found).model_fields)


def test_the_defaults_of_yaml_are_those_of_python():
    """What a run asks is the same from the command line and from Python."""
    for group, name in FILES:
        found = getattr(settings(f"{group}={name}", *REQUIRED.get(name, [])), group)
        required = {f for f, about in type(found).model_fields.items() if about.is_required()}
        given = {f: getattr(found, f) for f in required}
        named = {"mode": found.mode} if group == "tracking" else {}
        assert type(found)(**given, **named) == found, (group, name)
    ours = settings()
    chosen = {"model": ours.model, "task": ours.task, "method": ours.method}
    assert type(ours)(**chosen) == ours
    asked = OmegaConf.to_container(OmegaConf.load(CONF / "compare.yaml"))
    own = {name: asked[name] for name in CompareSettings.model_fields}
    assert checked(CompareSettings, own) == CompareSettings(methods=tuple(own["methods"]))
    asked = OmegaConf.to_container(OmegaConf.load(CONF / "mib.yaml"))
    given = {"model": ours.model, "task": ours.task, "scores": str(CONF)}
    own = {name: asked[name] for name in MibSettings.model_fields if name not in given}
    assert MibSettings(**given, **own) == MibSettings(**given)


@pytest.mark.parametrize(
    "override, message",
    [
        ("method.threshold=abc", "method.threshold='abc'.*number"),
        ("method.threshold=nan", "method.threshold=nan.*finite"),
        ("method.threshold=-0.1", "method.threshold=-0.1.*greater"),
        ("metric.name=kll", "^metric.name='kll'.*kl, kl_reverse"),
        ("ablation.name=nose", "ablation.name='nose'.*resample"),
        ("method.chunk=0", "method.chunk=0.*greater"),
        ("+method.thresold=1", "method.thresold: there is no such field"),
        ("task.n=0", "task.n=0.*greater"),
        ("task.n=1.5", "task.n=1.5.*integer"),
        ("graph.kv=groups", "graph.kv='groups'.*per_group"),
        ("seed=-1", "seed=-1.*greater"),
        ("device=gpu", "device='gpu'.*cpu, cuda"),
        ("device=cuda:77", "device='cuda:77': not available"),
        ("threads=0", "threads=0.*greater"),
        ("model.dtype=float8", "model.dtype='float8'.*float32"),
        ("model.kind=hg", "model.*'hg'.*hf"),
    ],
)
def test_refusals_name_field_value_and_what_is_allowed(override, message):
    with pytest.raises(InputError, match=message):
        settings(override)


def test_all_errors_are_told_at_once():
    with pytest.raises(InputError, match=r"(?s)task.n.*method.threshold|method.threshold.*task.n"):
        settings("task.n=0", "method.threshold=abc")


def test_missing_pairs_file():
    with pytest.raises(InputError, match="task.path='nowhere.jsonl'"):
        settings("task=pairs", "task.path=nowhere.jsonl")


OLD = {  # as runs of 2026-11 and before recorded it
    "model": {"kind": "induction", "dtype": "float32"},
    "task": {"name": "ioi", "n": 8, "corruption": "abc", "prepend_bos": False},
    "graph": {"kv": "per_query_head"},
    "method": {
        "name": "acdc", "threshold": 0.1, "n_edges": None, "metric": "logit_diff",
        "ablation": "mean", "reader_order": "layer", "sender_heads": "descending", "gates": True,
        "chunk": None, "guide": None, "guide_steps": 5, "weakest_first": False, "shortlist": None,
    },
    "evaluation": {"kind": "basic"},
    "tracking": {"mode": "disabled", "project": "circuit-discovery"},
    "seed": 0, "device": "cpu", "threads": None,
}  # fmt: skip


def test_configurations_of_earlier_runs_are_read():
    found = read_settings(OLD)
    words = ["task=ioi", "task.n=8", "method.threshold=0.1", "metric=logit_diff", "ablation=mean"]
    assert found == settings(*words, "tracking=disabled", "tune=0", "test=0")
    assert read_settings({**OLD, "method": {**OLD["method"], "threshold": 0.2}}).aim is None
    pairs = {"name": "pairs", "path": str(CONF / "config.yaml"), "n": None, "prepend_bos": False}
    assert read_settings({**OLD, "task": pairs}).task.part is None  # it used every line
    assert OLD["method"]["metric"] == "logit_diff"  # nobody's file is changed


def test_earlier_runs_are_shown_with_their_metric():
    from discovery.dashboard.contents import summary

    old = {"metric_corrupt": 3.0, "n_edges": 4, "metric": "logit_diff", "ablation": "mean"}
    line = summary({"config": OLD}, old, {})
    assert (line["metric"], line["ablation"], line["metric_empty"]) == ("logit_diff", "mean", 3.0)
    running = summary({"config": OLD}, {}, {})
    assert (running["metric"], running["ablation"]) == ("logit_diff", "mean")
    now = settings("metric=js").model_dump(mode="json")
    assert summary({"config": now}, {"metric_empty": 2.0}, {})["metric_empty"] == 2.0
    assert summary({"config": now}, {}, {})["metric"] == "js"


def test_torch_is_not_needed_to_check_settings():
    import subprocess
    import sys

    code = (
        "import sys; from discovery.settings.run import read_settings, Settings;"
        " from discovery.choices import registry; registry.check('metric', 'kl');"
        " registry.load('method', 'acdc'); registry.load('task', 'ioi');"
        " assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONF.parent)


@pytest.mark.parametrize(
    "words, message",
    [
        (["target=0.9", "method.threshold=0.1"], "target=0.9: method=acdc is given a size of its"),
        (
            ["target=0.9", "method=eap", "method.n_edges=9"],
            "target=0.9: method=eap is given a size",
        ),
        (["tune=0"], "tune=0: a target is reached on prompts to tune on; take tune=64, or give"),
        (["target=1"], "target=1: .* less than 1"),
        (["method.threshold=1", "method.budget=1"], "give one of threshold and budget"),
    ],
)
def test_one_of_target_and_size(words, message):
    with pytest.raises(InputError, match=message):
        settings(*words)


def test_a_target_holds_unless_the_method_has_a_size():
    assert settings().aim == 0.95 and settings("target=0.5").aim == 0.5
    for words in (["method.threshold=0.1"], ["method=eap_ig", "method.n_edges=9"]):
        assert settings(*words).aim is None and settings(*words, "tune=0").tune == 0
