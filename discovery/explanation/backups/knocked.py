"""The whole model with some nodes out, and what every node then adds to the answer directly.

A node that is out puts out what the run's cut edges carry, to all who read it, and everything after
it answers to that (Wang et al. 2022, section 3.4; McGrath et al. 2023). The direct effect of a node
is what it adds to the reading, the answer's logits right less wrong (direct.py), the final norm's
scale being that of its own run, so all writers' and the biases' add up to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from acdc.data import floats
from acdc.forward import PatchedForward, head_values
from acdc.graph import Graph
from acdc.writers import Writers
from discovery.explanation.direct import Answer, answer_direction, right_less_wrong, summands
from discovery.heads.roles import places_of
from discovery.validation.bench import Bench, Floats


@dataclass(frozen=True)
class Ending:
    """A run as far as the answer position shows it."""

    writers: Writers  # their outputs there: one position
    final: Float[Tensor, "batch d_model"]  # input of the final norm
    looks: Float[Tensor, "layer head batch"]  # attention from there to the right answers
    logits: Float[Tensor, "batch vocab"]
    there: Bool[Tensor, "batch pos"]  # where right answers stand in the prompts


def clean_ending(forward: PatchedForward) -> Ending:
    """Of the clean run. Attention is computed anew, since runs do not hold it."""
    clean, model, looks = forward.clean, forward.model, list[Tensor]()
    there = places_of(forward.prompts.clean, forward.prompts.answers)
    for layer in range(forward.graph.n_layers):
        x = clean.streams[2 * layer][None]
        _, pattern = head_values(model, layer, x, x, x, forward.n_pos)
        looks.append(_look(pattern, there))
    writers = clean.writers.map(lambda x: x[..., -1:, :].clone())
    return Ending(writers, clean.streams[-1][:, -1], torch.stack(looks), clean.logits, there)


def knocked_out(forward: PatchedForward, out: Sequence[int], clean: Ending) -> Ending:
    """The run in which the writers `out` put out what cut edges carry; `clean` is `clean_ending`.

    Begins where the first of them is: everything before is the clean run's. None: the clean run.
    """
    if not out:
        return clean
    model, graph, ablated = forward.model, forward.graph, forward.ablated
    gone = frozenset(out)
    z_end, rest_end, looks = (
        clean.writers.z.clone(),
        clean.writers.rest.clone(),
        clean.looks.clone(),
    )
    first = max(0, graph.place(min(gone))[0])
    x = forward.clean.streams[2 * first]
    if 0 in gone:
        x = ablated.rest[0]
        rest_end[0] = x[:, -1:]
    for layer in range(first, graph.n_layers):
        if layer == first and 0 not in gone:  # its heads read what they do in the clean run
            z = forward.clean.writers.z[layer].clone()
        else:
            z, pattern = head_values(model, layer, x[None], x[None], x[None], forward.n_pos)
            looks[layer] = _look(pattern, clean.there)
        for head in range(graph.n_heads):
            if graph.head(layer, head) in gone:
                z[head] = ablated.z[layer, head]
        mid = x + model.attention_out(layer, z)
        z_end[layer] = z[..., -1:, :]
        if model.blocks[layer].mlp is None:
            x = mid
            continue
        lost = graph.mlp(layer) in gone
        mlp = (
            ablated.rest[layer + 1] if lost else model.mlp_out(layer, x if model.parallel else mid)
        )
        rest_end[layer + 1] = mlp[:, -1:]
        x = mid + mlp
    writers = Writers(graph, clean.writers.W_O, z_end, rest_end)
    return Ending(writers, x[:, -1], looks, model.unembed(x[:, -1]), clean.there)


def _look(pattern: Float[Tensor, "head batch pos pos"], there: Tensor) -> Tensor:
    return (pattern[:, :, -1] * there.to(pattern)).sum(-1)


# ---- all prompts of a bench ----------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """One knock-out, by prompt. Rows of `direct` and `held` are the writers, then the biases."""

    score: Floats  # [prompts], the bench's: logits or nats
    reading: Floats  # [prompts], logits: the sum of `direct`
    direct: Floats  # [writers + 1, prompts], logits: direct effects at the scale of this run
    held: Floats  # the same outputs at the clean run's scale: what is written anew, and no more
    looks: Floats  # [layers, heads, prompts]: attention from the answer position to right answers

    def __len__(self) -> int:
        return len(self.score)


class KnockOuts:
    """Knock-outs of a bench's prompts, each made once."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.graph = bench, bench.graph
        self.clean_ends = bench.data.each(clean_ending)
        self.answers = bench.data.each(lambda f: answer_direction(f.model, f.prompts))
        self.known = dict[tuple[int, ...], Effects]()

    @property
    def clean(self) -> Effects:
        """Nothing out."""
        return self.of(())

    @property
    def has_looks(self) -> bool:
        """Whether every prompt holds a right answer, so that attention to it means something."""
        return all(bool(end.there.any(-1).all()) for end in self.clean_ends)

    def of(self, out: Sequence[int]) -> Effects:
        """Effects with these writers out, whatever their order."""
        key = tuple(sorted(out))
        if key not in self.known:
            parts = zip(self.bench.data, self.clean_ends, self.answers, strict=True)
            self.known[key] = self._joined([self._part(*part, key) for part in parts])
        return self.known[key]

    def loss(self, out: Sequence[int]) -> Floats:
        """[prompts]: how far the score falls with these writers out; positive: it gets worse."""
        return self.clean.score - self.of(out).score

    def _part(
        self, forward: PatchedForward, clean: Ending, answer: Answer, out: tuple[int, ...]
    ) -> Effects:
        model, run = forward.model, knocked_out(forward, out, clean)
        outputs = run.writers.dense()[:, :, 0]
        own, held = (
            torch.cat([writers, biases[None]])
            for final in (run.final, clean.final)
            for writers, biases in [summands(model, answer, outputs, final)]
        )
        reading = right_less_wrong(forward.prompts, run.logits)
        return Effects(
            floats(self.bench.score_of(forward, run.logits)),
            floats(reading), floats(own), floats(held), floats(run.looks),
        )  # fmt: skip

    def _joined(self, parts: Sequence[Effects]) -> Effects:
        join, names = self.bench.data.join, ("score", "reading", "direct", "held", "looks")
        return Effects(**{n: join([getattr(p, n) for p in parts], axis=-1) for n in names})


def heads_after(graph: Graph, out: Sequence[int]) -> list[int]:
    """Heads that can answer to a knock-out: of layers after the first that is touched, not out."""
    if not out:
        return []
    first = graph.place(min(out))[0]
    layers = range(first + 1, graph.n_layers)
    return [w for layer in layers for h in range(graph.n_heads)
            if (w := graph.head(layer, h)) not in out]  # fmt: skip
