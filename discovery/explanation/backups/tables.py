"""The knock-outs' tables, and figures with their intervals as text."""

from __future__ import annotations

import numpy as np

from discovery.explanation.backups.knocked import KnockOuts, heads_after
from discovery.explanation.backups.search import Found, Knocked
from discovery.explanation.backups.takeover import TakeOver, rises
from discovery.explanation.backups.together import Pair
from discovery.explanation.figures import signed
from discovery.explanation.subject import Subject


def kept(one: Knocked) -> str:
    """The share of the score as "71 % [66, 75]", or the score where no share can be."""
    k = one.kept
    if k.estimate is None or k.low is None or k.high is None:
        return signed(one.score)
    return f"{100 * k.estimate:.0f} % [{100 * k.low:.0f}, {100 * k.high:.0f}]"


def knocked_row(subject: Subject, k: Knocked) -> dict[str, object]:
    """What one node or class is worth."""
    a = k.account
    heads = ", ".join(subject.graph.writers[n] for n in k.nodes) if k.is_class else ""
    return {
        "out": k.name, "heads": heads, "score": signed(k.score), "kept": kept(k),
        "lost directly": signed(k.lost), "fall": None if a is None else signed(a.fall),
        "made up": None if a is None else signed(a.made_up),
        "by backups": None if a is None else signed(a.found),
        "by the scale": None if a is None else signed(a.scale),
        "unexplained": None if a is None else signed(a.unexplained),
    }  # fmt: skip


def row(subject: Subject, t: TakeOver) -> dict[str, object]:
    """One head that was picked as a backup."""
    own = frozenset(subject.graph.writers[n] for n in subject.nodes)
    return {
        "out": t.out, "head": t.head, "in the circuit": "yes" if t.head in own else "no",
        "rise": signed(t.rise), "by what it writes": signed(t.written),
        "after random nodes": None if t.control is None else signed(t.control),
        "before": signed(t.before), "after": signed(t.after),
        "attention to the answer": None if t.looks is None else signed(t.looks),
        "p": f"{t.p_value:.2g}", "backup": "yes" if t.confirmed else "no",
    }  # fmt: skip


def pair_row(p: Pair) -> dict[str, object]:
    """Two nodes out together."""
    return {
        "a": p.a, "b": p.b, "without a": signed(p.loss_a), "without b": signed(p.loss_b),
        "without both": signed(p.loss), "a back": signed(p.denoise_a),
        "b back": signed(p.denoise_b), "interaction": signed(p.interaction), "gate": p.gate,
        "p": f"{p.p_value:.2g}",
    }  # fmt: skip


def changes(test: KnockOuts, found: Found) -> dict[str, dict[str, list[float]]]:
    """knock-out -> later head -> [mean change of its direct effect, of its attention].

    Logits, and attention from the answer position to the right answers (0 where a prompt may hold
    none). Heads whose effect changes by less than `least` are left out.
    """
    out: dict[str, dict[str, list[float]]] = {}
    for one in found.knocked:
        heads = heads_after(test.graph, one.nodes)
        change = rises(test.clean, test.of(one.nodes), heads)[0].mean(-1)
        looks = (test.of(one.nodes).looks - test.clean.looks).mean(-1) * test.has_looks
        out[one.name] = {
            test.graph.writers[h]: [
                round(float(c), 4),
                round(float(looks[test.graph.place(h)]), 4),
            ]
            for h, c in zip(heads, change, strict=True)
            if np.abs(c) >= found.least
        }
    return out
