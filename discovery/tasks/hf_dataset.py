"""Rows of a Hugging Face data set as prompts: a hub id, a folder or a file; which column is what.

A field is a column ("metadata.subject" for one inside another), or a text with columns in braces
(" {metadata.subject}"). Single answers become a list of one, their text. The library `datasets` is
an extra.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from acdc.errors import InputError
from discovery.tasks.jsonl import collect
from discovery.tasks.lines import KEYS

Made = TypeVar("Made")
COLUMN = re.compile(r"{([^{}]+)}")
FORMATS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
LISTS = ("answers", "wrong")
GROUPS = ("marks", "variables")  # whose names follow a dot


@dataclass(frozen=True)
class DatasetRows:
    """One split of a data set, as a source of prompts; rows are counted from 0."""

    path: str
    subset: str | None
    rows: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        """The data set and its split."""
        return f"{self.path} ({self.rows})"

    def where(self, number: int) -> str:
        """A row, as messages begin."""
        return f"{self.name}, row {number}"

    def read(self, make: Callable[[int, dict[str, object]], Made]) -> list[Made]:
        """What `make` makes of each row; InputError naming all rows that are refused."""
        rows = enumerate(loaded(self.path, self.subset, self.rows))
        made = collect(partial(self._one, make, number, row) for number, row in rows)
        if not made:
            raise InputError(f"{self.name}: the data set has no rows")
        return made

    def _one(
        self, make: Callable[[int, dict[str, object]], Made], number: int, row: Mapping[str, Any]
    ) -> Made:
        item = dict[str, Any]()
        for field, spec in self.fields.items():
            group, _, name = field.partition(".")
            value = _value(self.where(number), field, spec, row)
            if value is None:
                continue
            if group in GROUPS:
                item.setdefault(group, {})[name] = value
            else:
                single = field in LISTS and not isinstance(value, list)
                item[field] = [str(value)] if single else value
        return make(number, item)


def check_path(field: str, path: str, held_out: str | None = None) -> None:
    """Raise InputError for what reads like a file or folder and is none, or a file with splits."""
    place = Path(path)
    if place.suffix in FORMATS and place.is_file() and held_out is not None:
        whole = field.rpartition(".")[0]
        raise InputError(
            f"{whole}.held_out={held_out!r}: {path} is one file, which has no other split; give"
            f" {whole}.held_out=null, or a folder"
        )
    is_local = place.suffix in FORMATS or path.startswith((".", "/", "~"))
    if is_local and not place.exists():
        raise InputError(f"{field}={path!r}: there is no such file or folder")


def check_library(task: str) -> None:
    """Raise InputError unless `datasets` is installed."""
    if find_spec("datasets") is None:
        raise InputError(
            f"task={task} needs the library datasets: pip install 'circuit-discovery[datasets]'"
        )


def check_fields(field: str, fields: Mapping[str, str]) -> None:
    """Raise InputError unless `datasets` is there, and the fields are those of a line."""
    check_library("hf_dataset")
    for name in fields:
        group, _, rest = name.partition(".")
        if (group not in KEYS) or (group in GROUPS) != bool(rest):
            names = [f"{k}.NAME" if k in GROUPS else k for k in KEYS]
            raise InputError(f"{field}.{name}: there is no such field; allowed: {', '.join(names)}")


def _value(where: str, field: str, spec: str, row: Mapping[str, Any]) -> Any:
    """What a row says of a field: a column's value, or a text made of columns."""
    if not COLUMN.search(spec):
        return _column(where, field, spec, row)
    return COLUMN.sub(lambda found: str(_column(where, field, found[1], row)), spec)


def _column(where: str, field: str, name: str, row: Mapping[str, Any]) -> Any:
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(
                f"{where}: task.fields.{field}: no column {name!r}; columns: {', '.join(row)}"
            )
        value = value[part]
    return value


def loaded(path: str, subset: str | None, rows: str, revision: str | None = None) -> Any:
    """A split's rows, at a revision of the hub's; InputError in one sentence for what is wrong."""
    import datasets  # pyright: ignore[reportMissingImports]

    place = Path(path)
    try:
        if place.suffix in FORMATS and place.is_file():
            kind = FORMATS[place.suffix]
            return datasets.load_dataset(kind, data_files={rows: path}, split=rows)
        if (place / "dataset_dict.json").is_file():
            return datasets.load_from_disk(path)[rows]
        if (place / "state.json").is_file():
            return datasets.load_from_disk(path)
        if not place.exists():
            _check_hub(path)
        return datasets.load_dataset(path, subset, split=rows, revision=revision)
    except InputError:
        raise
    except Exception as error:  # a data set may fail in any way
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"task.path={path!r}, task.rows={rows!r}: {first[0]}") from error


def _check_hub(path: str) -> None:
    """InputError if the hub is away: the library would ask for every file again and again."""
    from huggingface_hub import constants

    from acdc.pretrained import why_unreachable

    reason = None if constants.HF_HUB_OFFLINE else why_unreachable(path, "dataset")
    if reason is not None:
        raise InputError(
            f"task.path={path!r}: there is no such file or folder, and the hub cannot be reached"
            f" ({reason}); of a data set in Hugging Face's cache say so by HF_HUB_OFFLINE=1"
        )
