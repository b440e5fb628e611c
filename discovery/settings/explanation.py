"""What an explanation is asked; conf/evaluation/explain.yaml. A class a part, without torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat, field_validator

from discovery.choices.fields import Amount, Count, Fields, Least, Share
from discovery.settings.evaluation import HeldOut

PartName = Literal[
    "roles", "paths", "backups", "attention", "writes", "probes", "neurons", "variables",
    "steering", "proxy", "features", "story",
]  # fmt: skip
FEWEST = 16  # prompts: half are chosen on, half tested on


class Paths(Fields):
    """Path patching (discovery/explanation/paths/part.py)."""

    # noising: corrupt into clean, what is needed; denoising: clean into corrupt, what is enough
    direction: Literal["noising", "denoising"] = "noising"
    # between sender and receiver: as in the unpatched run, or run again (Wang et al.; slower)
    mlps: Literal["frozen", "recomputed"] = "frozen"
    depth: Count = 5  # steps of the walk back from the logits
    width: Count = 3  # heads that are followed at each step
    edges: Count = 10  # paths tried into each head (and the logits), besides the circuit's own
    screen: Annotated[int, Field(ge=2)] = 16  # prompts on which those are picked by gradient


class Backups(Fields):
    """Knock-outs and who takes over (discovery/explanation/backups)."""

    most: Count = 40  # nodes knocked out one by one, those with the strongest edges
    controls: Count = 3  # random sets of nodes that a takeover has to exceed
    # a share of what model and empty circuit differ by: smaller changes are not spoken of
    least: Annotated[float, Field(gt=0, lt=1)] = 0.01
    strongest: Count = 6  # nodes knocked out in pairs, those that cost most; pairs with backups
    largest: Count = 4  # members of the set that makes up for itself most


class Attention(Fields):
    """Scores split over pairs of writers (discovery/explanation/attention/part.py)."""

    # the key is compared with the mean of all others, or with the next marked one
    against: Literal["others", "mark"] = "others"
    pairs: Count = 4  # told of each head
    drawn: Least = 4  # heads with a picture


class Writes(Fields):
    """What nodes write (discovery/explanation/writes/part.py)."""

    tokens: Count = 6  # that a head or value vector writes for most, and as many against
    mlps: Count = 4  # of the circuit, those with the strongest edges
    vectors: Count = 5  # value vectors of each
    positions: Count = 48  # patched one by one; of longer prompts the marked and the strongest


class Probes(Fields):
    """What nodes know (discovery/explanation/probes/part.py)."""

    nodes: Count = 12  # of the circuit, those with the strongest edges
    layers: Count = 12  # after which the stream is probed, evenly spread
    least: Annotated[int, Field(ge=3)] = 4  # prompts of a class, of those fitted on
    permutations: Annotated[int, Field(ge=99)] = 4999  # of held-out values, for p


class Neurons(Fields):
    """Neurons of the circuit's MLPs (discovery/explanation/neurons/part.py)."""

    mlps: Count = 4  # of the circuit, those with the strongest edges
    top: Count = 8  # neurons of each, those that move the answer most
    permutations: Annotated[int, Field(ge=19)] = 19  # of labels, for what chance explains


class Variables(Fields):
    """Variables in subspaces (discovery/explanation/variables/part.py)."""

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
    """Adding and taking out a direction (discovery/explanation/steering/part.py)."""

    # what is added, in standard deviations of the prompts along the direction
    doses: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)] = (-4, -2, -1, 1, 2, 4)
    draws: Count = 2  # random directions


class Proxy(Fields):
    """The circuit's outputs from the variables alone (discovery/explanation/proxy/part.py)."""

    sources: Count = 4  # for each prompt, whose values are put in
    levels: Annotated[int, Field(ge=2)] = (
        24  # values, with more of which a variable is only compared
    )


class Features(Fields):
    """A node split by a sparse autoencoder (discovery/explanation/features/part.py)."""

    sae: str | None = None  # a folder in SAELens' format; None: a small one is trained here
    node: str | None = None  # a1.h3 or m2; None: the SAE's, or the one with the largest effect
    at: str = "all"  # positions at which features are changed: all, answer, or a mark
    strongest: Count = 10  # features that are taken out one by one
    k: tuple[Count, ...] = (1, 2, 4, 8, 16)  # features kept while all else of the node is another's
    draws: Count = 3  # of k features at random
    # of the one that is trained: its dictionary, features active at a time, steps, and rows of the
    # model's own text beside the task's prompts
    n_features: Count = 256
    active: Count = 8
    steps: Count = 1000
    text: Least = 64


class Story(Fields):
    """A hypothesis made, scrubbed and refined (discovery/explanation/story/part.py)."""

    references: Annotated[int, Field(ge=8)] = 32  # prompts of each half that are scrubbed, at most
    draws: Count = 2  # data of each claim for each prompt, on the test half
    claims: Count = 40  # places of the circuit's paths at most; inputs of others are not told apart
    negligible: Share = 0.01  # of the way from a random prompt to the model: costs nothing
    tolerated: Share = 0.05  # what changes that are not beyond chance may cost together
    rounds: Least = 3  # of refinement
    controls: Count = 3  # permuted stories, and random trees


class ExplainSettings(HeldOut):
    """One explanation: a run with evaluation=explain makes it of what it found."""

    fewest: ClassVar[int] = FEWEST
    kind: Literal["explain"] = "explain"
    # those to make; None: all that the circuit's task and model allow
    parts: tuple[PartName, ...] | None = None
    prompts: int | str = 128
    chunk: Count = 32  # prompts worked on together
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

    @field_validator("parts")
    @classmethod
    def _some(cls, parts: tuple[PartName, ...] | None) -> tuple[PartName, ...] | None:
        if parts == ():
            raise ValueError("parts=[]: name at least one, or null for all")
        return parts
