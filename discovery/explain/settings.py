"""What an explanation is asked; conf/explain.yaml. A class a part, checked before torch loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationError, field_validator

from acdc.errors import InputError
from discovery.choices.fields import Amount, Count, Fields, Least, sentences

PartName = Literal[
    "roles", "paths", "backups", "attention", "writes", "probes", "neurons", "variables",
    "steering", "proxy", "features", "story",
]  # fmt: skip
FEWEST = 16  # prompts: half are chosen on, half tested on


class Paths(Fields):
    """Path patching (discovery/explain/paths.py)."""


class Backups(Fields):
    """Knock-outs and who takes over (discovery/explain/backups.py)."""


class Attention(Fields):
    """Scores split over pairs of writers (discovery/explain/attention.py)."""


class Writes(Fields):
    """What nodes write (discovery/explain/writes.py)."""


class Probes(Fields):
    """What nodes know (discovery/explain/probes.py)."""


class Neurons(Fields):
    """Neurons of the circuit's MLPs (discovery/explain/neurons.py)."""


class Variables(Fields):
    """Variables in subspaces (discovery/explain/variables.py)."""

    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 8)  # dimensions of a subspace
    sources: Count = 4  # for each prompt that change a variable, and as many that do not
    screen: Count = 16  # interchanges by which places are compared
    nodes: Count = 2  # best ones whose subspace is learnt, and the best place of the stream
    streams: Least = 4  # layers before which the stream is a place
    steps: Count = 24  # of learning
    batch: Count = 32  # interchanges a step
    rate: Amount = 0.1  # of Adam
    draws: Count = 3  # random subspaces


class Steering(Fields):
    """Adding and taking out a direction (discovery/explain/steering.py)."""

    # what is added, in standard deviations of the prompts along the direction
    doses: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] = (-4, -2, -1, 1, 2, 4)
    draws: Count = 2  # random directions


class Proxy(Fields):
    """The circuit's outputs from the variables alone (discovery/explain/proxy.py)."""

    sources: Count = 4  # for each prompt, whose values are put in
    levels: Annotated[int, Field(ge=2)] = (
        24  # values, with more of which a variable is only compared
    )


class Features(Fields):
    """A node split by a sparse autoencoder (discovery/explain/features.py)."""


class Story(Fields):
    """A hypothesis made, scrubbed and refined (discovery/explain/story.py)."""


class ExplainSettings(Fields):
    """One explanation."""

    # those to make; None: all that the circuit's task and model allow
    parts: Annotated[tuple[PartName, ...], Field(min_length=1)] | None = None
    # held out, never those of the run: so many of its task, or a file of one's own, as task=pairs
    prompts: int | str = 128
    seed: Least = 1
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    chunk: Count = 32  # prompts worked on together
    threads: Count | None = None
    paths: Paths = Paths()
    backups: Backups = Backups()
    attention: Attention = Attention()
    writes: Writes = Writes()
    probes: Probes = Probes()
    neurons: Neurons = Neurons()
    variables: Variables = Variables()
    steering: Steering = Steering()
    proxy: Proxy = Proxy()
    features: Features = Features()
    story: Story = Story()

    @field_validator("prompts")
    @classmethod
    def _enough(cls, prompts: int | str) -> int | str:
        if isinstance(prompts, int) and prompts < FEWEST:
            raise ValueError(f"prompts={prompts}: at least {FEWEST}, or the path of a file")
        return prompts


def read_explain(config: Mapping[str, Any]) -> ExplainSettings:
    """Check the configuration; InputError names every field that is wrong and why."""
    try:
        return ExplainSettings.model_validate(config)
    except ValidationError as error:
        raise InputError("\n".join(sentences(error))) from None
