"""Does validation accept what is true, and reject what is false? Its tests on truth sets.

Of each case the true circuit is validated, and four that are false:

    an edge less       one true edge is gone
    an edge misplaced  ... and one that is not true is in its place
    random             as many edges on random paths
    roles swapped      the true edges between other heads of the same layers

All on the prompts that are held out, the cut edges carrying what the truth is of. A test's false
alarms are the true circuits that it says fail, its power the false ones. The verdict rejects a
circuit if a property that counts is shown to fail. Minimality does not count: it asks of each edge
alone, and of two that do the same neither is needed (an OR, a backup), so the truth cannot pass it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acdc.circuit import Circuit
from acdc.errors import InputError
from discovery.choices import registry
from discovery.settings.evaluation import FEWEST, FullEvaluation
from discovery.show.tables import markdown
from discovery.statistics.random_circuits import random_mask
from discovery.truth.bench import no_references
from discovery.truth.case import Case
from discovery.validation.bench import make_bench
from discovery.validation.budget import Budget
from discovery.validation.chance import misplaced
from discovery.validation.validate import Tests
from discovery.validation.verdicts import verdicts

TRUE = "true"
FALSE = ("an edge less", "an edge misplaced", "random", "roles swapped")
VERDICT = "verdict"
TRIES = 100  # draws of a false circuit, before there is taken to be none

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Tested:
    """One circuit of a case, and what each test says of it."""

    set: str
    case: str
    ablation: str
    seed: int
    circuit: str  # TRUE, or one of FALSE
    holds: Mapping[str, bool | None]  # by test: shown to hold, shown to fail (False), undecided
    accepted: bool  # whether no property that counts is shown to fail
    words: Mapping[str, str]  # by question of discovery/validation/decision.py, and VERDICT


def circuits(case: Case, rng: np.random.Generator) -> dict[str, Mask]:
    """The true circuit and the false ones, [writers, readers] each.

    One that cannot be drawn (all heads are alike, or all edges true) is left out.
    """
    true, graph = case.edges, case.graph
    less, wrong = true.copy(), graph.legal & ~true
    pairs = np.argwhere(true)
    less[tuple(pairs[rng.integers(len(pairs))])] = False
    out = {TRUE: true, "an edge less": less}
    if wrong.any():
        places = np.argwhere(wrong)
        moved = less.copy()
        moved[tuple(places[rng.integers(len(places))])] = True
        out["an edge misplaced"] = moved
    n = int(true.sum())
    drawn = {
        "random": lambda: random_mask(graph, n, rng),
        "roles swapped": lambda: misplaced(graph, true, rng),
    }
    for name, draw in drawn.items():
        for _ in range(TRIES):
            mask = draw()
            if (mask != true).any():
                out[name] = mask
                break
    return out


def tested(name: str, case: Case, settings: FullEvaluation, seed: int) -> Iterator[Tested]:
    """Every circuit of a case. InputError where too few prompts are held out."""
    prompts = case.held_out
    if prompts is None or len(prompts) < FEWEST:
        have = 0 if prompts is None else len(prompts)
        raise InputError(
            f"validation: {name}'s {case.name} holds out {have} prompts; {FEWEST} are needed"
        )
    choice = registry.load("ablation", registry.check("ablation", case.ablation))()
    ablation = choice.make(no_references, seed)
    bench = make_bench(case.model, case.graph, choice.pair(prompts, seed), ablation, settings.chunk)
    tests = Tests(settings, bench, int(case.edges.sum()))
    for kind, mask in circuits(case, np.random.default_rng([seed, 1])).items():
        found = tests.of(Circuit(case.graph, mask), {}, Budget(settings.budget, lambda _: None))
        said = verdicts(found)
        holds = {v.name: v.holds for v in said}
        fails = [v.name for v in said if v.counted and v.holds is False]
        decision = found["decision"]
        words = {one["name"]: one["word"] for one in decision["figures"]}
        words[VERDICT] = decision["verdict"]
        yield Tested(name, case.name, case.ablation, seed, kind, holds, not fails, words)


# ---- the table -----------------------------------------------------------------------------------


def rows(found: Sequence[Tested]) -> list[dict[str, Any]]:
    """A row a test, the verdict last: of true circuits how many it shows to hold and to fail, of
    each kind of false ones how many it shows to fail.
    """
    names = list(dict.fromkeys(name for one in found for name in one.holds))
    return [_row(name, [(o.circuit, o.holds.get(name)) for o in found]) for name in names] + [
        _row(VERDICT, [(o.circuit, o.accepted) for o in found])
    ]


def _row(name: str, said: Sequence[tuple[str, bool | None]]) -> dict[str, Any]:
    def share(kinds: Sequence[str], answer: bool) -> str:
        own = [holds for kind, holds in said if kind in kinds]
        return f"{np.mean([holds is answer for holds in own]):.0%}" if own else ""

    return {
        "test": name, "true: holds": share([TRUE], True), "true: fails": share([TRUE], False),
        **{f"{kind}: fails": share([kind], False) for kind in FALSE},
        "all false: fails": share(FALSE, False),
    }  # fmt: skip


def word_rows(found: Sequence[Tested]) -> list[dict[str, Any]]:
    """A row a question and kind of circuit: how often each word is said of it."""
    out = []
    for question in found[0].words if found else ():
        said = list(dict.fromkeys(one.words[question] for one in found))
        for kind in (TRUE, *FALSE):
            own = [one.words[question] for one in found if one.circuit == kind]
            shares = {word: f"{own.count(word) / len(own):.0%}" if own else "" for word in said}
            out.append({"question": question, "circuit": kind, "n": len(own), **shares})
    return out


def words_table(found: Sequence[Tested]) -> str:
    """The rows as text, a table a question: the words differ."""
    rows = word_rows(found)
    names = list(dict.fromkeys(row["question"] for row in rows))
    return "\n".join(markdown([row for row in rows if row["question"] == n]) for n in names)


def as_json(found: Sequence[Tested]) -> dict[str, Any]:
    """power.json: the table, and every circuit."""
    return {"table": rows(found), "words": word_rows(found),
            "circuits": [asdict(one) for one in found]}  # fmt: skip
