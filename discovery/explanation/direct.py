"""Direct logit attribution: the answer's logits as a sum over all that was ever written.

The final norm's scale is frozen at the final stream of the same run, so that the logits are linear
in what nodes wrote (Elhage et al. 2021; attributed_logits in discovery/heads/roles.py is the same
for a whole vocabulary). Everything is at the answer position of the model's own clean run. Logits;
positive = towards the right answer. Of a model that caps its logits, these are the logits before
the cap: through it nothing adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from acdc.data import Data, floats
from acdc.forward import PatchedForward, bias_streams, stream_of
from acdc.model import MLP, Model, Norm
from acdc.prompts import Prompts
from discovery.heads.roles import attributed_logits
from discovery.statistics.result import Floats

Answer = tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]  # of answer_direction


def answer_direction(model: Model, prompts: Prompts) -> Answer:
    """Per prompt u and b such that final norm . u + b is the answer's logits, right less wrong.

    Right is the mean over right answers, wrong the mean over wrong ones, or over the vocabulary
    where prompts name none. As metric logit_diff, where they do.
    """

    def column(ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        some = slice(None) if not ids else list(ids)
        bias = model.W_U.new_zeros(()) if model.b_U is None else model.b_U[some].mean()
        return model.W_U[:, some].mean(-1), bias

    named = {ids: column(ids) for ids in dict.fromkeys([*prompts.answers, *prompts.wrong])}
    pairs = [(named[r], named[w]) for r, w in zip(prompts.answers, prompts.wrong, strict=True)]
    direction = torch.stack([right[0] - wrong[0] for right, wrong in pairs])
    return direction, torch.stack([right[1] - wrong[1] for right, wrong in pairs])


def pulled_back(
    model: Model, direction: Float[Tensor, "batch d_model"], final: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "batch d_model"]:
    """g such that share(x, final) . direction = x . g for all x (Norm.share of the final norm)."""
    return _through(model.ln_final, direction, final)


def _through(norm: Norm, direction: Tensor, whole: Tensor) -> Tensor:
    """g such that norm.share(x, whole) . direction = x . g; centring is its own transpose."""
    weighted = direction if norm.weight is None else direction * norm.weight
    return replace(norm, weight=None).share(weighted, whole)


def answer_gradient(forward: PatchedForward) -> Float[Tensor, "batch d_model"]:
    """g: a vector x added to the stream at the answer adds x . g to the answer's logits."""
    direction, _ = answer_direction(forward.model, forward.prompts)
    return pulled_back(forward.model, direction, forward.clean.streams[-1][:, -1])


@dataclass(frozen=True)
class Direct:
    """Summands of the answer's logits, right less wrong; their sum is exact."""

    writers: Floats  # [writers, prompts], in the graph's order
    biases: Floats  # [prompts]: attention output biases, the final norm's, the unembedding's
    total: Floats  # [prompts]: the model's answer logits, measured


def direct_effects(data: Data) -> Direct:
    """Every writer's part in the model's own answer. Runs nothing beyond the clean runs."""
    parts = data.each(_direct)
    writers, biases, total = (data.join(p, axis=-1) for p in zip(*parts, strict=True))
    return Direct(writers, biases, total)


def _direct(forward: PatchedForward) -> tuple[Floats, Floats, Floats]:
    outs = forward.clean.writers.take(range(len(forward.graph.writers)), span=1)[:, :, 0]
    final = forward.clean.streams[-1][:, -1]
    answer = answer_direction(forward.model, forward.prompts)
    writers, biases = summands(forward.model, answer, outs, final)
    logits = replace(forward.model, logit_cap=None).unembed(final)
    total = right_less_wrong(forward.prompts, logits)
    return floats(writers), floats(biases), floats(total)


def summands(
    model: Model, answer: Answer, outs: Float[Tensor, "*n batch d_model"],
    final: Float[Tensor, "batch d_model"],
) -> tuple[Float[Tensor, "*n batch"], Float[Tensor, " batch"]]:  # fmt: skip
    """What outputs at the answer position and biases add to the answer's logits, at final's scale.

    `answer` is answer_direction's.
    If the outputs are all writers' of the run that ends in `final`, both add up to its answer.
    """
    direction, biases = answer
    g = pulled_back(model, direction, final)
    if model.ln_final.bias is not None:
        biases = biases + direction @ model.ln_final.bias
    return (outs * g).sum(-1), biases + g @ bias_streams(model)[-1]


def right_less_wrong(
    prompts: Prompts, logits: Float[Tensor, "batch vocab"]
) -> Float[Tensor, " batch"]:
    """Mean logit of right answers less that of wrong ones, or the vocabulary if none is named."""

    def mean(row: Tensor, ids: Sequence[int]) -> Tensor:
        return (row[list(ids)] if ids else row).mean()

    rows = zip(logits, prompts.answers, prompts.wrong, strict=True)
    return torch.stack([mean(row, right) - mean(row, wrong) for row, right, wrong in rows])


def written(data: Data, writers: Sequence[int]) -> Float[Tensor, "writers vocab"]:
    """Mean over prompts of what writers add to all logits at the answer, less the vocabulary's.

    The mean over prompts is taken before the unembedding: both are linear.
    """

    def shares(forward: PatchedForward) -> Tensor:
        outs = forward.clean.writers.take(list(writers), span=1)[:, :, 0]
        final = forward.clean.streams[-1][:, -1].expand_as(outs)
        return forward.model.ln_final.share(outs, final).sum(1)

    return _to_vocabulary(data, shares)


def on_top(data: Data, writer: int, most: int, right: bool = True) -> Floats:
    """[prompts]: 1 where a right (wrong) answer is among the `most` tokens a writer writes for."""

    def found(forward: PatchedForward) -> Floats:
        prompts, out = forward.prompts, forward.clean.writers.take([writer], span=1)[0, :, 0]
        final = forward.clean.streams[-1][:, -1]
        top = attributed_logits(forward.model, out, final).topk(min(most, forward.model.d_vocab))
        named = prompts.answers if right else prompts.wrong
        pairs = zip(top.indices.tolist(), named, strict=True)
        return np.array([not set(ids).isdisjoint(some) for some, ids in pairs], float)

    return data.join(data.each(found))


def _to_vocabulary(data: Data, summed: Callable[[PatchedForward], Tensor]) -> Tensor:
    """Sums over a part's prompts [k, d_model] -> logits [k, vocab], their mean over it taken off.

    Centring each prompt and centring the mean are the same.
    """
    logits = (torch.stack(data.each(summed)).sum(0) / len(data)) @ data.model.W_U
    return logits - logits.mean(-1, keepdim=True)


# ---- neurons -------------------------------------------------------------------------------------


def mlp_input(forward: PatchedForward, layer: int) -> Float[Tensor, "batch pos d_model"]:
    """What the MLP of a layer sees in the clean run, normalised."""
    norm = forward.model.blocks[layer].ln2
    if norm is None:
        raise ValueError(f"layer {layer} has no MLP")
    return norm(forward.clean.streams[stream_of(forward.graph, layer, "mlp")])


def mlp_of(forward: PatchedForward, layer: int) -> MLP:
    """A layer's MLP; ValueError if it has none, or experts, which have no neurons of all tokens."""
    mlp = forward.model.mlp(layer)
    if not isinstance(mlp, MLP):
        raise ValueError(f"layer {layer} has no MLP of neurons")
    return mlp


def neuron_effects(data: Data, layer: int) -> Float[np.ndarray, "prompts d_mlp"]:
    """What each neuron of a layer adds to the answer's logits: activation x its row of W_out . g.

    The sum over neurons and W_out's bias is the MLP's own direct effect; a norm after the MLP is
    taken at its scale.
    """

    def effects(forward: PatchedForward) -> Floats:
        mlp, x = mlp_of(forward, layer), mlp_input(forward, layer)[:, -1]
        norm = forward.model.blocks[layer].mlp_norm
        g = _through(norm, answer_gradient(forward), mlp(x))
        return floats(mlp.hidden(x) * (g @ mlp.W_out.T))

    return data.join(data.each(effects))


def strongest_neurons(data: Data, layer: int, most: int) -> list[int]:
    """Neurons of a layer that move the answer's logits most, in the mean over prompts."""
    size = np.abs(neuron_effects(data, layer).mean(0))
    return np.argsort(-size, kind="stable")[:most].tolist()


def neurons_written(
    data: Data, layer: int, neurons: Sequence[int]
) -> Float[Tensor, "neurons vocab"]:
    """As `written`, of value vectors: rows of W_out times the activation (Geva et al. 2022)."""

    def shares(forward: PatchedForward) -> Tensor:
        mlp, x = mlp_of(forward, layer), mlp_input(forward, layer)[:, -1]
        hidden = mlp.hidden(x)[:, list(neurons)]
        outs = hidden.T[:, :, None] * mlp.W_out[list(neurons)][:, None]
        outs = forward.model.blocks[layer].mlp_norm.share(outs, mlp(x).expand_as(outs))
        final = forward.clean.streams[-1][:, -1].expand_as(outs)
        return forward.model.ln_final.share(outs, final).sum(1)

    return _to_vocabulary(data, shares)
