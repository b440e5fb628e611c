"""The story of a circuit, told by itself: which node carries which variable, tried by scrubbing.

A hypothesis is written along the circuit's own paths on one half of the prompts and scrubbed on the
other (causal scrubbing: Chan et al., Alignment Forum, December 2022): data that agree on what a
claim says must be interchangeable there, and what is not claimed comes from random prompts.

    story_data      variables, and data that agree on them
    story_claims    the circuit's paths as a tree of claims
    story_judge     what a story recovers
    story_search    writing and refining
    story_measure   the test half: what each claim is worth, controls, what breaks it
    story_show      sentences, tables, picture
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from tqdm.auto import tqdm

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.prompts import Prompts, together
from discovery.explanation.section import Section
from discovery.explanation.story import show as story_show
from discovery.explanation.story.claims import Chance, places, role_of, with_other_heads, with_paths
from discovery.explanation.story.data import variables
from discovery.explanation.story.judge import Judge
from discovery.explanation.story.measure import Told, adversary, measure
from discovery.explanation.story.search import Rule, write
from discovery.explanation.subject import Subject
from discovery.settings.explanation import Story as Asked
from discovery.validation.bench import Bench


def check(subject: Subject, asked: Asked) -> str | None:
    """Paths to the logits, and variables that vary, are needed."""
    if not subject.circuit.mask[:, -1].any():
        return "no edge of the circuit enters the logits, so no path leads anywhere"
    prompts = subject.choose.data.prompts
    if not prompts.marks and not prompts.features:
        return (
            "the prompts mark no position and name no feature, so there is no variable to claim;"
            " a file of prompts may have both"
        )
    found, left_out = variables(_both(subject))
    return None if found else "; ".join(left_out)


def tell(
    circuit: Circuit, choose: Bench, test: Bench, prompts: Prompts, roles: Mapping[str, str],
    asked: Asked, level: float, rng: np.random.Generator,
) -> Told:  # fmt: skip
    """Write a story on `choose` and measure it on `test`.

    `prompts` are those of both, for what varies; `roles` maps heads to what their groups go by.
    InputError where the model does no better than on random prompts, on either half.
    """
    found = places(circuit, roles, asked.claims)
    some, left_out = variables(prompts)
    nodes = [one.node for one in found]
    chance = Chance(int(rng.integers(2**31)), together=True)
    with torch.no_grad():
        first = Judge(choose, nodes, asked.references, choose.data.part)
        first.recovered(first.scrub(found, {}, chance), level, rng)
        rule = Rule(level, asked.negligible, asked.tolerated)
        with tqdm(desc="story", unit="claim", leave=False, dynamic_ncols=True) as bar:
            written = write(first, found, some, rule, chance, asked.rounds, lambda: bar.update())
        found = written.found
        worst = adversary(first, found, written.story, some, chance)
        others = [with_other_heads(found, circuit, rng) for _ in range(asked.controls)]
        others = [tree for tree in others if any(a != b for a, b in zip(tree, found, strict=True))]
        more = [one.node for tree in others for one in tree]
        second = Judge(test, [*nodes, *more], asked.references, test.data.part)
        measured = measure(
            second, written, others, worst, chance.seed + 1, asked.draws, level, rng,
            asked.controls,
        )  # fmt: skip
    return Told(
        tuple(some), tuple(left_out), written, measured, len(first.references),
        len(second.references), first.n_scrubbed + second.n_scrubbed,
        first.runs.n_run + second.runs.n_run,
    )  # fmt: skip


def explain(subject: Subject, asked: Asked, told: Mapping[str, Section]) -> Section:
    """Write, scrub, refine, measure, say."""
    roles = {name: role_of(name, entry["candidates"]) for name, entry in subject.heads.items()}
    paths = told["paths"].found["paths"] if "paths" in told else []
    circuit, added = with_paths(subject.circuit, paths)
    try:
        own = subject.of_one_length
        one = tell(
            circuit, own.choose, own.test, _both(own), roles, asked,
            own.level, own.rng("story"),
        )  # fmt: skip
    except InputError as error:
        return Section(story_show.TITLE, story_show.HOW, [f"no story can be tried: {error}"])
    section = story_show.section(one, own, roles, added)
    return replace(section, says=[*own.says_length(subject), *section.says])


def _both(subject: Subject) -> Prompts:
    """The prompts of both halves."""
    return together(subject.choose.data.prompts, subject.test.data.prompts)
