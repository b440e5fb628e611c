"""Sweeps as a person runs them: launchers, a kill, a failing job; repeated, they do what is left.

What the machine's load allows runs in this process (`sweep`); what is killed or starts processes
of its own runs in another (`start`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm

from discovery.runs.folder import RunFolder, read_run

ROOT = Path(__file__).parents[1]
SIX = "method.threshold=0.01,0.02,0.05,0.1,0.2,0.5"
FIXED = ("tracking=disabled", "task.n=128", "method.chunk=1")
SAME = ("circuit.json", "edges.jsonl", "heads.json")


def start(*overrides, folder):
    command = [sys.executable, "scripts/discover.py", "-m", f"hydra.sweep.dir={folder}"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*command, *overrides], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=heed_interrupts,
    )  # fmt: skip


def heed_interrupts():
    """What is started in the background inherits that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def sweep(here):
    """The command in this process: exit code and what it said."""
    return lambda *words, folder: here("discover.py", "-m", *words, f"hydra.sweep.dir={folder}")


def runs(folder):
    return {p.parent.name: read_run(p.parent) for p in folder.glob("*/status.json")}


def contents(folder, names=None):
    return {
        name: [(folder / name / file).read_bytes() for file in SAME]
        for name in names or runs(folder)
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Six thresholds, by two processes."""
    folder = tmp_path_factory.mktemp("joblib") / "six"
    process = start(SIX, *FIXED, "hydra/launcher=joblib", folder=folder)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return folder


@pytest.mark.slow
def test_two_processes_do_all_jobs_and_sum_them_up(undisturbed):
    done = runs(undisturbed)
    assert len(done) == 6 and all(run.state == "done" for run in done.values())
    assert len({run.status["pid"] for run in done.values()}) == 2
    said = json.loads((undisturbed / "sweep.json").read_text())
    assert said["states"] == {"done": 6} and len(said["points"]) == 6
    found = [p["edges"]["mean"] for p in sorted(said["points"], key=lambda p: p["threshold"])]
    assert found == sorted(found, reverse=True) and len(set(found)) > 2
    for file in ("pareto.png", "pareto.svg", "overlap.png"):
        assert (undisturbed / file).stat().st_size > 5000
    assert "6 of 6 runs" in (undisturbed / "sweep.md").read_text()


@pytest.mark.slow
def test_a_killed_sweep_is_finished_by_the_same_command(undisturbed, sweep, tmp_path):
    folder = tmp_path / "six"
    process = start(SIX, *FIXED, folder=folder)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/metrics.jsonl"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.kill()
    process.communicate()
    before = runs(folder)
    states = sorted(run.state for run in before.values())
    assert states == ["done", "done", "killed"]
    kept = {n: (folder / n / "status.json").read_bytes() for n, r in before.items() if r.result}
    code, out, err = sweep(SIX, *FIXED, folder=folder)
    assert code == 0, err
    assert out.count("done already, skipped") == 2 and out.count(": goes on") == 1
    assert not (folder / ".attempts").exists()
    assert all((folder / n / "status.json").read_bytes() == was for n, was in kept.items())
    assert contents(folder) == contents(undisturbed)
    code, out, _ = sweep(SIX, *FIXED, folder=folder)
    assert code == 0 and out.count("done already, skipped") == 6


@pytest.mark.slow
def test_a_killed_worker_is_named(tmp_path):
    """The pool ends with it; what is there is summed up, and the same command does the rest."""
    folder = tmp_path / "six"
    process = start(SIX, *FIXED, "hydra/launcher=joblib", folder=folder)
    deadline = time.monotonic() + 120
    while not (alive := [r for r in runs(folder).values() if r.state == "running" and r.metrics]):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.002)
    os.kill(alive[0].status["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, (out, err)
    missing = {m["name"]: m for m in json.loads((folder / "sweep.json").read_text())["not_done"]}
    assert missing[alive[0].folder.name]["state"] == "killed"
    assert f"not done: {alive[0].folder.name} (killed)" in out and "launcher broke" in out


@pytest.mark.slow
def test_submitit_gives_the_same(undisturbed, tmp_path):
    local = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5")
    process = start("method.threshold=0.05", *FIXED, *local, folder=tmp_path / "sweep")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    ((name, run),) = runs(tmp_path / "sweep").items()
    assert run.status["pid"] != process.pid
    assert contents(tmp_path / "sweep") == contents(undisturbed, [name])


@pytest.mark.slow
def test_slurm_gets_an_array_with_a_gpu_a_job(undisturbed, tmp_path, monkeypatch):
    """Against a stand-in: what is submitted, and that its tasks do the jobs."""
    monkeypatch.setenv("PATH", slurm.install(tmp_path / "slurm"))
    asked = ("method.threshold=0.05,0.2", "hydra/launcher=slurm", "hydra.launcher.partition=gpu")
    process = start(*asked, *FIXED, folder=tmp_path / "sweep")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    script = (tmp_path / "slurm" / "job.sh").read_text()
    for line in ("array=0-1%2", "gpus-per-node=1", "cpus-per-task=4", "mem=32GB", "time=240",
                 "partition=gpu"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert len(runs(tmp_path / "sweep")) == 2
    assert contents(tmp_path / "sweep") == contents(undisturbed, list(runs(tmp_path / "sweep")))


def logged(folder):
    """What the only offline W&B run in the folder holds, by kind of record."""
    import wandb

    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [wandb.util.get_core_path(), "leet", "inspect", "--json", "--no-observability"]
    deadline = time.monotonic() + 5
    while True:  # the last bytes come some milliseconds after the run ended
        text = subprocess.run(
            [*command, "-run-file", str(file)], capture_output=True, text=True, check=True
        ).stdout
        found = [json.loads(line) for line in text.splitlines()]
        if found[-1]["type"] == "exit":
            return found
        assert time.monotonic() < deadline, "the log never ended"
        time.sleep(0.05)


def one(log, kind):
    (found,) = [record[kind] for record in log if record["type"] == kind]
    return found


def test_a_failing_job_harms_no_other(sweep, tmp_path):
    folder = tmp_path / "sizes"
    sizes = "method.n_edges=5,99999,20,0"  # the second is too many for this graph, 0 is no size
    code, out, err = sweep("method=eap", sizes, "tracking=wandb_offline", "task.n=8", folder=folder)
    done = {run.config["config"]["method"]["n_edges"]: run for run in runs(folder).values()
            if run.config["config"]}  # fmt: skip
    assert runs(folder), (out, err)
    assert code == 1 and {n: run.state for n, run in done.items()} == {
        5: "done", 99999: "failed", 20: "done",
    }  # fmt: skip
    missing = json.loads((folder / "sweep.json").read_text())["not_done"]
    assert len(missing) == 2 and all("InputError" in m["error"] for m in missing)
    for member in missing:
        assert f"not done: {member['name']}" in out and f"error: {member['name']}: " in err
        error = read_run(folder / member["name"]).status["error"]
        assert error["traceback"].startswith("Traceback") and 'File "' in error["traceback"]
    ids = set()
    for n, run in done.items():
        log = logged(run.folder)
        about = one(log, "run")
        ids.add(about["run_id"])
        assert (about["run_group"], about["job_type"]) == ("sizes", "eap")
        assert f"n{n}-" in about["display_name"] and "metric:logit_diff" in about["tags"]
        assert one(log, "exit").get("exit_code", 0) == (0 if run.state == "done" else 1)
        summary = [i for r in log if r["type"] == "summary" for i in r["summary"]["update"]]
        assert str(summary).count("n_edges_requested") == (1 if run.state == "done" else 0)
    log = logged(folder)
    about = one(log, "run")
    assert (about["run_group"], about["job_type"]) == ("sizes", "sweep")
    assert {"method:eap", "model:induction"} <= set(about["tags"])
    media = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    tables = {path.name.partition("_")[0]: json.loads(path.read_text()) for path in media}
    rows = [
        dict(zip(tables["points"]["columns"], r, strict=True)) for r in tables["points"]["data"]
    ]
    line = [[row["edges"], row["faithfulness"]] for row in rows]
    assert [row["asked"] for row in rows] == [5, 20] and len(line) == 2
    assert [[x, y] for x, _, y in tables["edges against faithfulness"]["data"]] == line
    assert len(ids | {about["run_id"]}) == 4
    shell = [sys.executable, str(ROOT / "scripts" / "aggregate.py"), str(folder)]
    was = (folder / "sweep.json").read_bytes()
    (folder / "sweep.json").unlink()
    again = subprocess.run(shell, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert again.returncode == 1 and (folder / "sweep.json").read_bytes() == was


@pytest.mark.slow
def test_a_validation_that_fails_is_named_and_done_again(sweep, tmp_path, monkeypatch):
    from discovery.validation import runs as validation

    asked = ("method.threshold=0.2", "evaluation=full", "tracking=disabled", "task.n=8")
    folder, calls = tmp_path / "one", []

    def validate(found, settings, say):
        calls.append(found)
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        for one in found:
            (one.folder / "validation.json").write_text("{}")
        return []

    monkeypatch.setattr(validation, "validate_runs", validate)
    code, out, err = sweep(*asked, folder=folder)
    (missing,) = json.loads((folder / "sweep.json").read_text())["not_done"]
    assert code == 1 and missing["state"] == "not validated" and "0 of 1 runs" in out
    assert "not validated: RuntimeError: out of luck" in out
    assert "1 of 1 runs are not done" in err
    kept = json.loads((folder / missing["name"] / "validation_error.json").read_text())
    assert kept["traceback"].startswith("Traceback")
    code, out, err = sweep(*asked, folder=folder)
    assert code == 0, err
    assert "done already, skipped" in out and "1 of 1 runs" in out and len(calls) == 2
    assert not (folder / missing["name"] / "validation_error.json").exists()
    assert sweep(*asked, folder=folder)[0] == 0 and len(calls) == 2


@pytest.mark.slow
def test_what_is_done_stays_when_its_prompts_are_away(sweep, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    line = {"clean_ids": [1, 2, 3, 1], "corrupt_ids": [4, 5, 3, 1], "answers": [2],
            "wrong": [5]}  # fmt: skip
    pairs.write_text(f"{json.dumps(line)}\n" * 4)
    asked = ("task=pairs", f"task.path={pairs}", "method.threshold=0.1", "tracking=disabled",
             "ablation=resample")  # fmt: skip
    folder = tmp_path / "one"
    code, out, err = sweep(*asked, folder=folder)
    assert code == 0, err
    ((name, was),) = runs(folder).items()
    pairs.rename(tmp_path / "away.jsonl")
    code, out, err = sweep(*asked, folder=folder)
    assert code == 0 and "InputError" in err and "pairs.jsonl" in err
    assert runs(folder)[name] == was and not (folder / ".attempts").exists()


@pytest.mark.slow
def test_a_folder_may_hold_other_commands_runs(sweep, tmp_path):
    """They are passed over; without a finished search there is no picture, and none is named."""
    folder = tmp_path / "mixed"
    with RunFolder.create(folder / "route", {"text": "a"}, []):
        pass
    (folder / "pareto.png").write_bytes(b"of an earlier sweep")
    code, out, err = sweep("method=eap", "method.n_edges=0", "tracking=disabled", folder=folder)
    assert code == 1 and "picture" not in out and not (folder / "pareto.png").exists()
    said = json.loads((folder / "sweep.json").read_text())
    assert said["states"] == {"failed": 1}


@pytest.mark.slow
def test_an_interrupted_sweep_is_summed_up(tmp_path):
    folder = tmp_path / "six"
    process = start(SIX, *FIXED, folder=folder)
    deadline = time.monotonic() + 120
    while not any(run.state == "done" for run in runs(folder).values()):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; repeat the command" in out, out
    assert json.loads((folder / "sweep.json").read_text())["states"]["done"] >= 1


@pytest.mark.slow
def test_a_sweep_without_news_is_not_tracked_again(sweep, tmp_path):
    folder = tmp_path / "two"
    asked = ("method=eap", "method.n_edges=5,20", "tracking=wandb_offline", "task.n=8")
    for _ in range(2):
        assert sweep(*asked, folder=folder)[0] == 0
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1


def test_a_launcher_that_cannot_start_is_refused(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = sweep("hydra/launcher=slurm", folder=tmp_path / "a")
    assert code == 2 and "no sbatch and srun" in err and len(err.splitlines()) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "sweeping")
    code, _, err = sweep("hydra/launcher=joblib", folder=tmp_path / "b")
    assert code == 2 and err.startswith("error: hydra/launcher=joblib needs: pip install -c")
    monkeypatch.delitem(sys.modules, "sweeping")  # the next one is made anew
    assert not list(tmp_path.iterdir())


def test_names_of_folders(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    from sweeping import job_name, sweep_name

    command = ["+sweep=thresholds", "model=smollm2", "task=ioi"]
    assert sweep_name(command).startswith("thresholds_")
    assert sweep_name(command) == sweep_name([*reversed(command), "tracking=disabled"])
    assert sweep_name(command) != sweep_name(["+sweep=thresholds", "model=smollm2"])
    assert sweep_name(["+sweep=[seeds,sizes]"]).startswith("seeds-sizes_")
    name = job_name([*command, "method.threshold=0.1", "tracking.project=p"])
    assert name.startswith("threshold=0.1,model=smollm2,task=ioi_")
    assert name != job_name([*command, "method.threshold=0.2"])
    assert "/" not in job_name(["task.path=/some/file"]) and len(job_name(["a=" + "b" * 500])) < 180


@pytest.mark.parametrize(
    "named",
    [
        *("thresholds", "sizes", "methods", "seeds"),
        pytest.param("[seeds,thresholds]", marks=pytest.mark.slow),
    ],
)
def test_every_job_of_every_named_sweep_is_accepted(named, monkeypatch):
    from itertools import product

    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from discovery.settings.run import read_settings

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        whole = compose("config", [f"+sweep={named}"], return_hydra_config=True)
        params = [f"{k}={v}" for k, v in whole.hydra.sweeper.params.items()]
        parsed = OverridesParser.create().parse_overrides(params)
        axes = [[f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] for o in parsed]
        jobs = list(product(*axes))
        for job in jobs:
            config = compose("config", [f"+sweep={named}", *job])
            read_settings(OmegaConf.to_container(config, resolve=True))
        assert whole.hydra.mode.name == "MULTIRUN" and len(jobs) >= 5
