"""scripts/route.py, scripts/components.py and prompts without a corrupt side, by command line."""

import json

import pytest

from discovery.runs.folder import read_run


@pytest.fixture
def run(here):
    return lambda script, *words, folder: here(f"{script}.py", f"hydra.run.dir={folder}", *words)


def test_a_route_from_ids(run, tmp_path):
    code, out, err = run("route", "ids=[5,9,3,40,5]", "target=9", folder=tmp_path / "run")
    assert code == 0, err
    assert read_run(tmp_path / "run").state == "done"
    found = json.loads((tmp_path / "run/route.json").read_text())
    assert [t["id"] for t in found["tokens"]] == [5, 9, 3, 40, 5] and found["edges"]
    assert "the largest" in out and "route.json" in out
    assert (tmp_path / "run/route.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "overrides, words",
    [
        (['text=He said: "it\'s", {a}\\'], ["text='He said: \"it\\'s\", {a}\\\\'", "no tokenizer"]),
        (["ids=[1]", "target= Mary"], ["target=' Mary'"]),
    ],
)
def test_bad_input_is_one_clear_error(overrides, words, run, tmp_path):
    code, out, err = run("route", *overrides, folder=tmp_path / "run")
    assert code != 0 and "Traceback" not in err
    assert all(word in err for word in words), err


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_components_of_a_task_against_a_file_of_prompts(run, tmp_path):
    lines = ({"clean_ids": [9, i, i + 1, i + 2, 9]} for i in range(20, 26))
    other = write(tmp_path / "other.jsonl", *lines)
    code, out, err = run("components", f"versus={other}", "task.n=8", folder=tmp_path / "run")
    assert code == 0, err
    found = json.loads((tmp_path / "run/components.json").read_text())
    assert found["task"]["n_prompts"] == 8 and found["versus"]["n_prompts"] == 6
    one, two = (found[d]["components"]["a0.h3"]["mean"] for d in ("task", "versus"))
    gap = found["difference"]["components"]["a0.h3"]
    assert gap["flow"] == pytest.approx(one - two) and gap["low"] <= gap["flow"] <= gap["high"]
    assert "a0.h3" in found["difference"]["named"] and "| a0.h3 |" in out
    for name in ("components", "difference"):
        assert (tmp_path / f"run/{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["versus=nonesuch"], ["task/nonesuch"]),
        (["versus=none.jsonl", "+versus_fields.size=3"], ["versus.size", "no such field"]),
    ],
)
def test_bad_data_sets_are_one_clear_error(overrides, words, run, tmp_path):
    code, out, err = run("components", *overrides, folder=tmp_path / "run")
    assert code != 0 and "Traceback" not in err
    assert all(word in err for word in words), err


LINES = [{"clean_ids": [9, 4, 7, 9, 4], "answers": [7], "wrong": [5]},
         {"clean_ids": [8, 3, 6, 8, 3], "answers": [6], "wrong": [5]}]  # fmt: skip


def test_routes_need_no_corrupt_prompts(run, tmp_path):
    path = write(tmp_path / "mine.jsonl", *LINES)
    task = ["task=pairs", f"task.path={path}", "method=ifr", "tracking=disabled",
            "ablation=resample", "method.n_edges=20"]  # fmt: skip
    code, out, err = run("discover", *task, folder=tmp_path / "run")
    assert code == 0, err
    assert "no corrupt prompts" in out
    result = read_run(tmp_path / "run").result
    assert result["n_edges"] > 0 and result["faithfulness"] is result["metric_circuit"] is None
