"""The patched forward pass: a function of prompts, mask and ablation. No hooks, no state.

A circuit's value (Conmy et al. 2023, section 3; the same in EAP-IG and TransformerLens): run the
clean prompts, and let every reader v receive

    x_v = biases + sum over kept u->v of cur(u) + sum over cut u->v of abl(u)

where cur(u) is what writer u puts out in this very run (patches propagate), and abl(u) its value
in the corrupted run, or whatever else acdc/ablation.py says. All edges kept is the model; none kept
under `resample` is the corrupted run. acdc/masked.py says it for any mask and shorter, acdc/live.py
runs one circuit, acdc/incremental.py the many variants of a search.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from acdc.ablation import RESAMPLE, Ablation
from acdc.errors import InputError
from acdc.graph import Graph
from acdc.live import Known, plan, run_live
from acdc.metrics import Bound, Metric
from acdc.model import Model
from acdc.prompts import Prompts
from acdc.readout import Readout
from acdc.spans import Layout
from acdc.writers import Writers


@dataclass(frozen=True)
class Trace:
    """A plain run: what every writer put out and what every reader saw."""

    writers: Writers
    logits: Float[Tensor, "batch vocab"]  # at the last position
    # not in a lean trace: what readers saw (see `stream_of`), and attention, one a layer
    streams: Float[Tensor, "stream batch pos d_model"]
    patterns: tuple[Float[Tensor, "batch head pos pos"], ...]

    def part(self, rows: range | list[int], width: int) -> Trace:
        """Of some prompts, their last `width` positions; a view if they are neighbours."""
        one = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
        patterns = tuple(p[one][..., -width:, -width:] for p in self.patterns)
        writers = self.writers.map(lambda x: x[..., one, -width:, :])
        return Trace(writers, self.logits[one], self.streams[:, one, -width:], patterns)

    def to(self, device: torch.device) -> Trace:
        """The same run on another device."""
        return Trace(
            self.writers.map(lambda x: x.to(device)), self.logits.to(device),
            self.streams.to(device), tuple(p.to(device) for p in self.patterns),
        )  # fmt: skip


def stream_of(graph: Graph, layer: int, part: str) -> int:
    """Index into Trace.streams of what a reader of this layer and part sees."""
    if part == "logits":
        return 2 * graph.n_layers
    return 2 * layer + (part == "mlp" and not graph.parallel)


@dataclass(frozen=True)
class Layer:
    """One layer of a plain run: the stream before, between and after, and what was added."""

    before: Float[Tensor, "batch pos d_model"]
    z: Float[Tensor, "head batch pos d_head"]  # heads before W_O, see head_values
    pattern: Float[Tensor, "batch head pos pos"]
    between: Float[Tensor, "batch pos d_model"]  # with all heads and b_O
    mlp: Float[Tensor, "batch pos d_model"] | None
    after: Float[Tensor, "batch pos d_model"]


def layers(model: Model, tokens: Int[Tensor, "batch pos"]) -> Iterator[Layer]:
    """Run the model layer by layer; nothing is kept of those behind."""
    x = model.embed(tokens)
    for number in range(len(model.blocks)):
        yield (layer := layer_of(model, number, x))
        x = layer.after


def layer_of(model: Model, number: int, x: Float[Tensor, "batch pos d_model"]) -> Layer:
    """One layer, from the stream before it."""
    z, pattern = head_values(model, number, x[None], x[None], x[None], x.shape[1])
    mid = x + model.attention_out(number, z)
    has_mlp = model.blocks[number].mlp is not None
    mlp = model.mlp_out(number, x if model.parallel else mid) if has_mlp else None
    return Layer(x, z, pattern.transpose(0, 1), mid, mlp, mid if mlp is None else mid + mlp)


def trace(model: Model, tokens: Int[Tensor, "batch pos"], lean: bool = False) -> Trace:
    """Run the model and keep every writer's output and, unless `lean`, every reader's input."""
    x = model.embed(tokens)
    z, rest, streams, patterns = list[Tensor](), [x], list[Tensor](), list[Tensor]()
    for layer in layers(model, tokens):
        z.append(layer.z)
        rest += [] if layer.mlp is None else [layer.mlp]
        streams += [] if lean else [layer.before, layer.between]
        patterns += [] if lean else [layer.pattern]
        x = layer.after
    writers = Writers(
        model.graph(), tuple(b.attn.W_O for b in model.blocks), torch.stack(z), torch.stack(rest)
    )
    seen = x.new_empty(0, *x.shape) if lean else torch.stack([*streams, x])
    return Trace(writers, model.unembed(x[:, -1]), seen, tuple(patterns))


def before_norm(model: Model, tokens: Int[Tensor, "batch pos"]) -> Writers:
    """What every writer of a plain run puts out, heads before a norm that follows their sum."""
    z, rest, weights = list[Tensor](), [model.embed(tokens)], list[Tensor]()
    for i, layer in enumerate(layers(model, tokens)):
        attn, x = model.blocks[i].attn, layer.before[None]
        z.append(raw_heads(model, i, x, x, x, tokens.shape[1])[0])
        rest += [] if layer.mlp is None else [layer.mlp]
        weights.append(attn.W_O if attn.norm is None else attn.norm.W_O)
    return Writers(model.graph(), tuple(weights), torch.stack(z), torch.stack(rest))


def head_values(
    model: Model, layer: int, x_q: Tensor, x_k: Tensor, x_v: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """z and patterns as `raw_heads` has them, but z as it is written; see Model.shared_out."""
    z, pattern = raw_heads(model, layer, x_q, x_k, x_v, n)
    return model.shared_out(layer, z), pattern


def raw_heads(
    model: Model, layer: int, x_q: Tensor, x_k: Tensor, x_v: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """z [head, batch, pos, d_head] and patterns from inputs [reader, batch, pos, d_model].

    x_k and x_v have one slot a query head, or one a key/value group; x[None] is one input for all.
    """
    every = list(range(model.n_heads))
    slots = [model.kv_head(h) for h in every] if len(x_k) == model.n_heads else None
    kv = slots or list(range(model.n_kv_heads))
    q = model.project(layer, "q", every, x_q, n)
    k = model.project(layer, "k", kv, x_k, n)
    v = model.project(layer, "v", kv, x_v, n)
    if slots is None:
        share = torch.tensor([model.kv_head(h) for h in every], device=k.device)
        k, v = k.index_select(0, share), v.index_select(0, share)
    pattern = model.pattern(layer, every, q, k)
    return pattern @ v, pattern


@dataclass(frozen=True, eq=False)
class PatchedForward:
    """Clean and corrupted run of a batch of prompts, and circuits evaluated between them."""

    model: Model
    graph: Graph
    prompts: Prompts
    clean: Trace
    corrupt: Trace  # lean
    ablation: Ablation = RESAMPLE  # fitted
    rows: tuple[int, ...] = ()  # the prompts' places among all of the data
    token: int = 0  # of the answers, which is read here
    _bound: dict[Metric, Bound] = field(default_factory=dict, repr=False)
    _readouts: dict[Metric, Readout] = field(default_factory=dict, repr=False)

    @property
    def n_pos(self) -> int:
        """Tokens of a prompt, of the longest where they are padded."""
        return self.prompts.clean.shape[1]

    @property
    def n_new(self) -> int:
        """How many prompts begin here: each counts once, at the first token of its answer."""
        return 0 if self.token else len(self.prompts)

    @cached_property
    def layout(self) -> Layout:
        """Which of the tokens are in which span of the graph."""
        return Layout.make(self.graph.spans, self.prompts)

    @cached_property
    def ablated(self) -> Writers:
        """What cut edges carry."""
        return self.ablation.of(self.clean.writers, self.corrupt.writers, self.rows)

    def before_norm(self) -> tuple[Writers, Writers]:
        """What writers put out and what cut edges carry, heads before a norm of their sum.

        InputError for an ablation that is made from all prompts, of heads behind the norm.
        """
        if type(self.ablation).fit is not Ablation.fit:
            raise InputError(
                f"post_norm=ignored with ablation={self.ablation.name}: what cut edges carry is"
                " made from all prompts, of heads behind the norm; use resample, other or zero"
            )
        runs = (before_norm(self.model, x) for x in (self.prompts.clean, self.prompts.corrupt))
        clean, corrupt = runs
        return clean, self.ablation.of(clean, corrupt, self.rows)

    def under(self, ablation: Ablation) -> PatchedForward:
        """The same two runs with other values on cut edges; see also Data.under."""
        return replace(self, ablation=ablation)

    def pieces(self, most: int) -> Iterator[PatchedForward]:
        """The same runs, at most so many prompts at a time; nothing is copied."""
        for start in range(0, len(self.prompts), most):
            yield self.piece(range(start, min(start + most, len(self.prompts))))

    def piece(self, some: range) -> PatchedForward:
        """The same runs of some neighbouring prompts; nothing is copied."""
        prompts = self.prompts.take(some)
        width = prompts.clean.shape[1]
        return replace(
            self, model=self.model.padded(prompts.padding), prompts=prompts,
            clean=self.clean.part(some, width), corrupt=self.corrupt.part(some, width), _bound={},
            _readouts={}, rows=self.rows[some.start : some.stop],
        )  # fmt: skip

    def beside(self, some: range, others: Sequence[int]) -> PatchedForward:
        """Some neighbouring prompts, the clean runs of `others` being their corrupted ones.

        Both by their places here; the two of a pair have one length.
        """
        own = self.piece(some)
        prompts = replace(own.prompts, corrupt=self.prompts.take(others).clean)
        lean = replace(self.clean, streams=self.clean.streams[:0])
        corrupt = lean.part(list(others), prompts.clean.shape[1])
        return replace(own, prompts=prompts, corrupt=corrupt, _bound={}, _readouts={})

    def swapped(self) -> PatchedForward:
        """The corrupted prompts' run, into which cut edges carry clean outputs (denoising)."""
        return replace(
            self, prompts=self.prompts.swapped(), clean=self.corrupt, corrupt=self.clean,
            ablation=RESAMPLE, _bound={}, _readouts={},
        )  # fmt: skip

    def bound(self, metric: Metric) -> Bound:
        """The metric of these prompts, made once."""
        if metric not in self._bound:
            self._bound[metric] = metric.bind(self.prompts, self.clean.logits)
        return self._bound[metric]

    def values(
        self, metric: Metric, final: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, " batch"]:
        """The metric of each prompt's run, from what its final norm sees.

        The vocabulary is gone through only where the metric asks for it.
        """
        if metric not in self._readouts:
            self._readouts[metric] = Readout(self.model, [self.bound(metric)])
        return self._readouts[metric].each([final[None]])[0][0]

    @cached_property
    def cuts(self) -> PairedCuts:
        """What edges outside a circuit carry."""
        return PairedCuts(self.model, self.graph, self.ablated)

    def run(
        self, mask: NDArray[np.bool_], at: Literal["all", "answer"] = "all"
    ) -> Float[Tensor, "batch vocab"]:
        """Logits at the answer position with the edges of `mask` kept and all others cut.

        `at="answer"` cuts them at the answer position only; the others are as in the clean run.
        """
        return self.model.unembed(self.final(mask, at))

    def final(
        self, mask: NDArray[np.bool_], at: Literal["all", "answer"] = "all",
        known: Known | None = None,
    ) -> Float[Tensor, "batch d_model"]:  # fmt: skip
        """As `run`, what the final norm sees: enough for `values`.

        `known` is of a circuit that shares much with this one; None: of the model.
        """
        streams = self.clean.streams if at == "answer" else None
        known = known or Known.of_model(self.graph, self.clean.writers)
        tokens = self.prompts.clean
        return run_live(
            self.model, self.graph, tokens, mask, self.cuts, streams, known, layout=self.layout
        )

    def known(self, mask: NDArray[np.bool_]) -> Known:
        """What the writers of a circuit put out, for `final` of others like it."""
        record, graph = self.clean.writers.map(torch.zeros_like), self.graph
        tokens, layout = self.prompts.clean, self.layout
        run_live(self.model, graph, tokens, mask, self.cuts, record=record, layout=layout)
        return Known(mask, plan(graph, mask, self.n_pos).writers, record)


class PairedCuts:
    """Cut edges carry each prompt's own ablated value (see acdc/live.py, Cuts)."""

    def __init__(self, model: Model, graph: Graph, ablated: Writers) -> None:
        graph = self.graph = graph.plain
        self.offset = ablated
        total, seen, sums = ablated.total([]), 0, list[Tensor]()
        for place in _places(graph):
            n = graph.writers_before(*place)
            total, seen = total + ablated.total(range(seen, n)), n
            sums.append(total)
        self.streams = torch.stack(sums) + bias_streams(model)[:, None, None]

    def key(self, reader: int) -> None:
        """All readers of one place receive the same."""

    def base(self, reader: int, kept: Sequence[int], span: int) -> Tensor:
        """The whole ablated stream: kept edges add the difference."""
        info = self.graph.readers[reader]
        return self.streams[stream_of(self.graph, info.layer, info.part)][:, -span:]


def _places(graph: Graph) -> list[tuple[int, str]]:
    """(layer, part) of the readers that see each of Trace.streams."""
    places = [(layer, part) for layer in range(graph.n_layers) for part in ("q", "mlp")]
    return [*places, (graph.n_layers, "logits")]


def bias_streams(model: Model) -> Float[Tensor, "stream d_model"]:
    """What belongs to no writer in each of Trace.streams: the attention output biases so far."""
    total, out = model.W_E.new_zeros(model.d_model), []
    for block in model.blocks:
        out.append(total)
        if block.attn.b_O is not None:
            total = total + block.attn.b_O
        out.append(total)
    return torch.stack([*out, total])
