"""A circuit that is there already: nothing is searched, and everything is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from acdc.errors import InputError
from discovery.choices.fields import Count
from discovery.methods.found import Found, Resume, Step
from discovery.methods.method import Method, Work


class Given(Method):
    """The circuit of a file in EAP-IG's formats, JSON or .pt (a run's circuit.json, MIB's)."""

    name: str = "given"
    asks_prompts: ClassVar[bool] = False
    works: ClassVar[Work] = "runs"
    circuit: Annotated[str, Field(min_length=1)]
    n_edges: Count | None = None  # the best by |score|, of a file of scores

    @property
    def sized(self) -> bool:
        """See Method.sized: the file says it."""
        return True

    def check(self, field: str) -> None:
        """See Method.check."""
        if not Path(self.circuit).is_file():
            raise InputError(f"{field}.circuit={self.circuit!r}: there is no such file")

    def passes(self, graph: Any) -> float | None:
        """See Method.passes."""
        return 0.0

    def find(
        self, data: Any, metric: Any, seed: int, resume: Resume | None = None
    ) -> Iterator[Step | Found]:
        """See Method.find. InputError if the file's edges are not this model's."""
        from acdc.circuit_files import load
        from acdc.selection import top_n

        found = load(self.circuit, data.graph)
        if self.n_edges is not None:
            mask = top_n(data.graph, found.scores, self.n_edges).circuit.mask
            found = replace(found, mask=mask)
        if not found.n_edges:
            raise InputError(
                f"circuit={self.circuit}: keeps no edge; of a file of scores say how many,"
                " method.n_edges=200"
            )
        yield Found(found.mask, found.scores, "as the file says", ranks=False)
