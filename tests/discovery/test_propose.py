"""Every method through the main job on the embedded model: one record, one folder, one order."""

import json

import numpy as np
import pytest
from test_settings import settings

from acdc.circuit import Circuit
from acdc.errors import InputError
from discovery.job.pipeline import discover
from discovery.runs.folder import read_run

pytestmark = pytest.mark.unchecked

SCORING = ("ifr", "eap", "eap_ig", "eap_ig_activations", "exact", "random")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root, found = tmp_path_factory.mktemp("runs"), {}
    for name in SCORING:
        chosen = settings("tracking=disabled", f"method={name}", "method.n_edges=30")
        discover(chosen, root / name, [], lambda text: None)
        found[name] = read_run(root / name)
    return found


def heads(run):
    """Sum of |score| over a head's edges, in and out, by head."""
    circuit = Circuit.load(run.folder / "circuit.json")
    graph, size = circuit.graph, np.abs(circuit.scores)
    total = dict(zip(graph.writers, size.sum(1), strict=True))
    for i, reader in enumerate(graph.readers):
        for node in reader.nodes:
            total[graph.writers[node]] += size[:, i].sum()
    return {name: total[name] for name in total if name.startswith("a")}


@pytest.mark.unchecked
@pytest.mark.parametrize("name", SCORING)
def test_folder_and_result(runs, name):
    run = runs[name]
    assert run.state == "done" and run.result["method"] == name and run.metrics == ()
    assert run.result["n_edges_requested"] == 30 >= run.result["n_edges"]
    circuit = Circuit.load(run.folder / "circuit.json")
    assert circuit.n_edges == run.result["n_edges"] == sum(e["kept"] for e in run.edges)
    assert len(run.edges) == 257
    sizes = [abs(e["effect"]) for e in run.edges]
    assert sizes == sorted(sizes, reverse=True)
    assert name in run.circuit["about"]["score"]
    assert (run.folder / "circuit.png").exists()


def test_lines_are_of_the_strongest_edges_and_the_kept_and_the_array_of_all(
    runs, monkeypatch, tmp_path
):
    """Here the circuit is chosen by signed scores, so that some kept edges are weak ones."""
    monkeypatch.setattr("discovery.methods.choosing.LISTED", 40)
    asked = ("tracking=disabled", "method=eap", "method.ranking=signed", "method.rule=top_n")
    few = tmp_path / "few"
    discover(settings(*asked, "method.n_edges=60"), few, [], print)
    whole, own = Circuit.load(runs["eap"].folder / "circuit.json"), read_run(few)
    assert (Circuit.load(few / "circuit.json").scores == whole.scores).all()
    by_order = {row["order"]: row["kept"] for row in own.edges}
    assert set(range(40)) < set(by_order) and all(kept for n, kept in by_order.items() if n >= 40)
    assert sum(by_order.values()) == own.result["n_edges"] == len(own.circuit["edges"])


@pytest.mark.parametrize("name", ["ifr", "eap_ig", "exact"])
def test_the_heads_that_matter_rank_first(runs, name):
    """The previous-token head and the induction heads, recognised by their attention."""
    entries = json.loads((runs["exact"].folder / "heads.json").read_text())["heads"]
    seen = {name: entry["attention"] for name, entry in entries.items()}
    important = {h for h, a in seen.items() if h.startswith("a0") and a["previous token"] > 0.5}
    important |= {h for h, a in seen.items() if h.startswith("a1") and a["end->match"] > 0.5}
    assert len(important) >= 3
    ranked = sorted((total := heads(runs[name])), key=lambda h: -total[h])
    assert set(ranked[: len(important)]) == important


def test_methods_beat_noise(runs):
    for name in ("ifr", "eap_ig", "eap_ig_activations", "exact"):
        assert runs[name].result["faithfulness"] > 0.9 > runs["random"].result["faithfulness"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eap", "eap_ig", "eap_ig_activations"])
def test_what_stands_for_the_gradient_is_said_and_used(runs, name, tmp_path):
    for rule in ("gim", "relp"):
        words = [f"method={name}", "method.n_edges=30", f"method.backward={rule}"]
        discover(settings("tracking=disabled", *words), tmp_path / rule, [], lambda text: None)
        run = read_run(tmp_path / rule)
        assert run.circuit["about"]["score"].startswith(f"{name}, backward={rule}, in ")
        assert run.edges != runs[name].edges
        assert run.config["config"]["method"]["backward"] == rule


def test_threshold_instead_of_a_number(tmp_path):
    chosen = settings(
        "tracking=disabled", "method=exact", "method.n_edges=null", "method.threshold=0.05"
    )
    discover(chosen, tmp_path / "run", [], print)
    run = read_run(tmp_path / "run")
    assert run.result["n_edges_requested"] == sum(abs(e["effect"]) >= 0.05 for e in run.edges)


@pytest.mark.slow
def test_a_shortlist_is_reported_and_the_circuit_stays_within_it(tmp_path):
    guide = ("method=acdc", "method.guide=exact", "method.shortlist=40")
    discover(settings("tracking=disabled", *guide), tmp_path / "run", [], print)
    run = read_run(tmp_path / "run")
    skipped = [row for row in run.metrics if row["kind"] == "skip"]
    assert run.result["n_skipped"] == sum(row["n_skipped"] for row in skipped) > 0
    damage = sum(row["damage"] for row in skipped)
    assert run.result["skipped_damage"] == pytest.approx(damage, abs=1e-9)
    assert run.result["n_edges"] > 0
    asked = settings("tracking=disabled", *guide, "method.threshold=0.1")
    discover(asked, tmp_path / "sized", [], print)
    assert 0 < read_run(tmp_path / "sized").result["n_edges"] <= 40  # nothing comes back there
    exact = settings("tracking=disabled", "method=acdc", "method.threshold=0.1")
    discover(exact, tmp_path / "exact", [], print)
    assert "n_skipped" not in read_run(tmp_path / "exact").result


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method.shortlist=40"], "method: shortlist needs scores.*guide="),
        (["method.weakest_first=true"], "method: weakest_first needs scores"),
        (["method.guide=ifr"], "guide is given but not used.*shortlist=N"),
        (
            ["method.guide=eap", "method.shortlist=9", "metric=kl"],
            "method=eap with metric=kl.*eap_ig",
        ),
        (["method.guide=ifr", "method.shortlist=258"], "method.shortlist=258: .* 257"),
        (
            ["method=eap", "method.threshold=1", "method.n_edges=9"],
            "method: give one of n_edges and thresh",
        ),
        (["method=eap", "method.n_edges=258"], "method.n_edges=258: allowed are .* 257"),
        (["method=exact", "method.n_edges=0"], "method.n_edges=0: .* greater than or equal to 1"),
        (["method=eap", "metric=kl"], "exactly zero"),
        (["method=eap_ig", "method.steps=0"], "method.steps=0"),
        (["method=eap_ig", "ablation=zero"], "zero"),
        (
            ["method=eap", "method.backward=lrp"],
            "method.backward='lrp': .*'exact', 'gim' or 'relp'",
        ),
        (["method=random", "method.rule=best"], "method.rule='best'.*top_n"),
    ],
)
def test_refusals(overrides, message, tmp_path):
    with pytest.raises(InputError, match=message):
        discover(settings("tracking=disabled", *overrides), tmp_path / "run", [], print)


CLEAN = [{"clean_ids": [9, 4, 7, 9, 4], "answers": [7]}, {"clean_ids": [8, 3, 6, 8, 3]}]


@pytest.mark.parametrize("ablation, evaluated", [("resample", False), ("mean", True)])
def test_routes_need_no_corrupt_prompts(ablation, evaluated, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in CLEAN))
    task = ["tracking=disabled", "task=pairs", f"task.path={path}"]
    task += ["metric=kl", f"ablation={ablation}"]
    chosen = settings(*task, "method=ifr", "method.n_edges=40")
    result = discover(chosen, tmp_path / "run", [], print)
    assert result["n_edges"] > 0
    for name in ("faithfulness", "metric_circuit", "metric_empty"):
        assert (result[name] is not None) == evaluated
    for method in ("acdc", "eap_ig", "random"):
        with pytest.raises(InputError, match=f"line 1: .*, and method={method} needs corrupt"):
            own = settings(*task, "ablation=resample", f"method={method}")
            discover(own, tmp_path / method, [], print)
