"""The published bracket classifier: figures that others found on the same weights and strings.

The files are no part of the project. They are looked for in the folder `parens` of
CIRCUIT_DISCOVERY_DATA, by default ../shared/data beside the project.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from discovery.experiments import brackets
from discovery.experiments.bracket_network import load_brackets, tokenize
from discovery.experiments.brackets_features import (
    TOLERANCE,
    horizon_all,
    horizon_parts,
    open_direction,
)
from discovery.experiments.brackets_graph import prepare
from discovery.experiments.brackets_report import data_facts, read_strings

DATA = os.environ.get("CIRCUIT_DISCOVERY_DATA", Path(__file__).parents[2] / "../shared/data")
FOLDER = Path(DATA) / "parens"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "weights.safetensors").is_file(), reason=f"no bracket data in {FOLDER}"
    ),
]
BANDS = {  # loss, nats, for 20 000 references; wider by the standard error of fewer
    "0a": (0, 0.004), "0b": (4.16, 4.48), "1a": (0.43, 0.52), "1b": (0.25, 0.33),
    "2 part 1": (0.36, 0.44), "2a": (0.49, 0.60), "2 projection": (0.49, 0.61),
    "2b": (0.52, 0.63), "3a": (1.06, 1.24), "3b": (0.84, 1.01), "4": (1.37, 1.57),
}  # fmt: skip
PERCENT = {"1b": (91, 95), "2b": (85, 89), "3b": (76, 85), "4": (62, 73)}


@pytest.fixture(scope="module")
def data():
    network = load_brackets(FOLDER / "weights.safetensors")
    return prepare(network, tokenize(read_strings(FOLDER / "strings.txt.gz")))


def references(data, n, seed=0):
    return np.random.default_rng(seed).integers(data.size, size=n)


def test_forward(data):
    strings = ["()", ")(", "((", "(())", "()()", "())(", "(()())", "(" * 20 + ")" * 20]
    z = data.network.run(torch.tensor(tokenize(strings))).z.tolist()
    expected = [11.278, -10.104, -9.176, 11.384, 11.202, -10.663, 11.290, 4.677]
    assert z == pytest.approx(expected, abs=6e-4)
    assert data.z[:3] == pytest.approx([-12.313, -10.399, -10.349], abs=6e-4)
    assert ((data.z > 0) != data.labels).sum() == 13
    assert brackets.losses(data.z, data.labels).mean() == pytest.approx(0.000657, abs=1e-6)


def test_baseline_and_features(data):
    facts = data_facts(data)
    assert facts["baseline_loss"] == pytest.approx(4.3203, abs=1e-4)
    assert facts["constant_guess_loss"] == pytest.approx(0.5773, abs=1e-4)
    kept = {
        name: (one["information"], one["beyond_label"]) for name, one in facts["features"].items()
    }
    assert kept["count_start"] == pytest.approx((0.623, 0.185), abs=6e-4)
    assert kept["horizon"] == pytest.approx((0.670, 0.342), abs=6e-4)
    assert kept["balanced"] == (pytest.approx(0.577, abs=6e-4), 0)
    explained = {name: one["variance_explained"]["2.1"] for name, one in facts["features"].items()}
    assert explained["horizon"] == pytest.approx(0.73, abs=0.006)
    assert explained["balanced"] == pytest.approx(0.49, abs=0.006)
    within = facts["features"]["horizon"]["variance_explained_unbalanced"]
    assert within["2.1"] == pytest.approx(0.50, abs=0.006)
    classes = np.unique(data.features["open_share"], return_counts=True)[1]
    assert len(classes) == 177 and (classes == 1).sum() == 11
    assert open_direction(data.network).norm().item() == pytest.approx(12.51, abs=0.006)


def test_the_tie_trap(data):
    """With a tolerance count and the weighted verdicts are the label; raw floats break ties."""
    tokens, count = data.tokens.numpy(), data.features["count"]
    bad = horizon_all(horizon_parts(tokens, data.adjusted, TOLERANCE))
    assert np.array_equal(count & bad, data.features["balanced"])
    raw = horizon_all(horizon_parts(tokens, data.adjusted, 0.0))
    assert 0.01 < ((count & raw) != data.features["balanced"]).mean() < 0.05


@pytest.mark.parametrize("name", BANDS)
def test_ladder(data, name):
    n = 1000 if name.startswith(("2", "4")) else 20_000
    experiment = next(e for e in brackets.ladder(data) if e.name == name)
    score = brackets.run(data, experiment, references(data, n), seed=0).recovered
    low, high = BANDS[name]
    spare = 3 * score.scrubbed_error if n < 20_000 else 0
    assert low - spare <= score.scrubbed_loss <= high + spare
    low, high = PERCENT.get(name, (-np.inf, np.inf))
    spare = 300 * score.error if n < 20_000 else 0
    assert low - spare <= 100 * score.value <= high + spare


def test_what_percent_recovered_does_not_show(data):
    rows = references(data, 20_000)
    found = {e.name: brackets.run(data, e, rows, seed=0) for e in brackets.controls(data)[:3]}
    claim = brackets.run(data, brackets.ladder(data)[3], rows, seed=0)
    scores = brackets.role_scores(data, rows[:4000], seed=0)
    assert max(scores, key=scores.__getitem__) == brackets.CLAIM_1
    swapped, trivial = found["swapped"], found["trivial"]
    assert 0.75 < swapped.recovered.value < 0.79
    assert swapped.calibrated.information == pytest.approx(0.32, abs=0.03)
    assert claim.calibrated.information == pytest.approx(0.68, abs=0.03)
    rank = brackets.rank_among_roles(scores, swapped.recovered.value, brackets.SWAPPED)
    assert rank.p > 0.2
    best = brackets.rank_among_roles(scores, claim.recovered.value, brackets.CLAIM_1)
    assert best.p == 1 / 64
    assert trivial.recovered.value > 0.96 and trivial.retained.beyond_label == 0
    assert claim.retained.beyond_label > 0.4
    assert found["irrelevant"].recovered.value == pytest.approx(0.377, abs=0.03)
    assert claim.effect.share_1_nat == pytest.approx(0.074, abs=0.01)
    assert abs(claim.effect.median) < 1e-3


def test_standard_error_is_calibrated(data):
    experiment = brackets.ladder(data)[3]
    found = [
        brackets.run(data, experiment, references(data, 1000, seed), seed).recovered
        for seed in range(20)
    ]
    losses, errors = zip(*((f.scrubbed_loss, f.scrubbed_error) for f in found), strict=True)
    assert 0.65 < np.std(losses, ddof=1) / np.mean(errors) < 1.4
    assert sum(f.low < 0.934 < f.high for f in found) >= 16
