"""What the commands share: configurations as plain values, refusals as one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from acdc.errors import InputError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def plain(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration; InputError for what is missing or cannot be resolved."""
    try:
        found: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key} is required: add {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise InputError(str(error).splitlines()[0]) from None
    return found


def this_run() -> tuple[Path, list[str]]:
    """Run folder and overrides of the running command."""
    runtime = HydraConfig.get()
    return Path(runtime.runtime.output_dir), list(runtime.overrides.task)


@contextmanager
def refusals_as_exit() -> Iterator[None]:
    """Turn an InputError into a line on stderr and exit code 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {str(error).strip()}", file=sys.stderr)
        sys.exit(2)


def shown(path: Path) -> Path:
    """A path as it is shortest from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
