"""Aggregation, on runs that are worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from acdc.errors import InputError
from discovery.sweeps.folder import read_sweep
from discovery.sweeps.points import (
    Member,
    done_members,
    mean_over_seeds,
    overlap,
    points,
    report,
    series_labels,
    short_names,
    summary,
)


def member(name, edges, faithfulness, *, method="acdc", size=0.1, seed=0, task="ioi", **fields):
    config = {
        "model": {"kind": "induction"},
        "task": {"name": task},
        "graph": {"kv": "per_group"},
        "method": {"name": method, "threshold": size, **fields},
        "metric": {"name": "kl"},
        "ablation": {"name": "resample"},
        "seed": seed,
        "tracking": {"mode": name},
    }  # fmt: skip
    result = {
        "model": "induction", "task": task, "method": method, "metric": "kl", "threshold": size,
        "n_edges": edges, "n_edges_on_paths": edges, "faithfulness": faithfulness,
        "metric_circuit": None if faithfulness is None else 2 * (1 - faithfulness), "nested": {},
    }  # fmt: skip
    return Member(name, "done", config, result, frozenset(map(str, range(edges))))


def failed(name):
    return Member(name, "failed", {}, None, frozenset(), "InputError: no\nsecond line")


def test_mean_and_students_interval():
    assert mean_over_seeds([]) is None and mean_over_seeds([1.0, None]) is None
    one = mean_over_seeds([2.0])
    assert one is not None and (one.mean, one.low, one.high) == (2.0, None, None)
    three = mean_over_seeds([1.0, 2.0, 3.0])  # t(.975, 2) = 4.3027, standard error 1 / sqrt 3
    assert three is not None and three.mean == 2
    assert three.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert three.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)


def test_seeds_make_a_point_and_sizes_a_series():
    runs = [
        member(f"{size},{seed}", 10 + seed, 0.5, size=size, seed=seed)
        for size in (0.1, 0.2)
        for seed in (0, 1)
    ]
    found = points([*runs, member("other", 5, 0.1, method="eap"), failed("no")])
    assert [(p.series, p.threshold, len(p.names)) for p in found] == [
        ("acdc", 0.1, 2), ("acdc", 0.2, 2), ("eap", 0.1, 1),
    ]  # fmt: skip
    assert found[0].edges.mean == 10.5 and found[0].edges.high is not None
    assert found[2].edges.high is None


def test_the_front_is_what_nothing_beats():
    runs = [
        member("small", 5, 0.5, size=0.5),
        member("beaten", 8, 0.4, size=0.3),
        member("good", 10, 0.9, size=0.2),
        member("padded", 11, 0.9, size=0.15),  # as near to 1, but with more edges
        member("too much", 12, 1.2, size=0.1),  # further from 1 than 0.9
        member("undefined", 1, None, size=0.9),
        member("elsewhere", 99, 0.1, task="induction"),  # has no rival
        member("twin", 10, 0.9, method="eap"),  # as good as another: neither beats the other
    ]
    front = {name for p in points(runs) if p.front for name in p.names}
    assert front == {"small", "good", "elsewhere", "twin"}


def test_labels_say_what_differs_within_a_method():
    runs = [
        member("a", 1, 1, gates=True),
        member("b", 1, 1, gates=False, size=0.7),
        member("c", 1, 1, method="eap", steps=5, seed=3),
    ]
    labels = series_labels([m.config for m in runs])
    assert labels == ["acdc, gates=True", "acdc, gates=False", "eap"]
    tasks = [member("a", 1, 1), member("b", 1, 1, task="induction")]
    assert series_labels([m.config for m in tasks]) == ["acdc, ioi", "acdc, induction"]


def test_overlap_is_jaccards_index_within_a_graph():
    runs = [member("a", 2, 1), member("b", 4, 1), member("c", 0, 1), member("d", 0, 1)]
    other = member("e", 2, 1)
    other.config["graph"]["kv"] = "per_query_head"
    matrix = overlap([*runs, other])
    expected = [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert np.array_equal(matrix[:4, :4], expected)
    assert np.isnan(matrix[:4, 4]).all() and matrix[4, 4] == 1


def test_names_are_cut_only_if_they_stay_apart():
    assert short_names(["n=8,t=1_aa", "n=8,t=2_bb"]) == ["t=1", "t=2"]
    for names in (["n=8_aa", "n=8_bb"], ["n=8_aa"], ["n=8_aa", "n=8,t=2_bb"]):
        assert len(set(short_names(names))) == len(names)
    assert short_names(["n=8_aa", "n=8_bb"]) == ["n=8_aa", "n=8_bb"]


def test_summary_and_report_name_what_is_not_done():
    runs = [member("big", 20, 0.9, size=0.1), failed("worse"), member("tiny", 2, 0.2, size=0.2)]
    said = summary(runs)
    assert said["states"] == {"done": 2, "failed": 1}
    assert [m["name"] for m in said["not_done"]] == ["worse"]
    assert said["jaccard"] == {"names": ["tiny", "big"], "values": [[1, 0.1], [0.1, 1]]}
    assert [m.name for m in done_members(runs)] == ["tiny", "big"]
    assert [run["n_edges"] for run in said["runs"]] == [2, 20] and "nested" not in said["runs"][0]
    text = report(runs, "a sweep")
    assert "2 of 3 runs" in text and "worse (failed: InputError: no)" in text
    assert "second line" not in text and "| acdc | 0.2 |" in text
    nothing = report([failed("worse")], "a sweep")
    assert "0 of 1" in nothing and "Points" not in nothing


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no runs"):
        read_sweep(tmp_path)
