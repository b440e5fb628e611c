"""What of a node does the work: its output split by a sparse autoencoder into features and error.

What the SAE leaves in its error is measured like a feature and told first. The features with the
largest attributions are taken out one by one in the run itself; and, as a causal variable (Chan et
al. 2022), everything of the node comes from another prompt but its top k features. Features are
ranked on the choosing prompts and measured on the test prompts. See split.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import ttest_1samp
from torch import Tensor
from tqdm.auto import tqdm

from acdc.errors import InputError
from acdc.forward import trace
from acdc.model import Model
from discovery.explanation.features.effects import (
    Attributions,
    Measured,
    attribute,
    enough,
    keep_features,
    lost,
    node_effects,
)
from discovery.explanation.features.page import section
from discovery.explanation.features.sae import SAE, read_sae, train_sae, variance_explained
from discovery.explanation.features.sites import Site, sampled_text, site_at, site_of_node
from discovery.explanation.features.split import Split, joined, places_of, splits
from discovery.explanation.figures import adjusted
from discovery.explanation.section import Section
from discovery.explanation.subject import Subject
from discovery.settings.explanation import Features
from discovery.statistics.intervals import Interval, mean_interval, ratio_of_means
from discovery.tasks.tokens import known_bos
from discovery.validation.bench import Floats

TEXT_LENGTH = 24  # tokens of a row of the model's own text


def check(subject: Subject, asked: Features) -> str | None:
    """A circuit needs a node. InputError for a node, a position or an SAE that does not fit."""
    if not subject.nodes:
        return "the circuit has no heads and no MLPs"
    places_of(subject.choose.data[0], asked.at)
    sae = None if asked.sae is None else read_sae(asked.sae)
    if sae is not None or asked.node is not None:
        site_of(subject, asked, sae)
    return None


def explain(subject: Subject, asked: Features, told: Mapping[str, Section]) -> Section:
    """Split the node, attribute, take the strongest out, keep the strongest alone."""
    given = None if asked.sae is None else read_sae(asked.sae)
    site = site_of(subject, asked, given)
    sae, rows = (given.to(subject.model.W_E), 0) if given else trained(subject, site, asked)
    return section(subject, asked, site, sae, measure(subject, asked, site, sae), rows)


# ---- where to look, and the SAE that is made here ----------------------------------------------


def site_of(subject: Subject, asked: Features, sae: SAE | None) -> Site:
    """Where to look; InputError where SAE, node and model do not fit."""
    model, graph = subject.model, subject.graph
    if sae is None:
        try:
            return site_of_node(model, graph, asked.node or choose_node(subject))
        except InputError as error:
            raise InputError(f"features.{error}") from None
    try:
        site = site_at(model, graph, sae.hook, sae.head)
    except InputError as error:
        raise InputError(f"features.sae={asked.sae}: {error}") from None
    if sae.width != site.width:
        raise InputError(
            f"features.sae={asked.sae}: it reads {sae.width} numbers, {sae.hook} of this model has"
            f" {site.width}"
        )
    if asked.node not in (None, site.name):
        raise InputError(f"features.node={asked.node}: the SAE is of {site.name}; leave one away")
    return site


def choose_node(subject: Subject) -> str:
    """The circuit's node with the largest first-order effect in size, on the choosing prompts."""
    effects = np.abs(node_effects(subject.choose, subject.nodes))
    return subject.graph.writers[subject.nodes[int(effects.argmax())]]


def trained(subject: Subject, site: Site, asked: Features) -> tuple[SAE, int]:
    """A small SAE of the site's outputs, and how many of them it saw.

    On the choosing prompts, their corrupt ones and the model's own text; never on the test prompts.
    """
    rows = list[Tensor]()
    for forward in subject.choose.data:
        rows.append(site.read(forward.clean.writers))
        if forward.prompts.has_corrupt:
            rows.append(site.read(forward.corrupt.writers))
    if asked.text:
        bos = known_bos(subject.loaded.tokenizer, subject.model.d_vocab)
        rows.append(text_outputs(subject.model, site, asked.text, subject.seed, bos))
    x = torch.cat([r.flatten(0, 1) for r in rows])
    sae = train_sae(
        x, site.hook, site.head, n_features=asked.n_features, active=asked.active,
        steps=asked.steps, seed=subject.seed,
    )  # fmt: skip
    return sae, len(x)


def text_outputs(
    model: Model, site: Site, n: int, seed: int, bos: int | None
) -> Float[Tensor, "n pos width"]:
    """The site's outputs on the model's own text."""
    tokens = sampled_text(model, n, min(TEXT_LENGTH, model.n_ctx), seed, bos)
    return site.read(trace(model, tokens, lean=True).writers)


# ---- what is measured --------------------------------------------------------------------------


def measure(subject: Subject, asked: Features, site: Site, sae: SAE) -> Measured:
    """Rank on the choosing prompts, measure on the test prompts."""
    parts = splits(subject.test, site, sae, asked.at)
    rng, level = subject.rng("features"), subject.level
    chosen = splits(subject.choose, site, sae, asked.at)
    found = attribute(chosen)
    order = [int(i) for i in np.argsort(-np.abs(found.other), kind="stable") if found.other[i]]
    whole = lost(parts, Split.resampled)

    def share(losses: Floats) -> Interval:
        return ratio_of_means(losses, whole, rng, level=1 - level)

    by_error = share(lost(parts, Split.other_error))
    by_features = share(lost(parts, Split.other_features))
    off = mean_interval(lost(parts, lambda s: -s.own.error), rng, level=1 - level)
    l0 = float((joined(parts, "features") > 0).double().sum(-1).mean())
    here = attribute(parts).other
    strongest = _strongest(subject, parts, found, here, order[: asked.strongest], rng)
    kept = keep_features(parts, order, asked.k, whole, asked.draws, rng, level)
    there = lost(chosen, Split.resampled)
    picked = enough(keep_features(chosen, order, asked.k, there, 0, rng, level))
    variance = variance_explained(joined(parts, "x"), joined(parts, "error"))
    return Measured(
        found, order, variance, l0, whole, by_error, by_features, off, strongest,
        _agreement(strongest), kept, picked,
    )  # fmt: skip


def _strongest(
    subject: Subject, parts: Sequence[Split], found: Attributions, here: Floats,
    features: Sequence[int], rng: np.random.Generator,
) -> list[dict[str, Any]]:  # fmt: skip
    """Each feature taken out alone, in two ways; p-values (t-test of the mean, swap) corrected."""
    rows, p_values = list[dict[str, Any]](), list[float]()
    for i in tqdm(features, desc="features", leave=False):
        zero = lost(parts, lambda s, i=i: s.to_zero(i))
        swap = lost(parts, lambda s, i=i: s.to_other(i))
        p = float(ttest_1samp(swap, 0).pvalue) if np.ptp(swap) > 0 else float(swap[0] == 0)  # pyright: ignore[reportAttributeAccessIssue]
        p_values.append(p)
        where = max(found.at, key=lambda name: abs(found.at[name][i]))
        rows.append(
            {
                "feature": i,
                "attribution": float(found.other[i]),
                "attribution here": float(here[i]),
                "attribution to zero": float(found.zero[i]),
                "lost to zero": asdict(mean_interval(zero, rng, level=1 - subject.level)),
                "lost to another": asdict(mean_interval(swap, rng, level=1 - subject.level)),
                "density": float(found.density[i]),
                "at": where,
                "share at": float(found.at[where][i] / found.other[i]),
            }
        )
    pairs = zip(rows, adjusted(p_values).tolist(), strict=True)
    return [{**row, "adjusted_p": p} for row, p in pairs]


def _agreement(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Pearson, of attributions and exact losses against the other prompt, on the test prompts."""
    x = [row["attribution here"] for row in rows]
    y = [row["lost to another"]["estimate"] for row in rows]
    if len(rows) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])
