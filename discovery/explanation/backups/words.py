"""What the knock-outs came to, as a section: sentences, tables and one picture."""

from __future__ import annotations

from collections.abc import Sequence

from discovery.explanation.backups.drawing import dumbbells
from discovery.explanation.backups.knocked import KnockOuts, heads_after
from discovery.explanation.backups.search import Found, Knocked, plain
from discovery.explanation.backups.tables import (
    changes,
    kept,
    knocked_row,
    pair_row,
    row,
)
from discovery.explanation.backups.takeover import TakeOver
from discovery.explanation.backups.together import Pair
from discovery.explanation.figures import listed, signed
from discovery.explanation.section import Section, Table
from discovery.explanation.subject import Subject
from discovery.settings.explanation import Backups
from discovery.statistics.intervals import Interval

NAMED = 5  # heads, nodes or pairs that one sentence names
NOTHING = 0.1  # share of the score that is next to nothing
HOW = (
    "A node that is out puts out what the run's cut edges carry, to all who read it; everything"
    " after it answers to that. Its direct effect is what it adds to the right answers' logits less"
    " {rival}, the final norm's scale being that of the same run (logits; 0: the node adds nothing"
    " to the answer directly). Lost - fall = made up: what others add once the nodes are out"
    " (McGrath et al. 2023). A backup (Wang et al. 2022, section 3.4) is a head whose direct effect"
    " rises when nodes are out that add to the answer directly: by at least {least:.3g} logits"
    " ({share:.0%} of what the model adds over {zero}), by what it writes and not by the final"
    " norm's scale alone, and by more than after {controls} random sets of nodes outside the"
    " circuit from the nearest layers. Picked on one half of the prompts, confirmed on the other:"
    " one-sided paired t-tests, Benjamini and Hochberg over all knock-outs and heads, at {level:g}."
    " Losses of pairs are in {unit}: together less the sum of both alone is the interaction, above"
    " 0 where each makes up for the other. Gates: one noised, from the model with both; one"
    " denoised, from the model with both out (arXiv 2505.10039). Intervals are over prompts,"
    " {interval:.0%}."
)


def section(subject: Subject, asked: Backups, test: KnockOuts, found: Found) -> Section:
    """The section; `test` are the knock-outs that all is measured on."""
    has_wrong = subject.test.data.prompts.has_wrong
    how = HOW.format(
        rival="the wrong ones'" if has_wrong else "the vocabulary's mean", least=found.least,
        share=asked.least, zero=subject.test.zero, controls=asked.controls, level=subject.level,
        unit=subject.test.unit, interval=1 - subject.level,
    )  # fmt: skip
    drawn = [k for k in found.knocked if k.is_class] or [k for k in found.knocked if k.account]
    picture = dumbbells(test, drawn, subject.rng("backups picture"), subject.level)
    return Section(
        title="Who takes over",
        how=how,
        says=[
            *unexplained(found), *classes(subject, found), *nodes(subject, asked, found),
            *by_scale(found), *outside(subject, found), *untested(found),
            *negative(subject, test, found),
            *pairs(subject, found), *greedy(found),
        ],
        tables=[
            Table(f"knocked out of the whole model; score in {subject.test.unit}, the rest in"
                  " logits", [knocked_row(subject, k) for k in found.knocked]),
            Table("heads picked as backups, in logits",
                  [row(subject, t) for t in found.take_overs]),
            Table("pairs of the nodes that cost most, and of nodes with their backups; losses in"
                  f" {subject.test.unit}, positive: the model is worse without",
                  [pair_row(p) for p in found.pairs]),
        ],
        pictures=[picture] if picture else [],
        found={**plain(found, subject.graph.writers), "changes": changes(test, found)},
    )  # fmt: skip


# ---- sentences -----------------------------------------------------------------------------------


def unexplained(found: Found) -> list[str]:
    """Makeups larger than all backups found, beyond doubt: classes, then the largest of nodes."""
    left = [
        (k, k.account)
        for k in found.knocked
        if k.account and (k.account.unexplained.low or 0) > 0
        and (k.account.unexplained.estimate or 0) >= found.least
    ]  # fmt: skip
    alone = sorted(
        ((k, a) for k, a in left if not k.is_class), key=lambda x: -(x[1].unexplained.estimate or 0)
    )
    return [
        f"Not explained: {called(k)} adds {signed(a.lost)} logits directly; without it others make"
        f" up {signed(a.made_up)}, of which neither the backups found ({_short(a.found)}) nor the"
        f" final norm's scale ({_short(a.scale)}) explain {signed(a.unexplained)}: other heads"
        f" {_short(a.other_heads)}, MLPs {_short(a.mlps)}"
        for k, a in [*((k, a) for k, a in left if k.is_class), *alone[:NAMED]]
    ]


def classes(subject: Subject, found: Found) -> list[str]:
    """A sentence a class: what is left of the score, and who takes over."""
    said = list[str]()
    for one in (k for k in found.knocked if k.is_class):
        heads = [t for t in found.take_overs if t.out == one.name and t.confirmed]
        says = f"Without {called(one, subject)} the model keeps {kept(one)} of its score"
        said.append(f"{says}: {_takers(heads)}" if heads else f"{says}; {_nobody(subject, one)}")
    return said


def _nobody(subject: Subject, one: Knocked) -> str:
    if one.account is None:
        return "it adds nothing to the answer directly, so that there is nothing to take over"
    if not heads_after(subject.graph, one.nodes):
        return "no head comes after it to take over"
    return "no head takes over"


def nodes(subject: Subject, asked: Backups, found: Found) -> list[str]:
    """What single nodes are worth, and who takes over for them."""
    alone = [k for k in found.knocked if not k.is_class]
    sure = [k for k in alone if k.kept.estimate is not None]
    said = list[str]()
    if sure:
        ends = fatal(found)
        said += [
            f"Without {k.name} alone next to nothing is left ({kept(k)}): all else needs it"
            for k in ends[:NAMED]
        ]
        others = [k for k in sure if k not in ends]
        if others:
            worst = max(others, key=lambda k: k.chosen_by)
            said.append(
                f"The {'next' if ends else 'node'} that costs most alone is {worst.name}: without"
                f" it the model keeps {kept(worst)} of its score"
            )
        idle = [k.name for k in sure if _idle(k, asked.least)]
        if idle:
            said.append(
                f"Out alone, {len(idle)} of {len(sure)} nodes change the score by less than"
                f" {100 * asked.least:g} %, beyond doubt: {listed(idle)}"
            )
    if found.skipped:
        said.append(f"{found.skipped} nodes with weaker edges were not knocked out (most)")
    by_name = {k.name: k for k in alone}
    answered = dict.fromkeys(
        t.out for t in found.take_overs if t.confirmed and t.out in by_name
    )  # fmt: skip
    for name in list(answered)[:NAMED]:
        heads = [t for t in found.take_overs if t.out == name and t.confirmed]
        said.append(
            f"Without {name} the model keeps {kept(by_name[name])} of its score: {_takers(heads)}"
        )
    if len(answered) > NAMED:
        said.append(
            f"Heads take over for {len(answered) - NAMED} more nodes:"
            f" {listed(list(answered)[NAMED:])} (see the table)"
        )
    return said


def by_scale(found: Found) -> list[str]:
    """What needs no backup: the less there is in the stream, the more each part of it counts."""
    sure = [
        (k, k.account) for k in found.knocked
        if k.account and (k.account.scale.low or 0) >= found.least
    ]  # fmt: skip
    if not sure:
        return []
    one, most = max(sure, key=lambda pair: pair[1].scale.estimate or 0)
    return [
        f"The final norm's scale alone gives back up to {signed(most.scale)} logits, of"
        f" {_short(most.lost)} that {called(one)} adds: no head has to do anything for it"
    ]


def _idle(one: Knocked, least: float) -> bool:
    return one.kept.low is not None and one.kept.high is not None and (
        1 - least < one.kept.low and one.kept.high < 1 + least
    )  # fmt: skip


def _takers(heads: Sequence[TakeOver]) -> str:
    said = [
        f"{t.head} {'eases off by' if t.eases else 'takes over'} {signed(t.rise)} logits"
        + ("" if t.control is None else f" ({_short(t.control)} after random nodes)")
        for t in heads[:NAMED]
    ]
    more = f", and {len(heads) - NAMED} more heads" if len(heads) > NAMED else ""
    return ", ".join(said) + more


def outside(subject: Subject, found: Found) -> list[str]:
    """Backups that the circuit lacks."""
    heads = dict.fromkeys(t.head for t in found.take_overs if t.confirmed)
    own = frozenset(subject.graph.writers[n] for n in subject.nodes)
    lacking = [h for h in heads if h not in own]
    if not lacking:
        return []
    return [
        f"{len(lacking)} of the {len(heads)} heads that take over or ease off are not in the"
        f" circuit, which cannot show what the model does then: {listed(lacking)}"
    ]


def untested(found: Found) -> list[str]:
    """Where no random nodes were left to tell chance by."""
    names = [name for name, sets in found.controls.items() if not sets]
    if not names:
        return []
    return [f"Without a control, no like nodes being left outside the circuit: {listed(names)}"]


def negative(subject: Subject, test: KnockOuts, found: Found) -> list[str]:
    """Heads against the answer."""
    if not found.negative:
        return []
    own = frozenset(subject.nodes)
    each = sorted(found.negative, key=lambda n: test.clean.direct[n].mean())
    said = [
        f"{test.graph.writers[n]} {test.clean.direct[n].mean():+.2f}"
        + ("" if n in own else " (not in the circuit)")
        for n in each
    ]
    return [f"Against the answer beyond doubt, in logits: {listed(said)}"]


def fatal(found: Found) -> list[Knocked]:
    """Nodes without which, beyond doubt, next to nothing is left."""
    return [
        k for k in found.knocked
        if not k.is_class and k.kept.high is not None and k.kept.high < NOTHING
    ]  # fmt: skip


def pairs(subject: Subject, found: Found) -> list[str]:
    """The most super- and sub-additive pairs, if beyond doubt.

    A node that alone costs nearly all needs no pairs: what goes with it, goes.
    """
    ends = frozenset(k.name for k in fatal(found))
    sure = [
        p for p in found.pairs
        if p.p_value <= subject.level and abs(p.interaction.estimate or 0) >= found.least_score
    ]  # fmt: skip
    over = [p for p in sure if (p.interaction.estimate or 0) > 0]
    under = [
        p for p in sure[::-1]
        if (p.interaction.estimate or 0) < 0 and p.a not in ends and p.b not in ends
    ]  # fmt: skip
    said = list[str]()
    if over:
        said.append("Make up for each other (cost more together than alone): " + _pairs(over))
    if under:
        said.append("Need each other (cost less together than alone): " + _pairs(under))
    return said


def _pairs(some: Sequence[Pair]) -> str:
    said = [f"{p.a} and {p.b} {signed(p.interaction)} ({p.gate})" for p in some[:NAMED]]
    more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
    return ", ".join(said) + more


def greedy(found: Found) -> list[str]:
    """The set that makes up for itself most."""
    if not found.greedy or (found.greedy[-1].interaction.low or 0) <= 0:
        return []
    last = found.greedy[-1]
    return [
        f"The set that makes up for itself most is {', '.join(last.nodes)}: together they cost"
        f" {signed(last.loss)}, {signed(last.interaction)} more than the sum of each alone"
    ]


def called(one: Knocked, subject: Subject | None = None) -> str:
    """A node by its name, a class by its role, with its heads where there is a subject."""
    if not one.is_class:
        return one.name
    heads = "" if subject is None else f" ({listed([subject.graph.writers[n] for n in one.nodes])})"
    return f"the class {one.name}{heads}"


def _short(i: Interval) -> str:
    return "undefined" if i.estimate is None else f"{i.estimate + 0.0:+.2f}"
