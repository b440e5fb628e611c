"""Do the tests of discovery.statistics hold what they promise? Simulated data, known truth.

    python scripts/calibrate.py                  # about two minutes on one thread

Where the null holds, a test at level 0.05 may reject in 5 % of the simulations, exact intervals
given, and continuous p-values must be uniform (Kolmogorov-Smirnov). Where it does not, the share of
rejections is the power. Intervals must cover the truth. Writes the tables as Markdown and JSON;
ends with an error if a test rejects a true null too often or a p-value is not uniform.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from discovery.runs.json_files import write_bytes, write_json
from discovery.statistics.against_random import (
    minimality,
    null_percentile,
    partial_necessity,
    sufficiency,
)
from discovery.statistics.equivalence import equivalence, mean_equivalence
from discovery.statistics.independence import independence
from discovery.statistics.intervals import (
    Interval,
    binomial_interval,
    mean_interval,
    ratio_of_means,
)
from discovery.statistics.result import TestResult

LEVEL = 0.05
PROMPTS = (100, 400, 1000)
CIRCUITS = 100  # random circuits, reference draws
EDGES = 44
ALARM = 0.001  # chance of a false alarm, per row, of the checks at the end

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One test in one situation."""

    test: str
    situation: str
    null: bool  # whether the null hypothesis holds, at its edge
    n: int
    run: Callable[[Rng], float]  # a p-value
    continuous: bool = False
    simulations: int = 1000


def p_value(result: TestResult) -> float:
    """The p-value of a test that is defined."""
    assert result.p_value is not None
    return result.p_value


def equivalence_cases() -> Iterator[Case]:
    """Sign tests with wins, losses and ties as stated; means of a normal difference of SD 1.

    The effect is 5 with SD 1 on every prompt, its tenth the margin.
    """

    def signs(n: int, win: float, tie: float) -> Callable[[Rng], float]:
        def run(rng: Rng) -> float:
            delta = rng.choice([1.0, 0.0, -1.0], n, p=[win, tie, round(1 - win - tie, 9)])
            return p_value(equivalence(delta, np.zeros(n), 0.5))

        return run

    def means(n: int, share: float) -> Callable[[Rng], float]:
        def run(rng: Rng) -> float:
            model, empty = rng.normal(5, 1, n), np.zeros(n)
            return p_value(mean_equivalence(model + rng.normal(5 * share, 1, n), model, empty))

        return run

    for n in PROMPTS:
        for tie in (0.0, 0.5, 0.8):
            for lead in (-0.2, 0.0, 0.1):
                win = round((1 - tie + lead) / 2, 9)
                case = f"P(win) - P(loss) = {lead:g}, ties {tie:.0%}"
                yield Case("equivalence", case, lead == -0.2, n, signs(n, win, tie))
    for n in PROMPTS:
        for share in (0.1, 0.0, 0.05):
            case = f"mean difference {share:g} of the effect"
            null = share == 0.1
            yield Case("mean equivalence", case, null, n, means(n, share), continuous=null)


def independence_cases() -> Iterator[Case]:
    """Model and empty circuit share the prompts' difficulty, correlation .9; 199 permutations.

    Shown: the complement is beyond the margin on so many prompts. Refuted: it follows the empty
    circuit in some way, and beside that nothing, or a share of what the model has of its own.
    """

    def shown(n: int, beyond: float) -> Callable[[Rng], float]:
        def run(rng: Rng) -> float:
            empty = rng.normal(size=n)
            rest = empty + np.where(rng.random(n) < beyond, 5.0, 0.0)
            return p_value(independence(rest, empty + 5, empty, 0.5, rng, permutations=19))

        return run

    def refuted(
        n: int, follows: Callable[[np.ndarray], np.ndarray], own: float
    ) -> Callable[[Rng], float]:
        def run(rng: Rng) -> float:
            empty, part = rng.normal(size=n), rng.normal(scale=0.5, size=n)
            rest = follows(empty) + 4 + own * part + rng.normal(scale=0.5, size=n)
            found = independence(rest, empty + 5 + part, empty, 0.5, rng, permutations=199)
            return float(found.extra["p_opposite"])

        return run

    def straight(x: np.ndarray) -> np.ndarray:
        return x

    def bent(x: np.ndarray) -> np.ndarray:
        return 2 * np.tanh(x)

    for n in PROMPTS:
        for beyond in (0.1, 0.05, 0.01):
            case = f"beyond the margin on {beyond:.0%} of prompts"
            yield Case("independence, shown", case, beyond == 0.1, n, shown(n, beyond), False, 400)
        for name, follows in (("straight", straight), ("bent", bent)):
            for own in (0.0, 0.4):
                case = f"{name} in the empty circuit, {own:g} of the model's own"
                null = own == 0.0
                run = refuted(n, follows, own)
                yield Case("independence, refuted", case, null, n, run, False, 200)


def random_circuit_cases() -> Iterator[Case]:
    """Distances of random circuits to the model are uniform, the circuit's is a quantile of them.

    A quantile of None: the circuit is one of the random circuits.
    """
    model = np.zeros(1)

    def against(test: Callable[..., TestResult], share: float | None) -> Callable[[Rng], float]:
        def run(rng: Rng) -> float:
            wins = rng.random() if share is None else share
            own = 1 - wins if test is sufficiency else wins
            more = () if test is sufficiency else (np.array([2.0]),)  # the empty circuit
            return p_value(test(np.array([own]), rng.random((CIRCUITS, 1)), model, *more))

        return run

    for test, name in ((sufficiency, "sufficiency"), (partial_necessity, "partial necessity")):
        chance = "itself a random circuit"
        yield Case(name, chance, True, CIRCUITS, against(test, None))
        for share in (0.9, 0.95, 0.98, 0.99):
            case = f"beats {share:.0%} of random circuits"
            yield Case(name, case, share == 0.9, CIRCUITS, against(test, share))


def minimality_cases() -> Iterator[Case]:
    """44 edges at the null's edge, and one that is superfluous among them."""

    def run(odd: float, key: str) -> Callable[[Rng], float]:
        def once(rng: Rng) -> float:
            effects = np.append(np.full(EDGES - 1, 0.9), odd)
            names = [str(i) for i in range(EDGES)]
            result = minimality(names, effects, rng.random(CIRCUITS))
            return min(row[key] for row in result.extra["edges"])

        return once

    for key, correction in (("p_bh", "BH"), ("p_bonferroni", "Bonferroni")):
        for odd in (0.9, 0.8, 0.7):
            case = f"all of {EDGES} edges at 90 %" if odd == 0.9 else f"one edge at {odd:.0%}"
            yield Case(f"minimality, {correction}", case, odd == 0.9, CIRCUITS, run(odd, key))


def percentile_cases() -> Iterator[Case]:
    """Normal figures; the circuit's is so many SD better than chance."""

    def run(shift: float) -> Callable[[Rng], float]:
        return lambda rng: p_value(
            null_percentile(float(rng.normal(shift)), rng.normal(size=CIRCUITS))
        )

    for shift in (0.0, 2.0, 3.0):
        case = f"{shift:g} SD above chance"
        yield Case("null percentile", case, shift == 0, CIRCUITS, run(shift), shift == 0)


def coverage_cases() -> Iterator[tuple[str, int, float, Callable[[Rng], Interval]]]:
    """Name, prompts, truth, and an interval from fresh data."""

    def skewed(n: int) -> Callable[[Rng], Interval]:
        return lambda rng: mean_interval(rng.gamma(2.0, 1.0, n), rng, resamples=500)

    def ratio(n: int) -> Callable[[Rng], Interval]:
        def once(rng: Rng) -> Interval:
            below = rng.normal(2, 1, n)
            return ratio_of_means(0.8 * below + rng.normal(size=n), below, rng, resamples=500)

        return once

    def grouped(n: int) -> Callable[[Rng], Interval]:
        def once(rng: Rng) -> Interval:
            group = np.arange(n) % 30
            values = rng.normal(size=30)[group] + rng.normal(size=n)
            return mean_interval(values, rng, group.tolist(), resamples=500)

        return once

    for n in (100, 400):
        yield "mean, skewed scores", n, 2.0, skewed(n)
        yield "ratio of means", n, 0.8, ratio(n)
        yield "mean, 30 dependent groups", n, 0.0, grouped(n)


def rejections(case: Case, rng: Rng) -> dict[str, Any]:
    """One row: how often the test rejects, and whether that is as it should be."""
    p = np.array([case.run(rng) for _ in range(case.simulations)])
    count = int((p <= LEVEL).sum())
    shown = binomial_interval(count, case.simulations)
    uniform = float(stats.kstest(p, "uniform").pvalue) if case.continuous else None
    too_often = stats.binomtest(count, case.simulations, LEVEL, "greater").pvalue < ALARM
    return {
        "test": case.test,
        "situation": case.situation,
        "n": case.n,
        "truth": "null" if case.null else "power",
        "simulations": case.simulations,
        "rejected": shown.estimate,
        "low": shown.low,
        "high": shown.high,
        "uniform_p": uniform,
        "fails": case.null and bool(too_often or (uniform is not None and uniform < ALARM)),
    }


def coverage(name: str, n: int, truth: float, run: Callable[[Rng], Interval], rng: Rng) -> dict:
    """One row: how often the 95 % interval holds the truth; it fails below 90 %."""
    found = [run(rng) for _ in range(400)]
    inside = sum(
        i.low is not None and i.high is not None and i.low <= truth <= i.high for i in found
    )
    shown = binomial_interval(inside, len(found))
    return {
        "interval": name,
        "n": n,
        "simulations": len(found),
        "covered": shown.estimate,
        "low": shown.low,
        "high": shown.high,
        "fails": inside < 0.9 * len(found),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table; `fails` is for the machine."""
    names = [name for name in rows[0] if name != "fails"]

    def cell(value: Any) -> str:
        return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    lines += [" | ".join(cell(row[name]) for name in names) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)


def main() -> None:
    """Simulate, print, write."""
    parser = argparse.ArgumentParser(description="calibration of the validation tests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    cases = [
        *equivalence_cases(),
        *independence_cases(),
        *random_circuit_cases(),
        *minimality_cases(),
        *percentile_cases(),
    ]
    tests = [rejections(case, rng) for case in cases]
    intervals = [coverage(*case, rng) for case in coverage_cases()]
    text = markdown(tests) + "\n" + markdown(intervals)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out.with_suffix(".md"), text.encode())
    write_json(given.out.with_suffix(".json"), {"tests": tests, "intervals": intervals})
    print(text + f"\nwritten to {given.out}.md and {given.out}.json")
    failed = [row for row in (*tests, *intervals) if row["fails"]]
    if failed:
        raise SystemExit(f"not calibrated: {failed}")


if __name__ == "__main__":
    main()
