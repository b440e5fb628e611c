"""What the circuit's nodes write: on the answer directly, in tokens, and from which prompt tokens.

Direct logit attribution over all prompts, the logit lens, heads and value vectors read as tokens
(Geva et al. 2022; LM-Debugger, Geva et al. 2022b), and the prompt's tokens patched one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from acdc.prompts import PAD, Prompts
from discovery.explanation.direct import (
    Direct,
    direct_effects,
    neuron_effects,
    neurons_written,
    on_top,
    strongest_neurons,
    written,
)
from discovery.explanation.figures import (
    Share,
    as_data,
    beyond_zero,
    listed,
    ranged,
    shown,
)
from discovery.explanation.pictures import bars, lens_curve, value
from discovery.explanation.section import Picture, Row, Section, Table
from discovery.explanation.subject import Subject
from discovery.explanation.writes.lens import Lens, logit_lens
from discovery.explanation.writes.positions import (
    UNMARKED,
    PositionEffects,
    all_places,
    by_mark,
    position_effects,
    strongest_places,
)
from discovery.settings.explanation import Writes
from discovery.statistics.intervals import (
    Interval,
    binomial_interval,
    mean_interval,
    ratio_of_means,
)
from discovery.statistics.result import Floats
from discovery.validation.bench import Bench

MOST_BARS = 40  # of the picture: the largest
MOST_TOLD = 3  # nodes or tokens in a sentence
MOVES = 0.5  # share of prompts from which a head is said to write the answer
OUTSIDE = "outside the circuit"

HOW = (
    "Direct effects: what a node adds to the logits of the answer, right less wrong, in the model's"
    " own run, the final norm's scale frozen (Elhage et al. 2021); input, heads, MLPs and biases"
    " sum exactly to the model's. Such a write is no proof of a cause, and a node may matter"
    " through others alone. Lens: the stream after each layer read by the final norm and the"
    " unembedding (nostalgebraist 2020). Tokens: picked on one half of the prompts, their logits"
    " (less the vocabulary's mean) measured on the other. Input tokens: in the circuit's run the"
    " embedding at one position carries what cut edges carry; the share is of the fall when all"
    " positions do. Shares need not add up to 100%: tokens act together. Positive = towards the"
    " right answer; intervals over prompts."
)


def check(subject: Subject, asked: Writes) -> str | None:
    """A circuit without nodes writes nothing."""
    return None if subject.nodes else "the circuit has no nodes but the input"


def explain(subject: Subject, asked: Writes, told: Mapping[str, Section]) -> Section:
    """Direct effects, lens, tokens of heads and value vectors, and the input's tokens."""
    rng = subject.rng("writes")
    said_direct, direct = _direct(subject, rng)
    said_lens, lens = _lens(subject, rng)
    said_tokens, tokens = _tokens(subject, asked)
    said_positions, positions = _positions(subject, asked, rng)
    half = "mean logits on the test half"
    tables = {
        "direct": ("direct effect on the answer, right less wrong, by node", direct),
        "lens": ("what the stream says after each layer, at the answer", lens),
        "tokens": (
            f"tokens that heads write for and against, {half}; in how many prompts"
            " the very prompt's answers are among those it writes for most",
            tokens,
        ),
        "vectors": (
            f"value vectors of MLPs that move the answer most, {half}",
            _vectors(subject, asked, rng),
        ),
        "positions": (
            f"what of the circuit's score is lost with a token patched, {subject.test.unit}",
            positions,
        ),
    }
    return Section(
        title="What it writes",
        how=HOW,
        says=[*said_direct, *said_lens, *said_tokens, *said_positions],
        tables=[Table(caption, shown(rows)) for caption, rows in tables.values()],
        pictures=[_bars(direct), _lens_picture(lens)],
        found={name: as_data(rows) for name, (_, rows) in tables.items()},
    )


# ---- direct effects ------------------------------------------------------------------------------


def _direct(subject: Subject, rng: np.random.Generator) -> tuple[list[str], list[Row]]:
    """Sentences, and a row for each node, the nodes outside together, and the biases."""
    direct, nodes, level = direct_effects(subject.test.data), subject.nodes, 1 - subject.level
    names, values = _summands(direct, nodes, subject.graph.writers)
    _, picks = _summands(direct_effects(subject.choose.data), nodes, subject.graph.writers)
    sure = beyond_zero(values, subject.level).tolist()
    means = [mean_interval(own, rng, level=level) for own in values]
    rows: list[Row] = [
        {
            "node": name,
            "logits": mean,
            "share": Share(ratio_of_means(own, direct.total, rng, level=level)),
            "beyond 0": "yes" if beyond else "no",
        }
        for name, own, mean, beyond in zip(names, values, means, sure, strict=True)
    ]
    whole = mean_interval(direct.total, rng, level=level)
    says = [
        f"Nodes outside the circuit write {ranged(means[-2])} of the answer's"
        f" {ranged(whole, 'logits')} in the model's own run; biases {ranged(means[-1])}."
    ]
    own = range(1, len(names) - 2)
    if silent := [names[i] for i in own if not sure[i]]:
        says.append(
            f"{len(silent)} of the circuit's {len(nodes)} nodes write nothing on the answer that"
            f" can be told from 0: {listed(silent)}; they work through others or not at all."
        )
    for word, sign in (("for", 1), ("against", -1)):
        order = sorted(own, key=lambda i: -sign * picks[i].mean())[:MOST_TOLD]
        some = [i for i in order if sure[i] and sign * values[i].mean() > 0]
        if some:
            each = "; ".join(f"{names[i]} {ranged(means[i])}" for i in some)
            says.append(
                f"Most {word} the right answer, directly (picked on the other half): {each} logits."
            )
    return says, rows


def _summands(
    direct: Direct, nodes: Sequence[int], writers: Sequence[str]
) -> tuple[list[str], Floats]:
    """Names and [rows, prompts]: input, the circuit's nodes, all others, biases; the sum is all."""
    own = [0, *nodes]
    others = [w for w in range(len(writers)) if w not in own]
    rest = direct.writers[others].sum(0)
    values = np.concatenate([direct.writers[own], rest[None], direct.biases[None]])
    return [*(writers[w] for w in own), OUTSIDE, "biases"], values


# ---- the lens ------------------------------------------------------------------------------------


def _lens(subject: Subject, rng: np.random.Generator) -> tuple[list[str], list[Row]]:
    """Sentences and a row a layer."""
    lens, level = logit_lens(subject.test.data), 1 - subject.level
    means = [mean_interval(values, rng, level=level) for values in lens.difference]
    rows: list[Row] = [
        {
            "after": "embedding" if at == 0 else f"layer {at - 1}",
            "logits": mean,
            "median rank": float(np.median(lens.rank[at])),
            "first choice": f"{(lens.rank[at] == 1).mean():.0%}",
            "probability": float(lens.probability[at].mean()),
        }
        for at, mean in enumerate(means)
    ]
    last = len(rows) - 1
    behind = [at for at, mean in enumerate(means) if mean.low is None or mean.low <= 0]
    since = behind[-1] + 1 if behind else 0
    if since > last:
        says = ["Read by the lens, the right answer is not ahead beyond doubt even at the end."]
    else:
        first = "the embedding" if since == 0 else str(rows[since]["after"])
        says = [
            f"Read by the lens, the right answer is ahead from {first} on, there"
            f" by {ranged(means[since], 'logits')}; after the last layer it is the first choice in"
            f" {rows[last]['first choice']} of prompts."
        ]
    return [*says, _rise(logit_lens(subject.choose.data), lens, rng, level)], rows


def _rise(chosen: Lens, lens: Lens, rng: np.random.Generator, level: float) -> str:
    """The layer of the largest rise, picked on one half and measured on the other."""
    layer = int(np.diff(chosen.difference.mean(1)).argmax())
    rise = lens.difference[layer + 1] - lens.difference[layer]
    found = mean_interval(rise, rng, level=level)
    return f"Its lead rises most in layer {layer}: by {ranged(found, 'logits')} (lens)."


# ---- tokens --------------------------------------------------------------------------------------


def _tokens(subject: Subject, asked: Writes) -> tuple[list[str], list[Row]]:
    """A sentence on who writes the answer, and a row a head: tokens it writes for and against."""
    heads = [subject.graph.head(layer, head) for layer, head in subject.head_nodes]
    if not heads:
        return [], []
    data, names, most = subject.test.data, subject.graph.writers, asked.tokens
    chosen, tested = (written(b.data, heads) for b in (subject.choose, subject.test))
    right = [_often(on_top(data, w, most), subject.level) for w in heads]
    wrong = [_often(on_top(data, w, most, right=False), subject.level) for w in heads]
    rows: list[Row] = [
        {
            "head": names[w],
            f"right in top {most}": right[i],
            f"wrong in top {most}": wrong[i],
            **_both(subject, chosen[i], tested[i], most),
        }
        for i, w in enumerate(heads)
    ]
    movers = [i for i, share in enumerate(right) if value(share.of) > MOVES]
    if not movers:
        return [f"No head writes the right answer among its top {most} in most prompts."], rows
    each = listed([f"{names[heads[i]]} {ranged(right[i])}" for i in movers])
    return [f"The right answer is among the {most} tokens written for most by {each}."], rows


def _often(found: Floats, level: float) -> Share:
    return Share(binomial_interval(int(found.sum()), len(found), 1 - level))


def _vectors(subject: Subject, asked: Writes, rng: np.random.Generator) -> list[Row]:
    """A row a value vector: of the strongest MLPs, those that move the answer most on `choose`."""
    rows = list[Row]()
    for layer in subject.strongest_mlps(asked.mlps):
        neurons = strongest_neurons(subject.choose.data, layer, asked.vectors)
        effects = neuron_effects(subject.test.data, layer)[:, neurons]
        chosen, tested = (
            neurons_written(b.data, layer, neurons) for b in (subject.choose, subject.test)
        )
        for own, neuron, c, t in zip(effects.T, neurons, chosen, tested, strict=True):
            mean = mean_interval(own, rng, level=1 - subject.level)
            tokens = _both(subject, c, t, asked.tokens)
            rows.append({"vector": f"m{layer}.n{neuron}", "on the answer": mean, **tokens})
    return rows


def _both(subject: Subject, chosen: Tensor, tested: Tensor, most: int) -> dict[str, str]:
    """Tokens picked by one half, their logits by the other."""

    def top(sign: int) -> str:
        ids = (sign * chosen).topk(min(most, len(chosen))).indices.tolist()
        return ", ".join(f"{subject.token(t)} {tested[t].item():+.2f}" for t in ids)

    return {"for": top(1), "against": top(-1)}


# ---- the input's tokens --------------------------------------------------------------------------


def _positions(
    subject: Subject, asked: Writes, rng: np.random.Generator
) -> tuple[list[str], list[Row]]:
    """Sentences, and a row for each marked name, or for each position where there are none."""
    test, level, prompts = subject.test, 1 - subject.level, subject.test.data.prompts
    found, effects = _patched(subject, test, asked)
    _, picks = _patched(subject, subject.choose, asked)
    whole = mean_interval(found.whole, rng, level=level)
    lost = {name: mean_interval(values, rng, level=level) for name, values in effects.items()}
    says = [f"With every token patched the circuit loses {ranged(whole, test.unit)}"]
    shares = dict[str, Interval]()
    if whole.low is not None and whole.low > 0:
        shares = {n: ratio_of_means(e, found.whole, rng, level=level) for n, e in effects.items()}
        alone = ratio_of_means(found.alone(), found.whole, rng, level=level)
        says[0] += (
            f"; patched one by one, {_how_many(found, test.data.n_pos)} explain"
            f" {ranged(Share(alone))} of it (above 100%: tokens that are needed together count more"
            " than once)."
        )
        if UNMARKED in shares:
            says.append(f"Unmarked tokens bring {ranged(Share(shares[UNMARKED]))} of it.")
    else:
        says[0] += ": that cannot be shared out over tokens."
    for word, sign in (("loses", 1), ("gains", -1)):
        named = [n for n in picks if n != UNMARKED]
        most = sorted(named, key=lambda n: -sign * picks[n].mean())[:MOST_TOLD]
        sure = [n for n in most if _side(lost[n]) == sign]
        if sure:
            each = "; ".join(f"{n} {ranged(lost[n])}" for n in sure)
            says.append(
                f"The circuit {word} most with these patched (picked on the other half),"
                f" {test.unit} lost: {each}."
            )
    rows: list[Row] = [
        {
            "token": f"{n} {_example(subject, prompts, int(n))}" if n.lstrip("-").isdigit() else n,
            "lost": lost[n],
            **({"share": Share(shares[n])} if shares else {}),
        }
        for n in effects
    ]
    return says, rows


def _example(subject: Subject, prompts: Prompts, column: int) -> str:
    """The token there of the first prompt that has one."""
    ids = prompts.clean[:, column]
    return subject.token(int(ids[ids != PAD][0]))


def _side(found: Interval) -> int:
    """The sign of a mean that is beyond doubt, else 0."""
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return 0
    return 1 if found.low > 0 else -1


def _how_many(found: PositionEffects, n_pos: int) -> str:
    """Which tokens were patched one by one, in words."""
    numbers = [name for name in found.places if name.isdigit()]
    if len(numbers) == n_pos:
        return "tokens"
    marked = "the marked ones and " if len(found.places) > len(numbers) else ""
    return f"{marked}{len(numbers)} of the {n_pos} positions (those that move a few prompts most)"


def _patched(
    subject: Subject, bench: Bench, asked: Writes
) -> tuple[PositionEffects, dict[str, Floats]]:
    """Effects [prompts] by name: of all positions, of long prompts the marked and the strongest."""
    mask, prompts, n_pos = subject.circuit.mask, bench.data.prompts, bench.data.n_pos
    places = all_places(prompts)
    if n_pos > asked.positions:
        strong = strongest_places(subject.choose, mask, asked.positions)
        numbered = list(places.items())
        places = {**prompts.marks, **dict(numbered[p] for p in strong)}
    found = position_effects(bench, mask, places)
    if prompts.marks and n_pos <= asked.positions:
        return found, by_mark(found.effects, prompts)
    return found, dict(zip(found.places, found.effects, strict=True))


# ---- pictures ------------------------------------------------------------------------------------


def _bars(rows: Sequence[Row]) -> Picture:
    """Bars in the order of the model; of many nodes the largest."""
    size = [abs(value(row["logits"])) for row in rows]
    some = sorted(sorted(range(len(rows)), key=lambda i: -size[i])[:MOST_BARS])
    few = "" if len(some) == len(rows) else f"; the {MOST_BARS} largest of {len(rows)}"
    means = {str(rows[i]["node"]): rows[i]["logits"] for i in some}
    return bars(means, f"direct effect of each node, mean and interval over prompts{few}")


def _lens_picture(rows: Sequence[Row]) -> Picture:
    probability = [float(str(row["probability"])) for row in rows]
    return lens_curve([row["logits"] for row in rows], probability)
