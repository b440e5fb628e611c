"""Which ablation, and over what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from discovery.choices.fields import Amount, Count, Named

# (path of a JSONL or None for fresh ones of the task, how many or None for all) -> Prompts
References = Callable[[str | None, int | None], Any]


class AblationChoice(Named):
    """Settings of one ablation. A subclass says what it is in `make`."""

    needs_corrupt: ClassVar[bool] = True  # whether it is nothing without corrupt prompts

    def make(self, references: References, seed: int) -> Any:
        """The acdc.ablation.Ablation; `references` makes a set of prompts, if it wants one."""
        raise NotImplementedError

    def pair(self, prompts: Any, seed: int) -> Any:
        """The acdc.prompts.Prompts to work on: the task's own pairs, unless said otherwise."""
        return prompts


class Other(AblationChoice):
    """What the writer puts out on another prompt of the task, as causal scrubbing resamples.

    Other draws of partners come with another seed; the task's own corrupt prompts are not read.
    """

    name: str = "other"
    needs_corrupt: ClassVar[bool] = False
    draws: Count = 1  # partners of each prompt; time and memory grow with it
    align: Literal["length", "marks"] = "length"  # marks: partners have them at the same positions

    def make(self, references: References, seed: int) -> Any:
        """See AblationChoice.make."""
        from acdc import ablation

        return ablation.Other("other", align=self.align)

    def pair(self, prompts: Any, seed: int) -> Any:
        """See AblationChoice.pair."""
        return prompts.with_others(seed, self.draws, self.align)


class Resample(AblationChoice):
    """What the writer puts out on the corrupt prompt."""

    name: str = "resample"

    def make(self, references: References, seed: int) -> Any:
        """See AblationChoice.make."""
        from acdc.ablation import RESAMPLE

        return RESAMPLE


class Zero(AblationChoice):
    """Nothing."""

    name: str = "zero"
    needs_corrupt: ClassVar[bool] = False

    def make(self, references: References, seed: int) -> Any:
        """See AblationChoice.make."""
        from acdc.ablation import ABLATIONS

        return ABLATIONS["zero"]


class Mean(AblationChoice):
    """The writer's mean at each position: over the corrupt prompts, or over a reference set.

    Without corrupt prompts it is over the clean ones.
    """

    name: str = "mean"
    needs_corrupt: ClassVar[bool] = False
    over: Literal["corrupt", "task", "file"] = "corrupt"  # task: fresh clean prompts of it
    path: Annotated[str, Field(min_length=1)] | None = None  # of a JSONL, for over=file
    n: Count | None = None  # prompts of the reference set; None: 100 of the task, all of a file

    def make(self, references: References, seed: int) -> Any:
        """See AblationChoice.make."""
        from acdc import ablation

        if self.over == "corrupt":
            return ablation.ABLATIONS["mean"]
        chosen = references(self.path, self.n or (None if self.path else 100))
        return ablation.Mean("mean", needs_corrupt=False, reference=chosen)

    @model_validator(mode="after")
    def _file_and_path(self) -> Mean:
        if (self.over == "file") != (self.path is not None):
            raise ValueError("over=file and path go together: give both or neither")
        return self


class Optimal(AblationChoice):
    """The constant that hurts least, one a writer, learnt before the search (acdc/optimal.py)."""

    name: str = "optimal"
    needs_corrupt: ClassVar[bool] = False
    steps: Count = 200  # of Adam
    batch: Count = 4  # prompts a step
    rate: Amount = 0.02  # in standard deviations of what the writer puts out

    def make(self, references: References, seed: int) -> Any:
        """See AblationChoice.make."""
        from acdc.optimal import Optimal

        return Optimal(
            "optimal", False, steps=self.steps, batch=self.batch, rate=self.rate, seed=seed
        )
