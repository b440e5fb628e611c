"""Models to work on, loaded once and shared by all that is asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acdc.bridge import LoadedModel, TransformerBridge, from_bridge, from_module
from acdc.errors import InputError
from discovery.api.choose import choose
from discovery.choices import registry
from discovery.choices.given import PREFIX, give
from discovery.job.prepare import Cache
from discovery.job.prepare import load as load_settings
from discovery.models.choices import GivenModel, HFModel, ModelChoice
from discovery.settings.run import ModelSettings, usable_device


class Model:
    """A model, checked against its own logits; made by `load`."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.cache = Cache()  # what its jobs share: weights, and the runs of the last prompts
        self.loaded: LoadedModel = load_settings(settings, self.cache)

    @property
    def name(self) -> str:
        """What it is called in results."""
        return self.settings.model.label

    @property
    def tokenizer(self) -> Any:
        """A Hugging Face tokenizer, or None."""
        return self.loaded.tokenizer

    def __repr__(self) -> str:
        return f"Model({self.name!r}: {self.loaded.model.graph().describe()})"


def load(
    source: Any, *, tokenizer: Any = None, name: str | None = None, dtype: str = "float32",
    device: str = "cpu", threads: int | None = None,
) -> Model:  # fmt: skip
    """A model to work on.

    `source`: "smollm2" or "induction" (shipped), a hub id, a local folder, a Hugging Face module
    or a TransformerBridge. A module is taken as it is, with its dtype and device, is changed in
    place and needs `tokenizer` for prompts that are texts; `name` is what results call it.
    `threads` of the CPU; None: one for small models, else as many as torch likes.

    InputError if it cannot be loaded or is not a decoder that can be read.
    """
    device = usable_device(device)
    choice = _choice(source, dtype)
    holds = None
    if choice is None:
        holds = _wrapped(source, tokenizer, name or type(source).__name__)
        dtype, device = str(holds.model.dtype).rpartition(".")[2], str(holds.model.device)
        named = give(holds, holds.model.name)
        choice = choose("model", kind=GivenModel.model_fields["kind"].default, name=named,
                        dtype=dtype)  # fmt: skip
    elif tokenizer is not None or name is not None:
        raise InputError(
            "tokenizer, name: they are for a module or a bridge; a name brings its own"
        )
    return Model(ModelSettings(model=choice, device=device, threads=threads))


def _choice(source: Any, dtype: str) -> ModelChoice | None:
    """What a name stands for: ours, one's own choice, or Hugging Face's; None for an object."""
    if isinstance(source, ModelChoice):
        return source
    if not isinstance(source, str | Path):
        return None
    text = str(source)
    own = text in registry.names("model") and text != "hf"
    if own or (":" in text and not Path(text).exists() and not text.startswith(PREFIX)):
        return choose("model", kind=text, dtype=dtype)
    return choose("model", kind=HFModel.model_fields["kind"].default, name=text, dtype=dtype)


def _wrapped(source: Any, tokenizer: Any, name: str) -> LoadedModel:
    import torch

    if isinstance(source, TransformerBridge):
        return from_bridge(source, tokenizer, name)
    if isinstance(source, torch.nn.Module):
        return from_module(source, tokenizer, name)
    raise InputError(
        f"load: {type(source).__name__} is no model; give a name, a folder, a Hugging Face module"
        " or a TransformerBridge"
    )
