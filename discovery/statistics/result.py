"""What every hypothesis test returns, and the checks that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acdc.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TestResult:
    """One hypothesis test. Where undefined, the optional fields are None and `extra` says why.

    `holds` is about the circuit, not about the null: True = the property is shown, False = its
    opposite is shown, None = neither. A test that only fails to reject shows nothing, so it never
    gives True.
    """

    name: str
    null: str  # the null hypothesis in words
    statistic: float | None
    p_value: float | None
    n: int  # observations that the test counts: prompts, random circuits or draws
    level: float
    rejected: bool | None  # p_value <= level
    holds: bool | None
    correction: str = "none"  # for several tests at once
    extra: Mapping[str, Any] = field(default_factory=dict)  # plain values, ready for JSON


def undefined(name: str, null: str, n: int, level: float, reason: str) -> TestResult:
    """The result of a test that cannot be made on these data."""
    return TestResult(name, null, None, None, n, level, None, None, extra={"undefined": reason})


def decide(shown: float, opposite: float, level: float) -> bool | None:
    """`holds` from the p-value that shows a property and the one that shows its opposite."""
    return True if shown <= level else False if opposite <= level else None


def check_scores(test: str, shape: tuple[int, ...], **arrays: Floats) -> None:
    """InputError unless every array has the shape and holds finite numbers only."""
    for name, array in arrays.items():
        if array.shape != shape:
            raise InputError(f"{test}: {name} has shape {array.shape}, it must be {shape}")
        if not np.isfinite(array).all():
            raise InputError(f"{test}: {name} has values that are not finite")


def check_need(test: str, what: str, need: int, got: int) -> None:
    """InputError if there are fewer observations than the test needs to decide anything."""
    if got < need:
        raise InputError(f"{test}: needs {need} {what}, got {got}")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """InputError unless low < value < high."""
    if not low < value < high:
        raise InputError(f"{name}={value}: must lie between {low} and {high}, both excluded")


def check_margin(test: str, margin: float) -> None:
    """InputError for a margin that is negative or not finite."""
    if not 0 <= margin < np.inf:
        raise InputError(f"{test}: margin={margin} must be 0 or more, in the scores' unit")
