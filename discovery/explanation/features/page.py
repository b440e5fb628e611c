"""What is told of a node's features: sentences, two tables, a picture. See features.py."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from discovery.explanation.features.effects import MOST, Kept, Measured
from discovery.explanation.features.sae import SAE
from discovery.explanation.features.sites import Site
from discovery.explanation.figures import Share, ranged
from discovery.explanation.section import Picture, Section, Table, drawn
from discovery.explanation.subject import Subject
from discovery.heads.roles import attributed_logits
from discovery.settings.explanation import Features
from discovery.show.drawing import COLOURS, GREY
from discovery.statistics.intervals import Interval, mean_interval

EXAMPLES = 3  # tokens that a feature is shown by, and that it writes for
SHOWN_PROMPTS = 8  # that say what it writes for


def section(
    subject: Subject, asked: Features, site: Site, sae: SAE, m: Measured, rows: int
) -> Section:
    """The page's part; `rows` outputs trained the SAE, 0 if it was given."""
    effect = mean_interval(m.whole, subject.rng("features whole"), level=1 - subject.level)
    tables = [_feature_table(subject, site, sae, m), _kept_table(m)]
    return Section(
        title=f"Features of {site.name}",
        how=_how(subject, asked, site, sae, m, rows),
        says=_says(subject, asked, site, m, effect),
        tables=[table for table in tables if table.rows],
        pictures=[_picture(m, site)] if m.kept else [],
        found={
            "site": site.name, "hook": site.hook, "head": site.head, "at": asked.at,
            "sae": asked.sae, "kind": sae.kind, "trained_on": rows, "n_features": sae.n_features,
            "never_active": int((m.found.density == 0).sum()), "l0": m.l0,
            "variance_explained": m.variance, "effect": asdict(effect),
            "lost_by_error": asdict(m.by_error), "lost_by_features": asdict(m.by_features),
            "lost_without_error": asdict(m.off), "attribution_of_error": m.found.error_other,
            "features": m.strongest, "agreement": m.agreement, "kept": [asdict(k) for k in m.kept],
            "enough": dict(m.enough),
        },
    )  # fmt: skip


def _how(subject: Subject, asked: Features, site: Site, sae: SAE, m: Measured, rows: int) -> str:
    where = {"all": "", "answer": " at the answer"}.get(asked.at, f" at {asked.at}")
    dead = int((m.found.density == 0).sum())
    made = (
        f"trained here on {rows} outputs for {asked.steps} steps, so small and of these texts alone"
        if rows
        else f"read from {asked.sae}"
    )
    return (
        f"The output of {site.name}{where} is split by a sparse autoencoder ({sae.kind},"
        f" {sae.n_features} features, {dead} of them never active here, {m.l0:.1f} active at a"
        f" time; {made}): output = features + bias + error, exactly. Attribution is activation x"
        " gradient of the score through the rest of the model (Marks et al. 2024), against the"
        f" value on another prompt, of {subject.choose.n} choosing prompts; losses are runs of the"
        f" whole model on {subject.test.n} test prompts. Both in {subject.test.unit}, positive ="
        " the score falls without it."
    )


# ---- sentences ---------------------------------------------------------------------------------


def _says(
    subject: Subject, asked: Features, site: Site, m: Measured, effect: Interval
) -> list[str]:
    """What the SAE does not explain comes first."""
    outside = site.node is not None and site.node not in subject.nodes
    first = (
        f"Not explained: {1 - m.variance:.0%} of the variance of {site.name}'s output is in the"
        f" error. With the whole output from another prompt the model loses"
        f" {ranged(effect)} {subject.test.unit}; of that {_share(m.by_error)} with the error alone"
        f" from there, {_share(m.by_features)} with all features from there and the error kept"
        " (they need not add up)."
    )
    says = [first, f"{site.name} is not in the circuit."] if outside else [first]
    if not m.kept:
        return [*says, f"No feature of {site.name} differs between prompts."]
    own = _enough(m, "own")
    return [*says, _same_for_all(m), _own(own), *_alone(subject, m)]


def _enough(m: Measured, which: str) -> Kept:
    """What as many features keep here as were enough on the choosing prompts."""
    return next(k for k in m.kept if k.k == m.enough[which])


def _same_for_all(m: Measured) -> str:
    one = _enough(m, "top")
    return (
        f"The {one.k} strongest of {len(m.order)} features, the same on all prompts and so many as"
        f" keep {MOST:.0%} on the choosing ones (or the most tried), keep"
        f" {_share(one.top)} of the node's effect when all else of it is another prompt's;"
        f" {one.k} random ones {_mean(one.random)}."
    )


def _own(one: Kept) -> str:
    return (
        f"Each prompt's own {one.k} strongest keep {_share(one.own)} (picked and measured on the"
        f" same prompt, so the share flatters); {one.k} random ones of those that differ there"
        f" {_mean(one.own_random)}."
    )


def _alone(subject: Subject, m: Measured) -> list[str]:
    sure = [r for r in m.strongest if r["adjusted_p"] < subject.level]
    agree = "" if m.agreement is None else (
        f" Attributions and exact losses correlate with {m.agreement:.2f}."
    )  # fmt: skip
    if not sure:
        none = f"None of the {len(m.strongest)} strongest changes the score alone beyond doubt."
        return [none + agree]
    largest = max(sure, key=lambda r: abs(r["lost to another"]["estimate"]))
    return [
        f"{len(sure)} of the {len(m.strongest)} strongest change the score alone (false discoveries"
        f" {subject.level:.0%}); feature {largest['feature']} most:"
        f" {ranged(Interval(**largest['lost to another']))} {subject.test.unit},"
        f" {largest['share at']:.0%} of its attribution at {largest['at']}.{agree}"
    ]


def _mean(shares: tuple[float, ...]) -> str:
    return f"{np.mean(shares):.0%}" if shares else "were not drawn"


def _share(interval: Interval) -> str:
    if interval.estimate is None:
        return "a share that cannot be told (the node's effect may be 0)"
    return ranged(Share(interval))


# ---- tables ------------------------------------------------------------------------------------


def _feature_table(subject: Subject, site: Site, sae: SAE, m: Measured) -> Table:
    rows = [
        {
            "feature": r["feature"],
            "attribution": f"{r['attribution']:+.3f}",
            "lost, from another prompt": ranged(Interval(**r["lost to another"])),
            "lost, at zero": ranged(Interval(**r["lost to zero"])),
            "p": f"{r['adjusted_p']:.2g}",
            "active": f"{r['density']:.0%}",
            "mostly at": f"{r['at']} {r['share at']:.0%}",
            "active on": ", ".join(_active_on(subject, site, sae, r["feature"])),
            "writes for": ", ".join(_writes_for(subject, site, sae, r["feature"])),
        }
        for r in m.strongest
    ]
    if rows:
        error = dict.fromkeys(rows[0], "") | {
            "feature": "error", "attribution": f"{m.found.error_other:+.3f}",
            "lost, at zero": ranged(m.off),
        }  # fmt: skip
        rows = [error, *rows]
    caption = (
        f"the error, and features by attribution; {subject.test.unit}. p: of the loss from another"
        " prompt (t-test), corrected over the rows (Benjamini and Hochberg). Active: share of"
        " prompts and positions. Mostly at: where most of the attribution is, and its share."
        " Writes for: tokens whose logits its direction raises directly"
    )
    return Table(caption, rows)


def _active_on(subject: Subject, site: Site, sae: SAE, feature: int) -> list[str]:
    """Tokens at which it is most active on the choosing prompts, each once."""
    values, tokens = list[Tensor](), list[Tensor]()
    for forward in subject.choose.data:
        values.append(sae.encode(site.read(forward.clean.writers))[..., feature].flatten())
        tokens.append(forward.prompts.clean.flatten())
    value, token = torch.cat(values), torch.cat(tokens)
    order = value.argsort(descending=True, stable=True)
    ids = dict.fromkeys(token[order[value[order] > 0]].tolist())
    return [subject.token(t) for t in list(ids)[:EXAMPLES]]


def _writes_for(subject: Subject, site: Site, sae: SAE, feature: int) -> list[str]:
    final = subject.choose.data[0].clean.streams[-1][:SHOWN_PROMPTS, -1]
    direction = site.into_stream(sae.W_dec[feature]).expand_as(final)
    logits = attributed_logits(subject.model, direction, final).mean(0)
    return [subject.token(t) for t in logits.topk(min(EXAMPLES, len(logits))).indices.tolist()]


def _kept_table(m: Measured) -> Table:
    rows = [
        {
            "k": k.k,
            "the strongest": _share(k.top),
            "random": ", ".join(f"{share:.0%}" for share in k.random),
            "each prompt's strongest": _share(k.own),
            "random of each prompt": ", ".join(f"{share:.0%}" for share in k.own_random),
        }
        for k in m.kept
    ]
    caption = (
        "what of the node's effect stays when all of it but k features is another prompt's; 100 % ="
        " the model, 0 % = the whole node from another prompt; of random features one figure a draw"
    )
    return Table(caption, rows)


# ---- picture -----------------------------------------------------------------------------------


def _picture(m: Measured, site: Site) -> Picture:
    figure = Figure(figsize=(8.6, 3.7), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _curve(left, m, [k.top for k in m.kept], [k.random for k in m.kept], "the same for all prompts")
    _curve(right, m, [k.own for k in m.kept], [k.own_random for k in m.kept], "each prompt's own")
    left.set_ylabel(f"share of {site.name}'s effect kept", color=GREY)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return drawn(figure, "how much of the node's effect k of its features carry")


def _curve(
    axes: Axes, m: Measured, top: list[Interval], random: list[tuple[float, ...]], title: str
) -> None:
    for level in (0.0, 1.0):
        axes.axhline(level, color="#cccccc", linewidth=0.8)
    if m.by_error.estimate is not None:
        axes.axhline(1 - m.by_error.estimate, color=COLOURS["value"], linestyle="--",
                     label="all features, not the error")  # fmt: skip
    told = [(i, t.estimate, t.low, t.high) for i, t in enumerate(top) if t.estimate is not None]
    if told:
        x, y, low, high = np.array(told, dtype=float).T
        axes.errorbar(x, y, [y - low, high - y], fmt="o-", color=COLOURS["query"], capsize=3,
                      label="strongest k")  # fmt: skip
    for i, shares in enumerate(random):
        axes.plot([i] * len(shares), shares, "o", color=COLOURS["key"], alpha=0.7, ms=4,
                  label="k at random" if i == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(m.kept)), [str(k.k) for k in m.kept])
    axes.set_xlabel("features kept", color=GREY)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
