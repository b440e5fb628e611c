"""What a model and a task are called: what is somebody's own, by its own name.

Takes what a configuration holds, whatever that is, and looks at no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_FOLDER = re.compile(r"[./~\\].*|.*\\.*|.*/.*/.*", re.DOTALL)  # a hub id has one / inside


def model_label(model: Mapping[str, Any]) -> Any:
    """A hub id, the last part of a folder, or else the kind."""
    folder = model_folder(model)
    return PurePath(folder or "").name or model.get("name") or model.get("kind")


def model_folder(model: Mapping[str, Any]) -> str | None:
    """Where a model lies that was named by its folder."""
    name = model.get("name")
    return name if isinstance(name, str) and _FOLDER.fullmatch(name) else None


def task_label(task: Mapping[str, Any]) -> Any:
    """The name of one's own file without its ending, of a data set, or else the task's."""
    path = task_file(task)
    return PurePath(path).stem if path else task.get("name")


def task_file(task: Mapping[str, Any]) -> str | None:
    """The file or data set that a task's prompts are read from."""
    path = task.get("path")
    own = task.get("name") in ("pairs", "hf_dataset")
    return path if own and isinstance(path, str) else None
