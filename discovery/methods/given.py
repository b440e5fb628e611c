"""A circuit that is there already: nothing is searched, and everything is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from acdc.errors import InputError
from discovery.methods.found import Found, Resume, Step
from discovery.methods.method import Method, Work


class Given(Method):
    """The circuit of a file in EAP-IG's formats, JSON or .pt (a run's circuit.json, MIB's)."""

    name: str = "given"
    asks_prompts: ClassVar[bool] = False
    works: ClassVar[Work] = "runs"
    circuit: Annotated[str, Field(min_length=1)]

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

        found = load(self.circuit, data.graph)
        if not found.n_edges:
            raise InputError(f"circuit={self.circuit}: no edge of it is in the graph")
        yield Found(found.mask, found.scores, "as the file says", ranks=False)
