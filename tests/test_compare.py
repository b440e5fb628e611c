"""scripts/compare.py on the embedded model: one table, one picture, noise last."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from acdc.circuit_files import read
from acdc.errors import InputError
from discovery.runs.folder import read_run

ROOT = Path(__file__).parents[1]


def test_table_and_curves(here, tmp_path):
    methods = ["acdc", "ifr", "eap_ig", "exact", "random", "eap, backward=gim"]
    few = "task.n=8", "tune=16", "test=20", "targets=[0.8]"
    asked = [*methods[:-1], "'eap method.backward=gim'"]
    words = f"methods=[{','.join(asked)}]", f"hydra.run.dir={tmp_path / 'run'}"
    code, out, err = here("compare.py", *words, *few)
    assert code == 0, err
    assert read_run(tmp_path / "run").state == "done"
    found = json.loads((tmp_path / "run" / "compare.json").read_text())
    rows = {row["method"]: row for row in found["table"]}
    assert list(rows) == methods and all(f"| {m} |" in out for m in methods)
    assert rows["acdc"]["shared"] == rows["acdc"]["edges"] > 0
    for name in ("ifr", "eap_ig", "exact"):
        assert rows[name]["cmd"] < rows["random"]["cmd"]
        assert rows["random"]["shared"] < rows[name]["shared"] <= rows["acdc"]["edges"]
    for row in found["needed"]:
        assert (row["circuit"] is None) == (row["edges"] is None)
        if row["circuit"]:
            circuit = read(tmp_path / "run" / row["circuit"])
            assert sum(edge["in_graph"] for edge in circuit["edges"].values()) == row["edges"]
            assert all(edge["in_graph"] for edge in circuit["edges"].values())
    kept = {row["circuit"] for row in found["needed"]}
    assert {"circuit_eap_ig_0.8.json", "circuit_eap-backward-gim_0.8.json"} <= kept
    about = read(tmp_path / "run" / "circuit_eap_ig_0.8.json")["about"]
    assert about["score"] == "eap_ig, in logits of logit_diff, positive = the edge helps"
    for name in methods:
        points = found["curves"][name]["absolute"]["points"]
        assert len(points) == 10 and points[-1]["faithfulness"] == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "override, words",
    [
        ("methods=[nonesuch]", ["nonesuch"]),
        ("methods=[]", ["name at least one"]),
        ("metric=nll2", ["metric.name='nll2'", "kl"]),
        ("rule=best", ["rule", "best", "top_n"]),
        ("targets=[]", ["targets=[]: name at least one"]),
        ("targets=[0.5,2]", ["targets.1=2", "less than 1"]),
    ],
)
def test_bad_input_is_one_clear_error(override, words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    module = importlib.import_module("compare")
    with (
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
        pytest.raises(InputError) as error,
    ):
        asked = module.asked([override, "tracking=disabled"])
        module.run(compose("compare", asked), tmp_path / "run", asked)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "methods, words",
    [
        (["metric=kl", "methods=[ifr,eap]"], "method=eap with metric=kl: its gradient"),
        (["ablation=zero", "methods=[exact,best]"], "ablation=zero: the path along the input"),
    ],
)
def test_a_method_that_can_say_nothing_is_refused_before_any_model(methods, words, here, tmp_path):
    code, out, err = here(
        "compare.py", "model=smollm2", f"hydra.run.dir={tmp_path / 'run'}", *methods
    )
    assert code == 2 and words in err and "\n" not in err.strip() and not out
    assert not (tmp_path / "run" / "status.json").exists()


def test_methods_of_one_name_keep_a_circuit_each(here, tmp_path):
    twice = "methods=['eap_ig method.steps=1','eap_ig method.steps=5']"
    words = twice, "targets=[0.8]", "curves=false", "task.n=8", "tune=16", "test=20"
    code, _, err = here("compare.py", *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 0, err
    rows = json.loads((tmp_path / "run" / "compare.json").read_text())["needed"]
    assert [row["circuit"] for row in rows] == [
        "circuit_eap_ig_0.8.json", "circuit_eap_ig_0.8_2.json",
    ]  # fmt: skip
    for row in rows:
        assert len(read(tmp_path / "run" / row["circuit"])["edges"]) == row["edges"]


def test_what_was_found_before_it_broke_is_kept(here, tmp_path, monkeypatch):
    from discovery.studies import needed

    measured = []

    def breaks(test, metric, mask):
        measured.append(mask)
        if len(measured) == 4:
            raise InputError("the fourth breaks")
        return measure(test, metric, mask)

    measure = needed.measure
    monkeypatch.setattr(needed, "measure", breaks)
    words = "methods=[ifr,acdc]", "targets=[0.5,0.8]", "curves=false", "task.n=8", "tune=16"
    code, _, err = here("compare.py", *words, "test=20", f"hydra.run.dir={tmp_path / 'run'}")
    assert code == 2 and "the fourth breaks" in err
    found = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert [(row["method"], row["target"]) for row in found["needed"]] == [
        ("ifr", 0.5), ("ifr", 0.8), ("acdc", 0.5),
    ]  # fmt: skip
    assert len(found["table"]) == 1 and (tmp_path / "run" / "circuit_acdc_0.5.json").exists()


def test_the_command_ends_with_that_error(tmp_path):
    command = [sys.executable, "scripts/compare.py", "methods=[nonesuch]"]
    done = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path / 'run'}"], cwd=ROOT, text=True, capture_output=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: method.name='nonesuch'"), done.stderr
