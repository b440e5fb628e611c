"""The default model: two attention-only layers, trained by `scripts/train_induction.py`.

Its weights and config lie in the folder `induction` beside this file, so nothing is fetched. It
continues a repeated segment of random tokens: a previous-token head in layer 0 writes into the
keys that an induction head in layer 1 reads (Olsson et al. 2022, arXiv:2209.11895). How well, and
which heads, is written under "training" in its config.json. Knows no tasks.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from acdc.errors import InputError
from acdc.native import TransformerBridge, native_bridge

FOLDER = Path(__file__).parent / "induction"


def load_induction(folder: Path = FOLDER) -> TransformerBridge:
    """Return the model on the CPU in float32, in eval mode, frozen; a new one at each call.

    `folder` may be another output of the training script. Raises InputError if a file is missing
    or unreadable, or if the tensors do not fit the config one to one.
    """
    try:
        config = json.loads((folder / "config.json").read_text())["config"]
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{folder} does not hold a readable model: {error!r}") from error
    return native_bridge(config, weights)
