"""ACDC (Conmy et al. 2023) as a method: the search of acdc/search.py, and what may guide it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from discovery.choices.fields import Count
from discovery.methods.found import Found, Resume, Step
from discovery.methods.method import Method, Work, scoring


class ACDC(Method):
    """The greedy search; the fields of acdc.search.Order, and what guides it.

    With `guide=null` it is the exact search, of all edges or, with `start` (a circuit.json, or the
    folder of a run), of a circuit's; `best` begins at the guide's best edges. `threshold` bounds
    what each cut may cost, `budget` what all may come to (acdc.search.Budget). `n_edges` is there
    so that a sweep over methods can say `n_edges=null` to all of them.
    """

    name: str = "acdc"
    works: ClassVar[Work] = "search"
    threshold: Annotated[FiniteFloat, Field(ge=0)] | None = None
    budget: Annotated[FiniteFloat, Field(gt=0)] | None = None
    power: Annotated[FiniteFloat, Field(ge=0)] = 0.25
    n_edges: None = None
    reader_order: Literal["layer", "head"] = "layer"
    sender_heads: Literal["descending", "ascending", "random"] = "descending"
    gates: bool = True
    chunk: Count | None = None
    effects: Literal["bounds", "exact"] = "bounds"
    guide: str | None = None
    guide_steps: Count = 5
    weakest_first: bool = False
    shortlist: Count | None = None
    best: Count | None = None
    start: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_size(self) -> ACDC:
        if self.threshold is not None and self.budget is not None:
            raise ValueError("give one of threshold and budget, the other null")
        return self

    @model_validator(mode="after")
    def _guide_is_used(self) -> ACDC:
        uses = [f for f in ("shortlist", "best", "weakest_first") if getattr(self, f)]
        if uses and self.guide is None:
            raise ValueError(f"{uses[0]} needs scores: give guide=eap_ig, ifr, ...")
        if self.guide is not None and not uses:
            raise ValueError(
                "guide is given but not used: add weakest_first=true, shortlist=N or best=N"
            )
        if self.best is not None and self.start is not None:
            raise ValueError("give one of best and start: a search begins at one circuit")
        self.guiding()
        return self

    def check_question(self, metric: Any, ablation: str) -> None:
        """See Method.check_question: what guides it may have none."""
        scorer = self.guiding()
        if scorer is not None:
            scorer.check_question(metric, ablation)

    def passes(self, graph: Any) -> float | None:
        """See Method.passes: what circuits of some tens of edges took, at equal size."""
        return 10 * graph.n_edges**0.24

    def guiding(self) -> Any:
        """The Scoring that guides the search, if any; ValueError for a name that is none's."""
        if self.guide is None:
            return None
        size = self.shortlist or self.best or 1
        return scoring("guide", self.guide, size, self.guide_steps)

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """See Method.find; can be resumed between groups of readers."""
        from discovery.methods.searching import find

        yield from find(self, data, metric, seed, resume)

    def reach(
        self, data: Any, metric: Any, seed: int, target: float, tune: Any,
        resume: Resume | None = None,
    ) -> Iterator[Step | Found]:  # fmt: skip
        """See Method.reach: by a budget, tightened until it does, then regrown and trimmed."""
        from discovery.methods.searching import reach

        yield from reach(self, data, metric, seed, target, tune, resume)

    def of_size(self, counts: Mapping[str, Any]) -> Method:
        """See Method.of_size: its budget."""
        budget = counts.get("budget")
        return self if self.sized or budget is None else self.model_copy(update={"budget": budget})
