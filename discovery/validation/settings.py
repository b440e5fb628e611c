"""What a validation can be told, strictly, like a run's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acdc.errors import InputError
from discovery.settings import error_sentence

Count = Annotated[int, Field(ge=1)]
Least = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Chance(_Strict):
    """Random circuits to compare with."""

    circuits: Annotated[int, Field(ge=29)]  # the fewest that can show anything at level .05
    misplaced: Annotated[int, Field(ge=19)]
    prompts: Count


class Scrubbing(_Strict):
    """Resampled circuits."""

    prompts: Annotated[int, Field(ge=4)]
    draws: Annotated[int, Field(ge=2)]
    permuted: Annotated[int, Field(ge=19)]  # feature values permuted, the null of `agree`


class Completeness(_Strict):
    """Search for the worst knock-out."""

    prompts: Annotated[int, Field(ge=4)]
    random: Least
    runs: Least
    iterations: Least
    candidates: Least


class Minimality(_Strict):
    """Edges and nodes against those of random paths."""

    prompts: Annotated[int, Field(ge=4)]
    draws: Annotated[int, Field(ge=10)]


class Stability(_Strict):
    """The method again on resampled prompts."""

    resamples: Annotated[int, Field(ge=6)]
    searches: Annotated[int, Field(ge=6)] | None  # of a search; null: not done


class ValidationSettings(_Strict):
    """One validation."""

    # held out, never those of the run; with fewer the equivalence test cannot pass at level .05
    prompts: Annotated[int, Field(ge=76)]
    seed: Least
    level: Annotated[float, Field(gt=0, lt=0.5)]
    chunk: Count
    threads: Count | None
    chance: Chance
    scrubbing: Scrubbing
    completeness: Completeness
    minimality: Minimality
    stability: Stability


def read_validation(config: Mapping[str, Any]) -> ValidationSettings:
    """Check a resolved configuration; InputError names every field that is wrong and why."""
    try:
        settings = ValidationSettings.model_validate(config)
    except ValidationError as error:
        raise InputError("\n".join(error_sentence(e) for e in error.errors())) from None
    for part in ("chance", "scrubbing", "completeness", "minimality"):
        wanted = getattr(settings, part).prompts
        if wanted > settings.prompts:
            raise InputError(
                f"{part}.prompts={wanted}: at most prompts={settings.prompts}, those held out"
            )
    return settings
