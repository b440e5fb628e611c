"""Information flow routes (Ferrando & Voita 2024, arXiv 2403.00824) from one clean run.

What is a residual state made of? Nodes are a token's states: before attention, after it, after the
MLP. Edges into a state are its parts: each head's output from each source token, the MLP's output,
the state it builds on, and b_O, which is nobody's. A part z of a whole w has the proximity

    p(z, w) = max(0, |w|_1 - |w - z|_1)        share(z, w) = p(z, w) / sum of p over all parts of w

so the shares of one step are >= 0 and sum to 1. A route is what is left on the way down from one
state when small shares are dropped (flow_routes.py). Ours: heads are edges of their own, flow is
pushed along the shares (start 1, conserved), and a step from the final state to a logit may stand
on top. Knows no intervention: shares are no evidence of cause. Attention patterns are taken as
given, so nothing flows through queries and keys. Parts that oppose their whole get nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from acdc.errors import InputError
from acdc.model import Model, Norm

BLOCK = 2**19  # numbers held at a time while parts are compared with their whole; fits in cache
Tokens = Sequence[Sequence[int]]  # per prompt, any number of token ids


@dataclass(frozen=True, eq=False)
class LogitStep:
    """Signed contributions (logits, the final norm's scale frozen) to a logit or contrast.

    Of a model that caps its logits, to those before the cap. Positive supports it. They sum to
    `value`; all are read at one position.
    """

    position: int
    value: Float[Tensor, " batch"]  # mean logit of `right` - mean logit of `wrong`
    input: Float[Tensor, " batch"]
    heads: Float[Tensor, "layer batch pos head"]  # from each source token
    mlp: Float[Tensor, "layer batch"]
    constant: Float[Tensor, " batch"]  # all b_O, the final norm's bias and b_U: nobody's

    def shares(self) -> LogitStep:
        """max(0, contribution), divided by their sum; by absolute size if nothing is positive."""
        flat = self.flat().double()
        positive = flat.clamp(min=0)
        positive = torch.where(positive.sum(1, keepdim=True) > 0, positive, flat.abs())
        return self.filled(positive / or_one(positive.sum(1, keepdim=True)))

    def flat(self) -> Float[Tensor, "batch part"]:
        """All parts beside each other."""
        return torch.cat([part.flatten(1) for part in self._parts()], dim=1)

    def filled(self, flat: Float[Tensor, "batch part"]) -> LogitStep:
        """The same step with other numbers, in the order of `flat`."""
        sizes = [part[0].numel() for part in self._parts()]
        first, heads, mlp, constant = flat.split(sizes, dim=1)
        heads = heads.unflatten(1, self.heads[:, 0].shape).transpose(0, 1)
        return replace(self, input=first[:, 0], heads=heads, mlp=mlp.T, constant=constant[:, 0])

    def _parts(self) -> list[Tensor]:
        heads = self.heads.transpose(0, 1)
        return [self.input[:, None], heads, self.mlp.T, self.constant[:, None]]


@dataclass(frozen=True, eq=False)
class FlowGraph:
    """Shares of every step of a batch of prompts.

    heads + resid + constant = 1 and mlp + skip = 1 at every state; where attention and MLP run in
    parallel there is one step a layer, heads + resid + constant + mlp = 1, and skip = 1.
    """

    tokens: Int[Tensor, "batch pos"]
    heads: Float[Tensor, "layer batch query pos head"]  # query reads pos; 0 where pos > query
    resid: Float[Tensor, "layer batch pos"]
    constant: Float[Tensor, "layer batch pos"]
    mlp: Float[Tensor, "layer batch pos"]  # 0 without MLPs
    skip: Float[Tensor, "layer batch pos"]
    undefined: Bool[Tensor, "step layer batch pos"]  # every p was 0: shared by |part|_1 instead
    parallel: bool
    has_mlp: bool
    logit: LogitStep | None

    @property
    def n_pos(self) -> int:
        """Tokens of a prompt."""
        return self.tokens.shape[1]


# ---- shares ------------------------------------------------------------------------------------


def proximity(
    part: Float[Tensor, "*n d_model"], whole: Float[Tensor, "*n d_model"]
) -> Float[Tensor, "*n"]:
    """max(0, |whole|_1 - |whole - part|_1), in the units of the residual stream."""
    return (whole.abs().sum(-1) - (whole - part).abs().sum(-1)).clamp(min=0)


def flow_graph(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    *,
    right: Tokens | None = None,
    wrong: Tokens | None = None,
    position: int = -1,
    chunk: int | None = None,
) -> FlowGraph:
    """Run the model once and decompose every state of every prompt.

    `right` (and `wrong`), token ids a prompt, add the step to their mean logit (or the difference
    of the means) at `position`. `chunk` query positions are decomposed at a time: memory and speed
    only. InputError for tokens, positions or sizes that do not fit.
    """
    at = _check(model, tokens, right, wrong, position, chunk)
    tokens = tokens.to(model.device)
    aim = _direction(model, right, wrong) if right is not None else None
    row = tokens.shape[1] * model.n_heads * model.d_model
    with torch.no_grad():
        return _Pass(model, at, chunk or max(1, BLOCK // row))(tokens, aim)


def _check(
    model: Model,
    tokens: Tensor,
    right: Tokens | None,
    wrong: Tokens | None,
    position: int,
    chunk: int | None,
) -> int:
    """The position counted from 0; InputError for anything that does not fit."""
    batch, n = tokens.shape
    if batch == 0 or not 0 < n <= model.n_ctx:
        raise InputError(f"flow: {batch} prompts of {n} tokens; the model takes 1..{model.n_ctx}")
    outside = tokens[(tokens < 0) | (tokens >= model.d_vocab)]
    if len(outside):
        raise InputError(f"flow: token {int(outside[0])} is outside 0..{model.d_vocab - 1}")
    if chunk is not None and chunk < 1:
        raise InputError(f"flow: chunk={chunk} must be at least 1")
    if wrong is not None and right is None:
        raise InputError("flow: `wrong` needs `right` to be compared with")
    for name, lists in (("right", right), ("wrong", wrong)):
        _check_answers(name, lists, batch, model.W_U.shape[1])
    return checked_position(position, n)


def _check_answers(name: str, lists: Tokens | None, batch: int, d_vocab: int) -> None:
    if lists is None:
        return
    if len(lists) != batch or (name == "right" and not all(len(ids) for ids in lists)):
        raise InputError(f"flow: `{name}` must hold token ids for each of {batch} prompts")
    for row, ids in enumerate(lists):
        for token in ids:
            if not 0 <= token < d_vocab:
                raise InputError(
                    f"flow: prompt {row + 1}: {name} token {token} is outside 0..{d_vocab - 1}"
                )


def checked_position(position: int, n_pos: int) -> int:
    """A position counted from 0; InputError unless it lies in -n_pos..n_pos-1."""
    if not -n_pos <= position < n_pos:
        raise InputError(f"flow: position {position} is outside the prompt's {n_pos} tokens")
    return position % n_pos


@dataclass(frozen=True)
class _Aim:
    """A linear read-out of the final norm's input, up to that norm's scale."""

    direction: Float[Tensor, "batch d_model"]
    offset: Float[Tensor, " batch"]


class _Pass:
    """One forward pass, a layer decomposed and forgotten at a time."""

    def __init__(self, model: Model, at: int, chunk: int) -> None:
        bare = tuple(replace(block, ln1=Norm("none")) for block in model.blocks)
        self.model, self.at, self.chunk = model, at, chunk
        self.bare = replace(model, blocks=bare)  # its `project` takes inputs normalised already

    def __call__(self, tokens: Tensor, aim: _Aim | None) -> FlowGraph:
        x = self.model.embed(tokens)
        rows, direct = [], []
        first = None if aim is None else (x[:, self.at] * aim.direction).sum(-1)
        for layer in range(len(self.model.blocks)):
            x, row, sent = self._layer(layer, x, aim)
            rows.append(row)
            direct.append(sent)
        heads, resid, constant, mlp, skip, undefined = map(torch.stack, zip(*rows, strict=True))
        logit = None
        if aim is not None and first is not None:
            logit = _logit_step(self.model, x[:, self.at], self.at, aim, first, direct)
        has_mlp = any(block.mlp is not None for block in self.model.blocks)
        return FlowGraph(
            tokens, heads, resid, constant, mlp, skip, undefined.transpose(0, 1),
            self.model.parallel, has_mlp, logit,
        )  # fmt: skip

    def _layer(
        self, layer: int, x: Tensor, aim: _Aim | None
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The next state, the shares of this layer, and its contributions along the aim."""
        parts, weights, bias, mid, mlp = self._outputs(layer, x)
        after, one_step = mid + mlp, self.model.parallel
        rest = [x, bias.expand_as(x), mlp] if one_step else [x, bias.expand_as(x)]
        whole = after if one_step else mid
        heads, (resid, constant, *own), odd = self._attention_step(parts, weights, rest, whole)
        if one_step or self.model.blocks[layer].mlp is None:  # no second step
            out, skip = (own[0] if own else torch.zeros_like(resid)), torch.ones_like(resid)
            odd_mlp = torch.zeros_like(odd)
        else:
            (skip, out), odd_mlp = _normalise([mid, mlp], after)
        sent: tuple[Tensor, ...] = ()
        if aim is not None:
            there = torch.einsum("bkhd,bd->bkh", parts, aim.direction) * weights[:, self.at]
            sent = there, (mlp[:, self.at] * aim.direction).sum(-1), aim.direction @ bias
        return after, (heads, resid, constant, out, skip, torch.stack([odd, odd_mlp])), sent

    def _outputs(self, layer: int, x: Tensor) -> tuple[Tensor, ...]:
        """Head parts and their weights, b_O, the state after attention, and the MLP's output."""
        block = self.model.blocks[layer]
        pattern, v = self._attention(layer, x)
        if block.attn.norm is not None:  # a source's part is its share in the norm of all heads
            pattern = pattern * block.attn.norm.scale(pattern @ v)
        z = (pattern @ v).permute(1, 2, 0, 3).flatten(2)
        bias = torch.zeros_like(x[0, 0]) if block.attn.b_O is None else block.attn.b_O
        mid = x + z @ block.attn.W_O.flatten(0, 1) + bias
        mlp = torch.zeros_like(x)
        if block.mlp is not None:
            mlp = self.model.mlp_out(layer, x if self.model.parallel else mid)
        return _per_source(v, block.attn.W_O), pattern.permute(1, 2, 3, 0), bias, mid, mlp

    def _attention(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Patterns [head, batch, query, pos] and values [head, batch, pos, d_head]."""
        model, n = self.bare, x.shape[1]
        y = self.model.blocks[layer].ln1(x)
        heads, groups = list(range(model.n_heads)), list(range(model.n_kv_heads))
        share = torch.tensor([model.kv_head(h) for h in heads], device=x.device)
        q = model.project(layer, "q", heads, y.expand(len(heads), *y.shape), n)
        k, v = (
            model.project(layer, part, groups, y.expand(len(groups), *y.shape), n)[share]
            for part in ("k", "v")
        )
        return model.pattern(layer, heads, q, k), v

    def _attention_step(
        self, parts: Tensor, weights: Tensor, rest: list[Tensor], whole: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Shares of [batch, query, pos, head] and of the `rest`; where no p was positive."""
        wide = torch.promote_types(whole.dtype, torch.float32)
        parts, weights, whole = parts.to(wide), weights.to(wide).contiguous(), whole.to(wide)
        near = _head_proximities(parts, weights, whole, self.chunk)
        others, sizes = [proximity(z.to(wide), whole) for z in rest], [_size(z) for z in rest]
        total = near.sum((2, 3)) + _sum(others)
        undefined = total == 0
        if undefined.any():
            near = torch.where(_wide(undefined), weights * _size(parts)[:, None], near)
            others = _where_undefined(undefined, sizes, others, near.sum((2, 3)))
            total = near.sum((2, 3)) + _sum(others)
        return near.div_(_wide(total)), [p / total for p in others], undefined


def _per_source(v: Tensor, W_O: Tensor) -> Float[Tensor, "batch pos head d_model"]:
    """What each head moves from each source token when it attends to nothing else."""
    out = v.flatten(1, 2) @ W_O
    return out.unflatten(1, v.shape[1:3]).permute(1, 2, 0, 3).contiguous()


def _head_proximities(
    parts: Float[Tensor, "batch pos head d_model"],
    weights: Float[Tensor, "batch query pos head"],
    whole: Float[Tensor, "batch query d_model"],
    chunk: int,
) -> Float[Tensor, "batch query pos head"]:
    """Proximity of weights * parts to the whole; [query, pos, head, d_model] never exists at once.

    Norms are products with a vector of ones, which on a processor is the fastest sum over the last
    axis; |whole|_1 is summed in the same way, so that rounding cancels for small parts.
    """
    (batch, n, heads, d), ones = parts.shape, parts.new_ones(parts.shape[-1])
    rows = max(1, BLOCK // (chunk * d))  # (pos, head) pairs at a time
    buffer = parts.new_empty(chunk * min(rows, n * heads), d)
    near, norm = torch.zeros_like(weights).flatten(2), (whole.abs() @ ones)[..., None]
    for b in range(batch):
        part, weight = parts[b].flatten(0, 1), weights[b].flatten(1)
        for q in (slice(i, min(i + chunk, n)) for i in range(0, n, chunk)):
            for start in range(0, q.stop * heads, rows):
                r = slice(start, min(start + rows, q.stop * heads))
                size = q.stop - q.start, r.stop - r.start
                gap = buffer[: size[0] * size[1]].view(*size, d)
                torch.addcmul(whole[b, q, None], weight[q, r, None], part[r], value=-1, out=gap)
                near[b, q, r] = norm[b, q] - gap.abs_() @ ones
    near.clamp_(min=0)
    causal = torch.ones(n, n, dtype=torch.bool, device=near.device).tril()
    return near.view_as(weights) * causal[..., None]


def _normalise(parts: list[Tensor], whole: Tensor) -> tuple[list[Tensor], Tensor]:
    """Shares of a few parts; where no p was positive, by size, and that said."""
    wide = torch.promote_types(whole.dtype, torch.float32)
    near = [proximity(z.to(wide), whole.to(wide)) for z in parts]
    undefined = _sum(near) == 0
    near = _where_undefined(undefined, [_size(z.to(wide)) for z in parts], near)
    total = _sum(near)
    return [p / total for p in near], undefined


def _where_undefined(
    undefined: Tensor, sizes: list[Tensor], near: list[Tensor], beside: Tensor | float = 0.0
) -> list[Tensor]:
    """Sizes in place of proximities; if all parts are 0, the first (the state below) has it all."""
    nothing = (_sum(sizes) + beside == 0) & undefined
    first = torch.where(nothing, torch.ones_like(sizes[0]), sizes[0])
    return [torch.where(undefined, s, p) for s, p in zip([first, *sizes[1:]], near, strict=True)]


def _size(part: Tensor) -> Tensor:
    return part.abs().sum(-1)


def _sum(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def _wide(x: Tensor) -> Tensor:
    return x[..., None, None]


def or_one(x: Tensor) -> Tensor:
    """x with 1 for 0, to divide by."""
    return torch.where(x == 0, 1.0, x)


# ---- the logit ---------------------------------------------------------------------------------


def _direction(model: Model, right: Tokens, wrong: Tokens | None) -> _Aim:
    """What the final norm (but for its scale) and the unembedding read of a state."""
    readout = model.W_U.new_zeros(len(right), model.W_U.shape[1])
    for row, (good, bad) in enumerate(zip(right, wrong or [()] * len(right), strict=True)):
        for sign, ids in ((1, good), (-1, bad)):
            for token in ids:
                readout[row, token] += sign / len(ids)
    norm, g = model.ln_final, readout @ model.W_U.T
    offset = torch.zeros_like(g[:, 0]) if model.b_U is None else readout @ model.b_U
    if norm.bias is not None:
        offset = offset + g @ norm.bias
    g = g if norm.weight is None else g * norm.weight
    return _Aim(g - g.mean(-1, keepdim=True) if norm.kind == "layer" else g, offset)


def _logit_step(
    model: Model, x: Tensor, at: int, aim: _Aim, first: Tensor, direct: list[tuple[Tensor, ...]]
) -> LogitStep:
    """Contributions divided by the final norm's scale at the final state x [batch, d_model]."""
    scale = torch.ones_like(first)
    if model.ln_final.kind != "none":
        centred = x - x.mean(-1, keepdim=True) if model.ln_final.kind == "layer" else x
        scale = (centred.pow(2).mean(-1) + model.ln_final.eps).sqrt()
    heads, mlp, constant = map(torch.stack, zip(*direct, strict=True))
    value = (x * aim.direction).sum(-1) / scale + aim.offset
    return LogitStep(
        at, value, first / scale, heads / _wide(scale), mlp / scale,
        constant.sum(0) / scale + aim.offset,
    )  # fmt: skip
