"""Circuits that know their model: they can be measured, drawn and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from acdc import circuit as plain
from acdc import circuit_files
from acdc.errors import InputError
from acdc.graph import KV
from acdc.selection import top_n
from discovery.api.ask import ask
from discovery.api.model import Model
from discovery.api.tasks import FRESH, Task
from discovery.dashboard.embed import circuit_frame
from discovery.job.faithfulness import Measured, measure
from discovery.job.prepare import prepare
from discovery.job.shares import yardstick
from discovery.runs.json_files import write_bytes, write_json
from discovery.show.tables import html, markdown


@dataclass(frozen=True, eq=False, repr=False)
class Circuit(plain.Circuit):
    """Edges of a model that are kept, and what is asked of them unless told otherwise.

    Circuits of one model are sets of edges; see acdc.circuit.Circuit.
    """

    model: Model | None = None
    metric: Any = "logit_diff"
    ablation: Any = "other"
    score: str = ""  # what the scores are, in words

    @classmethod
    def load(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, path: Path | str, model: Model, kv: KV = "per_query_head", **asked: Any
    ) -> Circuit:
        """A circuit file in EAP-IG's formats (MIB's, a run's circuit.json), JSON or .pt.

        `asked` are metric and ablation. InputError if its edges are not the model's.
        """
        data = circuit_files.read(path)
        read = plain.Circuit.from_json(data, model.loaded.model.graph(kv))
        score = str((data.get("about") or {}).get("score", ""))
        return cls(read.graph, read.mask, read.scores, model, score=score, **asked)

    @classmethod
    def of(
        cls, edges: Sequence[str], model: Model, kv: KV = "per_query_head", **asked: Any
    ) -> Circuit:
        """The circuit of these edges, such as ["input->a1.h0<v>", "a1.h0->logits"]."""
        graph = model.loaded.model.graph(kv)
        return cls(graph, graph.mask(edges), model=model, **asked)

    def top(self, n: int) -> Circuit:
        """The n edges whose scores are largest, of all that have one, by |score|."""
        return replace(self, mask=top_n(self.graph, self.scores, n).circuit.mask)

    def save(self, path: Path | str) -> None:
        """Write it in EAP-IG's format, .pt by that ending, the whole file or nothing."""
        path, data = Path(path), self.to_json(about={"score": self.score})
        if path.suffix == circuit_files.TENSORS:
            write_bytes(path, circuit_files.tensors(data))
        else:
            write_json(path, data)

    def evaluate(self, task: Task, metric: Any = None, ablation: Any = None) -> Evaluation:
        """How good it is on the task's prompts; new ones are `task.fresh(100)`.

        Cut edges carry what the ablation says: by default the circuit's own question. InputError
        if the prompts do not have what metric and ablation need, and for a model of another shape.
        """
        theirs = task.model.loaded.model.graph(self.graph.kv)
        if theirs != self.graph.plain:
            raise InputError(
                f"task: it is for {theirs.describe()}; the circuit is of {self.graph.describe()}"
            )
        metric, ablation = metric or self.metric, ablation or self.ablation
        settings = ask(task, "random", {"n_edges": 1}, metric, ablation,
                       graph={"kv": self.graph.kv})  # fmt: skip
        job = prepare(settings, task.model.cache)
        data = job.data if task.only is None else job.on(task.only, FRESH)
        data = data.with_graph(self.graph)
        job.metric.check(data.prompts)
        found = measure(data, job.metric, self.mask)
        return Evaluation(
            found, job.metric.name, job.metric.unit, settings.ablation.name, len(self)
        )

    def __repr__(self) -> str:
        of = "" if self.model is None else f" of {self.model.name}"
        return f"Circuit({len(self)} of {self.graph.n_edges:,} edges{of}, {len(self.nodes)} nodes)"

    def _repr_html_(self) -> str:
        return circuit_frame(self.to_json(about={"score": self.score}), repr(self))


@dataclass(frozen=True)
class Evaluation:
    """A circuit on some prompts, beside the model and the empty circuit. Means over prompts."""

    measured: Measured
    metric: str
    unit: str
    ablation: str
    n_edges: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "measured":
            raise AttributeError(name)
        return getattr(self.measured, name)

    def rows(self) -> list[dict[str, Any]]:
        """Model, circuit and empty circuit: the metric, and what answers they give."""
        own, out = self.measured, []
        for run, value in (("model", own.model), ("circuit", own.circuit), ("empty", own.empty)):
            scores: Mapping[str, float] = (own.scores or {}).get(run, {})
            row = {"": run, f"{self.metric} ({self.unit})": _number(value)}
            out.append(row | {k: _number(v) for k, v in scores.items() if k != self.metric})
        return out

    def __repr__(self) -> str:
        return "\n".join([self._of, markdown(self.rows()), *self._recovered])

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._of)}</p>{html(self.rows())}" + "".join(
            f"<p>{escape(sentence)}</p>" for sentence in self._recovered
        )

    @property
    def _of(self) -> str:
        return f"{self.n_edges} edges on {self.measured.n} prompts"

    @property
    def _recovered(self) -> tuple[str, str]:
        own = self.measured
        shares = {
            "faithfulness (of means)": own.faithfulness,
            f"error of {self.metric}, prompt by prompt": own.error_share,
            "KL": own.kl_share,
        }
        said = ", ".join(f"{k} {_share(v)}" for k, v in shares.items())
        return f"recovered: {said}", yardstick(self.ablation)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"
