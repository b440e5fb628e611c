"""Learnt masks as a method: the steps of acdc/learned.py, what they start from, and go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, model_validator

from acdc.errors import InputError
from discovery.fields import Amount, Count
from discovery.methods.found import Found, Resume, Step, last
from discovery.methods.method import Scoring, Work, scoring

RECENT = 20  # steps whose mean loss a progress bar shows


class Learned(Scoring):
    """A mask of the edges, learnt by gradient for all budgets around a size; acdc.learned.How.

    The size is n_edges or, where a target decides, `around`.
    It starts from the scores of another method, whose best `within` edges take part.
    """

    name: str = "learned"
    by_prompt: ClassVar[bool] = False
    unit: ClassVar[str | None] = "units of the mask's sigmoid, above the least"
    works: ClassVar[Work] = "masks"

    around: Count = 200
    threshold: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: Literal["top_n"] = "top_n"  # pyright: ignore[reportIncompatibleVariableOverride]
    ranking: Literal["signed"] = "signed"  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: Literal["share", "metric"] = "share"
    spread: Annotated[FiniteFloat, Field(ge=1)] = 4.0
    steps: Count = 300
    batch: Count = 8
    rate: Amount = 0.1
    warm: Amount = 1.0
    cold: Amount = 0.1
    start: str = "eap_ig"
    within: Count | None = None

    @model_validator(mode="after")
    def _starts_from_scores(self) -> Learned:
        scoring("start", self.start)
        if self.within is not None and self.within < self.middle:
            field = "around" if self.n_edges is None else "n_edges"
            raise ValueError(f"within={self.within}: fewer than {field}={self.middle}")
        return self

    @property
    def middle(self) -> int:
        """The size that masks are learnt around."""
        return self.around if self.n_edges is None else self.n_edges

    def how(self, n: int) -> Any:
        """The acdc.learned.How where n edges take part; budgets leave some of them out."""
        from acdc.learned import How

        largest = min(self.middle * self.spread, 0.9 * n)
        smallest = min(max(1.0, self.middle / self.spread), largest)
        sizes = self.steps, self.batch, self.rate, self.warm, self.cold
        return How(smallest, largest, *sizes, self.loss)

    def scores(self, data: Any, metric: Any, seed: int) -> NDArray[np.float64]:
        """See Scoring.scores: at least 1 for edges that take part, below for others."""
        sized = self.model_copy(update={"n_edges": min(self.middle, data.graph.n_edges)})
        return last(sized.find(data, metric, seed)).scores

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """See Method.find; can be resumed after any step."""
        from acdc.learned import learn, ranked
        from acdc.selection import best_edges, check_size
        from discovery.methods.choosing import end

        graph = data.graph
        self.asked_for()
        assert self.n_edges is not None  # it is sized
        check_size(graph, self.n_edges)
        if self.within is not None and self.within > graph.n_edges:
            raise InputError(f"within={self.within}: the graph has {graph.n_edges} edges")
        ranking, begun = self._begin(data, metric, seed, resume)
        within = best_edges(graph, ranking, self._edges(graph))
        recent, state = list[float](), begun
        for state in learn(data, metric, within, begun, self.how(int(within.sum())), seed):
            recent = [*recent[1 - RECENT :], state.loss]
            row = {"step": state.steps, "loss": state.loss, "budget": state.budget}
            says = f"step {state.steps} of {self.steps}, loss {sum(recent) / len(recent):.4g}"
            done = graph.n_edges * state.steps // self.steps
            yield Step((), row, done, says, partial(_checkpoint, ranking, state))
        yield from end(self, data, metric, seed, ranked(graph, ranking, within, state))

    def _edges(self, graph: Any) -> int:
        return graph.n_edges if self.within is None else self.within

    def _begin(self, data: Any, metric: Any, seed: int, resume: Resume | None) -> tuple[Any, Any]:
        """The ranking to start from, and the state to go on from."""
        from acdc.learned import State, start
        from acdc.selection import best_edges

        if resume is not None:
            tensors = dict(resume.tensors)
            return tensors.pop("ranking").numpy(), State(**resume.about, **tensors)
        ranking = np.abs(scoring("start", self.start).scores(data, metric, seed))
        return ranking, start(ranking, best_edges(data.graph, ranking, self._edges(data.graph)))


def _checkpoint(ranking: Any, state: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    import torch

    tensors = {name: getattr(state, name) for name in ("scores", "mean", "square")}
    about = {name: getattr(state, name) for name in ("steps", "loss", "budget")}
    return about, {**tensors, "ranking": torch.tensor(ranking)}
