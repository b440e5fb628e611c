"""What each node and class of heads is worth to the whole model, and who takes over without it.

Wang et al. 2022, section 3.4 (backup name movers); McGrath et al. 2023 (the Hydra effect).
"""

from __future__ import annotations

from collections.abc import Mapping

from discovery.explanation.backups.knocked import KnockOuts
from discovery.explanation.backups.search import classes_of, find
from discovery.explanation.backups.words import section
from discovery.explanation.section import Section
from discovery.explanation.subject import Subject
from discovery.settings.explanation import Backups


def check(subject: Subject, asked: Backups) -> str | None:
    """A circuit without heads and MLPs has nothing to knock out."""
    return None if subject.nodes else "the circuit has no head and no MLP to knock out"


def explain(subject: Subject, asked: Backups, told: Mapping[str, Section]) -> Section:
    """Knock out, see who answers, and tell it from chance."""
    test = KnockOuts(subject.test)
    found = find(subject, asked, classes_of(subject, told), KnockOuts(subject.choose), test)
    return section(subject, asked, test, found)
