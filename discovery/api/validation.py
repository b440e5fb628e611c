"""Validation from Python: is a circuit true?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from acdc.errors import InputError
from acdc.spans import positions_of
from discovery.api.choose import stored
from discovery.api.circuit import Circuit
from discovery.api.run import Discovered, Say, discover
from discovery.api.tasks import Task
from discovery.choices.fields import checked
from discovery.runs.json_files import encode
from discovery.settings.evaluation import FullEvaluation
from discovery.show.frame import framed
from discovery.show.tables import html, markdown
from discovery.validation.runs import Validated, read_found, says, table, validate_runs
from discovery.validation.verdicts import headline


@dataclass(frozen=True, repr=False)
class Validation:
    """What was asked of a circuit and what came out; Jupyter shows the whole report."""

    of: Discovered  # holds the folder with validation.json and report.html
    validated: Validated

    @property
    def headline(self) -> str:
        """In a few sentences."""
        return headline(self.validated.validation, self.validated.verdicts)

    @property
    def verdict(self) -> str:
        """Holds, holds in part, does not hold, not decided."""
        return self.figures["decision"]["verdict"]

    @property
    def next(self) -> list[str]:
        """What to do next, most important first."""
        return self.figures["next"]

    @property
    def verdicts(self) -> dict[str, bool | None]:
        """By property: shown to hold, shown to fail (False), not decided (None)."""
        return {v.name: v.holds for v in self.validated.verdicts}

    @property
    def figures(self) -> Mapping[str, Any]:
        """All figures: what validation.json holds."""
        return self.validated.validation

    @property
    def report(self) -> Path:
        """The page."""
        return self.validated.report

    def __repr__(self) -> str:
        return says(self.validated)

    def _repr_html_(self) -> str:
        return framed(self.report.read_text(encoding="utf-8"), "Validation")


@dataclass(frozen=True, repr=False)
class Validations(Sequence[Validation]):
    """Several circuits, tried on the same prompts; shows itself as one table."""

    each: tuple[Validation, ...]

    def __getitem__(self, at: Any) -> Any:
        return self.each[at]

    def __len__(self) -> int:
        return len(self.each)

    def rows(self) -> list[dict[str, str]]:
        """A row a property, a column a circuit: + shown to hold, - shown to fail, ? not decided."""
        return table([one.validated for one in self.each])

    def __repr__(self) -> str:
        return markdown(self.rows())

    def _repr_html_(self) -> str:
        return html(self.rows())


@overload
def validate(
    what: Discovered | Circuit, task: Task | None = None, say: Say | None = None, **asked: Any
) -> Validation: ...


@overload
def validate(
    what: Sequence[Discovered | Circuit], task: Task | None = None, say: Say | None = None,
    **asked: Any,
) -> Validations: ...  # fmt: skip


def validate(
    what: Discovered | Circuit | Sequence[Discovered | Circuit], task: Task | None = None,
    say: Say | None = None, **asked: Any,
) -> Validation | Validations:  # fmt: skip
    """Try a circuit on prompts that it was not found on: conf/evaluation/full.yaml says how.

    `what` is a run, or any circuit together with the task that it is for (then its stability is not
    asked, since nobody knows how it was found), or several of them, of one model and task: they
    share prompts and runs. `asked` are fields such as budget ("2m", "1h", "full"), prompts, margin,
    seed. InputError for a field that is wrong, and too few prompts.
    """
    if isinstance(what, Discovered | Circuit):
        return validate([what], task, say, **asked)[0]
    settings = checked(FullEvaluation, asked)
    runs = [as_run(one, task, "validate") for one in what]
    if not runs:
        raise InputError("validate: no circuit is given")
    folders, cache = [run.folder for run in runs], runs[0].task.model.cache
    found = read_found(folders, settings.device, settings.threads)
    done = validate_runs(found, settings, say or (lambda _: None), cache)
    return Validations(tuple(map(Validation, runs, done)))


def as_run(what: Discovered | Circuit, task: Task | None, asked: str) -> Discovered:
    """A run, or a circuit as one that found nothing else; `asked` is the call, for the message."""
    if isinstance(what, Discovered):
        return what
    if task is None:
        raise InputError(
            f"{asked}: a circuit needs the task that it is for: {asked}(circuit, task)"
        )
    data = encode(what.to_json(about={"score": what.score}))
    path = stored("circuits", "circuit", ".json", data)
    return discover(
        task.model, task, "given", circuit=str(path), metric=what.metric, ablation=what.ablation,
        kv=what.graph.kv, positions=positions_of(what.graph.spans),
    )  # fmt: skip
