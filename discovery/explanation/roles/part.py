"""Which heads do what, as their scores suggest (discovery/heads): the cast of the story."""

from __future__ import annotations

from collections.abc import Mapping

from discovery.explanation.section import Section, Table
from discovery.explanation.subject import Subject


def check(subject: Subject, asked: object) -> str | None:
    """A circuit of MLPs alone has no heads."""
    return None if subject.heads else "the circuit has no heads"


def explain(subject: Subject, asked: object, told: Mapping[str, Section]) -> Section:
    """Heads by role, and those that no score tells anything of."""
    classes: dict[str, list[str]] = {}
    for name, entry in subject.heads.items():
        for role in entry["candidates"]:
            classes.setdefault(role, []).append(name)
    unknown = [name for name, entry in subject.heads.items() if not entry["candidates"]]
    says = [f"{len(unknown)} of {len(subject.heads)} heads have no role: {', '.join(unknown)}"]
    rows = [{"role": role, "heads": ", ".join(heads)} for role, heads in classes.items()]
    return Section(
        title="Who is in it",
        how="Candidates by score, as heads.json has them: attention is no effect, and a head may"
        " serve in other ways besides (Wang et al. 2022; Olsson et al. 2022).",
        says=says if unknown else (),
        tables=[Table("heads of the circuit by the role that their scores suggest", rows)]
        if rows else [],
        found={"classes": classes, "unknown": unknown},
    )  # fmt: skip
