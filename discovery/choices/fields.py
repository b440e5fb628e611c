"""Answers that are checked: what every group of settings is made of, and how a mistake is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from acdc.errors import InputError

Count = Annotated[int, Field(ge=1)]
Least = Annotated[int, Field(ge=0)]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Amount = Annotated[FiniteFloat, Field(gt=0)]


def _token(value: Any) -> Any:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{value!r} is neither the text of a token nor its id")
    return value


Token = Annotated[int | str, BeforeValidator(_token)]


class Fields(BaseModel):
    """A group of answers: frozen, and nothing in it that was not asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Named(Fields):
    """A choice that goes by a name, one's own by "module:Class"."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _own_name(cls, values: Any) -> Any:
        given = not isinstance(values, Mapping) or "name" in values
        if given or not cls.model_fields["name"].is_required():
            return values
        return {"name": f"{cls.__module__}:{cls.__qualname__}", **values}


Read = TypeVar("Read", bound=BaseModel)


def checked(kind: type[Read], values: Mapping[str, Any]) -> Read:
    """The answers of a configuration; InputError names every field that is wrong and why."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(sentences(error))) from None


def sentences(error: ValidationError, group: str = "") -> list[str]:
    """One line for each of pydantic's errors: field, value, what is allowed."""
    found = error.errors()
    inside = [e["loc"][:-1] for e in found]  # a list is not short because its items are wrong
    told = [e for e in found if e["type"] != "too_short" or e["loc"] not in inside]
    return [_sentence(e, [group] if group else []) for e in told]


def _sentence(error: Any, path: list[str]) -> str:
    path = path + [str(part) for part in error["loc"]]
    if len(path) > 1 and path[0] == "evaluation":
        del path[1]  # the union's tag
    field = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    if error["type"] == "missing":
        return f"{field}: missing"
    if error["input"] is None:
        return f"{field} is required: add {field}=..."
    said = str(error["ctx"]["error"]) if error["type"] == "value_error" else ""
    if said.startswith(f"{field}="):
        return said
    if said:
        return f"{field}: {said}" if field else said
    return f"{field}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
