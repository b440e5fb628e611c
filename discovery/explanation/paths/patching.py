"""Path patching (Wang et al. 2022, section 3.1; Goldowsky-Dill et al. 2023): edges, one at a time.

The effect of a path sender -> receivers is the change of the score when the receivers, and nobody
else, read what the sender puts out on the other prompt. Two passes a sender:

    received   what changes in the receivers' inputs; heads in between are as in the unpatched run,
               MLPs too (`frozen`), or they are run again (`recomputed`)
    patched    the receivers' inputs changed so, everything above them run again

With `frozen` it is the model with the edges sender -> receivers cut and all others kept
(PatchedForward.run of that mask); `recomputed` is Wang's definition, in which a receiver's input is
set, so that receivers of one set do not reach one another. The other prompt is what cut edges carry
(acdc/ablation.py): by default the corrupt one into the clean run, noising, which asks what is
needed; into the corrupt run the clean one, denoising (PatchedForward.swapped), which asks what is
enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from acdc.data import floats
from acdc.errors import InputError
from acdc.forward import PatchedForward, raw_heads, stream_of, trace
from acdc.graph import Graph
from acdc.writers import Writers
from discovery.validation.bench import Bench

Floats = NDArray[np.float64]
MLPs = Literal["frozen", "recomputed"]
Direction = Literal["noising", "denoising"]
Senders = Sequence[Sequence[int]]  # writers that are patched together, one set a variant
ROWS = 256  # prompts x variants that are run together


def path_effects(
    bench: Bench, senders: Senders, receivers: Sequence[int], mlps: MLPs = "frozen",
    direction: Direction = "noising", at: Bool[np.ndarray, "prompts pos"] | None = None,
) -> Floats:  # fmt: skip
    """[variants, prompts]: score(patched) - score(unpatched), in the bench's unit.

    Each variant patches the paths from one set of writers into all of the receivers (indices of
    graph.readers) that read them. Noising: negative where the path helps the answer. Denoising:
    positive where it does. `at` are the positions at which readers are given it; None: all.
    InputError for `frozen` paths from a writer at or above the lowest
    receiver into another one: both would change.
    """
    if mlps == "frozen":
        _check_below(bench.graph, senders, receivers)
    found = list[Floats]()
    for forward in forwards(bench, direction):
        before = bench.score_of(forward, forward.clean.logits)
        scores = list[Tensor]()
        for some in _few(senders, ROWS // len(forward.prompts)):
            changes = received(forward, some, receivers, mlps)
            if at is not None:
                own = at[list(forward.rows), bench.data.n_pos - forward.n_pos :]
                keep = torch.as_tensor(own)[..., None]
                changes = {r: change * keep.to(change) for r, change in changes.items()}
            logits = patched(forward, changes, mlps == "recomputed")
            scores.append(bench.score_of(forward, logits))
        found.append(floats(torch.cat(scores) - before))
    return bench.data.join(found, axis=1)


def path_estimates(
    bench: Bench, senders: Senders, receivers: Sequence[int], mlps: MLPs = "frozen",
    direction: Direction = "noising", steps: int = 4,
) -> Floats:  # fmt: skip
    """[receivers, variants, prompts]: what `path_effects` of each receiver alone should be, about.

    The change of the receiver's input times the score's gradient there, the mean of `steps` points
    on the way to the input with all senders patched (integrated gradients, as in Hanna et al.
    2024). One pass forward and back a receiver and point, whatever the number of senders.
    """
    with torch.inference_mode(False), torch.no_grad():
        parts = [
            _estimates(bench, forward, senders, receivers, mlps, steps)
            for forward in forwards(bench, direction)
        ]
    return bench.data.join(parts, axis=2)


def _estimates(
    bench: Bench, forward: PatchedForward, senders: Senders, receivers: Sequence[int],
    mlps: MLPs, steps: int,
) -> Floats:  # fmt: skip
    graph = forward.graph
    points = (torch.arange(steps) + 0.5) / steps
    gradients = dict[int, Tensor]()
    for reader in receivers:
        all_of_it = range(int(graph.senders[reader]))
        whole = received(forward, [all_of_it], [reader], mlps)[reader]
        change = (points.to(whole)[:, None, None, None] * whole).requires_grad_()
        with torch.enable_grad():
            score = bench.score_of(forward, patched(forward, {reader: change})).sum()
            (gradient,) = torch.autograd.grad(score, change)
        gradients[reader] = gradient.mean(0)
    rows = list[Tensor]()
    for some in _few(senders, ROWS // len(forward.prompts)):
        changes = received(forward, some, receivers, mlps)
        rows.append(torch.stack([(changes[r] * gradients[r]).sum((-2, -1)) for r in receivers]))
    return floats(torch.cat(rows, dim=1))


def forwards(bench: Bench, direction: Direction) -> Iterator[PatchedForward]:
    """The parts' runs, the one that is patched being `clean`, with all that its readers saw."""
    for forward in bench.data:
        if direction == "noising":
            yield forward
        else:
            other = forward.swapped()
            yield replace(other, clean=trace(other.model, other.prompts.clean))


# ---- the two passes ------------------------------------------------------------------------------


def received(
    forward: PatchedForward, senders: Senders, receivers: Sequence[int], mlps: MLPs
) -> dict[int, Float[Tensor, "variant batch pos d_model"]]:
    """How each receiver's input changes when a set of writers reaches it as on the other prompt."""
    change = forward.ablated.with_(forward.clean.writers, torch.sub)
    if mlps == "recomputed":
        return _recomputed(forward, change, senders, receivers)
    found, seen = dict[int, Tensor](), dict[int, Tensor]()
    for reader in receivers:
        n = int(forward.graph.senders[reader])
        if n not in seen:
            seen[n] = torch.stack([change.total([w for w in own if w < n]) for own in senders])
        found[reader] = seen[n]
    return found


def _recomputed(
    forward: PatchedForward, change: Writers, senders: Senders, receivers: Sequence[int]
) -> dict[int, Tensor]:
    """The same, MLPs in between run again; those among the senders are the other's."""
    model, graph, streams = forward.model, forward.graph, forward.clean.streams
    top = max(graph.readers[r].layer for r in receivers)

    def with_own(moved: Tensor, first: int, end: int) -> Tensor:
        moved = moved.clone()
        for row, own in zip(moved, senders, strict=True):
            if here := [w for w in own if first <= w < end]:
                row += change.total(here)
        return moved

    moved = with_own(change.total([]).expand(len(senders), *streams.shape[1:]), 0, 1)
    seen = dict[tuple[int, bool], Tensor]()  # (layer, whether by its MLP)
    for layer in range(min(top + 1, graph.n_layers)):
        seen[layer, False] = before = moved
        moved = with_own(moved, graph.head(layer, 0), graph.mlp(layer))
        seen[layer, True] = read = before if graph.parallel else moved
        if graph.has_mlp and layer < top:
            x, mlp = streams[stream_of(graph, layer, "mlp")], graph.mlp(layer)
            below = [min(own, default=mlp) < mlp for own in senders]
            again = [i for i, own in enumerate(senders) if below[i] and mlp not in own]
            moved = with_own(moved, mlp, mlp + 1)
            moved[again] += model.mlp_out(layer, x + read[again]) - model.mlp_out(layer, x)
    seen[graph.n_layers, False] = moved
    return {r: seen[i.layer, i.part == "mlp"] for r in receivers for i in [graph.readers[r]]}


def patched(
    forward: PatchedForward, changes: Mapping[int, Float[Tensor, "variant batch pos d_model"]],
    put: bool = False,
) -> Float[Tensor, "variant batch vocab"]:  # fmt: skip
    """Logits at the answer position with some readers' inputs changed, all above them run again.

    Changes are added to what a reader sees; with `put`, to what it saw in the unpatched run.
    """
    model, graph, n_pos = forward.model, forward.graph, forward.n_pos
    n, first = len(next(iter(changes.values()))), min(graph.readers[r].layer for r in changes)

    def rows(x: Tensor) -> Tensor:
        """The same for every variant; prompts of all variants are rows."""
        return x.expand(n, *x.shape).flatten(0, 1)

    def seen(reader: int, x: Tensor) -> Tensor:
        """What a reader sees where the others see x, at the last positions that x has."""
        if reader not in changes:
            return x
        info = graph.readers[reader]
        if put:
            x = rows(
                forward.clean.streams[stream_of(graph, info.layer, info.part)][:, -x.shape[1] :]
            )
        return x + changes[reader][:, :, -x.shape[1] :].flatten(0, 1)

    x = rows(forward.clean.streams[2 * first])
    for layer in range(first, graph.n_layers):
        here = x if layer < graph.n_layers - 1 else x[:, -1:]  # where the answer can see
        if layer == first and not graph.joint:  # all but the receivers as before
            z = [rows(own[:, -here.shape[1] :]) for own in forward.clean.writers.z[layer]]
        else:
            z = list(raw_heads(model, layer, here[None], x[None], x[None], n_pos)[0])
        for head in range(graph.n_heads):
            q, k, v = graph.head_readers(layer, head)
            if q in changes or k in changes or v in changes:
                z[head] = _head(forward, layer, head, seen(q, here), seen(k, x), seen(v, x))
        after = here + model.attention_out(layer, model.shared_out(layer, torch.stack(z)))
        if graph.has_mlp:
            read = seen(graph.reader(layer, "mlp"), here if graph.parallel else after)
            after = after + model.mlp_out(layer, read)
        x = after
    final = seen(len(graph.readers) - 1, x[:, -1:])[:, 0]
    return model.unembed(final).unflatten(0, (n, -1))


def _head(
    forward: PatchedForward, layer: int, head: int, x_q: Tensor, x_k: Tensor, x_v: Tensor
) -> Tensor:
    """One head before W_O, from what its three readers see."""
    model, group, n_pos = forward.model, forward.model.kv_head(head), forward.n_pos
    q = model.project(layer, "q", head, x_q, n_pos)
    k = model.project(layer, "k", group, x_k, n_pos)
    return model.pattern(layer, head, q, k) @ model.project(layer, "v", group, x_v, n_pos)


def _check_below(graph: Graph, senders: Senders, receivers: Sequence[int]) -> None:
    """InputError for a sender that another receiver may change."""
    lowest = min((min(graph.readers[r].shapes) for r in receivers if graph.readers[r].nodes),
                 default=len(graph.writers))  # fmt: skip
    end = max(int(graph.senders[r]) for r in receivers)
    for writer in (w for own in senders for w in own):
        if lowest <= writer < end:
            raise InputError(
                f"path patching: {graph.writers[writer]} is not below"
                f" {', '.join(graph.readers[r].name for r in receivers)}; with frozen MLPs every"
                " sender must lie below all receivers, or ask for each receiver alone"
            )


def _few(senders: Senders, most: int) -> Iterator[Senders]:
    size = max(1, most)
    return (senders[i : i + size] for i in range(0, len(senders), size))
