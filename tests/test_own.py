"""One's own method, metric, task and ablation: a file each, nothing of the package edited."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from acdc.errors import InputError
from acdc.metrics import Metric
from discovery.choices import registry
from discovery.settings.run import read_settings

ROOT = Path(__file__).parents[1]
FILES = {
    "own_method": '''
"""Edges out of early writers score best."""
import numpy as np
from discovery.methods import Scoring

class Early(Scoring):
    power: float = 1.0

    def scores(self, data, metric, seed):
        legal = data.graph.legal
        return legal / (1.0 + np.arange(len(legal)))[:, None] ** self.power
''',
    "own_search": '''
"""Only what the logits read."""
from discovery.methods import Found, Method, Step

class Last(Method):
    def find(self, data, metric, seed, resume=None):
        mask = data.graph.legal.copy()
        mask[:, :-1] = False
        yield Step(says="nothing to do")
        yield Found(mask, 1.0 * mask, "1 = kept", ranks=False)
''',
    "own_metric": '''
"""How far the answer is below the best token."""
import torch
from acdc.metrics import Metric

def gap(logits, prompts, clean):
    right = torch.tensor([a[0] for a in prompts.answers])
    own = logits.gather(-1, right.expand(logits.shape[:-1])[..., None])[..., 0]
    return logits.amax(-1) - own

GAP = Metric("gap", "logits", True, gap, needs=("answers",))
''',
    "own_task": '''
"""Say the first token again."""
import torch
from acdc.prompts import Prompts
from discovery.tasks.choices import Task

class Again(Task):
    length: int = 6

    def build(self, loaded, seed, needs=(), corrupt_for=None):
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, loaded.d_vocab, (2, self.n, self.length), generator=draw)
        answers = tuple((int(row[0]),) for row in ids[0])
        return Prompts(ids[0], ids[1], answers, ((),) * self.n, self.length - 1)
''',
    "own_ablation": '''
"""Half of what it was."""
from acdc.ablation import Ablation
from discovery.ablations import AblationChoice

class Halved(Ablation):
    def of(self, clean, corrupt, rows):
        return clean.map(lambda x: x / 2)

class Half(AblationChoice):
    needs_corrupt = False

    def make(self, references, seed):
        return Halved("half", needs_corrupt=False)
''',
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The files in a folder that Python finds."""
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def asked(folder, *words):
    return "tracking=disabled", f"hydra.run.dir={folder}/run", *words


def command(folder, *words):
    script = ROOT / "scripts" / "discover.py"
    return subprocess.run(
        [sys.executable, str(script), *asked(folder, *words)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_all_four_from_the_command_line(package):
    done = command(
        package, "method=own_method:Early", "method.power=0.5", "method.n_edges=100",
        "metric=own_metric:GAP", "task=own_task:Again", "task.n=5", "ablation=own_ablation:Half",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((package / "run" / "result.json").read_text())
    assert result["method"] == "own_method:Early" and result["metric"] == "own_metric:GAP"
    assert result["task"] == "own_task:Again" and result["ablation"] == "own_ablation:Half"
    assert 0 < result["n_edges"] <= 100 and result["n_edges_requested"] == 100
    config = json.loads((package / "run" / "config.json").read_text())["config"]
    again = read_settings(config)
    assert again.method.power == 0.5 and again.task.n == 5
    assert again.model_dump(mode="json") == config


def test_a_search_of_ones_own(package, here):
    words = asked(package, "method=own_search:Last", "metric=own_metric:GAP", "task.n=4")
    code, _, err = here("discover.py", *words)
    assert code == 0, err
    edges = json.loads((package / "run" / "circuit.json").read_text())["edges"]
    assert edges and all(name.endswith("->logits") for name in edges)


def test_ones_own_is_not_found_from_elsewhere(tmp_path):
    done = command(tmp_path, "metric=own_metric:GAP", "task.n=4", "method.threshold=0.5")
    assert done.returncode == 2 and "No module named 'own_metric'" in done.stderr


def test_from_python_just_the_objects(package):
    import families

    from acdc.data import Data
    from acdc.search import acdc
    from discovery.methods import last

    module = {name: importlib.import_module(name) for name in FILES}
    model = families.view("gpt2")
    ablation = module["own_ablation"].Half().make(None, 0)
    data = Data(model, model.graph(), families.prompts(), ablation)
    metric = module["own_metric"].GAP
    early = module["own_method"].Early(n_edges=60)
    assert early.name == "own_method:Early" and early.size == "n60"
    found = last(early.find(data, metric, 0))
    assert found.ranks and 0 < found.mask.sum() <= 60
    assert last(module["own_search"].Last().find(data, metric, 0)).mask.any()
    *_, end = acdc(data, metric, 0.05)
    assert end.metric == pytest.approx(data.circuits(metric, [end.mask]).mean())


@pytest.mark.parametrize(
    "words, message",
    [
        (["method=relp"], "method.name='relp': allowed are acdc, ifr, .*module:object"),
        (["metric=rank"], "metric.name='rank': allowed are kl, kl_reverse, js"),
        (["task=mine"], "task.name='mine': allowed are induction"),
        (["model=gpt9"], "model.kind='gpt9': allowed are induction, smollm2, hf"),
        (["ablation=heat"], "ablation.name='heat': allowed are other, resample, mean, zero, noise"),
        (["method=nowhere:It"], "method.name='nowhere:It' cannot be used: ModuleNotFoundError"),
        (["metric=own_metric:gap"], "is a function; wanted is an acdc.metrics.Metric"),
        (["method=own_metric:GAP"], "is no Method; wanted is a subclass of discovery.methods"),
        (["method=own_method:Early", "method.depth=2"], "method.depth: there is no such field"),
        (["method=acdc,own_method:Early"], "of your own, one at a time"),
    ],
)
def test_an_unknown_name_is_refused_in_one_sentence(package, monkeypatch, words, message):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("command")
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(InputError, match=message) as error,
    ):
        read_settings(module.plain(compose("config", module.asked(words)))).metric.load()
    assert "\n" not in str(error.value)


def test_the_command_ends_with_that_sentence(package):
    done = command(package, "method=relp")
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stderr.startswith("error: method.name='relp': allowed") and done.stdout == ""


def test_what_was_the_methods_is_asked_of_the_run(tmp_path, here):
    words = ["method.metric=logit_diff", "method.ablation=mean", "task.n=4"]
    code, _, err = here("discover.py", *asked(tmp_path, *words, "method.threshold=1"))
    assert code == 0, err
    assert "method.metric=logit_diff is now written metric=logit_diff" in err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["metric"], result["ablation"]) == ("logit_diff", "mean")


def test_every_shipped_name_is_what_it_says():
    for group, known in registry.KNOWN.items():
        for name in known:
            found = registry.load(group, registry.check(group, name))
            if group == "metric":
                assert isinstance(found, Metric) and found.name == name
            elif group == "truth":
                assert name == "published" or next(found(0)).edges.any()  # it needs GPT-2
            else:
                assert found.model_fields[registry.KEY.get(group, "name")].default == name
    with pytest.raises(InputError, match="a name is a text"):
        registry.check("method", 3)


def test_an_installed_package_brings_names(monkeypatch, package):
    class Entry:
        name = "early"

        @staticmethod
        def load():
            return importlib.import_module("own_method").Early

    def found(group, name=None):
        return [Entry] if group == "circuit_discovery.method" and name in (None, "early") else []

    monkeypatch.setattr(registry, "entry_points", found)
    assert "early" in registry.names("method")
    kind = registry.load("method", registry.check("method", "early"))
    assert np.isfinite(kind(n_edges=3).power)
