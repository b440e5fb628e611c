"""A computation as a graph of named nodes, each a pure function of its parents' values.

A datum is a row number of a data set of `size` rows, and the value of the input node is an array of
such numbers [batch]. A node above which there is only the input looks its data up:

    Node(("input",), lambda rows: x0[rows])

Values are numpy arrays or torch tensors with the batch as the first axis. Knows nothing of
hypotheses, networks or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acdc.errors import InputError

Lookup = Callable[[NDArray[np.integer]], Any]  # rows [batch] -> value [batch, ...]


@dataclass(frozen=True)
class Node:
    """One step of the computation: `function(*values of parents)` -> value [batch, ...]."""

    parents: tuple[str, ...]
    function: Callable[..., Any]


@dataclass(frozen=True)
class Computation:
    """The graph that is scrubbed. Raises InputError if it is no acyclic graph above one input."""

    nodes: Mapping[str, Node]  # all but the input
    output: str
    size: int  # rows of the data set
    input: str = "input"
    stored: Mapping[str, Lookup] = field(default_factory=dict)  # values that need no running

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size={self.size}: a data set has at least 1 row")
        if self.input in self.nodes:
            raise InputError(f"nodes: {self.input!r} is the input and has no function")
        for name in (self.output, *self.stored):
            if name not in self.nodes:
                raise InputError(f"nodes: there is no node {name!r}; there are {list(self.nodes)}")
        for name, node in self.nodes.items():
            if not node.parents or len(set(node.parents)) != len(node.parents):
                raise InputError(f"node {name!r}: parents={node.parents} must be 1 or more, unlike")
            for parent in node.parents:
                if parent not in self.nodes and parent != self.input:
                    raise InputError(f"node {name!r}: there is no parent {parent!r}")
        try:
            TopologicalSorter({name: node.parents for name, node in self.nodes.items()}).prepare()
        except CycleError as error:
            raise InputError(f"nodes: {' <- '.join(error.args[1])} is a circle") from None

    def parents(self, name: str) -> tuple[str, ...]:
        """Names of the nodes that a node reads; none for the input."""
        return () if name == self.input else self.nodes[name].parents

    def apply(self, name: str, values: Iterable[Any], batch: int) -> Any:
        """The node's function on its parents' values; InputError unless it returns `batch` rows."""
        value = self.nodes[name].function(*values)
        shape = getattr(value, "shape", ())
        if not shape or shape[0] != batch:
            raise InputError(
                f"node {name!r} returned shape {tuple(shape)} for a batch of {batch};"
                " the first axis must be the batch"
            )
        return value

    def run(self, name: str, rows: NDArray[np.integer], known: dict[str, Any] | None = None) -> Any:
        """Value of a node on the data `rows` [batch]; `known` keeps the values met on the way."""
        known = {} if known is None else known
        if name == self.input:
            return rows
        if name not in known:
            if name in self.stored:
                known[name] = self.stored[name](rows)
            else:
                values = [self.run(parent, rows, known) for parent in self.parents(name)]
                known[name] = self.apply(name, values, len(rows))
        return known[name]

    def tabulated(self, names: Iterable[str], batch: int = 1024) -> Computation:
        """The same computation with these nodes' values on all rows computed once and kept."""
        chunks = np.split(np.arange(self.size), range(batch, self.size, batch))
        stored = dict(self.stored)
        for name in names:
            if name not in self.nodes:
                raise InputError(f"there is no node {name!r} to tabulate")
            values = [self.run(name, rows) for rows in chunks]
            torched = isinstance(values[0], torch.Tensor)
            table = torch.cat(values) if torched else np.concatenate(values)
            stored[name] = table.__getitem__
        return replace(self, stored=stored)
