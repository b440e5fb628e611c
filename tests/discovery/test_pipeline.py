"""The main job on the embedded model: the run folder, and a circuit that proves itself."""

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_settings import AS_PUBLISHED, settings

from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.heads.attention import head_attention
from discovery.job import pipeline
from discovery.job.build import load_model, task_prompts
from discovery.job.mirror import labels
from discovery.job.pipeline import discover
from discovery.job.propose import propose
from discovery.runs.folder import read_run
from discovery.runs.tracking import NullTracker

ASKED = (*AS_PUBLISHED, "method.threshold=0.05")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    said = []
    result = discover(settings(*ASKED, "test=20"), folder, list(ASKED), said.append)
    return read_run(folder), result, "\n".join(said)


def heads_by_attention(query, key):
    """{head: mean attention from one marked token to another} on fresh prompts."""
    chosen = settings(*ASKED, "seed=7", "task.n=64")
    loaded = load_model(chosen)
    prompts = task_prompts(chosen.task, loaded, chosen.seed)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(2)]
    _, cache = loaded.bridge.run_with_cache(prompts.clean, names_filter=names)
    rows, marks = torch.arange(len(prompts)), prompts.marks
    found = {}
    for layer in range(2):
        pattern = cache[names[layer]][rows, :, list(marks[query]), :]
        scores = pattern[rows, :, list(marks[key])].mean(0)
        found |= {f"a{layer}.h{h}": s.item() for h, s in enumerate(scores)}
    return found


def test_the_circuit_joins_the_previous_token_head_to_an_induction_heads_keys(run):
    previous = heads_by_attention("match", "previous")
    induction = heads_by_attention("end", "match")
    first = max((h for h in previous if h.startswith("a0")), key=lambda h: previous[h])
    seconds = [h for h in induction if h.startswith("a1") and induction[h] > 0.5]
    assert previous[first] > 0.5 and seconds
    kept = {name for name, edge in run[0].circuit["edges"].items() if edge["in_graph"]}
    assert any(f"{first}->{head}<k>" in kept for head in seconds)
    assert any(f"{head}->logits" in kept for head in seconds)


def test_result_is_complete_and_consistent(run):
    found, result, _ = run
    assert found.state == "done" and found.result == json.loads(json.dumps(result))
    assert result["n_edges_total"] == 257 and 0 < result["n_edges"] < 60
    assert result["metric_clean"] == pytest.approx(0, abs=1e-5)
    span = result["metric_clean"] - result["metric_empty"]
    expected = (result["metric_circuit"] - result["metric_empty"]) / span
    assert result["faithfulness"] == pytest.approx(expected) and expected > 0.9
    assert result["scores"]["model"]["accuracy"] == 1.0
    assert list(result["splits"]) == ["search", "test"] and result["target"] is None
    own, test = result["splits"].values()
    assert (own["n"], test["n"]) == (32, 20) and own["faithfulness"] == result["faithfulness"]
    assert own["kl_share"] == result["kl_share"] == pytest.approx(result["faithfulness"])
    assert test["kl_share"] == result["test_kl_share"] > 0.9
    assert result["holds"].startswith("the circuit does the task: on 20 new prompts")
    assert set(result["seconds"]) == {"load", "search", "evaluate", "heads", "routes"}
    ratio = result["seconds"]["search"] / result["forward_seconds"]
    assert result["search_in_forwards"] == pytest.approx(ratio, rel=0.05)
    assert len(result["config_hash"]) == 16 and result["config_hash"] == found.config["config_hash"]
    assert (result["unit"], result["lower_is_better"]) == ("nats", True)
    assert {"model", "task", "method", "metric", "ablation", "threshold", "seed"} < set(result)


def test_lines_tell_the_same_story_as_the_result(run):
    found, result, _ = run
    circuit = Circuit.load(found.folder / "circuit.json")
    assert circuit.n_edges == result["n_edges"] == found.metrics[-1]["n_kept"]
    assert [row["order"] for row in found.edges] == list(range(result["n_tests"]))
    edges = [row for row in found.edges if row["kind"] == "edge"]
    assert {row["edge"] for row in edges if row["kept"]} == set(circuit.edges)
    assert all(row["kept"] == (row["effect"] >= 0.05) for row in found.edges)
    for row in edges:
        assert circuit.scores[circuit.graph.edge(row["edge"])] == row["effect"]
    readers = [row["reader"] for row in found.metrics if row["kind"] == "edges"]
    assert sorted(readers) == sorted(r.name for r in circuit.graph.readers)
    assert found.metrics[-1]["n_settled"] == 257
    assert math.isclose(found.metrics[-1]["metric"], result["metric_circuit"], abs_tol=1e-4)
    for name in ("circuit.png", "circuit.svg", "heads.json"):
        assert (found.folder / name).stat().st_size > 100


def test_a_plain_pass_is_the_median_of_ten_half_of_them_after_the_search(monkeypatch, tmp_path):
    """What ratios rest on; the first pass before and after the search is not counted."""
    now, done, seconds = 0.0, [], [100, 1, 2, 3, 4, 5, 200, 6, 7, 8, 9, 30]

    def plain_pass(*_):
        nonlocal now
        done.append("pass")
        now += seconds[done.count("pass") - 1]

    def search(*args):
        done.append("search")
        return propose(*args)

    monkeypatch.setattr("discovery.job.pipeline.time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr("discovery.job.pipeline.propose", search)
    monkeypatch.setattr(LoadedModel, "plain_logits", plain_pass)
    monkeypatch.setattr("discovery.job.pipeline.doubts", lambda *_: [])  # it runs the model too
    result = discover(settings(*ASKED), tmp_path / "run", [], print)
    assert done == 6 * ["pass"] + ["search"] + 6 * ["pass"]
    assert result["forward_seconds"] == 5.5


def test_the_models_own_score_is_said_first(run):
    said = run[2]
    assert "accuracy 100.0%" in said and "logit diff" in said and "257 edges" in said
    assert "held out: 20 to test on" in said


def test_a_folder_is_never_shared(run):
    with pytest.raises(InputError, match="already holds a run .done"):
        discover(settings(*ASKED, "test=20"), run[0].folder, [], print)


def test_same_seed_same_bytes_other_seed_other_bytes(run, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        discover(settings(*ASKED, "test=20", f"seed={seed}"), tmp_path / name, [], print)
    for file in ("circuit.json", "edges.jsonl", "heads.json", "circuit.svg"):
        original = (run[0].folder / file).read_bytes()
        assert (tmp_path / "same" / file).read_bytes() == original
        assert (tmp_path / "other" / file).read_bytes() != original


@pytest.mark.parametrize("kv", ["per_query_head", "per_group"])
def test_own_pairs_on_a_model_folder_without_tokenizer(tmp_path, kv):
    import families
    import transformers as hf

    torch.manual_seed(0)
    module = hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=2, **families.SIZES))
    families.randomise(module)
    module.save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    lines = [
        {
            "clean_ids": rng.integers(0, 50, 7).tolist(),
            "corrupt_ids": rng.integers(0, 50, 7).tolist(),
        }
        for _ in range(3)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    chosen = settings(
        "model=hf", f"model.name={tmp_path / 'model'}", "task=pairs", f"graph.kv={kv}",
        f"task.path={tmp_path / 'pairs.jsonl'}", *ASKED, "ablation=mean",
    )  # fmt: skip
    result = discover(chosen, tmp_path / kv, [], print)
    assert 0 < result["n_edges"] < result["n_edges_total"] == {"per_query_head": 110}.get(kv, 82)
    assert result["scores"] == {"model": {}, "circuit": {}}


def test_a_failing_run_says_so_in_its_folder(tmp_path):
    with pytest.raises(InputError, match="tokenizer"):
        discover(settings(*ASKED, "task=ioi"), tmp_path / "run", [], print)
    found = read_run(tmp_path / "run")
    assert found.state == "failed" and "tokenizer" in found.status["error"]["message"]


def test_equal_prompts_are_refused(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"clean_ids": [1, 2], "corrupt_ids": [1, 2]}\n')
    chosen = settings(*ASKED, "task=pairs", f"task.path={tmp_path / 'p.jsonl'}")
    with pytest.raises(InputError, match="all the same"):
        discover(chosen, tmp_path / "run", [], print)


def test_head_attention_by_hand():
    pattern = torch.tensor([[[1.0, 0, 0], [0.25, 0.75, 0], [0.1, 0.2, 0.7]]])
    tokens = torch.zeros(1, 3, dtype=torch.long)
    prompts = Prompts(tokens, tokens, ((0,),), ((1,),), 2, {"a": (0,), "end": (2,)})
    assert head_attention([(prompts, pattern)]) == pytest.approx(
        {"previous token": (0.25 + 0.2) / 2, "end->a": 0.1}, abs=1e-4
    )


def test_what_is_ones_own_is_called_by_its_own_name(tmp_path):
    path = tmp_path / "my_task.jsonl"
    pair = {"answers": [2], "wrong": [5]}
    lines = [{"clean_ids": [i, 9, 2, i], "corrupt_ids": [i, 7, 2, 8]} | pair for i in range(20, 32)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = settings("task=pairs", f"task.path={path}", "method.threshold=0.5", "tune=0", "test=0")
    assert labels(own)[:2] == ["induction", "my_task"]
    result = discover(own, tmp_path / "run", [], print)
    assert result["task"] == "my_task" and result["places"] == {"task": str(path)}


def test_a_mirror_tells_files_of_one_name_apart(tmp_path, monkeypatch):
    """What W&B is told; the words of the configuration may be the same in two folders."""
    told, mirror = [], NullTracker()
    monkeypatch.setattr(mirror, "finish", told.append)
    monkeypatch.setattr(pipeline, "start_tracker", lambda *_, **__: nullcontext(mirror))
    line = {"clean_ids": [5, 9, 2, 5], "corrupt_ids": [5, 7, 2, 8], "answers": [2], "wrong": [5]}
    words = ("task=pairs", "task.path=my.jsonl", "method=eap", "method.n_edges=5", "tune=0")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "my.jsonl").write_text(json.dumps(line) + "\n")
        monkeypatch.chdir(tmp_path / name)
        discover(settings(*words, "test=0", "ablation=zero"), tmp_path / name / "run", [], print)
    places = [outcome.summary["places"]["task"] for outcome in told]
    assert places == [str(tmp_path / name / "my.jsonl") for name in ("one", "two")]


@pytest.mark.parametrize("name, label", [
    ("gpt2", "gpt2"), ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("./mine", "mine"),
    ("../models/my.model/", "my.model"), ("/data/models/mine", "mine"), ("a/b/mine", "mine"),
])  # fmt: skip
def test_a_model_is_called_by_its_hub_id_or_its_folder(name, label):
    asked = settings("model=hf", f"model.name={name}")
    assert asked.model.label == labels(asked)[0] == label
