"""Every configuration file composes and validates; every wrong value is named."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from acdc.errors import InputError
from discovery.settings import Settings, read_settings

CONF = Path(__file__).parents[2] / "conf"
GROUPS = ("model", "task", "graph", "method", "metric", "ablation", "evaluation", "tracking")
FILES = [
    (p.parent.name, p.stem)
    for group in GROUPS
    for p in sorted((CONF / group).glob("*.yaml"))
    if p.stem != "own"  # is whatever it is told to be
]
REQUIRED = {"hf": ["model.name=gpt2"], "pairs": [f"task.path={CONF / 'config.yaml'}"]}


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return read_settings(config)


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


@pytest.mark.parametrize(
    "override, message",
    [
        ("method.threshold=abc", "method.threshold='abc'.*number"),
        ("method.threshold=nan", "method.threshold=nan.*finite"),
        ("method.threshold=-0.1", "method.threshold=-0.1.*greater"),
        ("metric.name=kll", "metric.name: metric.name='kll'.*kl, kl_reverse"),
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
        ("model.dtype=float16", "model.dtype='float16'.*float32"),
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
