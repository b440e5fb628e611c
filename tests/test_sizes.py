"""scripts/sizes.py: a row a kind of work, and whether two devices agree."""

from __future__ import annotations

from argparse import Namespace

import families
import numpy as np

from scripts import sizes


def test_what_two_devices_found_is_compared():
    circuit = np.array([True, True, False, False])
    other = np.array([True, False, True, False])
    assert sizes.agreement(circuit, other) == "Jaccard 0.333"
    assert sizes.agreement(circuit & False, circuit & False) == "Jaccard 1.000"
    scores = np.array([2.0, -4.0])
    assert sizes.agreement(scores + [0.0, 0.1], scores) == "off by 2.5e-02"


def test_every_kind_of_work_has_a_row(monkeypatch):
    monkeypatch.setattr(sizes, "load", lambda *_: families.load("llama"))
    given = Namespace(
        dtype="float32", device="cpu", beside="cpu", share=0.01, prompts=2, tokens=6
    )  # fmt: skip
    rows = list(sizes.rows(given, "1b"))
    assert [row["work"] for row in rows] == ["search", "EAP-IG, 5 steps", "flows"]
    assert [row["same"] for row in rows] == ["Jaccard 1.000", "off by 0.0e+00", "off by 0.0e+00"]
    assert rows[0]["edges"] == 110 and 0 < int(str(rows[0]["kept"])) < 110
    assert all(float(str(row["passes"])) > 0 < float(str(row["peak GiB"])) for row in rows)
