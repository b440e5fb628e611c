"""The neurons of the circuit's MLPs, and where its heads look when they look nowhere or copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from acdc.data import Data, floats
from acdc.prompts import Prompts
from discovery.explanation.direct import (
    mlp_input,
    mlp_of,
    neuron_effects,
    strongest_neurons,
)
from discovery.explanation.figures import (
    Share,
    as_data,
    beyond_zero,
    listed,
    ranged,
    shown,
)
from discovery.explanation.neurons.tuning import Explained, explained, labels
from discovery.explanation.pictures import bars
from discovery.explanation.section import Row, Section, Table
from discovery.explanation.subject import Subject
from discovery.heads.attention import head_pattern
from discovery.heads.roles import places_of
from discovery.settings.explanation import Neurons
from discovery.statistics.intervals import binomial_interval, mean_interval
from discovery.statistics.result import Floats

HALF = 0.5  # share of variance, or of attention, from which a neuron or head is called by it

HOW = (
    "Neurons: of the circuit's MLPs with the strongest edges, in the model's own run. Direct"
    " effect: activation x row of W_out x the answer's direction through the final norm (its scale"
    " frozen), logits, right less wrong; neurons are picked on one half of the prompts and measured"
    " on the other. Dead: the gate never opens, at no position of any prompt of both halves. Tuning"
    " (after Voita et al. 2023): variance of the activation over prompts and positions, the first"
    " left out, that is explained by the token, by it and the one before, and by the position,"
    " beyond what permuted labels explain (0 = chance, 1 = all); in a task of few templates the"
    " three go together. Heads: share of attention on the first token (sink: Xiao et al. 2023),"
    " mean over queries; retrieval (after Wu et al. 2024): in how many prompts the token most"
    " attended to from the answer position is the right answer's. Attention is no effect."
)


def check(subject: Subject, asked: Neurons) -> str | None:
    """There must be an MLP or a head."""
    if subject.strongest_mlps(1) or subject.head_nodes:
        return None
    return "the circuit has neither heads nor MLPs of neurons"


def explain(subject: Subject, asked: Neurons, told: Mapping[str, Section]) -> Section:
    """MLP by MLP, then the heads."""
    rng = subject.rng("neurons")
    said, mlps, top = _mlps(subject, asked, rng)
    said_heads, heads = _heads(subject, rng)
    tables = {
        "mlps": ("neurons of each MLP", mlps),
        "neurons": ("neurons that move the answer most, logits; variance explained beyond chance",
                    top),
        "heads": ("attention of the circuit's heads", heads),
    }  # fmt: skip
    return Section(
        title="Its neurons",
        how=HOW,
        says=[*said, *said_heads],
        tables=[Table(caption, shown(rows)) for caption, rows in tables.values() if rows],
        pictures=[
            bars(
                {str(row["neuron"]): row["on the answer"] for row in top},
                "the strongest neurons of each MLP: mean over prompts and its interval",
            )
        ]
        if top
        else [],
        found={name: as_data(rows) for name, (_, rows) in tables.items()},
    )


# ---- neurons -------------------------------------------------------------------------------------


def activations(data: Data, layer: int) -> list[Float[np.ndarray, "prompts pos d_mlp"]]:
    """Of every neuron of a layer's MLP in the clean run, part by part."""
    return data.each(lambda f: floats(mlp_of(f, layer).hidden(mlp_input(f, layer))))


def opened(data: Data, layer: int) -> np.ndarray:
    """[d_mlp]: whose gate opens (is above 0) at any position of any prompt; see MLP.gates."""
    found = data.each(
        lambda f: (mlp_of(f, layer).gates(mlp_input(f, layer)) > 0).flatten(0, 1).any(0)
    )
    return torch.stack(found).any(0).cpu().numpy()


def tuning(
    data: Data, layer: int, rng: np.random.Generator, permutations: int
) -> dict[str, Explained]:
    """What each neuron's activation goes by, over all prompts and positions but the first.

    Of prompts of one token nothing can be said: empty.
    """
    tokens = data.each(lambda f: f.prompts.clean.cpu().numpy())
    if data.n_pos < 2:
        return {}
    width = _width(data, layer)
    values = np.concatenate([own[:, 1:].reshape(-1, width) for own in activations(data, layer)])
    return {kind: explained(values, own, rng, permutations) for kind, own in labels(tokens).items()}


def _width(data: Data, layer: int) -> int:
    return mlp_of(data[0], layer).d_mlp


def _mlps(
    subject: Subject, asked: Neurons, rng: np.random.Generator
) -> tuple[list[str], Sequence[Row], Sequence[Row]]:
    """Sentences, a row an MLP, and a row a neuron of those that move the answer most."""
    layers = subject.strongest_mlps(asked.mlps)
    if not layers:
        return ["The circuit has no MLPs of neurons."], [], []
    rows, says, moved = list[Row](), list[str](), list[Floats]()
    top = list[dict[str, object]]()
    for layer in tqdm(layers, unit="MLP", leave=False, dynamic_ncols=True, disable=len(layers) < 2):
        tuned = tuning(subject.test.data, layer, rng, asked.permutations)
        effects = neuron_effects(subject.test.data, layer)
        alive = opened(subject.test.data, layer) | opened(subject.choose.data, layer)
        picked = strongest_neurons(subject.choose.data, layer, asked.top)
        few = mean_interval(effects[:, picked].sum(1), rng, level=1 - subject.level)
        whole = mean_interval(effects.sum(1), rng, level=1 - subject.level)
        rows.append({
            "MLP": f"m{layer}", "neurons": len(alive), "dead": int((~alive).sum()),
            **{f"by {k}": int(one.goes_by(HALF).sum()) for k, one in tuned.items()},
            "all neurons, logits": whole, f"the {len(picked)} strongest": few,
        })  # fmt: skip
        says.append(
            f"m{layer}: all neurons together move the answer by {ranged(whole, 'logits')} directly,"
            f" the {len(picked)} strongest by {ranged(few)}; {int((~alive).sum())} of {len(alive)}"
            " never open on the task."
        )
        top += _neurons(layer, picked, effects[:, picked], tuned, subject, rng)
        moved += list(effects[:, picked].T)
    for row, sure in zip(top, beyond_zero(np.array(moved), subject.level).tolist(), strict=True):
        row["beyond 0"] = "yes" if sure else "no"
    return [*_tuned(top), *says], rows, top


def _neurons(
    layer: int, picked: Sequence[int], effects: Floats, tuned: Mapping[str, Explained],
    subject: Subject, rng: np.random.Generator,
) -> list[dict[str, object]]:  # fmt: skip
    return [
        {
            "neuron": f"m{layer}.n{neuron}",
            "on the answer": mean_interval(own, rng, level=1 - subject.level),
            "beyond 0": "",  # told once all are there
            **{kind: _said(one.beyond[neuron]) for kind, one in tuned.items()},
            "goes by": ", ".join(k for k, one in tuned.items() if one.goes_by(HALF)[neuron]),
        }
        for neuron, own in zip(picked, effects.T, strict=True)
    ]


def _said(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.0%}"


def _tuned(top: Sequence[Row]) -> list[str]:
    """How many of the strongest go by nothing that was tried, and how many by each label."""
    by = [str(row["goes by"]).split(", ") for row in top]
    kinds = [k for k in ("token", "token pair", "position") if any(k in own for own in by)]
    each = "".join(f"; {sum(k in own for own in by)} by the {k}" for k in kinds)
    nothing = sum(own == [""] for own in by)
    return [
        f"{nothing} of the {len(top)} neurons that move the answer most go by none of token, token"
        f" pair and position (more than half of their variance beyond chance){each}."
    ]


# ---- heads ---------------------------------------------------------------------------------------


def sink(pattern: Float[Tensor, "batch query pos"]) -> Float[Tensor, " batch"]:
    """Share of attention on the first token, mean over all queries after it; 1 if there is one."""
    return pattern[:, 1:, 0].mean(-1) if pattern.shape[1] > 1 else pattern[:, 0, 0]


def attended(
    prompts: Prompts, pattern: Float[Tensor, "batch query pos"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]] | None:
    """From the answer position: attention on right answers, whether the token most attended to is
    one, and what share of positions they are (uniform attention); None unless all prompts hold one.
    """
    there = places_of(prompts.clean, prompts.answers)
    if not there.any(-1).all():
        return None
    last = pattern[:, -1]
    hit = there.gather(1, last.argmax(-1, keepdim=True))[:, 0]
    return (last * there).sum(-1), hit.to(last), there.to(last).mean(-1)


def _heads(subject: Subject, rng: np.random.Generator) -> tuple[list[str], list[Row]]:
    """Sentences, and a row a head."""
    rows, level, data = list[Row](), 1 - subject.level, subject.test.data
    sinks, retrieving = list[str](), list[str]()
    for layer, head in subject.head_nodes:
        name = f"a{layer}.h{head}"
        patterns = [(f.prompts, head_pattern(f, layer, head)) for f in data]
        on_first = np.concatenate([floats(sink(p)) for _, p in patterns])
        row: dict[str, object] = {
            "head": name,
            "sink": mean_interval(on_first, rng, level=level),
            "sink at the answer": float(
                np.concatenate([floats(p[:, -1, 0]) for _, p in patterns]).mean()
            ),
        }
        if on_first.mean() > HALF:
            sinks.append(f"{name} {on_first.mean():.0%}")
        found = [attended(prompts, p) for prompts, p in patterns]
        if all(one is not None for one in found):
            mass, hit, uniform = (
                np.concatenate([floats(one[i]) for one in found if one is not None])
                for i in range(3)
            )
            row |= {"retrieval": Share(binomial_interval(int(hit.sum()), len(hit), level)),
                    "on the answer": mean_interval(mass, rng, level=level),
                    "uniform": float(uniform.mean())}  # fmt: skip
            if hit.mean() > HALF:
                retrieving.append(f"{name} {hit.mean():.0%}")
        rows.append(row)
    says = list[str]()
    if rows and "retrieval" not in rows[0]:
        says.append("Prompts do not hold their right answers: no head can retrieve them.")
    elif rows:
        who = listed(retrieving) if retrieving else "no head"
        says.append(f"From the answer, {who} attend most to the right answer in most prompts.")
    if sinks:
        says.append(f"Attention sinks, more than half on the first token: {listed(sinks)}.")
    return says, rows
