"""Which heads do what, as their scores suggest (discovery/heads): the cast of the story."""

from __future__ import annotations

from collections.abc import Mapping

from discovery.explanation.section import Section, Table
from discovery.explanation.subject import Subject

ROLES = (  # what a head does on the task first, then on random tokens
    "mover", "negative mover", "S-inhibition", "induction", "previous token", "duplicate token",
)  # fmt: skip
RESTS = ("first token", "current token")  # where heads look of which nothing is asked


def check(subject: Subject, asked: object) -> str | None:
    """A circuit of MLPs alone has no heads."""
    return None if subject.heads else "the circuit has no heads"


def explain(subject: Subject, asked: object, told: Mapping[str, Section]) -> Section:
    """Heads by role, where they rest, and those that no score tells anything of."""
    classes: dict[str, list[str]] = {role: [] for role in ROLES}
    rests: dict[str, list[str]] = {}
    for name, entry in subject.heads.items():
        for role in entry["candidates"]:
            (rests if role in RESTS else classes).setdefault(role, []).append(name)
    classes = {role: heads for role, heads in classes.items() if heads}
    known = {name for heads in classes.values() for name in heads}
    unknown = [name for name in subject.heads if name not in known]
    says = [
        f"No role is suggested for {len(unknown)} of {len(subject.heads)} heads:"
        f" {', '.join(unknown)}"
    ]
    rows = [{"role": role, "heads": ", ".join(heads)} for role, heads in classes.items()]
    rows += [{"role": f"rest on the {r}", "heads": ", ".join(h)} for r, h in rests.items()]
    return Section(
        title="Who is in it",
        how="Candidates by score, as heads.json has them: attention is no effect, and a head may"
        " serve in other ways besides (Wang et al. 2022; Olsson et al. 2022).",
        says=says if unknown else (),
        tables=[Table("heads of the circuit by the role that their scores suggest", rows)]
        if rows else [],
        found={"classes": classes, "rests": rests, "unknown": unknown},
    )  # fmt: skip
