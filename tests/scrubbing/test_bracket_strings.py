"""The strings that are drawn, and the classifier that was trained on them and is shipped."""

import hashlib
import json
from itertools import islice

import numpy as np
import pytest
import torch

from discovery.experiments.bracket_network import FOLDER, load_brackets, tokenize
from discovery.experiments.bracket_strings import (
    blocks_of_strings,
    draw_strings,
    is_balanced,
    pieces,
    tokens_of,
)


def written(strings: np.ndarray) -> list[str]:
    return ["".join(" ()"[c] for c in row if c) for row in strings]


def test_balanced_by_hand():
    rows = np.array([[1, -1, 0, 0], [-1, 1, 0, 0], [1, 1, -1, 0], [1, 1, -1, -1], [1, -1, -1, 1]])
    assert is_balanced(rows).tolist() == [True, False, False, True, False]


def test_strings_have_the_posts_distribution():
    strings = draw_strings(40_000, np.random.default_rng(0))
    length = np.abs(strings).sum(1)
    expected = {  # of 100,000 published strings; 5 standard errors of both samples are 0.013
        "balanced": (is_balanced(strings), 0.2641),
        "count": (strings.sum(1) == 0, 0.3946),
        "start": (strings[:, 0] == 1, 0.6205),
        "two characters": (length == 2, 0.1173),
        "forty characters": (length == 40, 0.0398),
    }
    for name, (found, share) in expected.items():
        assert abs(found.mean() - share) < 0.013, name
    assert set(length.tolist()) == set(range(2, 41, 2))


def test_tokens_are_those_of_the_written_strings():
    strings = draw_strings(200, np.random.default_rng(1))
    assert (tokens_of(strings) == tokenize(written(strings))).all()


def test_pieces_lose_and_repeat_nothing():
    def blocks():
        yield from (np.full((3, 40), i) for i in range(9))

    found = np.concatenate(list(islice(pieces(blocks(), 4), 5)))[:, 0]
    assert found.tolist() == [i // 3 for i in range(20)]
    first, second = (next(blocks_of_strings(np.random.default_rng(5))) for _ in range(2))
    assert (first == second).all()


def test_shipped_file_is_the_one_that_was_trained():
    recorded = json.loads((FOLDER / "config.json").read_text())
    content = (FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == recorded["sha256"]
    assert recorded["training"]["held_out"]["accuracy"] >= 0.999


@torch.inference_mode()
@pytest.mark.slow
def test_shipped_classifier_is_right_on_fresh_strings():
    strings = draw_strings(4000, np.random.default_rng([12, 34]))
    tokens = torch.from_numpy(tokens_of(strings))
    z = load_brackets().run(tokens).z.numpy()
    assert ((z > 0) == is_balanced(strings)).mean() >= 0.998
