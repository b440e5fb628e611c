"""An explanation from Python: how does a circuit do it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovery.api.circuit import Circuit
from discovery.api.run import Discovered, Say
from discovery.api.tasks import Task
from discovery.api.validation import as_run
from discovery.choices.fields import checked
from discovery.explanation.runs import Explained, explain_run, says
from discovery.explanation.section import Section
from discovery.settings.explanation import ExplainSettings
from discovery.show.frame import framed


@dataclass(frozen=True, repr=False)
class Explanation:
    """The parts that were made, by name: `explanation["paths"]`; Jupyter shows the whole page."""

    of: Discovered  # holds the folder with explanation.json and explanation.html
    explained: Explained

    def __getitem__(self, part: str) -> Section:
        return self.sections[part]

    @property
    def sections(self) -> Mapping[str, Section]:
        """Sentences, tables, pictures and figures of each part, in the order of the page."""
        return self.explained.explanation.sections

    @property
    def left_out(self) -> Mapping[str, str]:
        """Parts that cannot be asked of this circuit, and why."""
        return self.explained.explanation.left_out

    @property
    def page(self) -> Path:
        """The page."""
        return self.explained.page

    def __repr__(self) -> str:
        return says(self.explained)

    def _repr_html_(self) -> str:
        return framed(self.page.read_text(encoding="utf-8"), "Explanation")


def explain(
    what: Discovered | Circuit, task: Task | None = None, say: Say | None = None, **asked: Any
) -> Explanation:
    """Say how a circuit does its task, on prompts that it was not found on: conf/explain.yaml.

    `what` is a run, or any circuit together with the task that it is for. `asked` are fields such
    as parts (["paths", "story"]; None: all that can be asked), prompts, seed. InputError for a
    field that is wrong, a named part that cannot be asked, and too few prompts.
    """
    settings = checked(ExplainSettings, asked)
    run = as_run(what, task, "explain")
    done = explain_run(run.folder, settings, say or (lambda _: None), run.task.model.cache)
    return Explanation(run, done)
