"""The other experiments of scripts/scrub.py, on the shipped networks, and their settings."""

import json

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.experiments.bracket_strings import draw_strings
from discovery.runs.folder import read_run
from discovery.settings.run import read_scrub_settings

SETTINGS = {"weights": None, "strings": None, "references": 100, "draws": 1, "seed": 0}


@pytest.fixture
def scrub(here, tmp_path):
    """What the script said and what it wrote."""

    def run(*overrides: str) -> tuple[str, dict]:
        code, out, err = here("scrub.py", f"hydra.run.dir={tmp_path / 'run'}", *overrides)
        assert code == 0, err
        assert read_run(tmp_path / "run").state == "done"
        return out, json.loads((tmp_path / "run" / "scrub.json").read_text())

    return run


@pytest.mark.slow
def test_roles(scrub, tmp_path):
    rows = draw_strings(600, np.random.default_rng(3))
    lines = ["".join(" ()"[c] for c in row if c) for row in rows]
    (tmp_path / "strings.txt").write_text("\n".join(lines))
    shown, found = scrub(
        "experiment=roles", f"strings={tmp_path / 'strings.txt'}", "references=400"
    )
    steps = found["found"]["steps"]
    assert steps and all(step["gain"]["low"] > 0 for step in steps)
    assert all(f"+ {step['part']} {step['feature']} | " in shown for step in steps)
    assert found["found"]["trivial"] == ["balanced"]
    assert [one["part"] for one in found["noised"]][:3] == ["0.0", "0.1", "m0"]


@pytest.mark.unchecked
@pytest.mark.slow
def test_induction(scrub):
    shown, found = scrub("experiment=induction", "references=100")
    names = [rung["name"] for rung in found["rungs"]]
    assert {"value", "query", "key", "naive", "R1 + R2 + R3"} <= set(names)
    assert all(f"\n{name} | " in shown for name in names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experiment": "roles", "weights": ""}, ["weights"]),
        ({"experiment": "induction", "strings": "x"}, ["strings='x'", "none"]),
        ({"experiment": "brackets", "strings": "x"}, ["weights is required"]),
        ({"experiment": "heads"}, ["experiment='heads'", "roles, induction"]),
    ],
)
def test_settings_that_do_not_fit_the_experiment(change, words):
    assert read_scrub_settings({**SETTINGS, "experiment": "roles"}).weights is None
    with pytest.raises(InputError) as error:
        read_scrub_settings({**SETTINGS, **change})
    assert all(word in str(error.value).lower() for word in words), error.value
