"""Which place of the model carries which variable of the task: interchange interventions and DAS.

Geiger et al. 2021, "Causal abstractions of neural networks", and 2024, "Finding alignments between
interpretable causal variables and distributed neural representations". Every place is tried whole
first; the best ones' subspaces are learnt on `choose`, and all is measured on `test`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import false_discovery_control
from tqdm.auto import tqdm

from discovery.explain.alignment import Effort, Outcome, Site, learnt, random_basis, tried
from discovery.explain.counterfactual import MEANS, Pairs, Role, Task, paired, pairs_of, permuted
from discovery.explain.intervene import Runs, place
from discovery.explain.section import Picture, Section, Table, drawn
from discovery.explain.settings import Variables
from discovery.explain.subject import Subject
from discovery.show.drawing import INK
from discovery.statistics.intervals import Interval, mean_interval

FEWEST = 8  # interchanges that change the label, on each half
FLIPS = 10_000  # random signs of a paired test
MANY = 4  # variables that are interchanged together at most
HOW = (
    "Interchange interventions (Geiger et al. 2021): the base prompt is run with the value that a"
    " place has in a source prompt, all of it or its part in a subspace of k dimensions. Right is"
    " the answer that the task gives if the variable alone came from the source. Accuracy: how"
    " often its logit is above those of every other candidate (the answers of base and source, the"
    " wrong one, the labels of the other variables); half of the sources leave the label as it is,"
    " where there are such. Share: of the lead in logits of the base's own answer, how much is"
    " turned; 0 nothing, 0.5 a draw, 1 as far on the other side, over interchanges that change the"
    " label. Places are chosen by the share of the whole place, subspaces are learnt (distributed"
    " alignment search, Geiger et al. 2024; cross-entropy, Adam on QR), both on the prompts to"
    " choose on; all figures are of the others, intervals over base prompts. Random: a subspace of"
    " the same size. Permuted: learnt and measured with the sources permuted. The model is whole,"
    " not the circuit alone; heads are taken before W_O."
)


@dataclass(frozen=True, eq=False)
class Half:
    """Runs of the prompts of one bench, and what the task says of them."""

    runs: Runs
    task: Task

    @classmethod
    def of(cls, bench: Any, roles: Mapping[str, Role] | None = None) -> Half:
        """Roles of variables are read off these prompts, unless given."""
        return cls(Runs.of(bench), Task.of(bench.data.prompts, roles))


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


# ---- looking for places ------------------------------------------------------------------------


def marks_of(task: Task) -> list[str]:
    """Marks of the prompts, those that are the same position in each only once; the end last."""
    marks = {**task.prompts.marks, "end": (task.prompts.answer_position,) * len(task.answers)}
    seen = dict[tuple[int, ...], str]()
    for name, at in marks.items():
        seen[at] = name if name == "end" else seen.get(at, name)
    return list(seen.values())


def places_of(subject: Subject, streams: int) -> list[str]:
    """The circuit's nodes, and the stream before some of the layers behind the first of them.

    Layers are spread evenly; the stream before layer 0 is the token itself, and is no finding.
    """
    graph = subject.graph
    layers = np.linspace(1, graph.n_layers, min(streams, graph.n_layers)).round().astype(int)
    return [
        *(graph.writers[w] for w in subject.nodes), *(f"stream {x}" for x in layers.tolist())
    ]  # fmt: skip


def screened(
    half: Half, names: Sequence[str], marks: Sequence[str], pairs: Pairs, variable: str
) -> list[tuple[Site, Outcome]]:
    """Every place at every mark, interchanged whole."""
    graph = half.runs.model.graph()
    sites = [Site(place(graph, name), mark) for name in names for mark in marks]
    return [(site, tried(half.runs, {variable: site}, pairs)) for site in sites]


def best_sites(found: Sequence[tuple[Site, Outcome]], nodes: int) -> list[Site]:
    """The nodes of the largest share, and the stream's best place; of equal ones the first."""
    ordered = sorted(found, key=lambda one: -np.nan_to_num(one[1].share, nan=-np.inf))
    of = {
        kind: [site for site, _ in ordered if (site.place.kind == "stream") == kind]
        for kind in (False, True)
    }
    return [*of[False][:nodes], *of[True][:1]]


# ---- one variable ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Aligned:
    """A variable, a site whose subspace was learnt, and what that is worth on `test`."""

    variable: str
    site: Site
    chosen: float  # accuracy on `choose`
    outcome: Outcome
    whole: Outcome
    random: list[Outcome]

    @property
    def k(self) -> int:
        """Dimensions."""
        assert self.site.basis is not None
        return self.site.basis.shape[1]

    @property
    def beyond(self) -> np.ndarray:
        """[pair]: right, less how often random subspaces are."""
        return self.outcome.right - np.mean([r.right for r in self.random], axis=0)


def aligned(
    choose: Half, test: Half, variable: str, site: Site, k: int, pairs: tuple[Pairs, Pairs],
    asked: Variables, rng: np.random.Generator,
) -> Aligned:  # fmt: skip
    """Learn on the first of the pairs, measure on the second."""
    effort = Effort(asked.steps, asked.batch, asked.rate)
    found = learnt(choose.runs, site, pairs[0], variable, k, effort, rng)
    width, like = site.place.width(choose.runs.model), choose.runs.model.W_E
    random = [site.within(random_basis(width, k, rng, like)) for _ in range(asked.draws)]

    def on(one: Site) -> Outcome:
        return tried(test.runs, {variable: one}, pairs[1])

    chosen = tried(choose.runs, {variable: found}, pairs[0].take(_some(pairs[0], asked.batch * 4)))
    return Aligned(variable, found, chosen.accuracy, on(found), on(site), [on(r) for r in random])


def _some(pairs: Pairs, most: int) -> np.ndarray:
    """As many of the pairs, spread evenly."""
    n = len(pairs.base)
    return np.linspace(0, n - 1, min(n, most)).round().astype(int)


def p_value(beyond: np.ndarray, base: np.ndarray, rng: np.random.Generator) -> float:
    """One-sided: right oftener than random subspaces; the signs of prompts' means are drawn."""
    _, prompt = np.unique(base, return_inverse=True)
    means = np.bincount(prompt, beyond) / np.bincount(prompt)
    signs = rng.choice([-1.0, 1.0], (FLIPS, len(means)))
    return float((1 + (signs @ means >= means.sum() - 1e-12).sum()) / (1 + FLIPS))


def interval(values: np.ndarray, base: np.ndarray, rng: Any, level: float) -> Interval:
    """Of the mean over pairs; prompts are drawn."""
    return mean_interval(values, rng, base.tolist(), 1 - level)


# ---- several together --------------------------------------------------------------------------


def together(
    half: Half, sites: Mapping[str, Site], rng: np.random.Generator
) -> tuple[Outcome, Outcome] | None:
    """Random sets of two or more variables, each from a source of its own, interchanged at once.

    One set a prompt. The second outcome has random subspaces in their place; None if no label is
    known.
    """
    names, n = list(sites)[:MANY], len(half.task.answers)
    sets = [c for size in range(2, len(names) + 1) for c in combinations(names, size)]
    which, found = rng.integers(max(1, len(sets)), size=n), list[tuple[Outcome, Outcome]]()
    own = {name: _sources(half.task, name, rng) for name in names}
    random = {
        n: s.within(random_basis(*_shape(s), rng, half.runs.model.W_E)) for n, s in sites.items()
    }
    for i, some in enumerate(sets):
        base = np.flatnonzero((which == i) & np.all([own[v] >= 0 for v in some], axis=0))
        pairs = paired(half.task, base, {v: own[v][base] for v in some})
        if len(pairs.base):
            found.append(tuple(
                tried(half.runs, {v: s[v] for v in some}, pairs) for s in (sites, random)
            ))  # fmt: skip
    if not found:
        return None
    first, second = ([one[i] for one in found] for i in (0, 1))
    return _joined(first), _joined(second)


def _sources(task: Task, name: str, rng: np.random.Generator) -> np.ndarray:
    """[prompt]: a source whose label is known, whether it changes anything or not; -1 for none."""
    pairs, out = pairs_of(task, name, rng, 1), np.full(len(task.answers), -1)
    order = rng.permutation(len(pairs.base))
    out[pairs.base[order]] = pairs.sources[name][order]
    return out


def _shape(site: Site) -> tuple[int, int]:
    assert site.basis is not None
    return site.basis.shape[0], site.basis.shape[1]


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(
        np.concatenate([getattr(o, field) for o in outcomes])
        for field in ("right", "lead", "before", "base")
    ))  # fmt: skip


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
            subject, choose, test, name, (pairs[0], _balanced(pairs[1], rng)), asked, rng
        )
    return _section(subject, test, roles, reasons, maps, found, controls, rng)


def _balanced(pairs: Pairs, rng: np.random.Generator) -> Pairs:
    """At most one pair a prompt that changes the label, and one that does not."""
    order, seen, kept = rng.permutation(len(pairs.base)), dict[tuple[int, bool], int](), list[int]()
    for i in order.tolist():
        seen.setdefault((int(pairs.base[i]), bool(pairs.changes[i])), i)
    kept = sorted(seen.values())
    return pairs.take(np.array(kept))


def _one(
    subject: Subject, choose: Half, test: Half, name: str, pairs: tuple[Pairs, Pairs],
    asked: Variables, rng: np.random.Generator,
) -> tuple[Any, list[Aligned], Outcome]:  # fmt: skip
    """The map of whole places, what was learnt (the best first), and the permuted control."""
    changing = pairs[0].take(np.flatnonzero(pairs[0].changes))
    few = changing.take(_some(changing, asked.screen))
    found = screened(choose, places_of(subject, asked.streams), marks_of(choose.task), few, name)

    def learn(site: Site, k: int, own: tuple[Pairs, Pairs]) -> Aligned:
        return aligned(choose, test, name, site, k, own, asked, rng)

    most = max(asked.k)
    tries = [learn(site, most, pairs) for site in best_sites(found, asked.nodes)]
    tries.sort(key=lambda one: -one.chosen)
    best = tries[0].site.within(None)
    fewer = [learn(best, k, pairs) for k in sorted(asked.k) if k != most]
    nothing = learn(best, most, (permuted(pairs[0], rng), permuted(pairs[1], rng)))
    return found, [*tries, *fewer], nothing.outcome


def _section(
    subject: Subject, test: Half, roles: Mapping[str, Role], reasons: Mapping[str, str | None],
    maps: Mapping[str, Any], found: Mapping[str, list[Aligned]], controls: Mapping[str, Outcome],
    rng: np.random.Generator,
) -> Section:  # fmt: skip
    level = subject.level
    first = {name: tries[0] for name, tries in found.items()}
    p = [p_value(one.beyond, one.outcome.base, rng) for one in first.values()]
    q = dict(zip(first, false_discovery_control(p).tolist(), strict=True)) if p else {}
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
        better = "more than" if f["q"] < level else "no more than chance would have it beside"
        out.append(
            f"{name} ({MEANS[f['role']]}): {1 - f['accuracy']:.0%} of interchanges go otherwise at"
            f" the best place found, {f['place']} at {f['mark']}, {f['k']} dimensions: accuracy"
            f" {f['accuracy']:.2f} ({f['low']:.2f} to {f['high']:.2f}), {better} random subspaces"
            f" ({f['random']:.2f}; q = {f['q']:.2g}); permuted {f['permuted']:.2f}, the whole place"
            f" {f['whole']:.2f}."
        )
    if joint is not None:
        out.append(
            f"Several variables at once, each from its own source: {1 - joint['accuracy']:.0%} of"
            f" {joint['n']} go otherwise than the variables say; accuracy {joint['accuracy']:.2f}"
            f" ({joint['low']:.2f} to {joint['high']:.2f}), random subspaces {joint['random']:.2f}."
        )
    return out


def _map(maps: Mapping[str, Sequence[tuple[Site, Outcome]]]) -> Picture:
    """Share of the whole place, places down and marks across, a panel a variable."""
    places = list(dict.fromkeys(s.place.name for s, _ in next(iter(maps.values()))))
    marks = list(dict.fromkeys(s.mark for s, _ in next(iter(maps.values()))))
    figure = Figure(figsize=(1.8 + (0.55 * len(marks) + 1.2) * len(maps), 1.2 + 0.24 * len(places)))
    axes = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    for ax, (name, found) in zip(axes, maps.items(), strict=True):
        shares = np.array([o.share for _, o in found]).reshape(len(places), len(marks))
        image = ax.imshow(shares, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares):
            ax.text(column, row, f"{share:.2f}".replace("0.", "."), ha="center", va="center",
                    fontsize=7, color="white" if abs(share) > 0.6 else INK)  # fmt: skip
        ax.set_title(name, fontsize=10, color=INK)
        ax.set_xticks(range(len(marks)), marks, fontsize=8, rotation=45, ha="right")
    axes[0].set_yticks(range(len(places)), places, fontsize=8)
    figure.colorbar(image, ax=list(axes), label="share turned", shrink=0.8)
    return drawn(
        figure, "Whole places interchanged, on the prompts to choose on: share of the base answer's"
        " lead (logits) that goes to the answer that the variable's value in the source makes right;"
        " 0 nothing, 0.5 a draw, 1 as far on the other side.",
    )  # fmt: skip
