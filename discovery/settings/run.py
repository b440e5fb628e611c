"""What can be configured, strictly: every field's type, range and allowed values.

The configuration files answer the questions; this says which answers make sense, before any model
is loaded. Plain frozen data: nobody below scripts/ sees Hydra. What goes by a name (model, task,
method, metric, ablation) is looked up in discovery/choices/registry.py and checks its own fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from acdc.errors import InputError
from acdc.schema import Positions
from discovery.ablations.choices import AblationChoice, Other
from discovery.choices import registry
from discovery.choices.fields import (
    Amount,
    Count,
    Fields,
    Least,
    Named,
    Share,
    Token,
    checked,
    sentences,
)
from discovery.methods.method import Method
from discovery.models.choices import ModelChoice
from discovery.settings.evaluation import BasicEvaluation, FullEvaluation
from discovery.settings.explanation import ExplainSettings
from discovery.tasks.choices import Task

Read = TypeVar("Read", bound="ModelSettings")
DEFAULT_TARGET = 0.95
GROUPS: dict[str, str] = {  # field of a configuration -> what is looked up there
    "model": "model", "task": "task", "versus": "task", "method": "method", "ablation": "ablation",
}  # fmt: skip


class MetricChoice(Named):
    """A metric by its name, or "module:object" of one's own (acdc.metrics.Metric)."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return registry.check("metric", name)

    def load(self) -> Any:
        """The acdc.metrics.Metric; InputError if the name is something else's."""
        from acdc.metrics import Metric

        found = registry.load("metric", self.name)
        if not isinstance(found, Metric):
            raise InputError(
                f"metric.name={self.name!r} is a {type(found).__name__}; wanted is an"
                " acdc.metrics.Metric: Metric(name, unit, lower_is_better, value)"
            )
        return found


class GraphSettings(Fields):
    """Which edges there are."""

    kv: Literal["per_query_head", "per_group"] = "per_query_head"
    positions: Positions = "none"  # an edge at all positions, or one at each span or token


class TrackingSettings(Fields):
    """Where the run is mirrored."""

    mode: Literal["disabled", "wandb_offline", "wandb_online"] = "wandb_offline"
    project: Annotated[str, Field(min_length=1)] = "circuit-discovery"


class ModelSettings(Fields):
    """A model, where it runs, and the seed of whatever is drawn."""

    model: SerializeAsAny[ModelChoice]
    seed: Least = 0
    device: str = "cpu"
    threads: Count | None = None


class Settings(ModelSettings):
    """One run."""

    task: SerializeAsAny[Task]
    graph: GraphSettings = GraphSettings()
    method: SerializeAsAny[Method]
    metric: MetricChoice = MetricChoice(name="logit_diff")
    ablation: SerializeAsAny[AblationChoice] = Other()
    evaluation: Annotated[
        BasicEvaluation | FullEvaluation | ExplainSettings, Field(discriminator="kind")
    ] = BasicEvaluation()
    tracking: TrackingSettings = TrackingSettings()
    target: Share | None = None  # to be recovered on the tuning prompts; None: DEFAULT_TARGET, or
    # nothing for a method that is given a size of its own
    tune: Least = 64  # prompts held out to choose a size on
    test: Least = 100  # prompts held out to judge the circuit on
    grow: Count | None = None  # search on twice as many prompts, up to so many, while they are few
    memory_gib: Amount | None = None  # that the process may take; None: what is free less a reserve
    plan: bool = False  # say what it would take, and stop

    @property
    def aim(self) -> float | None:
        """The target that holds; None: the method has a size of its own."""
        return (self.target or DEFAULT_TARGET) if not self.method.sized else None

    @model_validator(mode="after")
    def _target_or_size(self) -> Settings:
        if self.target is not None and self.method.sized:
            raise ValueError(
                f"target={self.target:g}: method={self.method.name} is given a size of its own; set"
                " that to null (method.threshold=null, method.n_edges=null), or target=null"
            )
        if self.aim is not None and self.tune == 0:
            raise ValueError(
                "tune=0: a target is reached on prompts to tune on; take tune=64, or give the"
                " method a size (method.threshold, method.n_edges)"
            )
        if self.grow is not None and self.tune == 0:
            raise ValueError(
                "grow: whether prompts are enough is seen on those to tune on: tune=64"
            )
        return self

    @property
    def corrupt_for(self) -> str | None:
        """Who needs corrupt prompts, in words; None: nobody."""
        if not self.ablation.needs_corrupt:
            return None
        if self.method.needs_corrupt:
            return f"method={self.method.name}"
        return None if self.aim is None else f"target={self.aim:g}"


class CompareSettings(Fields):
    """What a comparison asks beside the run's own questions (conf/compare.yaml)."""

    methods: tuple[Any, ...]  # as they are named
    targets: tuple[Share, ...] = (0.5, 0.8, 0.9, 0.95)
    curves: bool = True
    rule: Literal["top_n", "greedy"] = "top_n"
    files: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # of circuits or scores, or folders

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, named: Any) -> Any:
        return () if named is None else (named,) if isinstance(named, str) else named

    @field_validator("methods", "targets")
    @classmethod
    def _some(cls, named: tuple[Any, ...], info: Any) -> tuple[Any, ...]:
        if not named:
            such = {"methods": "[eap_ig,random]", "targets": "[0.8,0.9]"}[str(info.field_name)]
            raise ValueError(f"{info.field_name}=[]: name at least one, such as {such}")
        return named


class TruthSettings(Fields):
    """Which methods are tried on which circuits that are known (conf/truth.yaml)."""

    methods: tuple[str, ...]  # as they are named
    files: tuple[Annotated[str, Field(min_length=1)], ...] = ()  # of scores or circuits, or folders
    sets: Annotated[tuple[str, ...], Field(min_length=1)]
    ablations: Annotated[tuple[str, ...], Field(min_length=1)]
    circuits: Annotated[tuple[str, ...], Field(min_length=1)] | None  # of the sets; None: all
    seeds: Count  # draws of each set: of prompts, and of models where these are drawn
    validation: Least  # of these draws so many whose circuits, true and false, are validated too
    seed: Least  # of the bootstrap
    threads: Count | None

    @field_validator("sets", "ablations")
    @classmethod
    def _known(cls, named: tuple[str, ...], info: Any) -> tuple[str, ...]:
        group = {"sets": "truth", "ablations": "ablation"}[str(info.field_name)]
        return tuple(registry.check(group, name) for name in named)

    @model_validator(mode="after")
    def _something(self) -> TruthSettings:
        if not self.methods and not self.files:
            raise ValueError("methods=[] and files=[]: name at least one")
        return self


class MibSettings(ModelSettings):
    """MIB's evaluation of scores (conf/mib.yaml)."""

    task: SerializeAsAny[Task]
    scores: Annotated[str, Field(min_length=1)]  # a file, JSON or .pt, or a run folder
    rule: Literal["top_n", "greedy"] = "top_n"
    helpful: Literal["positive", "negative"] = "positive"  # sign of the score of an edge that helps
    cut: Literal["patching", "mean_clean", "zero", "zero_folded"] = "patching"
    post_norm: Literal["share", "ignored"] = "share"
    memory_gib: Amount | None = None

    @field_validator("scores")
    @classmethod
    def _there(cls, scores: str) -> str:
        if not Path(scores).exists():
            raise ValueError(f"scores={scores!r}: neither a file nor a run folder")
        return scores


class AriseSettings(Settings):
    """How a circuit arises over the checkpoints of a training (conf/arise.yaml)."""

    # folders in order, or one that holds them; or revisions of a hub model
    checkpoints: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    revisions: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    circuit: str | None = None  # a circuit's file; None: the one found at the last checkpoint

    @field_validator("checkpoints", "revisions", mode="before")
    @classmethod
    def _one_or_many(cls, named: Any) -> Any:
        return () if named is None else (named,) if isinstance(named, str) else named

    @model_validator(mode="after")
    def _some_checkpoints(self) -> AriseSettings:
        if bool(self.checkpoints) == bool(self.revisions):
            raise ValueError(
                "give one of checkpoints (folders in order, or one that holds them) and revisions"
                " (of a hub model)"
            )
        if self.test == 0:
            raise ValueError("test=0: every figure is of the test prompts; take test=100")
        return self


class RouteSettings(ModelSettings):
    """The route of one prompt, given as a text, as token ids, or as one of a task."""

    text: str | None
    prepend_bos: bool  # to the text
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None
    task: SerializeAsAny[Task] | None = None  # Hydra leaves out a question that is answered by null
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

    task: SerializeAsAny[Task]
    versus: SerializeAsAny[Task] | None = None
    start: Literal["state", "answers", "contrast"]
    threshold: Share


class ScrubSettings(Fields):
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
    return checked(EXPERIMENTS[name], config)


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The main job's settings, also as runs before 2026-11 recorded them; see `read_as`."""
    return read_as(Settings, upgraded(config))


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of an earlier version as it is written now.

    Metric and ablation were the method's, and nothing was held out.
    """
    now, method = dict(config), dict(config.get("method") or {})
    if "tune" not in now and "tracking" in now:
        now |= {"tune": 0, "test": 0}
        if (now.get("task") or {}).get("name") == "pairs":
            now["task"] = {"part": None, **now["task"]}
    for field in ("metric", "ablation"):
        if field in method and field not in now:
            now[field] = {"name": method.pop(field)}
            now["method"] = method
    return now


def read_as(kind: type[Read], config: Mapping[str, Any]) -> Read:
    """Check a resolved configuration; InputError names every field that is wrong and why.

    Also checks what can be known before a model is loaded: the device is there, files exist.
    """
    values, wrong = dict(config), list[str]()
    for field in (f for f in GROUPS if isinstance(values.get(f), Mapping)):
        try:
            values[field] = chosen(GROUPS[field], values[field], field)
        except (InputError, ValidationError) as error:
            wrong += [str(error)] if isinstance(error, InputError) else sentences(error, field)
            del values[field]
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        said = [f for f in GROUPS if f in config and f not in values]
        wrong += [s for s in sentences(error) if s not in (f"{f}: missing" for f in said)]
        settings = None
    if wrong or settings is None:
        raise InputError("\n".join(wrong))
    settings = settings.model_copy(update={"device": usable_device(settings.device)})
    for field in ("task", "versus", "method"):
        asked = getattr(settings, field, None)
        if asked is not None:
            asked.check(field)
    return settings


def chosen(group: str, values: Mapping[str, Any], field: str = "") -> Any:
    """What a group's name stands for, with its own fields checked.

    `field` is what messages call it (default: as the group). InputError for an unknown name,
    pydantic's ValidationError for a field that is wrong.
    """
    field = field or group
    key = registry.KEY.get(group, "name")
    name = values.get(key)
    if name is None:
        raise InputError(f"{field}.{key} is required: add {field}.{key}=...")
    kind = registry.load(group, registry.check(group, name))
    base = {"model": ModelChoice, "task": Task, "method": Method, "ablation": AblationChoice}[group]
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise InputError(
            f"{field}.{key}={name!r} is no {base.__name__}; wanted is a subclass of"
            f" {base.__module__}.{base.__qualname__}"
        )
    return kind.model_validate(values)


def usable_device(device: str) -> str:
    """The device as torch calls it; "auto" is the card where there is one, else the CPU.

    InputError unless torch has it.
    """
    import torch  # a second that no command should wait for before it looks at its settings

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise InputError(f"device={device!r}: allowed are auto, cpu, cuda, cuda:N, mps") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(asked.type, False):
        raise InputError(f"device={device!r}: not available here; device=cpu always is")
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device={device!r}: there are {torch.cuda.device_count()} cards here, counted from 0"
        )
    return device
