"""scripts/cost.py: every case has a line, and a missed target is told."""

import pytest

from scripts.cost import CASES, Case, measure, routes, row


@pytest.mark.parametrize("forwards, gib, ok", [(2, 3, "yes"), (2.01, 3, "NO"), (2, 4, "NO")])
def test_a_missed_target_is_told(forwards, gib, ok):
    case = Case("x", routes, (1, 2), 1, most=2, most_gib=4)
    assert row(case, {"forwards": forwards, "gib": gib})["ok"] == ok


def test_the_targets():
    most = {(c.name, c.size[1]): c.most for c in CASES if c.most}
    assert most == {("IFR, routes", 15): 1.5, ("IFR, routes", 128): 3, ("EAP", 15): 6,
                    ("EAP-IG, 5 steps", 15): 25}  # fmt: skip


def test_a_measurement_on_the_embedded_model():
    found = measure(Case("routes", routes, (4, 12), 3, embedded=True))
    assert found["forwards"] > 0 and 0.1 < found["gib"] < 8
