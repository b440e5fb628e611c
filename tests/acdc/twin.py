"""The slow, obvious twin: literal loops over readers and edges, one dense run a test, float64.

Reads beside Conmy et al. 2023 and shares no arithmetic with acdc/: own norms, own rotation, own
softmax, one head and one edge at a time, nothing cached between runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from acdc.graph import Graph
from acdc.model import Experts, Model, Norm
from acdc.prompts import Prompts


def norm(n: Norm, x: Tensor) -> Tensor:
    if n.kind == "none":
        return x
    if n.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    y = x / (x.pow(2).mean(-1, keepdim=True) + n.eps).sqrt()
    y = y if n.weight is None else y * n.weight
    return y if n.bias is None else y + n.bias


def rotate(model: Model, layer: int, y: Tensor) -> Tensor:
    rotary = model.blocks[layer].attn.rotary
    if rotary is None:
        return y
    n, size = y.shape[1], rotary.cos.shape[1]
    # pairs (i, i + half), or (2 i, 2 i + 1), turn in the complex plane
    pairs = [(2 * i, 2 * i + 1) if rotary.interleaved else (i, i + size // 2)
             for i in range(size // 2)]  # fmt: skip
    out = y.clone()
    for first, second in pairs:
        turn = torch.complex(rotary.cos[:n, first], rotary.sin[:n, first])
        pair = torch.complex(y[..., first], y[..., second]) * turn
        out[..., first], out[..., second] = pair.real, pair.imag
    return out


def head_output(
    model: Model, layer: int, head: int, x_q: Tensor, x_k: Tensor, x_v: Tensor
) -> Tensor:
    """z of one head, before W_O and before a norm after the heads."""
    block, group = model.blocks[layer], head // (model.n_heads // model.n_kv_heads)
    a = block.attn

    def part(x, weight, bias, i):
        y = norm(block.ln1, x) @ weight[i]
        return y if bias is None else y + bias[i]

    def normed(n, x, weight, bias, i):
        y = part(x, weight, bias, i)
        if n.weight is None or n.weight.ndim == 1:
            return norm(n, y)
        if a.qk_whole:  # as if all heads read this x
            every = torch.cat([part(x, weight, bias, j) for j in range(len(weight))], -1)
            return y / (every.pow(2).mean(-1, keepdim=True) + n.eps).sqrt() * n.weight[i]
        return norm(Norm(n.kind, n.weight[i], None, n.eps), y)

    q = rotate(model, layer, normed(a.q_norm, x_q, a.W_Q, a.b_Q, head))
    k = rotate(model, layer, normed(a.k_norm, x_k, a.W_K, a.b_K, group))
    v = part(x_v, a.W_V, a.b_V, group)
    z = torch.zeros_like(v)
    for t in range(q.shape[1]):
        seen = slice(0 if a.window is None else max(0, t + 1 - a.window), t + 1)
        scores = (q[:, t : t + 1] * k[:, seen]).sum(-1) * a.scale
        scores = scores if a.cap is None else a.cap * torch.tanh(scores / a.cap)
        scores = scores if a.key_bias is None else scores + a.key_bias[head, seen]
        mass = scores.exp().sum(-1, keepdim=True)
        mass = mass if a.sinks is None else mass + a.sinks[head].exp()
        z[:, t] = ((scores.exp() / mass)[..., None] * v[:, seen]).sum(1)
    return z


def layer_outputs(model: Model, layer: int, inputs: list[tuple[Tensor, ...]]) -> list[Tensor]:
    """What each head adds: where a norm follows their sum, its share in this run's norm."""
    a = model.blocks[layer].attn
    z = [head_output(model, layer, h, *x) for h, x in enumerate(inputs)]
    if a.norm is None:
        return [z[h] @ a.W_O[h] for h in range(len(z))]
    whole = sum(z[h] @ a.norm.W_O[h] for h in range(len(z)))
    rms = (whole.pow(2).mean(-1, keepdim=True) + a.norm.eps).sqrt()
    return [z[h] @ a.W_O[h] / rms for h in range(len(z))]


def mlp_output(model: Model, layer: int, x: Tensor) -> Tensor:
    block, m = model.blocks[layer], model.blocks[layer].mlp
    x = norm(block.ln2, x)
    if isinstance(m, Experts):
        out = torch.zeros_like(x)
        for place in np.ndindex(x.shape[:-1]):
            out[place] = expert_output(m, x[place])
        return norm(block.mlp_norm, out)
    inner = x @ m.W_in if m.b_in is None else x @ m.W_in + m.b_in
    if m.W_gate is not None:
        inner = m.act(x @ m.W_gate if m.b_gate is None else x @ m.W_gate + m.b_gate) * inner
    else:
        inner = m.act(inner)
    out = inner @ m.W_out if m.b_out is None else inner @ m.W_out + m.b_out
    return norm(block.mlp_norm, out)


def expert_output(m: Experts, x: Tensor) -> Tensor:
    """One token's: the chosen experts one after the other."""
    logits = x @ m.W_router + (0 if m.b_router is None else m.b_router)
    weights = logits.exp() / logits.exp().sum()
    chosen = sorted(range(len(weights)), key=lambda e: -float(weights[e]))[: m.top_k]
    if m.renormalise:
        weights = weights / sum(weights[e] for e in chosen)
    out = torch.zeros_like(x)
    for e in chosen:
        up, gate = x @ m.W_in[e], x @ m.W_gate[e]
        up, gate = (up, gate) if m.b_in is None else (up + m.b_in[e], gate + m.b_gate[e])
        if m.limit is not None:
            up, gate = 1 + up.clip(-m.limit, m.limit), torch.minimum(gate, gate * 0 + m.limit)
        own = (m.act(gate) * up) @ m.W_out[e]
        out = out + weights[e] * (own if m.b_out is None else own + m.b_out[e])
    return out


def run(
    model: Model, whole: Graph, tokens: Tensor, mask: np.ndarray, abl: list[Tensor] | None,
    spans: list[list[str]] | None = None,
):  # fmt: skip
    """(all writers' outputs, logits at the last position) with `mask` kept, the rest from `abl`.

    `spans` names the span of each token of each prompt.
    """
    cur: list[Tensor] = []
    graph = whole.plain

    def edge(writer: int, reader: int) -> Tensor:
        """What arrives over one edge, token by token."""
        name, out = graph.readers[reader].name, cur[writer]
        if spans is None or name == "logits":
            return out if mask[writer, whole.reader_index[name]] else abl[writer]
        out = out.clone()
        for row, own in enumerate(spans):
            for at, span in enumerate(own):
                if not mask[writer, whole.reader_index[f"{name}@{span}"]]:
                    out[row, at] = abl[writer][row, at]
        return out

    def read(reader: int) -> Tensor:
        info = graph.readers[reader]
        n = graph.writers_before(info.layer, info.part)
        x = torch.stack([edge(w, reader) for w in range(n)]).sum(0)
        own = info.part == "mlp" and not graph.parallel
        for layer in range(min(info.layer + own, graph.n_layers)):
            if model.blocks[layer].attn.b_O is not None:
                x = x + model.blocks[layer].attn.b_O
        return x

    cur.append(model.W_E[tokens] * model.embed_scale)
    if model.W_pos is not None:
        cur[0] = cur[0] + model.W_pos[: tokens.shape[1]]
    cur[0] = norm(model.ln_embed, cur[0])
    for layer, block in enumerate(model.blocks):
        early = [read(r) for h in range(graph.n_heads) for r in graph.head_readers(layer, h)]
        mlp_in = read(graph.reader(layer, "mlp")) if block.mlp and graph.parallel else None
        three = [tuple(early[3 * h : 3 * h + 3]) for h in range(graph.n_heads)]
        cur += layer_outputs(model, layer, three)
        if block.mlp is not None:
            x = read(graph.reader(layer, "mlp")) if mlp_in is None else mlp_in
            cur.append(mlp_output(model, layer, x))
    final = norm(model.ln_final, read(len(graph.readers) - 1))[:, -1] @ model.W_U
    final = final if model.b_U is None else final + model.b_U
    return cur, final if model.logit_cap is None else model.logit_cap * torch.tanh(
        final / model.logit_cap
    )


def metric_value(name: str, prompts: Prompts, clean: Tensor, logits: Tensor) -> float:
    total = 0.0
    for row in range(len(prompts)):
        p, q = clean[row].softmax(0), logits[row].softmax(0)
        right, wrong = list(prompts.answers[row]), list(prompts.wrong[row])
        if name == "kl":
            total += float((p * (p.log() - q.log())).sum())
        elif name == "logit_diff_error":
            gaps = [r[right].mean() - r[wrong].mean() for r in (logits[row], clean[row])]
            total += abs(float(gaps[0] - gaps[1]))
        elif name == "logit_diff":
            total += float(logits[row][right].mean() - logits[row][wrong].mean())
        elif name == "prob_diff":
            total += float(q[right].sum() - q[wrong].sum())
        elif name == "nll":
            total += -float(q[right].sum().log())
    return total / len(prompts)


@dataclass
class Twin:
    """One search, one edge at a time."""

    model: Model
    graph: Graph
    prompts: Prompts
    ablation: str
    metric: str
    spans: list[list[str]] | None = None  # of each prompt, the span of each token

    def __post_init__(self) -> None:
        graph = self.graph.plain
        _, self.clean = run(self.model, graph, self.prompts.clean, graph.legal, None)
        corrupt, _ = run(self.model, graph, self.prompts.corrupt, graph.legal, None)
        if self.ablation == "zero":
            corrupt = [torch.zeros_like(c) for c in corrupt]
        elif self.ablation == "mean":
            corrupt = [c.mean(0, keepdim=True).expand_as(c) for c in corrupt]
        self.abl = corrupt

    def value(self, mask: np.ndarray) -> float:
        _, logits = run(self.model, self.graph, self.prompts.clean, mask, self.abl, self.spans)
        return metric_value(self.metric, self.prompts, self.clean, logits)

    def search(
        self, threshold: float, reader_order: str, gates: bool, heads: str = "descending",
        scores: np.ndarray | None = None, shortlist: np.ndarray | None = None,
        start: np.ndarray | None = None, budget: tuple[float, float] | None = None,
    ):  # fmt: skip
        """(mask, kept gates, tests as (edge or reader name, effect, kept), final value).

        With `scores` the weakest sender comes first; what is off the `shortlist` is cut untested,
        and self.damage is what that cost. `start` is where it begins; with `budget` (total, power)
        a cut stays if the metric is then below total * (settled share) ** power, or not worse.
        """
        graph, sign = self.graph, -1 if self.metric in ("logit_diff", "prob_diff") else 1
        start = graph.legal if start is None else start
        mask, tests, kept_gates, self.damage = start.copy(), [], [], 0.0
        now = self.value(mask)

        def attempt(name: str, writers: list[int], reader: int, gate: bool) -> bool:
            nonlocal now
            trial = mask.copy()
            trial[writers, reader] = False
            new = self.value(trial)
            effect = sign * (new - now)
            kept = not effect < threshold
            if budget is not None:
                done = self.settled(start, reader, writers, reader_order, heads, gate)
                allowed = budget[0] * (done / start.sum()) ** budget[1]
                kept = not (new < allowed or effect <= 0)
            tests.append((name, effect, kept))
            if not kept:
                mask[:], now = trial, new
            return kept

        def skip(r: int) -> None:
            nonlocal now
            mask[~shortlist[:, r], r] = False
            new = self.value(mask)
            self.damage, now = self.damage + sign * (new - now), new

        def visit(reader: str, kind: str) -> None:
            r = graph.reader_index[reader]
            if not self.matters(mask, r):
                mask[:, r] = False
                return
            senders = [w for w in self.senders(heads) if mask[w, r]]
            if scores is not None:
                senders.sort(key=lambda w: abs(scores[w, r]))
            if kind == "skip":
                skip(r)
            elif kind == "gate":
                if senders and attempt(reader, senders, r, True):
                    kept_gates.append(reader)
            else:
                for w in senders:
                    attempt(graph.edge_name(w, r), [w], r, False)

        kinds = ["skip"] * (shortlist is not None) + ["gate"] * gates + ["edges"]
        for reader, kind in self.visits(reader_order, kinds):
            visit(reader, kind)
        return mask, kept_gates, tests, now

    def matters(self, mask, reader: int) -> bool:
        """Whether anything that is kept reads what this reader shapes, where it shapes it."""
        info = self.graph.readers[reader]
        if info.part == "logits":
            return True
        read = [r for n in info.shapes for r in np.flatnonzero(mask[n]).tolist()]
        if self.spans is None:
            return bool(read)
        at = [self.graph.readers[r].name.partition("@")[2] for r in read]
        wanted = {span or own[-1] for span in at for own in self.spans}
        mine = info.name.partition("@")[2]
        if info.part in ("q", "mlp"):
            return mine in wanted
        return any(mine in own[: t + 1] for own in self.spans for t in range(len(own))
                   if own[t] in wanted)  # fmt: skip

    def settled(self, start, reader, writers, reader_order, heads, gate) -> int:
        """Edges of the start that are decided once this cut is: earlier readers', earlier ones."""
        count = 0
        for name, _ in self.visits(reader_order, ["edges"]):
            r = self.graph.reader_index[name]
            for w in self.senders(heads):
                if start[w, r]:
                    count += 1
                    if r == reader and not gate and w == writers[0]:
                        return count
            if r == reader:
                return count
        raise AssertionError(reader)

    def senders(self, heads: str) -> list[int]:
        names = []
        for layer in reversed(range(self.graph.n_layers)):
            names += [f"m{layer}"] if self.graph.has_mlp else []
            order = range(self.graph.n_heads)
            order = order if heads == "ascending" else reversed(order)
            names += [f"a{layer}.h{h}" for h in order]
        return [self.graph.writer_index[n] for n in [*names, "input"]]

    def visits(self, reader_order: str, kinds: list[str]) -> list[tuple[str, str]]:
        def at(name: str) -> list[str]:
            spans = reversed(self.graph.spans.names)
            return [name] if self.spans is None else [f"{name}@{span}" for span in spans]

        plain = [k for k in kinds if k != "gate"]
        out = [("logits", kind) for kind in plain]
        heads = range(self.graph.n_heads - 1, -1, -1)
        shared = self.graph.kv == "per_group"
        size = self.graph.n_heads // self.graph.n_kv_heads if shared else 1
        for layer in reversed(range(self.graph.n_layers)):
            if self.graph.has_mlp:
                out += [(n, kind) for kind in plain for n in at(f"m{layer}")]
            kv = f"a{layer}.kv" if shared else f"a{layer}.h"
            groups = range(self.graph.n_heads // size - 1, -1, -1)
            if reader_order == "layer":
                names = [f"{kv}{g}<v>" for g in groups] + [f"{kv}{g}<k>" for g in groups]
                batches = [names + [f"a{layer}.h{h}<q>" for h in heads]]
            else:
                batches = []
                for h in heads:
                    first = (h + 1) % size == 0
                    own = [f"{kv}{h // size}<v>", f"{kv}{h // size}<k>"] if first else []
                    batches.append([*own, f"a{layer}.h{h}<q>"])
            for names in batches:
                out += [(n, kind) for kind in kinds for name in names for n in at(name)]
        return out
