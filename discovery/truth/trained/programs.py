"""Small algorithms as causal models, each variable at its place in a transformer.

A variable is a head, an MLP or `logits`; what it reads it reads over named edges of the graph, each
for itself: the queries of a head may come of one prompt and its keys of another, and the program
says what then follows. So every true edge can be swapped alone, and an edge that is not named must
not matter at all. A head that looks at a place, whatever the tokens, reads tokens by its values
only: positions are alike in every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Variable:
    """One value that the model is to compute, and where."""

    place: str  # a writer's name, or "logits"
    edges: tuple[str, ...]  # what it reads, by the names of the graph
    value: Callable[..., Tensor]  # of what each edge carries, a row a prompt


@dataclass(frozen=True)
class Program:
    """A causal model: from prompts, by its variables in turn, to a token."""

    says: str  # in a sentence
    n_pos: int
    n_tokens: int  # prompts' and answers' tokens are 0 .. n_tokens - 1
    draw: Callable[[int, torch.Generator], Int[Tensor, "batch pos"]]
    variables: tuple[Variable, ...]  # the last one is "logits": the answer

    @cached_property
    def edges(self) -> tuple[str, ...]:
        """The true edges."""
        return tuple(edge for variable in self.variables for edge in variable.edges)

    @property
    def places(self) -> tuple[str, ...]:
        """The nodes that carry a variable, `logits` apart."""
        return tuple(variable.place for variable in self.variables[:-1])

    def answers(
        self,
        tokens: Int[Tensor, "batch pos"],
        source: Int[Tensor, "batch pos"] | None = None,
        cut: Bool[Tensor, "batch edge"] | None = None,
    ) -> Int[Tensor, " batch"]:
        """What follows each prompt; where an edge is cut, it carries its value of `source`."""
        if source is None or cut is None:
            return self._values(tokens, {}, None)["logits"]
        return self._values(tokens, self._values(source, {}, None), cut)["logits"]

    def _values(
        self, tokens: Tensor, other: Mapping[str, Tensor], cut: Tensor | None
    ) -> dict[str, Tensor]:
        values, number = {"input": tokens}, 0
        for variable in self.variables:
            read: list[Tensor] = []
            for edge in variable.edges:
                writer = edge.partition("->")[0]
                own = values[writer]
                if cut is not None:
                    swapped = cut[:, number].view(-1, *[1] * (own.ndim - 1))
                    own = torch.where(swapped, other[writer], own)
                read.append(own)
                number += 1
            values[variable.place] = variable.value(*read)
        return values


# ---- what the programs are made of -----------------------------------------------------------


def _uniform(n_pos: int, n_tokens: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, generator: torch.randint(n_tokens, (n, n_pos), generator=generator)


def _draw_ends(n: int, generator: torch.Generator) -> Tensor:
    """Six tokens of four kinds; half the time the last is made the first."""
    tokens = torch.randint(4, (n, 6), generator=generator)
    same = torch.rand(n, generator=generator) < 0.5
    tokens[:, 5] = torch.where(same, tokens[:, 0], tokens[:, 5])
    return tokens


def _at(place: int) -> Callable[[Tensor], Tensor]:
    return lambda tokens: tokens[:, place]


def _same(x: Tensor) -> Tensor:
    return x


def _fetch(head: str, place: int) -> Variable:
    """A head that brings the token of one place to the last."""
    return Variable(head, (f"input->{head}<v>",), _at(place))


def _answer(writer: str) -> Variable:
    return Variable("logits", (f"{writer}->logits",), _same)


def _two(
    says: str, n_tokens: int, heads: tuple[str, str], places: tuple[int, int], mlp: str,
    value: Callable[[Tensor, Tensor], Tensor],
) -> Program:  # fmt: skip
    """Two heads bring a token each, an MLP makes the answer of both."""
    fetched = tuple(_fetch(h, p) for h, p in zip(heads, places, strict=True))
    joined = Variable(mlp, tuple(f"{head}->{mlp}" for head in heads), value)
    return Program(says, 6, n_tokens, _uniform(6, n_tokens), (*fetched, joined, _answer(mlp)))


def _shuffled(n: int, count: int, generator: torch.Generator) -> Int[Tensor, "batch count"]:
    return torch.rand(n, count, generator=generator).argsort(dim=1)


def _draw_table(n: int, generator: torch.Generator) -> Tensor:
    """Four tokens 4 x key + value in any order, each key once; then the key asked, 16 on."""
    keys = _shuffled(n, 4, generator)
    values = torch.randint(4, (n, 4), generator=generator)
    asked = 16 + torch.randint(4, (n, 1), generator=generator)
    return torch.cat([4 * keys + values, asked], dim=1)


def _look_up(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    place = (keys[:, :4] // 4 == query[:, -1:] - 16).long().argmax(1, keepdim=True)
    return values.gather(1, place)[:, 0] % 4


def _draw_pairs(n: int, generator: torch.Generator) -> Tensor:
    """Key, value, key, value, key, value, a key of them; keys are 0 .. 2, values 3 .. 7."""
    keys = _shuffled(n, 3, generator)
    values = 3 + torch.randint(5, (n, 3), generator=generator)
    asked = torch.randint(3, (n, 1), generator=generator)
    return torch.cat([torch.stack([keys, values], dim=2).flatten(1), asked], dim=1)


def _before(tokens: Tensor) -> Tensor:
    """At each place the token before it; at the first its own."""
    return torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)


def _follow(query: Tensor, before: Tensor, values: Tensor) -> Tensor:
    place = 1 + 2 * (before[:, 1:6:2] == query[:, -1:]).long().argmax(1, keepdim=True)
    return values.gather(1, place)[:, 0]


def _draw_pointer(n: int, generator: torch.Generator) -> Tensor:
    """Five tokens out of 5 .. 11, then the place, 0 .. 4, of the one that is wanted."""
    told = 5 + torch.randint(7, (n, 5), generator=generator)
    return torch.cat([told, torch.randint(5, (n, 1), generator=generator)], dim=1)


def _draw_flag(n: int, generator: torch.Generator) -> Tensor:
    """A flag, 0 or 1, and five tokens out of 2 .. 9."""
    flag = torch.randint(2, (n, 1), generator=generator)
    return torch.cat([flag, 2 + torch.randint(8, (n, 5), generator=generator)], dim=1)


def _draw_brackets(n: int, generator: torch.Generator) -> Tensor:
    """Six brackets, 0 opens and 1 closes: at random, or half the time three of each."""
    any_, even = torch.randint(2, (n, 6), generator=generator), _shuffled(n, 6, generator) % 2
    pick = torch.rand(n, 1, generator=generator) < 0.5
    nested = _shuffled(n, 3, generator)[:, :1]  # and some of these begin well and end well
    whole = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1]])[nested[:, 0]]
    good = torch.rand(n, 1, generator=generator) < 0.4
    return torch.where(good, whole, torch.where(pick, even, any_))


def _depth(tokens: Tensor) -> Tensor:
    return (1 - 2 * tokens).cumsum(1)


PROGRAMS: dict[str, Program] = {
    "offset": Program(
        "The token three places back.", 6, 10, _uniform(6, 10),
        (_fetch("a1.h2", 2), _answer("a1.h2")),
    ),
    "maximum": _two(
        "The larger of the tokens at two places.", 8, ("a0.h0", "a0.h3"), (1, 4), "m1",
        torch.maximum,
    ),
    "sum": _two(
        "The sum of the tokens at two places, mod 5.", 5, ("a0.h1", "a0.h2"), (0, 3), "m0",
        lambda a, b: (a + b) % 5,
    ),
    "equal": _two(
        "1 if the tokens at two places are the same, else 0.", 3, ("a0.h2", "a0.h0"), (1, 3), "m1",
        lambda a, b: (a == b).long(),
    ),
    "ends": Program(
        "1 if the last token is the first one, else 0.", 6, 4, _draw_ends,
        (
            _fetch("a0.h1", 0),
            Variable(
                "m0", ("input->m0", "a0.h1->m0"), lambda x, first: (x[:, -1] == first).long()
            ),
            _answer("m0"),
        ),
    ),
    "successor": Program(
        "The token before the last, plus one, mod 10.", 6, 10, _uniform(6, 10),
        (
            _fetch("a0.h3", 4),
            Variable("m1", ("a0.h3->m1",), lambda x: (x + 1) % 10),
            _answer("m1"),
        ),
    ),
    "count": Program(
        "How many of seven tokens are 1, mod 3; the others are 0.", 7, 3,
        lambda n, generator: torch.randint(2, (n, 7), generator=generator),
        (
            Variable("a0.h0", ("input->a0.h0<v>",), lambda x: x.sum(1)),
            Variable("m0", ("a0.h0->m0",), lambda x: x % 3),
            _answer("m0"),
        ),
    ),
    "majority": Program(
        "1 if most of seven tokens are 1, else 0.", 7, 2, _uniform(7, 2),
        (
            Variable("a1.h1", ("input->a1.h1<v>",), lambda x: x.sum(1)),
            Variable("m1", ("a1.h1->m1",), lambda x: (x > 3).long()),
            _answer("m1"),
        ),
    ),
    "table": Program(
        "The value that goes with the key that is asked, of four.", 5, 20, _draw_table,
        (
            Variable(
                "a1.h0", ("input->a1.h0<q>", "input->a1.h0<k>", "input->a1.h0<v>"), _look_up
            ),
            _answer("a1.h0"),
        ),
    ),
    "pointer": Program(
        "The token at the place that the last one names.", 6, 12, _draw_pointer,
        (
            Variable(
                "a0.h2", ("input->a0.h2<q>", "input->a0.h2<v>"),
                lambda query, x: x.gather(1, query[:, -1:])[:, 0],
            ),
            _answer("a0.h2"),
        ),
    ),
    "induction": Program(
        "The token that followed the last one when it stood before.", 7, 8, _draw_pairs,
        (
            Variable("a0.h2", ("input->a0.h2<v>",), _before),
            Variable(
                "a1.h1", ("input->a1.h1<q>", "a0.h2->a1.h1<k>", "input->a1.h1<v>"), _follow
            ),
            _answer("a1.h1"),
        ),
    ),
    "choice": Program(
        "The third or the fifth token, as the first one says.", 6, 10, _draw_flag,
        (
            _fetch("a0.h0", 0),
            Variable(
                "a1.h3", ("a0.h0->a1.h3<q>", "input->a1.h3<v>"),
                lambda flag, x: torch.where(flag == 0, x[:, 2], x[:, 4]),
            ),
            _answer("a1.h3"),
        ),
    ),
    "brackets": Program(
        "1 if six brackets are balanced, else 0.", 6, 2, _draw_brackets,
        (
            Variable("a0.h1", ("input->a0.h1<v>",), _depth),
            Variable("m0", ("a0.h1->m0",), lambda depth: (depth < 0).long()),
            Variable("a1.h2", ("m0->a1.h2<v>",), lambda below: below.amax(1)),
            Variable(
                "m1", ("a0.h1->m1", "a1.h2->m1"),
                lambda depth, below: ((depth[:, -1] == 0) & (below == 0)).long(),
            ),
            _answer("m1"),
        ),
    ),
}  # fmt: skip
