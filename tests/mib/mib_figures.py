"""Figures of MIB's own code, no part of the project; see tests/acdc/test_mib_scores.py."""

import json
import os
from functools import cache
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "../shared/data"
FOLDER = Path(os.environ.get("CIRCUIT_DISCOVERY_DATA", BESIDE)) / "mib"
there = pytest.mark.skipif(
    not (FOLDER / "gpt2_like").is_dir(), reason=f"no figures of MIB in {FOLDER}"
)
MODELS = ("gpt2_like", "gpt2_deep_like", "qwen2_like", "gemma2_like")


@cache
def theirs(name):
    return json.loads((FOLDER / name / "evaluation.json").read_text())


def evaluation(name, pairs, cut, rule, absolute):
    """Their curve of the fixed scores."""
    wanted = {"pairs": pairs, "intervention": cut, "rule": rule, "absolute": absolute}
    (found,) = (one for one in theirs(name)["evaluations"] if wanted.items() <= one.items())
    return found


def words(name, pairs="all_lengths", suffix="json", **more):
    """Words of `mib evaluate` on the fixed scores."""
    folder = FOLDER / name
    given = {
        "scores": folder / f"importances.{suffix}", "model": "hf", "model.name": folder / "model",
        "model.dtype": "float64", "task": "pairs", "task.path": folder / f"pairs_{pairs}.jsonl",
        "task.part": "null", **more,
    }  # fmt: skip
    return [f"{field}={value}" for field, value in given.items()]
