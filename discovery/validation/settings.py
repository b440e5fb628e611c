"""A validation's settings from a resolved configuration (conf/validate.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from acdc.errors import InputError
from discovery.choices.fields import sentences
from discovery.settings.evaluation import FullEvaluation


def read_validation(config: Mapping[str, Any]) -> FullEvaluation:
    """Check the configuration; InputError names every field that is wrong and why."""
    try:
        return FullEvaluation.model_validate(config)
    except ValidationError as error:
        raise InputError("\n".join(sentences(error))) from None
