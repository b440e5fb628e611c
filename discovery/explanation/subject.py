"""What is explained: a circuit, the model that it is of, and prompts that it was not found on."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from acdc.ablation import RESAMPLE
from acdc.bridge import LoadedModel
from acdc.circuit import Circuit
from acdc.graph import Graph
from acdc.model import MLP, Model
from discovery.settings.explanation import ExplainSettings
from discovery.validation.bench import Bench
from discovery.validation.knockouts import circuit_nodes

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Subject:
    """All that a part works on. Both benches cut as the run did; see `paired`.

    What is picked (a head, a direction, a claim) is picked on `choose` and measured on `test`: a
    maximum over many is high by chance.
    """

    circuit: Circuit
    loaded: LoadedModel
    choose: Bench
    test: Bench
    heads: Mapping[str, Mapping[str, Any]]  # heads.json's entry of each head of the circuit
    seed: int
    level: float  # of tests; intervals are at 1 - level
    asked: ExplainSettings = ExplainSettings()  # of all parts: one may need what another was asked
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def model(self) -> Model:
        """The weights, and the pieces of a forward pass."""
        return self.loaded.model

    @property
    def graph(self) -> Graph:
        """The circuit's."""
        return self.circuit.graph

    @cached_property
    def nodes(self) -> list[int]:
        """Writers that the circuit's edges touch, without `input`, in order."""
        return circuit_nodes(self.choose, self.circuit.mask)

    @cached_property
    def head_nodes(self) -> list[tuple[int, int]]:
        """(layer, head) of the circuit's heads, in order."""
        return [self.graph.place(w) for w in self.nodes if self.graph.is_head(w)]

    def strongest(self, among: Sequence[int], most: int) -> list[int]:
        """Of some of its nodes those with the strongest edges, in order; at most so many."""
        strength = self.circuit.strength
        return sorted(sorted(among, key=lambda w: (-strength[w], w))[:most])

    def strongest_mlps(self, most: int) -> list[int]:
        """Layers of its MLPs with the strongest edges, in order; at most so many. No experts."""
        blocks = self.loaded.model.blocks
        dense = {layer for layer, block in enumerate(blocks) if isinstance(block.mlp, MLP)}
        others = [w for w in self.nodes if not self.graph.is_head(w)]
        mlps = [w for w in others if self.graph.place(w)[0] in dense]
        return [self.graph.place(w)[0] for w in self.strongest(mlps, most)]

    @property
    def of_one_length(self) -> Subject:
        """On the prompts of the commonest length, for what puts prompts position by position.

        The length that most prompts of either half have.
        """
        counts = [Counter(b.data.prompts.lengths) for b in (self.choose, self.test)]
        common = max(sorted(counts[0]), key=lambda length: min(own[length] for own in counts))
        if len(counts[0] + counts[1]) == 1:
            return self
        choose, test = (bench.of_length(common) for bench in (self.choose, self.test))
        return replace(self, choose=choose, test=test)

    def says_length(self, whole: Subject) -> list[str]:
        """What of a whole's prompts these are, if they are some."""
        n, of = (s.choose.n + s.test.n for s in (self, whole))
        if n == of:
            return []
        tokens = self.test.data.prompts.extent
        return [
            f"Asked on the {n} of {of} prompts that have the commonest length, {tokens} tokens."
        ]

    def having(self, role: str) -> list[str]:
        """Heads of the circuit whose scores suggest a role, such as "mover"."""
        return [name for name, entry in self.heads.items() if role in entry["candidates"]]

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What several parts need of it, made for the first that asks."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def rng(self, part: str) -> np.random.Generator:
        """A part's own stream of chance, whatever the others do."""
        return np.random.default_rng([self.seed, zlib.crc32(part.encode())])

    def token(self, token: int) -> str:
        """A token's text, quoted, or its id where the model has no tokenizer."""
        tokenizer = self.loaded.tokenizer
        return str(token) if tokenizer is None else repr(tokenizer.decode([token]))


def paired(bench: Bench) -> Bench:
    """The same prompts with the task's own corrupt ones outside, where it has them."""
    return bench.under(RESAMPLE)
