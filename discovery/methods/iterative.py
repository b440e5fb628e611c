"""Iterative attribution as a method: the rounds of acdc/iterative.py, and where they go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from discovery.choices.fields import Count, Share
from discovery.methods.found import Found, Resume, Step, last
from discovery.methods.method import Scoring, Work

LEAST = 8  # edges at the end of a path that nobody said the end of


class Iterative(Scoring):
    """Edges scored on the present circuit, the least dropped, again and again; acdc.iterative.How.

    Its numbers are the order in which edges left, so the best n of them are a nested circuit.
    """

    name: str = "iterative"
    by_prompt: ClassVar[bool] = False
    unit: ClassVar[str | None] = "share of the edges that were dropped no later"
    works: ClassVar[Work] = "masks"

    threshold: None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    rule: Literal["top_n"] = "top_n"  # pyright: ignore[reportIncompatibleVariableOverride]
    ranking: Literal["signed", "absolute"] = "absolute"
    loss: Literal["share", "metric"] = "share"
    drop: Share = Field(0.2, gt=0)
    batch: Count = 16
    points: Count = 2
    keep: Share = 0.5

    def how(self) -> Any:
        """The acdc.iterative.How."""
        from acdc.iterative import How

        return How(self.drop, self.batch, self.points, self.keep, self.loss, self.ranking)

    def scores(self, data: Any, metric: Any, seed: int) -> NDArray[np.float64]:
        """See Scoring.scores: the order of leaving, in (0, 1], down to LEAST edges if unsized."""
        return last(self.ranks(data, metric, seed)).scores

    def ranks(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """See Scoring.ranks: the rounds."""
        from acdc.iterative import Round, iterative

        now = start = None
        if resume is not None:
            now = start = Round(**resume.about, **{k: v.numpy() for k, v in resume.tensors.items()})
        least = LEAST if self.n_edges is None else self.n_edges
        for now in iterative(data, metric, least, self.how(), seed, start):
            row = {"round": now.number, "n_edges": now.n_edges, "loss": now.loss}
            says = f"{now.n_edges} edges left, loss {now.loss:.4g}"
            done = data.graph.n_edges - now.n_edges
            yield Step((), row, done, says, partial(_checkpoint, now))
        assert now is not None  # there is at least one round
        yield Found(mask=now.mask, scores=now.order(), score=self.label, ranks=True)


def _checkpoint(now: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    import torch

    tensors = {name: torch.tensor(getattr(now, name)) for name in ("mask", "average", "left")}
    return {"number": now.number, "loss": now.loss}, tensors
