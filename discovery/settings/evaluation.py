"""How much is asked of a circuit once it is found: conf/evaluation.

`basic` is one faithfulness on the prompts of the run; `full` are the tests of
discovery/validation on prompts that the run never saw, as many as the budget allows.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from discovery.choices.fields import Amount, Count, Fields, Least

FEWEST = 76  # prompts with which the equivalence test can pass at level .05


def minutes(given: object) -> object:
    """What "15m", "90s", "2h" and "full" (None) say; anything else as it is. ValueError else."""
    if not isinstance(given, str):
        return given
    said = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", given.strip())
    if given.strip() == "full":
        return None
    if said is None:
        raise ValueError(f"budget={given!r}: allowed are minutes (15, 15m), 90s, 2h and full")
    return float(said[1]) * {"s": 1 / 60, "h": 60.0}.get(said[2], 1.0)


class Chance(Fields):
    """Random circuits to compare with."""

    # random ones, likely ones, and misplaced ones; 29: the fewest that can show anything at .05
    circuits: Annotated[int, Field(ge=29)] = 46
    misplaced: Annotated[int, Field(ge=29)] = 29
    prompts: Count = 40


class Scrubbing(Fields):
    """Resampled circuits."""

    prompts: Annotated[int, Field(ge=4)] = 80
    draws: Annotated[int, Field(ge=2)] = 2
    permuted: Annotated[int, Field(ge=19)] = 19  # feature values permuted, the null of `agree`


class Completeness(Fields):
    """Search for the worst knock-out."""

    prompts: Annotated[int, Field(ge=4)] = 40
    random: Least = 10
    runs: Least = 2
    iterations: Least = 3
    candidates: Least = 4


class Minimality(Fields):
    """Edges and nodes against those of random paths."""

    prompts: Annotated[int, Field(ge=4)] = 40
    draws: Annotated[int, Field(ge=10)] = 40


class Stability(Fields):
    """The method again on resampled prompts."""

    resamples: Annotated[int, Field(ge=6)] = 100
    searches: Annotated[int, Field(ge=6)] | None = 6  # of a search; null: not done


class BasicEvaluation(Fields):
    """No more than the run itself measures."""

    kind: Literal["basic"] = "basic"


class HeldOut(Fields):
    """What is asked of a circuit on prompts that its run never saw."""

    fewest: ClassVar[int] = 1
    # so many of the run's task, or a file of one's own, as task=pairs
    prompts: int | str
    seed: Least = 1
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # of tests; intervals are at 1 - level
    device: str | None = None  # None: as the run had
    threads: Count | None = None  # the same

    @field_validator("prompts")
    @classmethod
    def _enough(cls, prompts: int | str) -> int | str:
        if isinstance(prompts, int) and prompts < cls.fewest:
            raise ValueError(f"prompts={prompts}: at least {cls.fewest}, or the path of a file")
        return prompts


class FullEvaluation(HeldOut):
    """One validation."""

    fewest: ClassVar[int] = FEWEST
    kind: Literal["full"] = "full"
    prompts: int | str = 200
    # minutes a circuit, given as 15, "15m", "2h" or "full"; what takes longer is left out; None:
    # nothing is
    budget: Annotated[Amount | None, BeforeValidator(minutes)] = 5.0
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of the effect: less is no difference
    eps: Annotated[float, Field(gt=0, lt=0.5)] = 0.1  # of equivalence: P(better) within 1/2 -+ eps
    chunk: Count = 40
    chance: Chance = Chance()
    scrubbing: Scrubbing = Scrubbing()
    completeness: Completeness = Completeness()
    minimality: Minimality = Minimality()
    stability: Stability = Stability()

    @model_validator(mode="after")
    def _parts_of_what_is_held_out(self) -> FullEvaluation:
        if isinstance(self.prompts, str):
            return self  # as many as the file has
        for name in ("chance", "scrubbing", "completeness", "minimality"):
            wanted = getattr(self, name).prompts
            if wanted > self.prompts:
                raise ValueError(
                    f"{name}.prompts={wanted}: at most prompts={self.prompts}, those held out"
                )
        return self
