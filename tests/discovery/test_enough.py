"""A learning curve: prompts are doubled while the circuit does worse on others than on its own."""

import json

import pytest
from stopping import stopped_after
from test_settings import AS_PUBLISHED, settings

from acdc.circuit import Circuit
from acdc.errors import InputError
from discovery.job.enough import Tried
from discovery.job.finished import read_finished
from discovery.job.pipeline import discover
from discovery.job.prepare import prepare
from discovery.methods import Found, Step
from discovery.methods.method import Method
from discovery.runs.folder import read_run


class Few(Method):
    """Finds the whole model from 8 prompts on; from fewer one edge, which helps nobody."""

    def find(self, data, metric, seed, resume=None):
        mask = data.graph.legal.copy()
        if len(data) < 8:
            mask[1:] = False
        yield Step(row={"n": len(data)}, done=data.graph.n_edges)
        yield Found(mask=mask, scores=mask * 1.0, score="nothing", ranks=False)


def curve(folder):
    return json.loads((folder / "learning_curve.json").read_text())["curve"]


def test_by_hand():
    assert Tried(8, 1, 0.9, 0.86).enough and not Tried(8, 1, 0.9, 0.84).enough
    assert Tried(8, 1, None, 0.1).enough and Tried(8, 1, 0.5, 0.9).enough


@pytest.fixture
def gap(monkeypatch):
    """Fewer than 8 prompts always do better on their own."""
    monkeypatch.setattr(Tried, "enough", property(lambda self: self.n >= 8))


def asked(*words):
    own = settings(*AS_PUBLISHED, "tune=8", "method.threshold=0.05", *words)
    return own.model_copy(update={"method": Few(name="test_enough:Few")})


def test_prompts_are_doubled_until_they_are_enough(gap, tmp_path):
    said = []
    result = discover(asked("task.n=2", "grow=64"), tmp_path / "run", [], said.append)
    rows = curve(tmp_path / "run")
    assert [row["n"] for row in rows] == [2, 4, 8]
    assert result["splits"]["search"]["n"] == 8 and result["n_edges"] == 257
    assert [f"{n} prompts:" in " ".join(said) for n in (2, 4, 8)] == [True] * 3
    assert read_run(tmp_path / "run").metrics[0]["n"] == 8  # lines are of the last
    once = discover(asked("task.n=8"), tmp_path / "once", [], print)
    assert once["n_edges"] == result["n_edges"]
    for name in ("circuit.json", "edges.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "once" / name).read_bytes()


@pytest.mark.slow
def test_no_more_than_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(Tried, "enough", property(lambda self: False))
    discover(asked("task.n=2", "grow=6"), tmp_path / "run", [], print)
    assert [row["n"] for row in curve(tmp_path / "run")] == [2, 4, 6]


@pytest.mark.slow
def test_stopped_it_goes_on_with_the_number_it_came_to(gap, tmp_path):
    run = tmp_path / "run"
    with stopped_after(1):
        discover(asked("task.n=4", "grow=64"), run, [], print)
    assert [row["n"] for row in curve(run)] == [4, 8]
    result = discover(asked("task.n=4", "grow=64"), run, [], print)
    assert result["splits"]["search"]["n"] == 8


def test_what_goes_on_from_the_run_has_its_prompts(tmp_path):
    """And its time is that of the search, though it was done before."""
    own = settings(*AS_PUBLISHED, "tune=8", "method.threshold=0.05", "task.n=4", "grow=4")
    result = discover(own, tmp_path / "run", [], print)
    assert result["seconds"]["search"] > 0
    assert read_finished(tmp_path / "run").settings.task.n == 4
    plain = settings(*AS_PUBLISHED, "tune=8", "method.threshold=0.05", "task.n=4")
    discover(plain, tmp_path / "plain", [], print)
    both = [Circuit.load(tmp_path / name / "circuit.json").edges for name in ("run", "plain")]
    assert both[0] == both[1]


def test_without_prompts_to_tune_on_it_cannot_be_seen():
    with pytest.raises(InputError, match="grow: whether prompts are enough"):
        settings(*AS_PUBLISHED, "method.threshold=0.05", "grow=64")


@pytest.mark.parametrize("words, times", [((), 1), (("grow=4",), 1), (("grow=8",), 2)])
def test_a_job_is_prepared_once_for_each_number_of_prompts(monkeypatch, tmp_path, words, times):
    """What is learnt of the prompts before the search takes its time."""
    from discovery.job import enough, pipeline

    monkeypatch.setattr(Tried, "enough", property(lambda self: False))
    made = []

    def counted(*args, **kwargs):
        made.append(prepare(*args, **kwargs))
        return made[-1]

    for module in (enough, pipeline):
        monkeypatch.setattr(module, "prepare", counted)
    discover(asked("task.n=4", *words), tmp_path / "run", [], print)
    assert len(made) == times
