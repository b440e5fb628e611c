"""How a part says a figure, and which of many means are beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from discovery.explanation.section import Row
from discovery.statistics.intervals import Interval
from discovery.statistics.result import Floats


@dataclass(frozen=True)
class Share:
    """An interval that is said in per cent."""

    of: Interval


def ranged(found: Interval | Share, unit: str = "") -> str:
    """Such as "1.25 [1.1, 1.4] logits", or "84% [80%, 88%]"."""
    form = ".0%" if isinstance(found, Share) else ".3g"
    own = found.of if isinstance(found, Share) else found
    if own.estimate is None or own.low is None or own.high is None:
        return "undefined"
    text = f"{own.estimate:{form}} [{own.low:{form}}, {own.high:{form}}]"
    return f"{text} {unit}".rstrip()


def signed(found: Interval, digits: int = 2) -> str:
    """A change, such as "+0.62 [-0.51, +0.73]"; its estimate alone where it has no ends."""
    if found.estimate is None:
        return "undefined"
    form = f"+.{digits}f"
    ends = "" if found.low is None else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.estimate:{form}}{ends}"


def shown(rows: Sequence[Row]) -> list[Row]:
    """Rows for a table: intervals and numbers as text."""
    return [{name: _cell(own) for name, own in row.items()} for row in rows]


def _cell(value: object) -> object:
    if isinstance(value, Interval | Share):
        return ranged(value)
    return f"{value:.3g}" if isinstance(value, float) else value


def as_data(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The same rows for JSON: an interval is value, low and high."""
    return [{name: _number(own) for name, own in row.items()} for row in rows]


def _number(value: object) -> object:
    own = value.of if isinstance(value, Share) else value
    if isinstance(own, Interval):
        return {"value": own.estimate, "low": own.low, "high": own.high}
    return own


def adjusted(p: Sequence[float] | Floats) -> Floats:
    """p-values of any shape after Benjamini and Hochberg (1995); nothing for none."""
    own = np.asarray(p, float)
    return stats.false_discovery_control(own.ravel()).reshape(own.shape) if own.size else own


def beyond_zero(values: Floats, level: float) -> np.ndarray:
    """[rows]: whose mean over prompts is not 0; values [rows, prompts].

    Two-sided t-tests, false discoveries among all rows at most `level` (see `adjusted`). A row
    without spread is beyond 0 unless it is 0.
    """
    if not len(values):
        return np.zeros(0, bool)
    constant = np.ptp(values, axis=1) <= 1e-12 * np.abs(values).max(axis=1, initial=0)
    p = np.where(np.abs(values).max(axis=1) > 0, 0.0, 1.0)
    tests: Any = stats.ttest_1samp(values[~constant], 0.0, axis=1)
    p[~constant] = tests.pvalue
    return adjusted(p) <= level


def listed(names: Sequence[str], most: int = 8) -> str:
    """Such as "a, b and 3 more"."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"
