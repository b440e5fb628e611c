"""What can be configured, strictly: every field's type, range and allowed values.

The configuration files answer the questions; this says which answers make sense, before any model
is loaded. Plain frozen data: nobody below scripts/ sees Hydra.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from acdc.errors import InputError
from discovery.evaluation_settings import BasicEvaluation, FullEvaluation

Dtype = Literal["float32", "float64", "bfloat16"]
MetricName = Literal["kl", "logit_diff", "prob_diff", "nll"]
Ablation = Literal["resample", "zero", "mean"]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[FiniteFloat, Field(ge=0, lt=1)]


def _token(value: Any) -> Any:
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{value!r} is neither the text of a token nor its id")
    return value


Token = Annotated[int | str, BeforeValidator(_token)]
Read = TypeVar("Read", bound="ModelSettings")


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
    """The greedy search; the fields of acdc.search.Order, what it minimises, and what guides it.

    With `guide=null` it is the exact search. `n_edges` is there so that a sweep over methods can
    say `n_edges=null` to all of them.
    """

    name: Literal["acdc"]
    threshold: Annotated[FiniteFloat, Field(ge=0)]
    n_edges: None = None
    metric: MetricName
    ablation: Ablation
    reader_order: Literal["layer", "head"]
    sender_heads: Literal["descending", "ascending", "random"]
    gates: bool
    chunk: Count | None
    guide: Literal["ifr", "eap", "eap_ig", "eap_ig_activations", "exact", "random"] | None
    guide_steps: Count
    weakest_first: bool
    shortlist: Count | None

    @model_validator(mode="after")
    def _guide_is_used(self) -> ACDCMethod:
        uses = self.weakest_first or self.shortlist is not None
        if uses and self.guide is None:
            field = "shortlist" if self.shortlist is not None else "weakest_first"
            raise ValueError(f"{field} needs scores: give guide=eap_ig, ifr, ...")
        if self.guide is not None and not uses:
            raise ValueError("guide is given but not used: add weakest_first=true or shortlist=N")
        if self.guide == "eap" and self.metric == "kl":
            raise ValueError("guide=eap has no gradient of kl at the clean run; use guide=eap_ig")
        return self

    def guiding(self) -> ScoreMethod | IGMethod | None:
        """The scoring method that guides the search, if any."""
        if self.guide is None:
            return None
        plain = {
            "name": self.guide, "n_edges": self.shortlist or 1, "threshold": None,
            "count": "asked", "rule": "top_n", "ranking": "absolute", "metric": self.metric,
            "ablation": self.ablation,
        }  # fmt: skip
        if self.guide.startswith("eap_ig"):
            return IGMethod.model_validate({**plain, "steps": self.guide_steps})
        return ScoreMethod.model_validate(plain)


class ScoreMethod(_Strict):
    """One number an edge, and the best edges by it."""

    name: Literal["ifr", "eap", "exact", "random"]
    n_edges: Count | None
    threshold: Annotated[FiniteFloat, Field(ge=0)] | None
    count: Literal["asked", "on_paths"]
    rule: Literal["top_n", "greedy", "paths"]
    ranking: Literal["signed", "absolute"]
    metric: MetricName
    ablation: Ablation

    @model_validator(mode="after")
    def _one_size(self) -> ScoreMethod:
        if (self.n_edges is None) == (self.threshold is None):
            raise ValueError("give exactly one of n_edges and threshold, the other null")
        if self.rule == "paths" and (self.name != "random" or self.n_edges is None):
            raise ValueError("rule=paths is for method=random with n_edges")
        return self


class IGMethod(ScoreMethod):
    """Scores by integrated gradients."""

    name: Literal["eap_ig", "eap_ig_activations"]  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Count


class TrackingSettings(_Strict):
    """Where the run is mirrored."""

    mode: Literal["disabled", "wandb_offline", "wandb_online"]
    project: Annotated[str, Field(min_length=1)]


Task = Annotated[InductionTask | IOITask | GreaterThanTask | PairsTask, Field(discriminator="name")]


class ModelSettings(_Strict):
    """A model, where it runs, and the seed of whatever is drawn."""

    model: Annotated[InductionModel | SmolLM2Model | HFModel, Field(discriminator="kind")]
    seed: Annotated[int, Field(ge=0)]
    device: str
    threads: Count | None


class Settings(ModelSettings):
    """One run."""

    task: Task
    graph: GraphSettings
    method: Annotated[ACDCMethod | ScoreMethod | IGMethod, Field(discriminator="name")]
    evaluation: Annotated[BasicEvaluation | FullEvaluation, Field(discriminator="kind")]
    tracking: TrackingSettings


class RouteSettings(ModelSettings):
    """The route of one prompt, given as a text, as token ids, or as one of a task."""

    text: str | None
    prepend_bos: bool  # to the text
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None
    task: Task | None = None  # Hydra leaves out a question that is answered by null
    prompt: Annotated[int, Field(ge=0)]  # of the task, from 0
    position: int
    target: Token | None
    contrast: Token | None
    from_state: bool
    threshold: Share
    renormalise: bool

    @model_validator(mode="after")
    def _one_prompt(self) -> RouteSettings:
        given = [name for name in ("text", "ids", "task") if getattr(self, name) is not None]
        if len(given) != 1:
            shown = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of text, ids and task, not {shown}")
        if self.task is not None and self.position != -1:
            raise ValueError(f"position={self.position} is for text and ids; a task has its own")
        if self.contrast is not None and self.target is None and self.task is None:
            raise ValueError(f"contrast={self.contrast!r} needs a target to be compared with")
        if self.from_state and (self.target is not None or self.contrast is not None):
            raise ValueError("from_state=true starts at no token; leave out target and contrast")
        return self


class ComponentsSettings(ModelSettings):
    """Component importances over the prompts of a task, and of another to compare with."""

    task: Task
    versus: Task | None = None
    start: Literal["state", "answers", "contrast"]
    threshold: Share


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
        raise InputError("\n".join(error_sentence(e) for e in error.errors())) from None


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The main job's settings; see `read_as`."""
    return read_as(Settings, config)


def read_as(kind: type[Read], config: Mapping[str, Any]) -> Read:
    """Check a resolved configuration; InputError names every field that is wrong and why.

    Also checks what can be known before a model is loaded: the device is there, files of tasks
    exist.
    """
    try:
        settings = kind.model_validate(config)
    except ValidationError as error:
        raise InputError("\n".join(error_sentence(e) for e in error.errors())) from None
    check_device(settings.device)
    for field in ("task", "versus"):
        task = getattr(settings, field, None)
        if isinstance(task, PairsTask) and not Path(task.path).is_file():
            raise InputError(f"{field}.path={task.path!r}: there is no such file")
    return settings


def error_sentence(error: Any) -> str:
    """One line for one pydantic error: field, value, what is allowed."""
    path = [str(part) for part in error["loc"]]
    if len(path) > 1 and path[0] in ("model", "task", "versus", "method", "evaluation"):
        del path[1]  # the union's tag
    field = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{field}: there is no such field"
    if error["type"] == "missing":
        return f"{field}: missing"
    if error["input"] is None:
        return f"{field} is required: add {field}=..."
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error']}" if field else str(error["ctx"]["error"])
    return f"{field}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def check_device(device: str) -> None:
    """Raise InputError unless torch has the device."""
    import torch  # a second that no command should wait for before it looks at its settings

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
