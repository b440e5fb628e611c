"""A story as sentences, tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from discovery.explanation.figures import listed
from discovery.explanation.section import Section, Table, drawn
from discovery.explanation.story.claims import READ_BY, Place, short
from discovery.explanation.story.measure import ClaimWorth, Told
from discovery.explanation.story.search import shown
from discovery.explanation.subject import Subject
from discovery.scrubbing.score import Recovered
from discovery.show.drawing import COLOURS, GREY, INK

TITLE = "The story, told by itself and tried"
HOW = (
    "Causal scrubbing (Chan et al. 2022). A claim says that what a node writes, reached along a"
    " path of the circuit, carries certain variables of the prompt and no more: it is replaced by"
    " what it is on another prompt that agrees on them, each place by a prompt of its own; what is"
    " not claimed comes from random prompts. Where few prompts agree, one is made: in another"
    " prompt two tokens change names throughout until the claimed ones stand at its own marks."
    " Written on one half of the prompts from the circuit's edges, the heads' roles and the task's"
    " marks and features: from the logits down, each claim keeps the fewest variables without a"
    " loss (paired t-test, Bonferroni), then what gains most is made stronger and what costs"
    " nothing dropped; what is not beyond chance may cost no more than is tolerated in all."
    " Figures are of the other half: 0 is the model's output on a random prompt, 1 its own;"
    " intervals are bootstraps over prompts. That a claim holds does not make it the only one:"
    " variables that go together on all prompts cannot be told apart, and a story with fewer claims"
    " may recover as much."
)
ALONE = 0.2  # share of samples with nothing to swap with from which it is said


def section(
    told: Told, subject: Subject, roles: Mapping[str, str], added: Sequence[str] = ()
) -> Section:
    """The part of the page; `added` are paths that the circuit lacks."""
    return Section(
        title=TITLE,
        how=f"{HOW} {told.n_choose} and {told.n_test} prompts; {told.stories} stories were scrubbed"
        f" on {told.runs} runs of a prompt.",
        says=[*_not_explained(told, subject), *_added(added), *_explained(told, roles)],
        tables=_tables(told),
        pictures=[drawn(ladder(told), _caption(told))],
        found={**facts(told, roles), "added": list(added)},
    )  # fmt: skip


# ---- sentences -----------------------------------------------------------------------------------


def _not_explained(told: Told, subject: Subject) -> list[str]:
    m, written = told.measured, told.written
    says = [
        f"{1 - m.recovered.value:.2f} of the way from a random prompt to the model is not"
        f" explained: the story recovers {_interval(m.recovered)} of the"
        f" {subject.test.score.replace('_', ' ')}, and {m.kl_share:.2f} of the distance (KL) to the"
        " model's own distribution"
    ]
    start = told.written.steps[0].share
    says.append(
        f"Of this the circuit's paths alone, every claim its own prompt, leave {1 - start:.2f}"
        " (on the prompts that the story was written on)"
    )
    nodes = [subject.graph.writers[w] for w in subject.nodes]
    claimed = {one.node for one in told.found if one.group in written.story}
    silent = [n for n in nodes if n not in claimed]
    if silent:
        says.append(
            f"No claim is on {len(silent)} of the circuit's {len(nodes)} nodes: {_nodes(silent)}"
        )
    by_group = {one.group: one for one in m.claims}
    for group, why in written.own.items():
        if group in by_group:
            says.append(f"What {where(by_group[group].places, told.found)} carries is open: {why}")
    for what, some in (
        ("Not beyond chance on these prompts", [c for c in m.claims if c.p_value > subject.level]),
        (
            "Without it more is recovered, so it holds the score down",
            [c for c in m.claims if c.p_value <= subject.level and c.cost < 0],
        ),
    ):
        if some:
            names = "; ".join(where(c.places, told.found) for c in some)
            says.append(f"{what} ({len(some)} of {len(m.claims)} claims): {names}")
    says += [
        f"For {where(c.places, told.found)} {c.alone:.0%} of the prompts have nothing to swap with:"
        " there the claim is empty"
        for c in m.claims
        if c.carried and c.alone > ALONE
    ]
    says += [
        f"{_capital(where(c.places, told.found))} carries the answer: that is what is done, not how"
        for c in m.claims
        if c.carried and all(v.answer for v in c.carried)
    ]
    return [*says, *told.left_out]


def _added(paths: Sequence[str]) -> list[str]:
    some = f"{len(paths)} paths between its nodes that the circuit lacks and path patching picked"
    return [f"The story speaks of {some}, too: {listed(paths)}"] if paths else []


def _explained(told: Told, roles: Mapping[str, str]) -> list[str]:
    m, says = told.measured, list[str]()
    cast = dict[str, list[str]]()
    for one in told.found:
        role = roles.get(one.node)
        if (
            role
            and role != one.node
            and one.group in told.written.story
            and one.node not in cast.setdefault(role, [])
        ):
            cast[role].append(one.node)
    named = [f"{role}: {', '.join(nodes)}" for role, nodes in cast.items() if nodes]
    if named:
        says.append(f"The heads of the story, by role: {'; '.join(named)}")
    says += [
        f"{_capital(where(c.places, told.found))} carries {_named(c)}: with this claim"
        f" {m.recovered.value:.2f} is recovered, without it {_interval(c.without)}"
        for c in m.claims
        if c.carried is not None
    ]
    if m.permuted:
        says.append(
            "With other prompts' values of the same variables the story recovers"
            f" {_range(m.permuted)} ({len(m.permuted)} permutations)"
        )
    if m.random:
        says.append(
            "The same claims on other heads of the same layers recover"
            f" {_range(m.random)} ({len(m.random)} trees)"
        )
    if m.broken is not None:
        groups = {c.group: c for c in m.claims}
        place = where(groups[m.broken.group].places, told.found)
        says.append(
            f"The single change that breaks it most, picked on the other half: {place},"
            f" {m.broken.what}: {_interval(m.broken.recovered)} is left"
        )
    return says


def where(places: Sequence[Place], found: Sequence[Place]) -> str:
    """A group in words: "a0.h3 in the keys of a1.h2, a1.h3"."""
    by_label = {one.label: one for one in found}
    out, level = _nodes(list(dict.fromkeys(p.node for p in places))), list(places)
    first = True
    while level and level[0].parent is not None:
        up = [by_label[p.parent] for p in level if p.parent is not None]
        readers = _nodes(list(dict.fromkeys(p.node for p in up)))
        join = " in" if first else ", there in"
        out += f"{join} the {READ_BY[level[0].via]} of {readers}"
        level, first = up, False
    return out if not first else f"{out} directly to the logits"


def _named(claim: ClaimWorth) -> str:
    if not claim.carried:
        return shown(claim.carried)
    return " and ".join(f"{v.name}{' (the answer)' * v.answer}" for v in claim.carried)


def _interval(one: Recovered) -> str:
    return f"{_two(one.value)} [{_two(one.low)}, {_two(one.high)}]"


def _range(values: Sequence[float]) -> str:
    if max(values) - min(values) < 0.005:
        return _two(values[0])
    return f"{_two(min(values))} to {_two(max(values))}"


def _two(value: float) -> str:
    """Two digits, without a minus where they are 0."""
    return f"{round(value, 2) + 0.0:.2f}"


def _nodes(names: Sequence[str], most: int = 8) -> str:
    return listed(["the embedding" if n == "input" else n for n in names], most)


def _capital(text: str) -> str:
    return text if text[:1] in "am" and text[1:2].isdigit() else text[:1].upper() + text[1:]


# ---- tables --------------------------------------------------------------------------------------


def _tables(told: Told) -> list[Table]:
    m = told.measured
    claims = [
        {
            "where": where(c.places, told.found), "carries": _named(c),
            "without it": _interval(c.without), "cost": f"{c.cost:.3f}", "p": f"{c.p_value:.2g}",
            "smallest class": "" if c.smallest is None else str(c.smallest),
            "nothing to swap": f"{c.alone:.0%}" if c.carried else "",
        }
        for c in m.claims
    ]  # fmt: skip
    controls = [
        {"control": name, "runs": len(shares), "recovered": _range(shares)}
        for name, shares in (("values permuted", m.permuted), ("other heads", m.random))
        if shares
    ]
    some = [
        {
            "variable": v.name, "the same on all prompts": ", ".join(v.also),
            "agreeing prompts": "made" if v.made else "found",
            "is the answer": "yes" if v.answer else "",
        }
        for v in told.variables
    ]  # fmt: skip
    return [
        Table(
            "claims of the story: share recovered without the claim and all that it is computed"
            " from (0 a random prompt, 1 the model), what it costs, p of no cost"
            " (Benjamini-Hochberg), and prompts in the smallest class met",
            claims,
        ),
        Table("controls: share recovered; 0 a random prompt", controls),
        Table("candidates of variables", some),
        Table(
            "how it was written, on the other half",
            [
                {
                    "place": s.place,
                    "change": s.what,
                    "recovered": f"{s.share:.3f}",
                }
                for s in told.written.steps
            ],
        ),
    ]


# ---- the picture ---------------------------------------------------------------------------------


def ladder(told: Told) -> Figure:
    """Shares recovered: nothing claimed, each step of writing, the story, controls, the model."""
    m = told.measured
    rows: list[tuple[str, Sequence[float], tuple[float, float] | None, str, bool]] = [
        ("nothing claimed", (0.0,), None, GREY, True)
    ]
    for step in told.written.steps:
        name = f"{step.place}: {step.what}" if step.place else step.what
        rows.append((name, (step.share,), None, GREY, False))
    story = (m.recovered.low, m.recovered.high)
    rows.append(("the story", (m.recovered.value,), story, COLOURS["value"], True))
    if m.broken is not None:
        r = m.broken.recovered
        name = f"broken: {short(m.broken.group, told.found)}: {m.broken.what}"
        rows.append((name, (r.value,), (r.low, r.high), COLOURS["key"], True))
    if m.permuted:
        rows.append(("values permuted", m.permuted, None, COLOURS["MLP"], True))
    if m.random:
        rows.append(("other heads", m.random, None, COLOURS["query"], True))
    rows.append(("the model", (1.0,), None, INK, True))
    height = 0.9 + 0.3 * len(rows)
    figure = Figure(figsize=(9, height))
    axes = figure.add_axes((0.52, 0.55 / height, 0.45, 0.3 * len(rows) / height))
    for y, (_, values, spread, colour, full) in enumerate(rows):
        if spread is not None:
            axes.plot(spread, [y, y], color=colour, lw=1.6, zorder=1)
        face = colour if full else "white"
        axes.plot(values, [y] * len(values), "o", color=colour, mfc=face, ms=6, zorder=2)
    axes.set_yticks(range(len(rows)), [_cut(name) for name, *_ in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for x in (0.0, 1.0):
        axes.axvline(x, color="#C8C8C8", lw=0.8, zorder=0)
    axes.set_xlabel("share recovered: 0 a random prompt, 1 the model", fontsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="y", color="#E4E4E4", lw=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure


def _cut(text: str, room: int = 70) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _caption(told: Told) -> str:
    return (
        "From nothing claimed to the story. Hollow: steps of writing, on the half that chose them;"
        " filled: the other half, with intervals where one story is meant and a point a run for"
        " controls."
    )


# ---- data ----------------------------------------------------------------------------------------


def facts(told: Told, roles: Mapping[str, str]) -> dict[str, Any]:
    """Every figure, as JSON."""
    m = told.measured

    def of(r: Recovered) -> dict[str, float]:
        return {"value": r.value, "low": r.low, "high": r.high}

    return {
        "recovered": of(m.recovered),
        "kl_share": m.kl_share,
        "claims": [
            {
                "group": c.group, "places": [p.label for p in c.places],
                "nodes": list(dict.fromkeys(p.node for p in c.places)),
                "roles": list(dict.fromkeys(r for p in c.places if (r := roles.get(p.node)))),
                "carries": None if c.carried is None else [v.name for v in c.carried],
                "without": of(c.without), "cost": c.cost, "p": c.p_value,
                "smallest_class": c.smallest, "alone": c.alone,
            }
            for c in m.claims
        ],
        "permuted": list(m.permuted),
        "random": list(m.random),
        "broken": None if m.broken is None else {
            "group": m.broken.group, "what": m.broken.what, "chosen": m.broken.chosen,
            "recovered": of(m.broken.recovered),
        },
        "steps": [vars(s) for s in told.written.steps],
        "variables": {
            v.name: {"kind": v.kind, "also": list(v.also), "made": v.made, "answer": v.answer}
            for v in told.variables
        },
        "left_out": list(told.left_out),
        "runs": told.runs,
        "stories": told.stories,
    }  # fmt: skip
