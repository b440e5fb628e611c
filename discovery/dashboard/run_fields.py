"""Every single value of a run's config and result by its name: what the table can show and filter.

A name is the path to the value, `method.threshold`, `splits.test.faithfulness`. Lists of single
values are one text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from discovery.dashboard.contents import Plain, number, text

MOST_FIELDS, DEEPEST, LONGEST_NAME, LONGEST_VALUE = 400, 6, 80, 300
LEFT_OUT = ("overrides",)  # they say again what the config says


def run_fields(config: Mapping[str, Any], result: Mapping[str, Any]) -> Plain:
    """`asked` of the config and `found` of the result: numbers, booleans, texts by name.

    At most MOST_FIELDS of each; nothing for what is null or empty.
    """
    asked, found = {}, {}
    settings = config.get("config")
    _collect(asked, settings if isinstance(settings, dict) else {}, "", DEEPEST)
    _collect(asked, {"config_hash": config.get("config_hash")}, "", 1)
    _collect(found, result, "", DEEPEST)
    return {"asked": asked, "found": found}


def _collect(found: Plain, part: Mapping[str, Any], before: str, depth: int) -> None:
    """Add what `part` holds to `found`, where nothing of that name is yet."""
    for key, value in part.items():
        name = before + key
        if isinstance(value, dict):
            if depth > 1:
                _collect(found, value, f"{name}.", depth - 1)
        elif value is not None and name not in found and key not in LEFT_OUT:
            one = _single(value)
            if one is not None and len(name) <= LONGEST_NAME and len(found) < MOST_FIELDS:
                found[name] = one


def _single(value: object) -> Any:
    """A number, a boolean or a text; None for anything that cannot be shown in a cell."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return number(value)
    if isinstance(value, list):
        words = [text(one, LONGEST_VALUE) for one in value[:20]]
        return text(", ".join(word for word in words if word), LONGEST_VALUE) or None
    return text(value, LONGEST_VALUE) or None
