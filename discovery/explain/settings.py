"""What an explanation is asked; conf/explain.yaml. A class a part, checked before torch loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from acdc.errors import InputError
from discovery.choices.fields import Count, Fields, Least, Share, sentences

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


class Steering(Fields):
    """Adding and taking out a direction (discovery/explain/steering.py)."""


class Proxy(Fields):
    """The circuit's outputs from the variables alone (discovery/explain/proxy.py)."""


class Features(Fields):
    """A node split by a sparse autoencoder (discovery/explain/features.py)."""


class Story(Fields):
    """A hypothesis made, scrubbed and refined (discovery/explain/story.py)."""

    references: Annotated[int, Field(ge=8)] = 32  # prompts of each half that are scrubbed, at most
    draws: Count = 2  # data of each claim for each prompt, on the test half
    claims: Count = 40  # places of the circuit's paths at most; inputs of others are not told apart
    negligible: Share = 0.01  # of the way from a random prompt to the model: costs nothing
    tolerated: Share = 0.05  # what changes that are not beyond chance may cost together
    rounds: Least = 3  # of refinement
    controls: Count = 3  # permuted stories, and random trees


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
