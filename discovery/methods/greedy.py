"""ACDC (Conmy et al. 2023) as a method: the search of acdc/search.py, and what may guide it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, model_validator

from discovery.fields import Count
from discovery.methods.found import Found, Resume, Step
from discovery.methods.method import Method, Work, scoring


class ACDC(Method):
    """The greedy search; the fields of acdc.search.Order, and what guides it.

    With `guide=null` it is the exact search. `n_edges` is there so that a sweep over methods can
    say `n_edges=null` to all of them.
    """

    name: str = "acdc"
    works: ClassVar[Work] = "search"
    threshold: Annotated[FiniteFloat, Field(ge=0)] = 0.05
    n_edges: None = None
    reader_order: Literal["layer", "head"] = "layer"
    sender_heads: Literal["descending", "ascending", "random"] = "descending"
    gates: bool = True
    chunk: Count | None = None
    guide: str | None = None
    guide_steps: Count = 5
    weakest_first: bool = False
    shortlist: Count | None = None

    @model_validator(mode="after")
    def _guide_is_used(self) -> ACDC:
        uses = self.weakest_first or self.shortlist is not None
        if uses and self.guide is None:
            field = "shortlist" if self.shortlist is not None else "weakest_first"
            raise ValueError(f"{field} needs scores: give guide=eap_ig, ifr, ...")
        if self.guide is not None and not uses:
            raise ValueError("guide is given but not used: add weakest_first=true or shortlist=N")
        self.guiding()
        return self

    def passes(self, graph: Any) -> float | None:
        """See Method.passes: what circuits of some tens of edges took, at equal size."""
        return 10 * graph.n_edges**0.24

    def guiding(self) -> Any:
        """The Scoring that guides the search, if any; ValueError for a name that is none's."""
        if self.guide is None:
            return None
        return scoring("guide", self.guide, self.shortlist or 1, self.guide_steps)

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """See Method.find; can be resumed between groups of readers."""
        from discovery.methods.searching import find

        yield from find(self, data, metric, seed, resume)
