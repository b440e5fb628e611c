"""Search, tune and test: no prompt in two of them."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from acdc.errors import InputError
from acdc.prompts import Prompts
from discovery.job import splits
from discovery.job.prepare import prepare
from discovery.settings.run import read_settings

CONF = Path(__file__).parents[2] / "conf"


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return read_settings(config)


def rows(prompts):
    return {tuple(row) for row in prompts.clean.tolist()}


def test_drawn_prompts_are_disjoint_and_another_seed_draws_others():
    job = prepare(settings("task.n=8", "tune=20", "test=30"))
    parts = [job.data.prompts, *(d.prompts for d in job.held_out.values())]
    assert list(map(len, parts)) == [8, 20, 30]
    assert len(set().union(*map(rows, parts))) == 58
    other = prepare(settings("task.n=8", "tune=20", "test=30", "seed=1"))
    assert not rows(other.held_out["test"].prompts) & rows(parts[2])


def test_other_prompts_are_drawn_anew_for_every_part():
    job = prepare(settings("task.n=8", "tune=8", "test=0", "ablation=other"))
    data, tune = job.data.prompts, job.held_out["tune"].prompts
    assert list(job.held_out) == ["tune"]
    for own in (data, tune):
        assert {tuple(r) for r in own.corrupt.tolist()} == rows(own)  # partners of the same part


def pairs(tmp_path, n, split=None):
    path = tmp_path / "pairs.jsonl"
    lines = [
        {"clean_ids": [i, i + 1, 7], "corrupt_ids": [i, i + 2, 7], "answers": [3], "wrong": [4]}
        for i in range(n)
    ]
    if split is not None:
        lines = [line | {"split": part} for line, part in zip(lines, split, strict=True)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("n, sizes", [(10, [10]), (40, [20, 8, 12])])
def test_few_lines_are_all_searched_on_and_half_of_many(tmp_path, n, sizes):
    job = prepare(settings("task=pairs", f"task.path={pairs(tmp_path, n)}"))
    parts = [job.data.prompts, *(d.prompts for d in job.held_out.values())]
    assert list(map(len, parts)) == sizes
    assert len(set().union(*map(rows, parts))) == sum(sizes)


def test_lines_may_say_themselves_what_they_are_for(tmp_path):
    said = ["test", "search", "search", "tune", "tune", "search", "test"]
    job = prepare(settings("task=pairs", f"task.path={pairs(tmp_path, 7, said)}"))
    found = {"search": job.data.prompts} | {p: d.prompts for p, d in job.held_out.items()}
    for part, prompts in found.items():
        assert sorted(r[0] for r in rows(prompts)) == [i for i, s in enumerate(said) if s == part]


def test_the_mean_of_a_file_is_over_the_lines_of_the_search(tmp_path):
    words = [
        "task=pairs",
        f"task.path={pairs(tmp_path, 40)}",
        "ablation=mean",
        "ablation.over=task",
    ]
    job = prepare(settings(*words))
    assert rows(job.data.ablation.reference) == rows(job.data.prompts)
    fresh = prepare(settings("task.n=8", *words[2:], "ablation.n=9")).data
    assert len(fresh.ablation.reference) == 9
    assert not rows(fresh.ablation.reference) & rows(fresh.prompts)


def test_a_split_that_is_none_is_refused(tmp_path):
    path = pairs(tmp_path, 3, ["search", "dev", "test"])
    with pytest.raises(InputError, match="line 2: split is 'dev'; allowed are search, tune, test"):
        prepare(settings("task=pairs", f"task.path={path}"))
    path.write_text(path.read_text().replace(', "split": "dev"', ""))
    with pytest.raises(InputError, match="line 2: has no split, but line 1 has one"):
        prepare(settings("task=pairs", f"task.path={path}"))


def test_who_has_no_company_of_its_length_is_left_out():
    rows = [[1], [2, 3], [4], [5, 6, 7], [8, 9]]
    some = Prompts.of_rows(rows, rows, [()] * 5, [()] * 5)
    assert splits.with_company(some).rows() == [(1,), (2, 3), (4,), (8, 9)]
    alone = some.take([0, 1])
    assert splits.with_company(alone) is alone
