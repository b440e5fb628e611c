"""Which paths move the answer: path patching, walked back from the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from discovery.explanation.figures import listed, signed
from discovery.explanation.paths.drawing import draw_walk
from discovery.explanation.paths.positions import Placed, placed
from discovery.explanation.paths.walk import Limits, Path, Walk, walk
from discovery.explanation.section import Section, Table, drawn
from discovery.explanation.subject import Subject, paired
from discovery.settings.explanation import Paths
from discovery.validation.bench import Bench

PARTS = {"q": "queries", "k": "keys", "v": "values"}
STRONG = 0.1  # of the strongest path into the same node: what is worth a word
TOLD = 4  # senders named in a sentence
PLACED = 6  # paths into heads that are told position by position, the strongest by gradient
DIGITS = 3  # of a change of the score


def check(subject: Subject, asked: Paths) -> str | None:
    """Denoising needs corrupt prompts; without a source there is nothing to patch in."""
    if asked.direction == "denoising" and not paired(subject.test).data.prompts.has_corrupt:
        return "direction=denoising needs corrupt prompts, and the task has none; use noising"
    return None


def explain(subject: Subject, asked: Paths, told: Mapping[str, Section]) -> Section:
    """Walk, and say what it found."""
    choose, test = source(subject.choose), source(subject.test)
    some = Bench(choose.data.take(range(min(asked.screen, choose.n))), choose.score)
    found = walk(
        some, test, subject.circuit.mask, Limits(asked.depth, asked.width, asked.edges),
        subject.rng("paths"), subject.level, asked.mlps, asked.direction,
    )  # fmt: skip
    strongest = sorted((p for p in found.paths if p.step > 0), key=lambda p: -abs(p.estimate))
    where = placed(
        some, test, strongest[:PLACED], subject.rng("paths, positions"), subject.level,
        asked.mlps, asked.direction,
    )  # fmt: skip
    figure = draw_walk(found, test.unit)
    caption = (
        "The walk, layers upward: paths that are significant, coloured by what they feed, wider the"
        " more they move; dashed: not in the circuit. Numbers are changes of the score."
    )
    return Section(
        title="Which paths move the answer",
        how=_how(asked, test, some.n, subject),
        says=[*says(found, test.unit, asked.direction == "noising"), *_where(where, test.unit)],
        tables=[
            Table(
                f"paths patched one by one: mean change of the score ({test.unit}; 0 = unpatched),"
                f" {1 - subject.level:.0%} interval over {test.n} prompts, p corrected",
                [_row(p) for p in found.paths],
            ),
            Table(
                f"all paths into a reader at once, and the tried ones' sum ({test.unit})",
                [
                    {
                        "into": i.receiver, "all at once": signed(i.effect, DIGITS),
                        "sum of those tried": f"{_sum(found, i.receiver):+.3f}",
                        "tried": f"{i.tried} of {i.senders}",
                    }
                    for i in found.intos
                ],
            ),
            *_places(where, test.unit),
        ],
        pictures=[] if figure is None else [drawn(figure, caption)],
        found={**as_json(found), "positions": [_placed_json(one) for one in where]},
    )  # fmt: skip


def source(bench: Bench) -> Bench:
    """With the task's own corrupt prompts where it has them, else with what the run cut by."""
    twin = paired(bench)
    return twin if twin.data.prompts.has_corrupt else bench


# ---- in words ------------------------------------------------------------------------------------


def says(found: Walk, unit: str, noising: bool = True) -> list[str]:
    """What is not explained, then the walk, a sentence a step and part."""
    lines = [*_of_the_circuit(found), _outside(found, unit)]
    direct = [p for p in found.paths if p.step == 0 and p.significant]
    moved = "moved" if noising else "restored"
    sign = "negative: it needs the path" if noising else "positive: the path helps it"
    direct_text = f"The answer is {moved} directly ({sign}) by {_listed(direct, unit)}"
    lines.append(direct_text if direct else "No direct path moves the answer")
    for step, nodes in enumerate(found.steps[1:], start=1):
        own = [p for p in found.paths if p.step == step and p.significant]
        heads = ", ".join(n for n in nodes if ".kv" not in n)
        for part, word in PARTS.items():
            if some := [p for p in own if p.receiver.endswith(f"<{part}>")]:
                lines.append(f"Through the {word} of {heads}: {_listed(some, unit)}")
        if not own:
            lines.append(f"Nothing found moves the answer through {heads}")
    return [*lines, *_not_followed(found), *_guessed(found)]


def _of_the_circuit(found: Walk) -> list[str]:
    own = [p for p in found.paths if p.in_circuit]
    idle = [p for p in own if not p.significant]
    if not own:
        return ["No edge of the circuit leads into these readers"]
    if not idle:
        return [f"All {len(own)} edges of the circuit into these readers move the answer alone"]
    same = [p for p in idle if p.silent]
    lines = [
        f"{len(idle)} of the circuit's {len(own)} edges into these readers do not move the answer"
        f" when their path alone is patched: {_names(idle)}"
    ]
    if same:
        lines.append(
            f"{len(same)} of them change nothing on any prompt: what they carry is the same on both"
            " prompts of a pair wherever it is read, or it is not used, and these pairs cannot tell"
            f" which ({_names(same)})"
        )
    return lines


def _outside(found: Walk, unit: str) -> str:
    """Significant paths that the circuit lacks, strong beside the others into the same node."""
    best = dict[str, float]()
    for p in found.paths:
        best[p.node] = max(best.get(p.node, 0.0), p.size)
    lacking = [p for p in found.paths if p.significant and not p.in_circuit]
    strong = [p for p in lacking if p.size >= STRONG * best[p.node]]
    if not strong:
        return f"No path outside the circuit moves it {STRONG:.0%} as much as the strongest there"
    return (
        f"{len(strong)} paths that are not in the circuit move the answer at least {STRONG:.0%} as"
        f" much as the strongest into the same node: {_listed(strong, unit, mark=False)}"
    )


def _not_followed(found: Walk) -> list[str]:
    followed = {n for step in found.steps for n in step}
    senders = (p.sender for p in found.paths if p.significant and p.sender[0] == "a")
    left = [s for s in dict.fromkeys(senders) if s not in followed]
    what = "head that moves it was" if len(left) == 1 else "heads that move it were"
    return [f"{len(left)} {what} not followed further: {listed(left)}"] if left else []


def _guessed(found: Walk) -> list[str]:
    pairs = np.array([(p.estimate, p.effect.estimate) for p in found.paths], float)
    if len(pairs) < 3 or pairs.std(axis=0).min() == 0:
        return []
    r = float(np.corrcoef(pairs.T)[0, 1])
    return [
        f"The gradients that picked these {len(pairs)} paths correlate {r:.2f} with the effects"
    ]


def _listed(paths: Sequence[Path], unit: str, mark: bool = True) -> str:
    """The strongest with their figures; `mark` says which are not in the circuit."""
    shown = [
        f"{_edge(p)} ({signed(p.effect, DIGITS)}{'' if i else ' ' + unit}"
        f"{', not in the circuit' if mark and not p.in_circuit else ''})"
        for i, p in enumerate(sorted(paths, key=lambda p: -p.size)[:TOLD])
    ]
    rest = len(paths) - len(shown)
    return ", ".join(shown) + (f" and {rest} weaker" if rest else "")


def _where(some: Sequence[Placed], unit: str) -> list[str]:
    """At which marked position the strongest paths into heads move the answer."""
    each = [
        f"{_edge(p.path)} at {p.where} ({signed(p.effects[p.where], DIGITS)} of"
        f" {signed(p.path.effect, DIGITS)}{'' if i else ' ' + unit})"
        for i, p in enumerate(some)
    ]
    text = "Read at one marked position alone, the strongest into heads move the answer most"
    return [f"{text}: {listed(each)}"] if each else []


def _places(some: Sequence[Placed], unit: str) -> list[Table]:
    rows = [
        {"path": _edge(p.path), "all positions": signed(p.path.effect, DIGITS)}
        | {name: signed(effect, DIGITS) for name, effect in p.effects.items()}
        for p in some
    ]
    caption = f"the strongest paths into heads, patched where the reader reads a mark ({unit})"
    return [Table(caption, rows)] if rows else []


def _placed_json(one: Placed) -> dict[str, Any]:
    effects = {name: asdict(effect) for name, effect in one.effects.items()}
    return {"path": _edge(one.path), "where": one.where, "effects": effects}


def _names(paths: Sequence[Path]) -> str:
    return listed([_edge(p) for p in paths], TOLD)


def _edge(path: Path) -> str:
    return f"{path.sender}->{path.receiver}"


def _sum(found: Walk, receiver: str) -> float:
    return sum((p.effect.estimate or 0.0 for p in found.paths if p.receiver == receiver), 0.0)


def _row(path: Path) -> dict[str, object]:
    return {
        "step": path.step, "from": path.sender, "into": path.receiver,
        "change": signed(path.effect, DIGITS), "p": f"{path.p:.2g}",
        "in the circuit": "yes" if path.in_circuit else "no",
        "gradient's guess": f"{path.estimate:+.3f}",
    }  # fmt: skip


def _how(asked: Paths, test: Bench, n: int, subject: Subject) -> str:
    if asked.direction == "noising":
        what = "corrupt outputs into the clean run (noising: negative = the path is needed)"
    else:
        what = "clean outputs into the corrupt run (denoising: positive = the path helps alone)"
    if not test.data.prompts.has_corrupt:
        what = f"here what cut edges carry ({test.data.ablation.name}; negative = needed)"
    mlps = {
        "frozen": "stay too: a path is one edge of the circuit's graph",
        "recomputed": "are run again: a path may lead through them",
    }[asked.mlps]
    return (
        f"Path patching (Wang et al. 2022, section 3.1): a reader alone is given one sender's"
        f" output of another prompt; {what}. Heads between the two stay as they were, MLPs"
        f" {mlps}. The change of the score ({test.score}, {test.unit}) is a mean over {test.n}"
        f" prompts. The {asked.edges} paths tried into each node, and the {asked.width} heads"
        f" followed a step, are the largest by integrated gradients on {n} other prompts; the"
        " circuit's own edges are always tried. Significance: a t-test over prompts, corrected over"
        f" all paths (Benjamini and Hochberg), at {subject.level:g}. Senders are patched at all"
        f" positions; the {PLACED} strongest paths into heads also at each marked one alone."
    )


# ---- for programs --------------------------------------------------------------------------------


def as_json(found: Walk) -> dict[str, Any]:
    """Nodes by step, paths with effect and interval, and each reader's paths all at once."""
    return {
        "steps": [list(nodes) for nodes in found.steps],
        "paths": [{**asdict(p), "node": p.node} for p in found.paths],
        "readers": [asdict(i) for i in found.intos],
    }  # fmt: skip
