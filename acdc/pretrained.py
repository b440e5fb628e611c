"""A Hugging Face model from a folder or the hub: first what it is, then its weights, all of them.

Tokenizer and sizes come first, so that prompts can be tried before gigabytes are read. Weights that
are missing, left over or of another shape are refused by name: Hugging Face would fill the gaps
with random numbers. Knows no bridge; see acdc/bridge.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from acdc.errors import InputError, first_line

SHOWN = 3  # names of each kind in a refusal
CONSTANTS = re.compile(r"masked_bias$")  # of old checkpoints: the modules make these themselves


@dataclass(frozen=True)
class Outline:
    """What is known of a model before its weights are read."""

    name: str  # hub id or folder
    tokenizer: Any  # a Hugging Face tokenizer, or None
    d_vocab: int
    n_ctx: int  # longest prompt, as far as the configuration tells
    local: bool  # whether only files on this machine are asked for
    revision: str | None = None  # of a hub id: a branch, tag or commit; None: the main one


def read_outline(name: str, revision: str | None = None) -> Outline:
    """Configuration and tokenizer of a hub id or a local folder; InputError if there are none."""
    folder = Path(name).is_dir()
    if folder:
        check_folder(Path(name))
    unreachable = None if folder else why_unreachable(name)
    local = folder or unreachable is not None
    try:
        config = AutoConfig.from_pretrained(
            name, local_files_only=local, **_at(revision)
        ).get_text_config()
    except Exception as error:  # any failure in there means the same: this cannot be used
        raise InputError(_no_config(name, unreachable, error)) from error
    d_vocab = int(config.vocab_size)
    n_ctx = int(getattr(config, "max_position_embeddings", None) or 2**31)
    return Outline(name, _tokenizer(name, local, revision), d_vocab, n_ctx, local, revision)


def _at(revision: str | None) -> dict[str, str]:
    """What Hugging Face is told of a revision."""
    return {} if revision is None else {"revision": revision}


def check_folder(folder: Path) -> None:
    """Raise InputError unless a local folder looks like a saved model."""
    if not (folder / "config.json").is_file():
        raise InputError(f"name={str(folder)!r}: the folder has no config.json")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise InputError(f"name={str(folder)!r}: no weights there (*.safetensors or *.bin)")


def why_unreachable(name: str, of: str = "model") -> str | None:
    """Why the hub does not answer, or None if it does; asked once, and for one small file.

    `name` is a repository's id, `of` its kind: "model" or "dataset".

    Whoever asks for many files with a hub that is away waits through every file's retries. An
    answer that is only slow counts as one.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        url = hf_hub_url(name, "config.json", repo_type=of)
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HfHubHTTPError, HFValidationError):
        return None  # an answer: what is wrong is said where the file is read
    except Exception as error:  # which library speaks to the hub is the hub client's own affair
        return None if type(error).__name__ == "ReadTimeout" else first_line(error)
    return None


def _no_config(name: str, unreachable: str | None, error: Exception) -> str:
    if Path(name).is_dir():
        return f"name={name!r}: config.json cannot be used: {first_line(error)}"
    if isinstance(error.__cause__, HFValidationError) or name.startswith((".", "/", "~")):
        return f"name={name!r}: there is no such folder, and it is no hub id"
    if unreachable is None:
        return f"name={name!r} cannot be loaded: {first_line(error)}"
    return (
        f"name={name!r} cannot be loaded: it is no folder and not in the cache of Hugging"
        f" Face, and the hub cannot be reached ({unreachable}); give a local folder"
    )


def _tokenizer(name: str, local: bool, revision: str | None = None) -> Any:
    """The model's tokenizer, or None for a local folder without one."""
    folder = Path(name)
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
    if folder.is_dir() and not any((folder / f).is_file() for f in files):
        return None
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=local, **_at(revision))
    except Exception as error:
        raise InputError(f"name={name!r}: no usable tokenizer: {first_line(error)}") from error


def read_weights(outline: Outline, dtype: torch.dtype) -> Any:
    """The Hugging Face module, every parameter out of the files; InputError if one is not."""
    name = outline.name
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation="eager", local_files_only=outline.local,
            output_loading_info=True, ignore_mismatched_sizes=True, **_at(outline.revision),
        )  # fmt: skip
    except Exception as error:
        raise InputError(f"name={name!r} cannot be loaded: {first_line(error)}") from error
    module, info = loaded
    if faults := weight_faults(info):
        raise InputError(f"name={name!r}: weights and config.json do not fit: {faults}")
    return module


def weight_faults(info: Mapping[str, Any]) -> str:
    """What Hugging Face's loading info complains of, in words; empty if nothing is wrong.

    It names no weights that are tied to others, and no tables that the modules make themselves.
    """
    missing = sorted(info["missing_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not CONSTANTS.search(key))
    mismatched = [
        f"{key} {list(there)} instead of {list(wanted)}"
        for key, there, wanted in sorted(info["mismatched_keys"])
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    faults = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    prefix = _prefix(missing, unexpected)
    hint = f"; take the prefix {prefix!r} off the names and save again" if prefix else ""
    return ", ".join(faults) + hint


def _some(names: list[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _prefix(missing: Iterable[str], unexpected: Iterable[str]) -> str:
    """What a compiled or wrapped module puts before every name, if that is all that is wrong."""
    there = set(unexpected)
    for name in missing:
        for found in (key for key in there if key.endswith(f".{name}")):
            prefix = found.removesuffix(name)
            if all(key.startswith(prefix) for key in there):
                return prefix
    return ""
