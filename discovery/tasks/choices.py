"""Tasks as settings: what can be asked of each, and how its prompts are made."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from acdc.errors import InputError
from discovery.choices.fields import Count, Named
from discovery.choices.labels import task_label

Part = Literal["search", "tune", "test"]  # of a run's prompts


class NoneLeft(InputError):
    """A part of a task has no prompts."""


class Task(Named):
    """Settings of one task. A subclass says its prompts in `build`."""

    draws: ClassVar[bool] = True  # whether other prompts come with another seed

    n: Count | None = 32
    prepend_bos: bool = False

    @property
    def label(self) -> str:
        """What the task is called in results."""
        return task_label(self.model_dump())

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """acdc.prompts.Prompts for a model; InputError if unfit.

        `loaded` has a `tokenizer`, `d_vocab` and `n_ctx`; it may stand for a model whose weights
        are yet to be read, so prompts are made twice.

        `needs` says what every prompt must name ("answers", "wrong"), `corrupt_for` who needs
        corrupt prompts, if anybody; a task that always has them need not look.
        """
        raise NotImplementedError

    def more(self, n: int) -> Task:
        """The same task with n prompts, or with all that there are."""
        return self.model_copy(update={"n": n})

    def held_out(self, part: Part, n: int) -> Task | None:
        """The task whose prompts are to be n of a part, if it has them; see job/splits.py."""
        return self.more(n)

    def check(self, field: str) -> None:
        """Raise InputError for what is wrong before any model is loaded; `field` is its name."""

    def fingerprint(self) -> Hashable:
        """What its prompts depend on besides its settings and the seed."""
        return None


class InductionTask(Task):
    """Random tokens with a repeated segment."""

    name: str = "induction"
    n: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    length: Annotated[int, Field(ge=6)] = 24

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """See Task.build."""
        from discovery.tasks import induction
        from discovery.tasks.tokens import bos_id, known_bos

        tokenizer = loaded.tokenizer
        bos = bos_id(tokenizer) if self.prepend_bos else known_bos(tokenizer, loaded.d_vocab)
        return induction.build(
            d_vocab=loaded.d_vocab, n=self.n, length=self.length, bos_id=bos, seed=seed,
            prepend_bos=self.prepend_bos,
        )  # fmt: skip


class IOITask(Task):
    """Indirect object identification."""

    name: str = "ioi"
    n: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    corruption: Literal["abc", "flip"] = "abc"

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """See Task.build."""
        from discovery.tasks import ioi

        return ioi.build(
            loaded.tokenizer, n=self.n, seed=seed, corruption=self.corruption,
            prepend_bos=self.prepend_bos,
        )  # fmt: skip


class GreaterThanTask(Task):
    """Later years than the start year."""

    name: str = "greater_than"
    n: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """See Task.build."""
        from discovery.tasks import greater_than

        return greater_than.build(
            loaded.tokenizer, n=self.n, seed=seed, prepend_bos=self.prepend_bos
        )


class PairsTask(Task):
    """The user's own JSONL."""

    name: str = "pairs"
    draws: ClassVar[bool] = False
    path: Annotated[str, Field(min_length=1)]
    n: Count | None = None  # of the search; None: half of the lines, or all if they are few
    length: Count | None = None
    part: Part | None = "search"  # None: every line

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """See Task.build."""
        from discovery.tasks import pairs

        return pairs.load(
            self.path, tokenizer=loaded.tokenizer, d_vocab=loaded.d_vocab, n=self.n,
            seed=seed, length=self.length, prepend_bos=self.prepend_bos,
            needs_answers="answers" in needs, needs_wrong="wrong" in needs,
            corrupt_for=corrupt_for, part=self.part,
        )  # fmt: skip

    def more(self, n: int) -> Task:
        """See Task.more: every line."""
        return self.model_copy(update={"n": None, "part": None})

    def held_out(self, part: Part, n: int) -> Task | None:
        """See Task.held_out: lines that the file says are of this part, or are left to it."""
        return self.model_copy(update={"part": part})

    def check(self, field: str) -> None:
        """See Task.check."""
        if not Path(self.path).is_file():
            raise InputError(f"{field}.path={self.path!r}: there is no such file")

    def fingerprint(self) -> Hashable:
        """See Task.fingerprint: the file's size and time."""
        about = Path(self.path).stat()
        return about.st_size, about.st_mtime_ns
