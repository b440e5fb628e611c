"""Methods side by side, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acdc.errors import InputError
from discovery.api.ask import ask
from discovery.api.circuit import Circuit
from discovery.api.model import Model
from discovery.api.tasks import Task
from discovery.choices.fields import checked
from discovery.job.prepare import Job, prepare
from discovery.methods.files import of_files
from discovery.methods.method import Method
from discovery.settings.run import CompareSettings
from discovery.show.tables import html, markdown
from discovery.studies.compare import Compared, as_json, check_questions, compare_on, figure_of


@dataclass(frozen=True, repr=False)
class Comparison:
    """What each method needs for a share of the model, and its curve."""

    model: Model
    job: Job
    found: tuple[Compared, ...]
    asked: Mapping[str, Any]  # metric and ablation, as they were given

    @property
    def needed(self) -> list[dict[str, Any]]:
        """A row a method and target: edges, and what they recover on test prompts."""
        return as_json(self.found, self.job.data)["needed"]

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row a method: CPR and CMD (MIB), seconds, edges shared with a search's circuit."""
        return as_json(self.found, self.job.data)["table"]

    def circuit(self, method: str, target: float | None = None) -> Circuit:
        """The circuit of a row of `needed`; None is of a method with a size of its own.

        Of several that go by one name it is the first's. InputError where there is no such row, or
        none of its circuits reached the target.
        """
        every = [one for each in self.found for one in each.needed]
        for one in every:
            if (one.row["method"], one.row["target"]) == (method, target):
                if one.row["edges"] is None:
                    raise InputError(f"target={target:g}: no circuit of {method} reached it")
                plain = one.circuit
                return Circuit(
                    plain.graph, plain.mask, plain.scores, self.model, score=one.score, **self.asked
                )
        rows = ", ".join(f"({one.row['method']!r}, {one.row['target']})" for one in every)
        raise InputError(f"circuit({method!r}, {target}): there are {rows}")

    def figure(self) -> Any:
        """Faithfulness over size, a matplotlib Figure; empty if curves were not asked for."""
        return figure_of(
            self.found, f"{self.job.settings.task.label} in {self.job.loaded.model.name}"
        )

    def __repr__(self) -> str:
        return "\n".join(markdown(rows) for rows in (self.needed, self.table) if rows)

    def _repr_html_(self) -> str:
        return "".join(html(rows) for rows in (self.needed, self.table) if rows)


def compare(
    model: Model, task: Task, methods: Sequence[str | Method], *, metric: Any = "logit_diff",
    ablation: Any = "other", targets: Sequence[float] = (0.5, 0.8, 0.9, 0.95), curves: bool = True,
    rule: Any = "top_n", files: Sequence[str] = (), tune: int = 64, test: int = 100,
    kv: str = "per_query_head", positions: str = "none",
) -> Comparison:  # fmt: skip
    """How many edges each method needs to recover a share of the model, and its curve over sizes.

    `methods` are names or `method(...)`, `files` circuits or scores from elsewhere. Sizes are
    chosen on `tune` prompts, two-sided, and judged on `test` others. InputError for
    anything that the caller can mend.
    """
    task.check_search(model)
    own = checked(
        CompareSettings,
        {"methods": methods, "targets": targets, "curves": curves, "rule": rule, "files": files},
    )
    elsewhere = of_files(own.files)
    shared = {"tune": tune, "test": test, "graph": {"kv": kv, "positions": positions}}
    asked = [ask(task, one, {}, metric, ablation, **shared) for one in own.methods]
    check_questions(asked)
    job = prepare(asked[0], model.cache)
    every = [*(s.method for s in asked), *elsewhere]
    found = tuple(compare_on(job, every, own.rule, own.targets, own.curves))
    return Comparison(model, job, found, {"metric": metric, "ablation": ablation})
