"""Objects handed over in Python, by names that settings can hold: "given:NAME".

A name lasts as long as somebody holds the object. Files of a run keep the name, not the object.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from acdc.errors import InputError

PREFIX = "given:"
_GIVEN: WeakValueDictionary[str, Any] = WeakValueDictionary()


def give(thing: Any, name: str) -> str:
    """A name for the object, another one than that of any other object."""
    full, number = f"{PREFIX}{name}", 1
    while _GIVEN.get(full, thing) is not thing:
        number += 1
        full = f"{PREFIX}{name}-{number}"
    _GIVEN[full] = thing
    return full


def given(name: str) -> Any:
    """The object of this name; InputError if it is no longer there."""
    found = _GIVEN.get(name)
    if found is None:
        raise InputError(
            f"{name!r} was handed over in Python, and is not there (any more): hand it over again"
        )
    return found
