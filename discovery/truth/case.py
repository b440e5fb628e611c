"""A model and a task whose true edges are known: what every truth set is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from acdc.graph import Graph
from acdc.model import Model
from acdc.prompts import Prompts

SEARCHED = 32  # prompts


@dataclass(frozen=True)
class Case:
    """One model, its prompts, and the edges that do the task.

    The truth is one under an ablation: an edge is true if cutting it, with what cut edges then
    carry, can change what the model says on these prompts; `ablation` names the one that `edges`
    is the truth of, `why` says in a sentence how it is known.
    """

    name: str  # such as "reverse"
    model: Model
    graph: Graph
    prompts: Prompts
    edges: Bool[np.ndarray, "writers readers"]
    ablation: str  # a name of discovery/choices/registry.py
    metric: str  # as `ablation`
    why: str
    source: str  # who made it: a paper, a compiler, a script

    @property
    def searched(self) -> Prompts:
        """The first prompts: what methods see."""
        return self.prompts.take(range(min(SEARCHED, len(self.prompts))))

    @property
    def held_out(self) -> Prompts | None:
        """The other prompts, to validate on; None where there are none."""
        rest = range(SEARCHED, len(self.prompts))
        return self.prompts.take(rest) if rest else None


CaseSet = Callable[[int], Iterator[Case]]  # of a seed
