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
PARTS: tuple[Part, ...] = ("search", "tune", "test")


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

    def of_part(self, part: Part, n: int) -> Task | None:
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


class OwnTask(Task):
    """Rows of one's own, of a fixed number: the base of `pairs` and `hf_dataset`."""

    draws: ClassVar[bool] = False
    n: Count | None = None  # of the search; None: half of the rows, or all if they are few
    length: Count | None = None
    part: Part | None = "search"  # None: every row
    held_out: Annotated[str, Field(min_length=1)] | None = None  # where else the other parts are
    # of several tokens: refused, the first that differs asked, or all of the right one
    answers: Literal["single", "first", "sequence"] = "single"
    corrupt: str = "given"  # or other, or swap:MARK; see tasks/counterfactuals.py

    def source(self) -> Any:
        """Where the rows come from; see tasks/pairs.py."""
        raise NotImplementedError

    def elsewhere(self) -> OwnTask:
        """The task of the rows that `held_out` names."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the rows are for."""
        return PARTS if self.held_out is None else ("search",)

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """See Task.build."""
        from discovery.tasks import pairs

        return pairs.load(
            self.source(), tokenizer=loaded.tokenizer, d_vocab=loaded.d_vocab, n=self.n,
            seed=seed, length=self.length, prepend_bos=self.prepend_bos,
            needs_answers="answers" in needs, needs_wrong="wrong" in needs,
            corrupt_for=corrupt_for, part=self.part, parts=self.parts,
            answers=self.answers, corrupt=self.corrupt,
        )  # fmt: skip

    def more(self, n: int) -> Task:
        """See Task.more: every row, or every one that is held out elsewhere."""
        rows = self if self.held_out is None else self.elsewhere()
        return rows.model_copy(update={"n": None, "part": None})

    def of_part(self, part: Part, n: int) -> Task | None:
        """See Task.of_part: rows that are said to be of this part, or are left to it."""
        if part == "search" or self.held_out is None:
            return self.model_copy(update={"part": part})
        return self.elsewhere().model_copy(update={"n": None, "part": part})

    def check(self, field: str) -> None:
        """See Task.check."""
        from discovery.tasks.counterfactuals import check_corrupt

        check_corrupt(f"{field}.corrupt", self.corrupt)


class PairsTask(OwnTask):
    """The user's own JSONL."""

    name: str = "pairs"
    path: Annotated[str, Field(min_length=1)]

    def source(self) -> Any:
        """See OwnTask.source."""
        return self.path

    def elsewhere(self) -> OwnTask:
        """See OwnTask.elsewhere: another file."""
        return HeldOutPairs.model_validate(
            {**self.model_dump(), "path": self.held_out, "held_out": None}
        )

    def check(self, field: str) -> None:
        """See Task.check."""
        super().check(field)
        for name, path in (("path", self.path), ("held_out", self.held_out)):
            if path is not None and not Path(path).is_file():
                raise InputError(f"{field}.{name}={path!r}: there is no such file")

    def fingerprint(self) -> Hashable:
        """See Task.fingerprint: the files' sizes and times."""
        about = [Path(path).stat() for path in (self.path, self.held_out) if path is not None]
        return tuple((one.st_size, one.st_mtime_ns) for one in about)


class HeldOutPairs(PairsTask):
    """The lines of a file that none is searched on of."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """See OwnTask.parts."""
        return "tune", "test"


class HFDatasetTask(OwnTask):
    """A Hugging Face data set; `held_out` names a split of it."""

    name: str = "hf_dataset"
    path: Annotated[str, Field(min_length=1)]  # hub id, folder or file
    subset: str | None = None
    rows: Annotated[str, Field(min_length=1)] = "train"  # the split to search on
    fields: dict[str, str]

    def source(self) -> Any:
        """See OwnTask.source."""
        from discovery.tasks.hf_dataset import DatasetRows

        return DatasetRows(self.path, self.subset, self.rows, self.fields)

    def elsewhere(self) -> OwnTask:
        """See OwnTask.elsewhere: another split."""
        return HeldOutDataset.model_validate(
            {**self.model_dump(), "rows": self.held_out, "held_out": None}
        )

    def check(self, field: str) -> None:
        """See Task.check."""
        from discovery.tasks.hf_dataset import check_fields, check_path

        super().check(field)
        check_path(f"{field}.path", self.path, self.held_out)
        check_fields(f"{field}.fields", self.fields)

    def fingerprint(self) -> Hashable:
        """See Task.fingerprint: of a local one its time."""
        place = Path(self.path)
        return place.stat().st_mtime_ns if place.exists() else None


class HeldOutDataset(HFDatasetTask):
    """A split that none is searched on of."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """See OwnTask.parts."""
        return "tune", "test"


class MibTask(OwnTask):
    """One of MIB's tasks; its defaults are their code's, see tasks/mib.py."""

    path: Annotated[str, Field(min_length=1)] | None = None  # a local copy; None: the hub's
    rows: Annotated[str, Field(min_length=1)] = "train"
    held_out: Annotated[str, Field(min_length=1)] | None = "validation"
    n: Count | None = 100  # the first; None: all
    answers: Literal["single"] = "single"  # pyright: ignore[reportIncompatibleVariableOverride]
    prepend_bos: Literal[False] = False  # pyright: ignore[reportIncompatibleVariableOverride]

    def build(
        self, loaded: Any, seed: int, needs: Collection[str] = (), corrupt_for: str | None = None
    ) -> Any:
        """See Task.build: the first n rows of a search, in order."""
        from dataclasses import replace

        from discovery.tasks import mib, pairs

        items = mib.items_of(self.name, self.path, self.rows, loaded.tokenizer)
        told = {f"rows dropped: {why}": n for why, n in items.dropped.items()}
        if self.n is not None and len(items.items) < self.n:
            raise InputError(f"{items.name}: task.n={self.n}, but only {len(items.items)} are left")
        first = replace(items, items=items.items[: self.n])
        prompts = pairs.load(
            first, tokenizer=loaded.tokenizer, d_vocab=loaded.d_vocab, n=None,
            seed=seed, length=self.length, prepend_bos=False, needs_answers=True, needs_wrong=True,
            corrupt_for=corrupt_for, part=self.part, parts=self.parts, corrupt=self.corrupt,
        )  # fmt: skip
        return replace(prompts, notes={**prompts.notes, **told})

    def elsewhere(self) -> OwnTask:
        """See OwnTask.elsewhere: another split."""
        return HeldOutMib.model_validate(
            {**self.model_dump(), "rows": self.held_out, "held_out": None}
        )

    def check(self, field: str) -> None:
        """See Task.check."""
        from discovery.tasks.hf_dataset import check_library, check_path

        super().check(field)
        if self.path is not None:
            check_path(f"{field}.path", self.path, self.held_out)
        check_library(self.name)


class HeldOutMib(MibTask):
    """A split that none is searched on of."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """See OwnTask.parts."""
        return "tune", "test"


class MibIOI(MibTask):
    """Indirect objects; the corrupt prompt swaps the second subject for the indirect object."""

    name: str = "mib_ioi"


class MibMCQA(MibTask):
    """Colours to choose from; the corrupt prompt has other letters."""

    name: str = "mib_mcqa"


class MibArcEasy(MibTask):
    """Questions with four answers; as mib_mcqa."""

    name: str = "mib_arc_easy"


class MibArcChallenge(MibTask):
    """Harder ones."""

    name: str = "mib_arc_challenge"


class MibAddition(MibTask):
    """Sums; the corrupt prompt is another sum."""

    name: str = "mib_arithmetic_addition"


class MibSubtraction(MibTask):
    """Differences; as mib_arithmetic_addition."""

    name: str = "mib_arithmetic_subtraction"
