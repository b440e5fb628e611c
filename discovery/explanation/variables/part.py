"""Which place of the model carries which variable of the task: interchange interventions and DAS.

Geiger et al. 2021, "Causal abstractions of neural networks", and 2024, "Finding alignments between
interpretable causal variables and distributed neural representations". Every place is tried whole
first; the best ones' subspaces are learnt on `choose`, and all is measured on `test`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from discovery.explanation.figures import adjusted
from discovery.explanation.section import Picture, Section, Table, drawn
from discovery.explanation.subject import Subject
from discovery.explanation.variables.alignment import Effort, Outcome, Site, learnt, tried
from discovery.explanation.variables.carriers import (
    Aligned,
    Half,
    aligned,
    best_sites,
    interval,
    marks_of,
    one_each,
    p_value,
    screened,
    sites_of,
    spread,
    together,
)
from discovery.explanation.variables.counterfactual import (
    MEANS,
    Pairs,
    Role,
    Task,
    pairs_of,
    permuted,
)
from discovery.settings.explanation import Variables
from discovery.show.drawing import INK

FEWEST = 8  # interchanges that change the label, on each half
HOW = (
    "Interchange interventions (Geiger et al. 2021): the base prompt is run with the value that a"
    " place has in a source prompt, all of it or its part in a subspace of k dimensions. Right is"
    " the answer that the task gives if the variable alone came from the source. Accuracy: how"
    " often its logit is above those of every other candidate (the answers of base and source, the"
    " wrong one, the labels of the other variables); half of the sources leave the label as it is,"
    " where there are such. Share: of the lead in logits of the base's own answer, how much is"
    " turned; 0 nothing, 0.5 a draw, 1 as far on the other side, over interchanges that change the"
    " label. Places are chosen by the margin of the right answer over"
    " all others with the whole place interchanged, subspaces are learnt (distributed"
    " alignment search, Geiger et al. 2024; cross-entropy, Adam on QR), both on the prompts to"
    " choose on; all figures are of the others, intervals over base prompts. Random: a subspace of"
    " the same size. Permuted: learnt and measured with the sources permuted. The model is whole,"
    " not the circuit alone; heads are taken before W_O."
)


def check(subject: Subject, asked: Variables) -> str | None:
    """Needs variables, answers of one token, and places as wide as the subspaces."""
    prompts = subject.choose.data.prompts
    if not prompts.features:
        return "the task names no variables (Prompts.features)"
    if not all(len(a) == 1 for a in [*prompts.answers, *subject.test.data.prompts.answers]):
        return "an interchange needs one right answer a prompt, and some prompts have several"
    model = subject.model
    narrow = model.blocks[0].attn.W_O.shape[1] if subject.head_nodes else model.d_model
    if max(asked.k) > narrow:
        return f"variables.k={max(asked.k)}: the circuit's narrowest node has {narrow} numbers"
    roles = Task.of(prompts).roles
    wanted = [n for n in roles if _known(subject, n, roles, asked) is None]
    if not wanted:
        return "of no variable do the prompts tell what is right if it alone had another value"
    return None


def _known(subject: Subject, name: str, roles: Mapping[str, Role], asked: Variables) -> str | None:
    """Why a variable cannot be asked."""
    if len(np.unique(subject.choose.data.prompts.features[name])) < 2:
        return "it has one value in all prompts"
    for bench in (subject.choose, subject.test):
        task = Task.of(bench.data.prompts, roles)
        pairs = pairs_of(task, name, np.random.default_rng(0), asked.sources)
        changing = int(pairs.changes.sum())
        if changing < FEWEST:
            return f"{changing} interchanges have a label that is known and new, {FEWEST} needed"
    return None


# ---- the section -------------------------------------------------------------------------------


def explain(subject: Subject, asked: Variables, told: Mapping[str, Section]) -> Section:
    """Where each variable is carried, how well, and whether all of them are at once."""
    rng = subject.rng("variables")
    choose = Half.of(subject.choose)
    roles = choose.task.roles
    test = Half.of(subject.test, roles)
    reasons = {name: _known(subject, name, roles, asked) for name in roles}
    names = [name for name, reason in reasons.items() if reason is None]
    maps, found = dict[str, Any](), dict[str, list[Aligned]]()
    controls = dict[str, Outcome]()
    for name in tqdm(names, unit="variable", dynamic_ncols=True, leave=False):
        pairs = tuple(pairs_of(half.task, name, rng, asked.sources) for half in (choose, test))
        maps[name], found[name], controls[name] = _one(
            subject, choose, test, name, (pairs[0], one_each(pairs[1], rng)), asked, rng
        )
    return _section(subject, test, roles, reasons, maps, found, controls, rng)


def _one(
    subject: Subject, choose: Half, test: Half, name: str, pairs: tuple[Pairs, Pairs],
    asked: Variables, rng: np.random.Generator,
) -> tuple[Any, list[Aligned], Outcome]:  # fmt: skip
    """The map of whole places, what was learnt (the best first), and the permuted control."""
    changing = pairs[0].take(np.flatnonzero(pairs[0].changes))
    few = changing.take(spread(changing, asked.screen))
    sites = sites_of(subject, marks_of(choose.task), asked.streams)
    found = screened(choose, sites, few, name)

    def learn(site: Site, k: int, own: tuple[Pairs, Pairs]) -> Aligned:
        return aligned(choose, test, name, site, k, own, asked, rng)

    most = max(asked.k)
    tries = [learn(site, most, pairs) for site in best_sites(found, asked.nodes)]
    tries.sort(key=lambda one: -one.chosen)
    best = tries[0].site.within(None)
    fewer = [learn(best, k, pairs) for k in sorted(asked.k) if k != most]
    effort = Effort(asked.steps, asked.batch, asked.rate)
    nothing = learnt(choose.runs, best, permuted(pairs[0], rng), name, most, effort, rng)
    control = tried(test.runs, {name: nothing}, permuted(pairs[1], rng))
    return found, [*tries, *fewer], control


def _section(
    subject: Subject, test: Half, roles: Mapping[str, Role], reasons: Mapping[str, str | None],
    maps: Mapping[str, Any], found: Mapping[str, list[Aligned]], controls: Mapping[str, Outcome],
    rng: np.random.Generator,
) -> Section:  # fmt: skip
    level = subject.level
    first = {name: tries[0] for name, tries in found.items()}
    p = [p_value(one.beyond, one.outcome.base, rng) for one in first.values()]
    q = dict(zip(first, adjusted(p).tolist(), strict=True))
    facts = {
        name: {
            "role": roles[name], "place": one.site.place.name, "mark": one.site.mark, "k": one.k,
            "basis": one.site.basis.T.double().tolist() if one.site.basis is not None else None,
            **_accuracy(one.outcome, rng, level), "share": one.outcome.share,
            "whole": one.whole.accuracy, "whole_share": one.whole.share,
            "random": float(np.mean([r.accuracy for r in one.random])),
            "permuted": controls[name].accuracy, "q": q[name],
            "n": len(one.outcome.right),
        }
        for name, one in first.items()
    }  # fmt: skip
    both = together(test, {name: one.site for name, one in first.items()}, rng)
    joint = None if both is None else {
        **_accuracy(both[0], rng, level), "random": both[1].accuracy, "n": len(both[0].right)
    }  # fmt: skip
    return Section(
        title="Which place carries which variable", how=HOW,
        says=_says(facts, reasons, joint, level),
        tables=[Table(
            "places whose subspace was learnt, chosen on other prompts; accuracy 0 to 1, share 0 ="
            " nothing turned", [_row(one, name) for name, tries in found.items() for one in tries],
        )],
        pictures=[_map(maps)],
        found={"variables": facts, "not asked": {n: r for n, r in reasons.items() if r},
               "together": joint},
    )  # fmt: skip


def _accuracy(outcome: Outcome, rng: Any, level: float) -> dict[str, float | None]:
    one = interval(outcome.right, outcome.base, rng, level)
    return {"accuracy": outcome.accuracy, "low": one.low, "high": one.high}


def _row(one: Aligned, name: str) -> dict[str, object]:
    return {
        "variable": name, "place": one.site.name, "k": one.k,
        "accuracy": f"{one.outcome.accuracy:.2f}", "share": f"{one.outcome.share:.2f}",
        "whole place": f"{one.whole.accuracy:.2f}", "its share": f"{one.whole.share:.2f}",
        "random subspace": f"{np.mean([r.accuracy for r in one.random]):.2f}",
        "accuracy on choose": f"{one.chosen:.2f}",
    }  # fmt: skip


def _says(
    facts: Mapping[str, Mapping[str, Any]], reasons: Mapping[str, str | None],
    joint: Mapping[str, Any] | None, level: float,
) -> list[str]:  # fmt: skip
    out = [f"{name} cannot be asked: {reason}." for name, reason in reasons.items() if reason]
    for name, f in facts.items():
        wider = f["whole"] > max(f["high"], 0.5)
        better = "more than" if f["q"] < level else "no more than chance would have it beside"
        out.append(
            f"{name} ({MEANS[f['role']]}): {1 - f['accuracy']:.0%} of interchanges go otherwise at"
            f" the best place found, {f['place']} at {f['mark']}, {f['k']} dimensions: accuracy"
            f" {f['accuracy']:.2f} [{f['low']:.2f}, {f['high']:.2f}], {better} random subspaces"
            f" ({f['random']:.2f}; q = {f['q']:.2g}); permuted {f['permuted']:.2f}, the whole place"
            f" {f['whole']:.2f}{', so it is there, but not in so few dimensions' * wider}."
        )
    if joint is not None:
        out.append(
            f"Several variables at once, each from its own source: {1 - joint['accuracy']:.0%} of"
            f" {joint['n']} go otherwise than the variables say; accuracy {joint['accuracy']:.2f}"
            f" [{joint['low']:.2f}, {joint['high']:.2f}], random subspaces {joint['random']:.2f}."
        )
    return out


def _map(maps: Mapping[str, Sequence[tuple[Site, Outcome]]]) -> Picture:
    """Share of the whole place, places down and marks across, a panel a variable."""
    places = list(dict.fromkeys(s.place.name for s, _ in next(iter(maps.values()))))
    tried_at = dict.fromkeys(s.mark for s, _ in next(iter(maps.values())))
    marks = [*(mark for mark in tried_at if mark != "end"), "end"]
    figure = Figure(figsize=(1.8 + (0.55 * len(marks) + 1.2) * len(maps), 1.2 + 0.24 * len(places)))
    axes = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    for ax, (name, found) in zip(axes, maps.items(), strict=True):
        shares = np.full((len(places), len(marks)), np.nan)
        for site, outcome in found:
            shares[places.index(site.place.name), marks.index(site.mark)] = outcome.share
        image = ax.imshow(shares, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for row, column in np.argwhere(~np.isnan(shares)).tolist():
            share = shares[row, column]
            said = f"{round(float(share), 2) + 0.0:.2f}".replace("0.", ".")
            ax.text(column, row, said, ha="center", va="center", fontsize=7,
                    color="white" if abs(share) > 0.6 else INK)  # fmt: skip
        ax.set_title(name, fontsize=10, color=INK)
        ax.set_xticks(range(len(marks)), marks, fontsize=8, rotation=45, ha="right")
    axes[0].set_yticks(range(len(places)), places, fontsize=8)
    figure.colorbar(image, ax=list(axes), label="share turned", shrink=0.8)
    return drawn(
        figure, "Whole places interchanged, on the prompts to choose on: share of the base answer's"
        " lead (logits) turned to the answer that the variable's value in the source makes right;"
        " 0 nothing, 0.5 a draw, 1 as far on the other side. Blank: not read there by the circuit.",
    )  # fmt: skip
