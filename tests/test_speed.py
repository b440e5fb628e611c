"""What scripts/speed.py says of measured times, and one search measured."""

import json
from argparse import ArgumentTypeError
from dataclasses import replace
from types import SimpleNamespace

import pytest

from scripts import speed


def test_an_exponent_by_hand():
    assert speed.exponent([2, 4, 8], [3, 12, 48]) == pytest.approx(2)
    assert speed.exponent([10, 1000], [5, 5]) == pytest.approx(0)


def test_growth_is_of_edges_where_layers_grow():
    def run(case):
        edges = case.layers**2
        size = edges * case.prompts * case.tokens**0.5
        return {"edges": edges, "cpu_seconds": size, "peak_mib": 100 + 3 * case.prompts}

    rows, exponents = speed.growth(run, threads=1)
    assert len(rows) == sum(map(len, speed.GROWTH.values()))
    found = {one["over"]: one for one in exponents}
    assert found["edges (layers)"]["exponent"] == 1 and found["edges (layers)"]["to"] == 256
    assert found["prompts"]["exponent"] == 1 and found["prompts"]["MiB each"] == 3
    assert found["tokens"]["exponent"] == found["tokens"]["of the last step"] == 0.5


def test_a_threshold_that_keeps_few_edges():
    tried = []

    def search(threshold):
        tried.append(threshold)
        return SimpleNamespace(n_kept=int(0.4 / threshold))

    found = speed.threshold_for(search)
    assert speed.FEWEST <= int(0.4 / found) <= speed.MOST and len(tried) < speed.TRIED


def test_two_commits_take_turns_and_the_ratio_is_the_others_time(tmp_path):
    order = []

    def run(case, root):
        order.append(root == tmp_path)
        return {"cpu_seconds": 3.0 if root == tmp_path else 1.5, "forwards": 7, "circuit": "a"}

    (row,) = speed.against([speed.Case()], run, tmp_path, repeats=2)
    assert order == [False, True, True, False]
    assert row["the other's time / this"] == 2 and row["same circuit"] is True


def test_a_case_is_given_as_json():
    assert speed.asked('{"layers": 3, "scale": 0.1}') == speed.Case(layers=3, scale=0.1)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("x", "Invalid JSON"),
        ("[]", "an object"),
        ('{"layer": 3}', r"\(layer: Unexpected"),
        ('{"layers": "3"}', r"\(layers: .*valid integer"),
        ('{"layers": 0, "scale": -1}', r"\(layers: .*equal to 1; scale: .*than 0"),
        ('{"metric": "acc"}', r"\(metric: .*kl_reverse"),
        ('{"heads": 3}', "width=128: it is 3 heads"),
    ],
)
def test_a_wrong_case_is_told_why(wrong, why):
    with pytest.raises(ArgumentTypeError, match=rf"object of model, layers, .*threads .*{why}"):
        speed.asked(wrong)


def test_the_history_keeps_what_it_has():
    first = speed.remembered("", [{"case": "a", "forwards": 3}], {"commit": "x"})
    both = speed.remembered(first, [{"case": "a", "forwards": 2}], {"commit": "y"})
    lines = [json.loads(line) for line in both.splitlines()]
    assert [(one["commit"], one["forwards"]) for one in lines] == [("x", 3), ("y", 2)]


def test_one_search_is_measured():
    case = speed.Case(layers=1, heads=2, width=8, vocabulary=30, prompts=2, tokens=4)
    found = speed.measure(case)
    assert found["forwards"] == pytest.approx(
        found["cpu_seconds"] / found["forward_seconds"], rel=0.1
    )
    assert 0 <= found["kept"] <= found["edges"] and found["tests"] > 0


def test_without_gates_each_edge_is_tested_alone():
    case = speed.Case(layers=1, heads=2, width=8, vocabulary=30, threshold=1e-12, gates=False)
    found, gated = speed.measure(case), speed.measure(replace(case, gates=True))
    assert found["tests"] == found["edges"] == found["kept"] == gated["kept"]
    assert gated["tests"] > found["tests"] and case.name.endswith("without gates")
