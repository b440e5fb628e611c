"""The parts of an explanation, in the order of the page. Each is a room whose module `part`
has two functions.

check(subject, asked) -> str | None   why it cannot be asked of this circuit, in a sentence
explain(subject, asked, told) -> Section   `told` are the sections made so far, by part
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from tqdm.auto import tqdm

from acdc.errors import InputError
from discovery.explanation.section import Section
from discovery.explanation.subject import Subject
from discovery.settings.explanation import ExplainSettings

PARTS = (  # in this order: a part may use what those before it found
    "roles", "paths", "backups", "attention", "writes", "probes", "neurons", "variables",
    "steering", "proxy", "features", "story",
)  # fmt: skip
PASSES = 3  # plain passes that are timed
Say = Callable[[str], None]


@dataclass(frozen=True)
class Explanation:
    """What was found, part by part."""

    sections: Mapping[str, Section]
    left_out: Mapping[str, str]  # part -> why it cannot be asked
    seconds: Mapping[str, float]
    plain: float  # seconds of the model's plain pass over the prompts that things are chosen on


def explain(subject: Subject, asked: ExplainSettings, say: Say) -> Explanation:
    """Make the parts one after the other.

    InputError, before any of them is made, if one that was named cannot be asked.
    """
    wanted, left_out = dict[str, ModuleType](), dict[str, str]()
    for name in PARTS if asked.parts is None else [p for p in PARTS if p in asked.parts]:
        module = import_module(f"discovery.explanation.{name}.part")
        reason = module.check(subject, getattr(asked, name, None))
        if reason is None:
            wanted[name] = module
        elif asked.parts is not None:
            raise InputError(f"parts: {name}: {reason}")
        else:
            left_out[name] = reason
    sections, seconds = dict[str, Section](), dict[str, float]()
    for name, module in tqdm(wanted.items(), unit="part", dynamic_ncols=True):
        say(f"{name} ...")
        start = time.perf_counter()
        sections[name] = module.explain(subject, getattr(asked, name, None), sections)
        seconds[name] = time.perf_counter() - start
    return Explanation(sections, left_out, seconds, _plain(subject))


def _plain(subject: Subject) -> float:
    """Seconds of a plain pass, the median of a few."""
    data, found = subject.choose.data, list[float]()
    tokens = [data.prompts_of(i).clean for i in range(data.n_parts)]
    for _ in range(PASSES):
        start = time.perf_counter()
        for some in tokens:
            subject.loaded.plain_logits(some)
        found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]
