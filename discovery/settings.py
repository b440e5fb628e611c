"""What can be configured, strictly: every field's type, range and allowed values.

The configuration files answer the questions; this says which answers make sense, before any model
is loaded. Plain frozen data: nobody below scripts/ sees Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from acdc.errors import InputError

Dtype = Literal["float32", "float64", "bfloat16"]
MetricName = Literal["kl", "logit_diff", "prob_diff", "nll"]
Ablation = Literal["resample", "zero", "mean"]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class InductionModel(_Strict):
    """The embedded default."""

    kind: Literal["induction"]
    dtype: Dtype = "float32"


class SmolLM2Model(_Strict):
    """SmolLM2-135M-Instruct from the package registry."""

    kind: Literal["smollm2"]
    dtype: Dtype = "float32"


class HFModel(_Strict):
    """Any hub id or local folder."""

    kind: Literal["hf"]
    name: Annotated[str, Field(min_length=1)]
    dtype: Dtype = "float32"


class InductionTask(_Strict):
    """Random tokens with a repeated segment."""

    name: Literal["induction"]
    n: Count
    length: Annotated[int, Field(ge=6)]
    prepend_bos: bool


class IOITask(_Strict):
    """Indirect object identification."""

    name: Literal["ioi"]
    n: Count
    corruption: Literal["abc", "flip"]
    prepend_bos: bool


class GreaterThanTask(_Strict):
    """Later years than the start year."""

    name: Literal["greater_than"]
    n: Count
    prepend_bos: bool


class PairsTask(_Strict):
    """The user's own JSONL."""

    name: Literal["pairs"]
    path: Annotated[str, Field(min_length=1)]
    n: Count | None
    length: Count | None
    prepend_bos: bool


class GraphSettings(_Strict):
    """Which edges there are."""

    kv: Literal["per_query_head", "per_group"]


class ACDCMethod(_Strict):
    """The exact greedy search; the fields of acdc.search.Order and what it minimises."""

    name: Literal["acdc"]
    threshold: Annotated[FiniteFloat, Field(ge=0)]
    metric: MetricName
    ablation: Ablation
    reader_order: Literal["layer", "head"]
    sender_heads: Literal["descending", "ascending", "random"]
    gates: bool
    chunk: Count | None


class ScoreMethod(_Strict):
    """One number an edge, and the best edges by it."""

    name: Literal["ifr", "eap", "exact", "random"]
    n_edges: Count | None
    threshold: Annotated[FiniteFloat, Field(ge=0)] | None
    rule: Literal["top_n", "greedy"]
    ranking: Literal["signed", "absolute"]
    metric: MetricName
    ablation: Ablation

    @model_validator(mode="after")
    def _one_size(self) -> ScoreMethod:
        if (self.n_edges is None) == (self.threshold is None):
            raise ValueError("give exactly one of n_edges and threshold, the other null")
        return self


class IGMethod(ScoreMethod):
    """Scores by integrated gradients."""

    name: Literal["eap_ig", "eap_ig_activations"]  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Count


class TrackingSettings(_Strict):
    """Where the run is mirrored."""

    mode: Literal["disabled", "wandb_offline", "wandb_online"]
    project: Annotated[str, Field(min_length=1)]


class Settings(_Strict):
    """One run."""

    model: Annotated[InductionModel | SmolLM2Model | HFModel, Field(discriminator="kind")]
    task: Annotated[
        InductionTask | IOITask | GreaterThanTask | PairsTask, Field(discriminator="name")
    ]
    graph: GraphSettings
    method: Annotated[ACDCMethod | ScoreMethod | IGMethod, Field(discriminator="name")]
    tracking: TrackingSettings
    seed: Annotated[int, Field(ge=0)]
    device: str
    threads: Count | None


class ScrubSettings(_Strict):
    """One causal-scrubbing experiment (conf/scrub.yaml)."""

    experiment: Literal["brackets"]
    weights: Annotated[str, Field(min_length=1)]
    strings: Annotated[str, Field(min_length=1)]
    references: Annotated[int, Field(ge=100)]  # fewer say nothing of a network this good
    draws: Count
    seed: Annotated[int, Field(ge=0)]


class RolesSettings(ScrubSettings):
    """The search for roles; without files the shipped network, on fresh strings."""

    experiment: Literal["roles"]  # pyright: ignore[reportIncompatibleVariableOverride]
    weights: Annotated[str, Field(min_length=1)] | None  # pyright: ignore[reportIncompatibleVariableOverride]
    strings: Annotated[str, Field(min_length=1)] | None  # pyright: ignore[reportIncompatibleVariableOverride]


class InductionSettings(ScrubSettings):
    """The induction ladder; the texts are drawn afresh, `references` of them."""

    experiment: Literal["induction"]  # pyright: ignore[reportIncompatibleVariableOverride]
    weights: Annotated[str, Field(min_length=1)] | None  # pyright: ignore[reportIncompatibleVariableOverride]
    strings: None  # pyright: ignore[reportIncompatibleVariableOverride]


EXPERIMENTS = {
    "brackets": ScrubSettings,
    "roles": RolesSettings,
    "induction": InductionSettings,
}


def read_scrub_settings(config: Mapping[str, Any]) -> ScrubSettings:
    """Check conf/scrub.yaml's configuration; InputError names every field that is wrong and why."""
    name = config.get("experiment")
    if name not in EXPERIMENTS:
        raise InputError(f"experiment={name!r}: allowed are {', '.join(EXPERIMENTS)}")
    try:
        return EXPERIMENTS[name].model_validate(config)
    except ValidationError as error:
        raise InputError("\n".join(_sentence(e) for e in error.errors())) from None


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Check a resolved configuration; InputError names every field that is wrong and why.

    Also checks what can be known before a model is loaded: the device is there, the task's file
    exists.
    """
    try:
        settings = Settings.model_validate(config)
    except ValidationError as error:
        raise InputError("\n".join(_sentence(e) for e in error.errors())) from None
    check_device(settings.device)
    if isinstance(settings.task, PairsTask) and not Path(settings.task.path).is_file():
        raise InputError(f"task.path={settings.task.path!r}: there is no such file")
    return settings


def _sentence(error: Any) -> str:
    """One line for one pydantic error: field, value, what is allowed."""
    path = [str(part) for part in error["loc"]]
    if len(path) > 1 and path[0] in ("model", "task", "method"):
        del path[1]  # the union's tag
    field = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    if error["type"] == "missing":
        return f"{field}: missing"
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}"
    return f"{field}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def check_device(device: str) -> None:
    """Raise InputError unless torch has the device."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise InputError(f"device={device!r}: allowed are cpu, cuda, cuda:N, mps") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(kind, False):
        raise InputError(f"device={device!r}: not available here; device=cpu always is")
