"""Learnt masks as a method: the steps of acdc/learned.py, what they start from, and go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from acdc.errors import InputError
from discovery.choices.fields import Amount, Count
from discovery.methods.found import Found, Resume, Step, last
from discovery.methods.method import Scoring, Work, scoring

RECENT = 20  # steps whose mean loss a progress bar shows
LEAST, MOST = 1 / 1000, 1 / 5  # budgets as shares of the graph, where nobody said a size
START = 64  # prompts that are enough for scores to start from


class Learned(Scoring):
    """A mask of the edges, learnt by gradient for many budgets at once; acdc.learned.How.

    Budgets lie around n_edges or, where a target decides, anywhere from LEAST to MOST of the graph.
    It starts from the scores of another method, whose best `within` edges take part.
    """

    name: str = "learned"
    by_prompt: ClassVar[bool] = False
    unit: ClassVar[str | None] = "units of the mask's sigmoid, above the least"
    works: ClassVar[Work] = "masks"

    threshold: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: Literal["top_n"] = "top_n"  # pyright: ignore[reportIncompatibleVariableOverride]
    ranking: Literal["signed"] = "signed"  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: Literal["share", "metric"] = "share"
    spread: Annotated[FiniteFloat, Field(ge=1)] = 4.0
    steps: Count = 300
    batch: Count = 4
    rate: Amount = 0.05
    warm: Amount = 0.3
    cold: Amount = 0.05
    start: str = "eap_ig"
    within: Count | None = None

    @model_validator(mode="after")
    def _starts_from_scores(self) -> Learned:
        scoring("start", self.start)
        if self.within is not None and self.n_edges is not None and self.within < self.n_edges:
            raise ValueError(f"within={self.within}: fewer than n_edges={self.n_edges}")
        return self

    @property
    def looks(self) -> int:
        """See Method.looks."""
        return self.steps * self.batch

    def check_question(self, metric: Any, ablation: str) -> None:
        """See Method.check_question: the scores that it starts from may have none."""
        scoring("start", self.start).check_question(metric, ablation)

    def how(self, graph: Any) -> Any:
        """The acdc.learned.How of a graph; budgets leave some of the edges out that take part."""
        from acdc.learned import How

        sizes = LEAST * graph.n_edges, MOST * graph.n_edges
        if self.n_edges is not None:
            sizes = self.n_edges / self.spread, self.n_edges * self.spread
        largest = min(sizes[1], 0.9 * self._edges(graph))
        smallest = min(max(1.0, sizes[0]), largest)
        sizes = self.steps, self.batch, self.rate, self.warm, self.cold
        return How(smallest, largest, *sizes, self.loss)

    def scores(self, data: Any, metric: Any, seed: int) -> NDArray[np.float64]:
        """See Scoring.scores: at least 1 for edges that take part, below for others."""
        return last(self.ranks(data, metric, seed)).scores

    def ranks(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None,
        ranking: NDArray[np.float64] | None = None,
    ) -> Iterator[Step | Found]:  # fmt: skip
        """See Scoring.ranks: the steps, from a `ranking` on in the place of `start`, if given."""
        from acdc.learned import learn, ranked
        from acdc.selection import best_edges

        graph = data.graph
        if self.within is not None and self.within > graph.n_edges:
            raise InputError(f"within={self.within}: the graph has {graph.n_edges} edges")
        first, begun = self._begin(data, metric, seed, resume, ranking)
        within = best_edges(graph, first, self._edges(graph))
        recent, state = list[float](), begun
        for state in learn(data, metric, within, begun, self.how(graph), seed):
            recent = [*recent[1 - RECENT :], state.loss]
            row = {"step": state.steps, "loss": state.loss, "budget": state.budget}
            says = f"step {state.steps} of {self.steps}, loss {sum(recent) / len(recent):.4g}"
            done = graph.n_edges * state.steps // self.steps
            yield Step((), row, done, says, partial(_checkpoint, first, state))
        scores = ranked(graph, first, within, state)
        yield Found(mask=graph.legal, scores=scores, score=self.label, ranks=True)

    def _edges(self, graph: Any) -> int:
        return graph.n_edges if self.within is None else self.within

    def _begin(
        self, data: Any, metric: Any, seed: int, resume: Resume | None, ranking: Any
    ) -> tuple[Any, Any]:
        """The ranking to start from, and the state to go on from."""
        from acdc.learned import State, start
        from acdc.selection import best_edges

        if resume is not None:
            tensors = dict(resume.tensors)
            return tensors.pop("ranking").numpy(), State(**resume.about, **tensors)
        if ranking is None:
            few = data.at_least(START)
            ranking = np.abs(scoring("start", self.start).scores(few, metric, seed))
        return ranking, start(ranking, best_edges(data.graph, ranking, self._edges(data.graph)))


def _checkpoint(ranking: Any, state: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    import torch

    tensors = {name: getattr(state, name) for name in ("scores", "mean", "square")}
    about = {name: getattr(state, name) for name in ("steps", "loss", "budget")}
    return about, {**tensors, "ranking": torch.tensor(ranking)}
