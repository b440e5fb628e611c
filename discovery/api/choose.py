"""Choices by name, with their fields checked as those in conf/ are; and files of what was given."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from acdc.errors import InputError
from discovery.choices.fields import sentences
from discovery.methods.method import Method
from discovery.models.smollm2 import default_cache
from discovery.runs.json_files import encode, write_bytes
from discovery.settings.run import chosen


def method(name: str, **fields: Any) -> Method:
    """A method and what is asked of it, such as method("eap", backward="gim"), to compare it."""
    return choose("method", name=name, **fields)


def choose(group: str, **fields: Any) -> Any:
    """What a group's name stands for, with its fields; InputError names a field that is wrong."""
    try:
        return chosen(group, fields)
    except ValidationError as error:
        raise InputError("\n".join(sentences(error, group))) from None


def stored(kind: str, name: str, suffix: str, data: bytes) -> Path:
    """A file that holds just this, in the user's cache: what was given in Python has a path.

    Equal content has an equal path, so that runs say what they were made of.
    """
    digest = hashlib.sha256(data).hexdigest()[:12]
    path = default_cache() / kind / digest / f"{name}{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    return path


def lines(rows: Any) -> bytes:
    """Rows as JSONL; InputError for what JSON cannot hold."""
    try:
        return b"".join(encode(row) + b"\n" for row in rows)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"pairs: rows must be dicts of texts, numbers and lists: {error}"
        ) from None
