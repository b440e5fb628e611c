"""The main job from Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import Any

from acdc.errors import InputError
from discovery.api.ask import ask
from discovery.api.circuit import Circuit
from discovery.api.model import Model
from discovery.api.tasks import Task
from discovery.dashboard.embed import circuit_html
from discovery.job import pipeline
from discovery.job.summary import page, table
from discovery.methods.method import Method
from discovery.runs.json_files import read_lines
from discovery.settings.run import Settings

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False, repr=False)
class Discovered:
    """What a run came to: its circuit, how good that is, and its folder."""

    folder: Path  # a run folder, as the commands write it
    task: Task
    settings: Settings
    result: Mapping[str, Any]  # result.json
    asked: Mapping[str, Any]  # metric and ablation, as they were given
    _holds: TemporaryDirectory[str] | None = field(default=None)  # the folder, while this lives

    @cached_property
    def circuit(self) -> Circuit:
        """The circuit; its scores are what circuit.json says, and scores.npz beside it."""
        path, kv = self.folder / "circuit.json", self.settings.graph.kv
        return Circuit.load(path, self.task.model, kv, **self.asked)

    @property
    def holds(self) -> str:
        """Whether the circuit does the task on new prompts, in a sentence."""
        return str(self.result["holds"])

    @cached_property
    def tests(self) -> tuple[Mapping[str, Any], ...]:
        """Edges that were tested, in order, or the strongest of scores: edge, effect, kept."""
        return tuple(read_lines(self.folder / "edges.jsonl"))

    @cached_property
    def heads(self) -> Mapping[str, Any]:
        """What each head of the circuit looks at and writes, and the roles that this suggests."""
        return json.loads((self.folder / "heads.json").read_text(encoding="utf-8"))["heads"]

    def save(self, folder: Path | str) -> Path:
        """Keep the run folder; it must not be there yet."""
        target = Path(folder)
        if target.exists():
            raise InputError(f"save({str(folder)!r}): it is there already")
        return copytree(self.folder, target)

    def __repr__(self) -> str:
        warnings = [f"warning: {sentence}" for sentence in self.result["warnings"]]
        return "\n".join([*warnings, table(dict(self.result), self.folder)])

    def _repr_html_(self) -> str:
        warned = "".join(f"<p>warning: {escape(said)}</p>" for said in self.result["warnings"])
        return warned + page(dict(self.result), self.folder) + self.circuit._repr_html_()


def discover(
    model: Model, task: Task, method: str | Method = "acdc", *, metric: Any = "logit_diff",
    ablation: Any = "other", target: float | None = None, tune: int = 64, test: int = 100,
    grow: int | None = None, kv: str = "per_query_head", positions: str = "none",
    memory_gib: float | None = None, folder: Path | str | None = None, tracking: str = "disabled",
    say: Say | None = None,
    **fields: Any,
) -> Discovered:  # fmt: skip
    """Find the circuit that does the task.

    `fields` are the method's own (conf/method), such as threshold or n_edges; without a size the
    smallest circuit is sought that recovers `target` (0.95) on `tune` held-out prompts. `metric`: a
    name or an acdc.metrics.Metric; `ablation`: a name or a choice, what cut edges carry. Edges are
    at all positions, or with `positions` of the task's spans, or of tokens. Everything
    is written to `folder`, or to a temporary one (`Discovered.save` keeps it); a folder in which
    the same run was killed is gone on with. `say` gets the sentences on the way (`print`).

    InputError for anything that the caller can mend.
    """
    task.check_search(model)
    settings = ask(
        task, method, fields, metric, ablation, target=target, tune=tune, test=test, grow=grow,
        graph={"kv": kv, "positions": positions}, memory_gib=memory_gib,
        tracking={"mode": tracking},
    )  # fmt: skip
    holds = TemporaryDirectory(prefix="circuit-") if folder is None else None
    place = Path(folder if holds is None else f"{holds.name}/run").absolute()  # pyright: ignore[reportArgumentType]
    result = pipeline.discover(
        settings, place, [], say or _nothing, cache=model.cache, page=circuit_html
    )
    asked = {"metric": metric, "ablation": ablation}
    return Discovered(place, task, settings, result, asked, holds)


def _nothing(sentence: str) -> None:
    """Say nothing: what matters is in the result."""
