"""A validation from run folder to report, on the embedded model, with little of everything."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_settings import CONF, settings

from acdc.errors import InputError
from discovery.choices.fields import checked
from discovery.job.build import task_prompts
from discovery.job.pipeline import discover
from discovery.job.prepare import load
from discovery.runs.folder import read_run
from discovery.runs.wandb_log import read_offline
from discovery.settings.evaluation import FullEvaluation
from discovery.validation.held_out import held_out
from discovery.validation.resampling import HOWS
from discovery.validation.rungs import NONE
from discovery.validation.runs import classes, read_found, table, validate_runs
from discovery.validation.verdicts import headline

pytestmark = pytest.mark.unchecked  # of runs together

LITTLE = (
    "prompts=80", "chunk=20", "chance.circuits=29", "chance.misplaced=29", "chance.prompts=20",
    "scrubbing.prompts=20", "scrubbing.draws=2", "completeness.prompts=20",
    "completeness.random=2", "completeness.runs=1", "completeness.iterations=1",
    "completeness.candidates=2", "minimality.prompts=20",
    "minimality.draws=20", "stability.resamples=6", "stability.searches=6",
)  # fmt: skip


def validation(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("validate", ["run=x", *LITTLE, *overrides])
    plain = OmegaConf.to_container(config, resolve=True)
    return {key: value for key, value in plain.items() if key != "run"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, size in (("acdc", ["method.threshold=0.05"]), ("random", ["method.n_edges=10"])):
        paired = ("metric=kl", "ablation=resample", "test=0")
        asked = ("tracking=disabled", f"method={name}", "task.n=16", *paired, *size)
        chosen = settings(*asked)
        discover(chosen, root / name, [], lambda text: None)
    return root


@pytest.fixture(scope="module")
def validated(runs):
    found = read_found([runs / "acdc", runs / "random"])
    return validate_runs(found, checked(FullEvaluation, validation()), lambda text: None)


@pytest.mark.unchecked
def test_the_folder_holds_everything(validated):
    for one in validated:
        saved = json.loads((one.folder / "validation.json").read_text())
        told = [vars(v) | {"says": v.says} for v in one.verdicts]
        assert saved["n_prompts"] == 80 and saved["verdicts"] == told
        figures = {"ladder", "matrix", "knockouts"}
        assert saved["left_out"] == []
        figures |= {"stability"} if one.folder.name == "acdc" else set()  # noise asks no prompts
        assert figures == {
            p.stem.removeprefix("validation_") for p in one.folder.glob("validation_*.svg")
        }
        page = one.report.read_text()
        assert page.count("<svg") == len(figures)
        assert not re.search(r'(src|href)="(?!#|data:image)|url\((?!#)|@import', page)
        for verdict in one.verdicts:
            assert verdict.name in page


def test_the_found_circuit_beats_random_ones_and_a_random_one_does_not(validated):
    found, random = ({v.name: v for v in one.verdicts} for one in validated)
    assert found["sufficiency"].holds and found["partial necessity"].holds
    assert not random["sufficiency"].holds and not random["equivalence"].holds
    rows = table(validated)
    assert {row["property"]: row for row in rows}["sufficiency"]["acdc (10)"] == "+"


def test_the_headline_counts(validated):
    one = validated[0]
    text = headline(one.validation, one.verdicts)
    counted = [v for v in one.verdicts if v.counted]
    passed = sum(v.holds is True for v in counted)
    assert 0 < len(counted) < len(one.verdicts)
    assert f"{passed} of {len(counted)} properties that the whole model has are shown to" in text
    assert "prompt by prompt" in text and "correlation" in text


def test_one_yardstick_for_every_share_and_both_ends_named(validated):
    zero = "every edge cut, carrying the paired corrupt prompt's values"
    for one in validated:
        found = one.validation
        cells = found["faithfulness"]["cells"]
        (cell,) = [
            c for c in found["faithfulness"]["cells"]
            if [c[k] for k in ("direction", "ablation", "granularity", "positions")]
            == ["sufficiency", "resample", "edges", "all"]
        ]  # fmt: skip
        paired, *others, floor = found["scrubbing"]
        share = paired["recovered"]["value"]
        model, empty = (found[f"{which}_values"]["score"] for which in ("model", "empty"))
        assert paired["n"] == 80 and cell["n"] == found["used_prompts"]["faithfulness"] == 20
        own = (found["circuit_values"]["score"] - empty) / (model - empty)
        assert share == pytest.approx(own)
        assert {c["empty"] for c in cells} == {cell["empty"]}
        for row in (*others, floor):  # over the same first prompts as the cells
            assert row["recovered"]["baseline"] == zero == found["zero"] and row["n"] == 20
            value = (row["score"] - cell["empty"]) / (cell["model"] - cell["empty"])
            assert row["recovered"]["value"] == pytest.approx(value)
        assert floor["inputs"] == NONE and floor["score"] < cell["model"] / 3
        text = headline(found, one.verdicts)
        assert f"(0% = {zero}; 100% = the model) the circuit keeps {share:.0%}" in text
        assert f"without a circuit, give {floor['recovered']['value']:.0%}" in text
        page = one.report.read_text()
        assert (
            unescape(page).count(zero) > 3 and f"first {found['used_prompts']['scrubbing']}" in page
        )


def test_the_cost_of_a_sample_is_measured(validated):
    cost = validated[0].validation["cost"]
    assert list(cost) == ["plain forward", *(f"{how} in forwards" for how in HOWS)]
    assert all(value > 0 for value in cost.values())


@pytest.mark.slow
def test_twice_is_the_same(runs, validated):
    again = validate_runs(
        read_found([runs / "acdc"]), checked(FullEvaluation, validation()), lambda text: None
    )[0]
    first, second = (
        {k: v for k, v in one.validation.items() if k not in ("seconds", "cost")}
        for one in (validated[0], again)
    )
    assert json.dumps(first) == json.dumps(second)


def test_held_out_prompts_are_new():
    run = settings("tracking=disabled")
    loaded = load(run)
    used = task_prompts(run.task, loaded, run.seed)
    first, second = (held_out(run, loaded, [used], 50, seed) for seed in (0, 1))
    assert len(first) == 50
    seen = {tuple(row) for row in used.clean.tolist()}
    assert not seen & {tuple(row) for row in first.clean.tolist()}
    assert (first.clean != second.clean).any()
    assert set(first.features) == {"previous token", "match position"}


def test_held_out_lines_of_ones_own(tmp_path):
    path = written_pairs(tmp_path / "own.jsonl", 12)
    run = settings("tracking=disabled", "task=pairs", f"task.path={path}", "task.n=4")
    loaded = load(run)
    used = task_prompts(run.task, loaded, run.seed)
    assert len(held_out(run, loaded, [used], 8, 0)) == 8
    with pytest.raises(InputError, match="prompts=9: .*own.jsonl has only 8 .*prompts=8 or fewer"):
        held_out(run, loaded, [used], 9, 0, fewest=5)
    with pytest.raises(InputError, match="only 8 .*of 4 that.*at least 76.*prompts=FILE") as few:
        held_out(run, loaded, [used], 200, 0)
    assert "or fewer" not in str(few.value)


def written_pairs(path, count, seed=0):
    rng = np.random.default_rng(seed)
    lines = [
        {"clean_ids": a.tolist(), "corrupt_ids": b.tolist(), "answers": [1], "wrong": [2]}
        for a, b in rng.integers(0, 128, size=(count, 2, 8))
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


def test_a_held_out_file_of_ones_own(tmp_path):
    path = written_pairs(tmp_path / "own.jsonl", 80)
    run = settings("tracking=disabled")
    loaded = load(run)
    used = task_prompts(run.task, loaded, run.seed)
    found = held_out(run, loaded, [used], path, 0)
    assert len(found) == 80 and found.clean.shape[1] == 8
    from_it = settings("tracking=disabled", "task=pairs", f"task.path={path}", "task.n=4")
    used = task_prompts(from_it.task, loaded, 0)
    assert len(held_out(from_it, loaded, [used], path, 0)) == 76  # the run's own lines are left out
    used = task_prompts(from_it.task.more(99), loaded, 0)
    with pytest.raises(InputError, match="prompts=.*own.jsonl: only 0 of its 80 .*76"):
        held_out(from_it, loaded, [used], path, 0)
    with pytest.raises(InputError, match="prompts.path='nowhere': there is no such file"):
        held_out(run, loaded, [used], "nowhere", 0)


def test_a_run_is_validated_on_a_file(runs, tmp_path):
    asked = checked(
        FullEvaluation, validation(f"prompts={written_pairs(tmp_path / 'a.jsonl', 90)}")
    )
    (found,) = validate_runs(read_found([runs / "random"]), asked, lambda text: None)
    assert found.validation["n_prompts"] == 90
    assert not any("agree" in v.name for v in found.verdicts)  # it names no features


def test_heads_are_classed_by_what_they_look_at():
    heads = {"a1.h0": {"end->io": 0.7, "end->s1": 0.2}, "a1.h1": {"end->io": 0.3}, "a2.h0": {}}
    assert classes(heads) == {"end->io": ["a1.h0"]}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["prompts=40"], "prompts=40: at least 76"),
        (["level=0.7"], "level=0.7"),
        (["chance.circuits=20"], "chance.circuits=20.*29"),
        (["margin=0"], "margin=0"),
        (["budget=0"], "budget=0"),
        (["minimality.prompts=81"], "minimality.prompts=81: at most prompts=80"),
        (["+chance.circus=3"], "chance.circus: there is no such field"),
        (["stability.searches=3"], "stability.searches=3.*6"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(InputError, match=message):
        checked(FullEvaluation, validation(*overrides))


@pytest.mark.slow
def test_the_main_job_with_full_evaluation(here, tmp_path):
    """The command: search, validate, print what holds."""
    little = [f"evaluation.{field}" for field in LITTLE]
    words = (f"hydra.run.dir={tmp_path / 'run'}", "evaluation=full", "task.n=16", *little)
    code, out, err = here("discover.py", *words)
    assert code == 0, err
    zero = "0% = every edge cut, carrying another prompt's values"
    assert f"Of the model's logit_diff ({zero}; 100% = the model) the circuit keeps" in out
    assert "the circuit does the task: on 100 new prompts it recovers" in out
    assert "held-out prompts" in out and "are shown to hold" in out
    assert (tmp_path / "run" / "report.html").exists()
    check_what_wandb_has(tmp_path / "run")


def check_what_wandb_has(folder):
    """Two offline runs, the run's and its validation's, read back without the run folder."""
    logs = map(read_offline, folder.glob("wandb/offline-run-*"))
    tracked = {"validation" if run.job_type == "validation" else "run": run for run in logs}
    run, validation = tracked["run"], tracked["validation"]
    result = json.loads((folder / "result.json").read_text())
    assert run.summary["test_accuracy"] == run.summary["circuit_accuracy"]
    assert run.summary["model_accuracy"] == result["splits"]["test"]["scores"]["model"]["accuracy"]
    for name in ("test_faithfulness", "n_edges", "holds", "verdict", "config_hash", "seed"):
        assert run.summary[name] == result[name]
    assert run.summary["seconds_search"] == result["seconds"]["search"]
    assert run.summary["seconds_total"] == pytest.approx(sum(result["seconds"].values()))
    tags = {"model:induction", "task:induction", "method:acdc", "metric:logit_diff"}
    assert tags < set(run.tags) and tags < set(validation.tags)
    heads = json.loads((folder / "heads.json").read_text())["heads"]
    assert [row["head"] for row in run.table("heads")] == list(heads)
    assert len(run.table("edges")) == len(read_run(folder).edges) - result["n_gates"]
    steps = [row for row in run.history if "by edges left/metric" in row]
    assert steps and all(row["by edges left/metric"] == row["metric"] for row in steps)
    assert all({"n_tests", "n_edges", "seconds"} < set(row) for row in steps)
    page = run.media(run.summary["circuit_page"]["path"]).decode()
    assert "Circuit for induction in induction" in page and "a1.h" in page
    report = validation.media(validation.summary["report"]["path"])
    assert report == (folder / "report.html").read_bytes()
    for name in ("validation_ladder", "validation_matrix"):
        assert validation.media(validation.summary[name]["path"])[:4] == b"\x89PNG"
    saved = json.loads((folder / "validation.json").read_text())["verdicts"]
    assert [row["figures"] for row in validation.table("verdicts")] == [v["figures"] for v in saved]


def test_runs_that_cannot_be_validated(runs, tmp_path):
    with pytest.raises(InputError, match="name at least one"):
        read_found([])
    with pytest.raises(InputError, match="nowhere"):
        read_found([Path("nowhere")])
    with pytest.raises(InputError, match="only a finished run"):
        read_found([tmp_path])
    other = settings("tracking=disabled", "task.n=8", "method=random", "method.n_edges=10")
    discover(other, tmp_path / "other", [], lambda text: None)
    with pytest.raises(InputError, match="differ in task"):
        read_found([runs / "acdc", tmp_path / "other"])
    empty = settings("tracking=disabled", "task.n=8", "method.threshold=1000")
    discover(empty, tmp_path / "empty", [], lambda text: None)
    with pytest.raises(InputError, match="no edges"):
        read_found([tmp_path / "empty"])


def test_what_a_card_found_is_validated_without_one(runs, tmp_path):
    folder = shutil.copytree(runs / "acdc", tmp_path / "card")
    config = json.loads((folder / "config.json").read_text())
    config["config"]["device"] = "cuda:7"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="device='cuda:7': "):
        read_found([folder])
    (one,) = read_found([folder], device="cpu", threads=1)
    assert (one.settings.device, one.settings.threads) == ("cpu", 1)
