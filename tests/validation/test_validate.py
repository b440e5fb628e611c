"""A validation from run folder to report, on the embedded model, with little of everything."""

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_settings import CONF, settings

from acdc.errors import InputError
from discovery.build import task_prompts
from discovery.pipeline import discover
from discovery.prepare import load
from discovery.rungs import NONE
from discovery.validation.held_out import held_out
from discovery.validation.resampling import HOWS
from discovery.validation.runs import classes, read_found, table, validate_runs
from discovery.validation.settings import read_validation
from discovery.validation.verdicts import headline

LITTLE = (
    "prompts=80", "chunk=20", "chance.circuits=29", "chance.misplaced=19", "chance.prompts=20",
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
    for name, size in (("acdc", []), ("random", ["method.n_edges=10"])):
        chosen = settings("tracking=disabled", f"method={name}", "task.n=16", *size)
        discover(chosen, root / name, [], lambda text: None)
    return root


@pytest.fixture(scope="module")
def validated(runs):
    found = read_found([runs / "acdc", runs / "random"])
    return validate_runs(found, read_validation(validation()), lambda text: None)


def test_the_folder_holds_everything(validated):
    for one in validated:
        saved = json.loads((one.folder / "validation.json").read_text())
        assert saved["n_prompts"] == 80 and saved["verdicts"] == [vars(v) for v in one.verdicts]
        figures = {"ladder", "matrix", "knockouts"}
        figures |= {"stability"} if one.folder.name == "acdc" else set()  # noise asks no prompts
        assert figures == {
            p.stem.removeprefix("validation_") for p in one.folder.glob("validation_*.svg")
        }
        page = one.report.read_text()
        assert page.count("<svg") == len(figures)
        assert not re.search(r'(src|href)="(?!#)|url\((?!#)|@import', page)
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
    passed = sum(v.holds is True for v in one.verdicts)
    assert f"{passed} of {len(one.verdicts)} properties are shown to hold" in text


def test_one_yardstick_for_every_share_and_both_ends_named(validated):
    zero = "every edge cut, carrying the paired corrupt prompt's values"
    for one in validated:
        found = one.validation
        (cell,) = [
            c for c in found["faithfulness"]["cells"]
            if [c[k] for k in ("direction", "ablation", "granularity", "positions")]
            == ["sufficiency", "resample", "edges", "all"]
        ]  # fmt: skip
        assert len(set(found["used_prompts"].values())) == 1  # so the two must be one number
        paired, *_, floor = found["scrubbing"]
        share = paired["recovered"]["value"]
        assert share == pytest.approx(cell["ratio_of_means"]["estimate"], rel=1e-9)
        for row in found["scrubbing"]:
            assert row["recovered"]["baseline"] == zero == found["zero"]
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


def test_twice_is_the_same(runs, validated):
    again = validate_runs(
        read_found([runs / "acdc"]), read_validation(validation()), lambda text: None
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
    first, second = (held_out(run, loaded, used, 50, seed) for seed in (0, 1))
    assert len(first) == 50
    seen = {tuple(row) for row in used.clean.tolist()}
    assert not seen & {tuple(row) for row in first.clean.tolist()}
    assert (first.clean != second.clean).any()
    assert set(first.features) == {"previous token", "match position"}


def test_held_out_lines_of_ones_own(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        {"clean_ids": a.tolist(), "corrupt_ids": b.tolist(), "answers": [1], "wrong": [2]}
        for a, b in rng.integers(0, 128, size=(12, 2, 8))
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    run = settings("tracking=disabled", "task=pairs", f"task.path={path}", "task.n=4")
    loaded = load(run)
    used = task_prompts(run.task, loaded, run.seed)
    assert len(held_out(run, loaded, used, 8, 0)) == 8
    with pytest.raises(InputError, match="prompts=9: .*own.jsonl has only 8 .*prompts=8 or fewer"):
        held_out(run, loaded, used, 9, 0)


def test_heads_are_classed_by_what_they_look_at():
    heads = {"a1.h0": {"end->io": 0.7, "end->s1": 0.2}, "a1.h1": {"end->io": 0.3}, "a2.h0": {}}
    assert classes(heads) == {"end->io": ["a1.h0"]}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["prompts=40"], "prompts=40.*76"),
        (["level=0.7"], "level=0.7"),
        (["chance.circuits=20"], "chance.circuits=20.*29"),
        (["minimality.prompts=81"], "minimality.prompts=81: at most prompts=80"),
        (["+chance.circus=3"], "chance.circus: there is no such field"),
        (["stability.searches=3"], "stability.searches=3.*6"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(InputError, match=message):
        read_validation(validation(*overrides))


def test_the_main_job_with_full_evaluation(tmp_path):
    """The command, in another process: search, validate, print what holds."""
    little = [f"evaluation.{field}" for field in LITTLE]
    command = [sys.executable, "scripts/discover.py", f"hydra.run.dir={tmp_path / 'run'}"]
    done = subprocess.run(
        [*command, "evaluation=full", "task.n=16", *little], cwd=CONF.parent, text=True,
        capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "of kl (0% = every edge cut" in done.stdout
    assert "held-out prompts" in done.stdout and "properties are shown to hold" in done.stdout
    assert (tmp_path / "run" / "report.html").exists()
    logs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(logs) == 2  # the run's and the validation's


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
