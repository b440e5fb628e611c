"""Models as settings: where each comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from acdc.errors import InputError
from discovery.choices.fields import Fields
from discovery.choices.given import PREFIX, given
from discovery.choices.labels import model_label

Check = Callable[[Any], None]
Dtype = Literal["float32", "float64", "bfloat16", "float16"]


class ModelChoice(Fields):
    """Settings of one model. A subclass says how it is come by in `load`."""

    kind: str
    dtype: Dtype = "float32"

    def load(self, device: str, check: Check | None = None) -> Any:
        """An acdc.bridge.LoadedModel on the device, its identities checked; InputError if unfit.

        `check` looks at an acdc.pretrained.Outline before weights are read, where there is one.
        """
        raise NotImplementedError

    def at(self, checkpoint: str) -> ModelChoice:
        """The same model as it was at a checkpoint of its training, a folder.

        InputError if it does not come by folders.
        """
        raise InputError(
            f"checkpoints: model={self.kind} does not come by folders; take model=induction for"
            " those of its training script, model=hf for those of Hugging Face"
        )

    def at_revision(self, revision: str) -> ModelChoice:
        """The same model at a revision of the hub; InputError if it has none."""
        raise InputError(f"revisions: model={self.kind} has none; take model=hf and a hub id")

    @property
    def label(self) -> str:
        """What the model is called in results."""
        return self.kind


class InductionModel(ModelChoice):
    """The embedded default, or another output of its training script."""

    kind: str = "induction"
    folder: str | None = None  # None: the one that the package ships

    def load(self, device: str, check: Check | None = None) -> Any:
        """See ModelChoice.load."""
        import torch

        from acdc.bridge import from_bridge
        from discovery.models.induction import FOLDER, load_induction

        dtype = getattr(torch, self.dtype)
        folder = FOLDER if self.folder is None else Path(self.folder)
        bridge = load_induction(folder).to(device=device, dtype=dtype, print_details=False)
        return from_bridge(bridge, None, "induction")

    def at(self, checkpoint: str) -> ModelChoice:
        """See ModelChoice.at."""
        return self.model_copy(update={"folder": checkpoint})


class SmolLM2Model(ModelChoice):
    """SmolLM2-135M-Instruct from the package registry."""

    kind: str = "smollm2"

    def load(self, device: str, check: Check | None = None) -> Any:
        """See ModelChoice.load."""
        import torch

        from acdc.bridge import load_pretrained
        from discovery.models.smollm2 import smollm2_folder

        dtype = getattr(torch, self.dtype)
        return load_pretrained(str(smollm2_folder()), dtype, device, "smollm2", check)


class HFModel(ModelChoice):
    """Any hub id or local folder."""

    kind: str = "hf"
    name: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(min_length=1)] | None = None  # of a hub id
    offload: bool | Literal["cards"] = False  # MLPs' weights: in the host's memory, or on all cards

    def load(self, device: str, check: Check | None = None) -> Any:
        """See ModelChoice.load."""
        import torch

        from acdc.bridge import load_pretrained

        try:
            return load_pretrained(
                self.name, getattr(torch, self.dtype), device, check=check, revision=self.revision,
                offload=self.offload,
            )  # fmt: skip
        except InputError as error:
            prefix = "model." if str(error).startswith("name=") else ""
            raise InputError(f"{prefix}{error}") from error

    def at(self, checkpoint: str) -> ModelChoice:
        """See ModelChoice.at."""
        return self.model_copy(update={"name": checkpoint})

    def at_revision(self, revision: str) -> ModelChoice:
        """See ModelChoice.at_revision; InputError for a local folder."""
        if Path(self.name).is_dir():
            raise InputError(f"revisions: model.name={self.name} is a folder; give checkpoints")
        return self.model_copy(update={"revision": revision})

    @property
    def label(self) -> str:
        """See ModelChoice.label."""
        return model_label(self.model_dump())


class GivenModel(ModelChoice):
    """A model that was handed over in Python (discovery.load); no other process has it."""

    kind: str = "discovery.models.choices:GivenModel"
    name: Annotated[str, Field(pattern=f"^{PREFIX}.")]

    def load(self, device: str, check: Check | None = None) -> Any:
        """See ModelChoice.load."""
        return given(self.name)

    @property
    def label(self) -> str:
        """See ModelChoice.label."""
        return self.name.removeprefix(PREFIX)
