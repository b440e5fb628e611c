"""What a reviewer writes beside a run: a note, tags, and names for groups of its heads.

`notes.json` in the run's folder is the only file that the page may write, and only where it was
started with `--notes`. It is read with the same distrust as all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acdc.errors import InputError
from acdc.names import parse
from discovery.dashboard import files
from discovery.dashboard.contents import Plain, inner, text
from discovery.runs.json_files import write_json

FILE = "notes.json"
LONGEST_NOTE, LONGEST_TAG, MOST_TAGS, MOST_GROUPS, MOST_NODES = 4000, 40, 20, 40, 400
NOTHING: Plain = {"note": "", "tags": [], "groups": {}}
LARGEST = 64 * 2**10  # bytes of what the page sends


def read_notes(root: Path, folder: Path) -> Plain:
    """`note`, `tags` and `groups`, empty ones where there is no file; what makes no sense is left
    out. InputError if the file cannot be read.
    """
    data = files.read_json(root, folder / FILE)
    tags, note = data.get("tags"), data.get("note")
    names = [text(tag, LONGEST_TAG) for tag in (tags if isinstance(tags, list) else [])[:MOST_TAGS]]
    groups = list(inner(data, "groups").items())[:MOST_GROUPS]
    return {
        "note": text(note, LONGEST_NOTE) or "" if isinstance(note, str) else "",
        "tags": [tag for tag in names if tag],
        "groups": {name[:LONGEST_TAG]: _nodes(nodes) for name, nodes in groups if _nodes(nodes)},
    }


def _nodes(value: object) -> list[str]:
    found = value if isinstance(value, list) else []
    return [node for node in found[:MOST_NODES] if isinstance(node, str) and parse(node)]


def write_notes(root: Path, folder: Path, given: object) -> Plain:
    """Replace the run's notes by what the page sent; returns what stands there now.

    InputError that names the member, its value and what is allowed, if it is not of this form. A
    link in the place of the file is replaced, never followed.
    """
    if not isinstance(given, Mapping):
        raise InputError("notes: allowed is an object with note, tags and groups")
    unknown = [key for key in given if key not in ("note", "tags", "groups")]
    if unknown:
        raise InputError(f"notes: {unknown[0][:40]!r} is none; allowed are note, tags and groups")
    kept = {
        "note": _note(given.get("note", "")),
        "tags": _tags(given.get("tags", [])),
        "groups": _groups(given.get("groups", {})),
    }
    write_json(folder / FILE, kept)
    return read_notes(root, folder)


def _note(value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NOTE:
        raise InputError(f"note: allowed is a text of at most {LONGEST_NOTE} characters")
    return value


def _tags(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MOST_TAGS:
        raise InputError(f"tags: allowed is a list of at most {MOST_TAGS}")
    return list(dict.fromkeys(_name("tags", tag) for tag in value))


def _groups(value: object) -> dict[str, list[str]]:
    if not isinstance(value, Mapping) or len(value) > MOST_GROUPS:
        raise InputError(f"groups: allowed are at most {MOST_GROUPS}, each a list of nodes")
    return {_name("groups", name): _group(name, nodes) for name, nodes in value.items()}


def _group(name: str, nodes: Any) -> list[str]:
    if not isinstance(nodes, list) or not 0 < len(nodes) <= MOST_NODES or _nodes(nodes) != nodes:
        raise InputError(
            f"groups: {name[:LONGEST_TAG]!r}: allowed are 1 to {MOST_NODES} names of nodes,"
            " such as a3.h1 or m4"
        )
    return nodes


def _name(field: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= LONGEST_TAG:
        raise InputError(
            f"{field}: {str(value)[:LONGEST_TAG]!r}: allowed are 1 to {LONGEST_TAG} letters"
        )
    return value.strip()
