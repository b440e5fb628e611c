"""Validation from Python: is a circuit true?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from acdc.errors import InputError
from discovery.api.choose import stored
from discovery.api.circuit import Circuit
from discovery.api.run import Discovered, Say, discover
from discovery.api.tasks import Task
from discovery.choices.fields import sentences
from discovery.runs.json_files import encode
from discovery.settings.evaluation import FullEvaluation
from discovery.validation.runs import Validated, read_found, says, validate_runs
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
        from html import escape

        page = self.report.read_text(encoding="utf-8")
        return (
            f'<iframe srcdoc="{escape(page)}" sandbox="" title="Validation"'
            ' style="width:100%;height:720px;border:1px solid #ccc"></iframe>'
        )


def validate(
    what: Discovered | Circuit, task: Task | None = None, say: Say | None = None, **asked: Any
) -> Validation:
    """Try a circuit on prompts that it was not found on: conf/evaluation/full.yaml says how.

    `what` is a run, or any circuit together with the task that it is for (then its stability is not
    asked, since nobody knows how it was found). `asked` are fields such as budget (minutes; None:
    everything), prompts, margin, seed. InputError for a field that is wrong, and too few prompts.
    """
    try:
        settings = FullEvaluation(**asked)
    except ValidationError as error:
        raise InputError("\n".join(sentences(error))) from None
    run = what if isinstance(what, Discovered) else _as_run(what, task)
    (done,) = validate_runs(
        read_found([run.folder]), settings, say or (lambda _: None), run.task.model.cache
    )
    return Validation(run, done)


def _as_run(circuit: Circuit, task: Task | None) -> Discovered:
    """A run that found nothing else."""
    if task is None:
        raise InputError(
            "validate: a circuit needs the task that it is for: validate(circuit, task)"
        )
    data = encode(circuit.to_json(about={"score": circuit.score}))
    path = stored("circuits", "circuit", ".json", data)
    return discover(
        task.model, task, "given", circuit=str(path), metric=circuit.metric,
        ablation=circuit.ablation, kv=circuit.graph.kv,
    )  # fmt: skip
