"""What jobs of one process share: made once, again when anything changes, no result changed."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
from test_settings import AS_PUBLISHED, settings

from acdc.data import Data
from discovery.job import prepare as module
from discovery.job.pipeline import discover
from discovery.job.prepare import Cache, Last, prepare
from discovery.settings.run import Settings

ASKED = (*AS_PUBLISHED, "method.threshold=0.05")


def test_last_lets_go_before_it_makes():
    class Thing:
        pass

    last: Last[Thing] = Last()
    first = weakref.ref(last.get("a", Thing))
    assert last.get("a", Thing) is first()

    def make() -> Thing:
        gc.collect()
        assert first() is None
        return Thing()

    last.get("b", make)

    def broken() -> Thing:
        raise ValueError

    with pytest.raises(ValueError):
        last.get("c", broken)
    assert isinstance(last.get("c", Thing), Thing)  # a failure is not remembered


@pytest.fixture
def made(monkeypatch):
    """How many models and pairs of runs have been made."""
    counts = {"models": 0, "runs": 0}

    def load(*args):
        counts["models"] += 1
        return real(*args)

    class Counted(Data):
        def _run(self, rows):
            counts["runs"] += 1
            return super()._run(rows)

    real = module.load_model
    monkeypatch.setattr(module, "load_model", load)
    monkeypatch.setattr(module, "Data", Counted)
    return counts


@pytest.mark.slow
def test_each_is_made_again_when_its_own_settings_change(made, tmp_path):
    file = tmp_path / "pairs.jsonl"
    pair = {"clean_ids": [5, 9, 2, 9], "corrupt_ids": [5, 7, 2, 8], "answers": [2], "wrong": [5]}
    file.write_text(json.dumps(pair) + "\n")
    cache = Cache()

    def then(*overrides, models, runs, **extra):
        job = prepare(settings(*ASKED, *overrides), cache=cache)
        job.describe()
        assert (made["models"], made["runs"]) == (models, runs), overrides
        return job

    first = then("method.threshold=0.1", models=1, runs=1)
    other = then("method.threshold=0.2", models=1, runs=1)
    assert other.data[0].clean is first.data[0].clean
    then("method=eap_ig", models=1, runs=1)
    then("method=acdc", "metric=nll", models=1, runs=2)  # it needs answers
    then("ablation=zero", models=1, runs=3)  # it needs no corrupt prompts
    then("ablation=mean", models=1, runs=4)  # ablations may pair prompts otherwise
    then("ablation=other", models=1, runs=5)
    then("ablation=other", "ablation.draws=2", models=1, runs=7)  # 64 prompts are two parts
    first = then(models=1, runs=8)
    then("seed=1", models=1, runs=9)
    then("seed=1", "task.n=4", models=1, runs=10)
    then("seed=1", "task.n=4", "graph.kv=per_group", models=1, runs=11)
    then("task=pairs", f"task.path={file}", models=1, runs=12)
    then("task=pairs", f"task.path={file}", models=1, runs=12)
    file.write_text((json.dumps(pair) + "\n") * 2)
    job = then("task=pairs", f"task.path={file}", models=1, runs=13)
    assert len(job.data) == 2
    then("task=pairs", f"task.path={file}", "model.dtype=float64", models=2, runs=14)
    prepare(settings(*ASKED))
    assert made["models"] == 3  # nothing is kept unless asked


def test_shared_runs_change_no_byte(tmp_path):
    cache = Cache()
    jobs: dict[str, Settings] = {
        "strict": settings(*ASKED, "task.n=8", "method.threshold=0.2"),
        "scores": settings(*ASKED, "task.n=8", "method=eap_ig"),
        "zero": settings(*ASKED, "task.n=8", "ablation=zero"),
        "mild": settings(*ASKED, "task.n=8", "method.threshold=0.01"),
    }
    for name, job in jobs.items():
        discover(job, tmp_path / "shared" / name, [], lambda text: None, cache=cache)
        discover(job, tmp_path / "alone" / name, [], lambda text: None)
        for file in ("circuit.json", "edges.jsonl", "heads.json"):
            one, two = ((tmp_path / k / name / file).read_bytes() for k in ("shared", "alone"))
            assert one == two and len(one) > 100, (name, file)
