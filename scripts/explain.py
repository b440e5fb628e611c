"""How does the circuit that a run found do its task?

    python scripts/explain.py run=FOLDER
    python scripts/explain.py run=FOLDER parts=[paths,story] prompts=64
    python scripts/explain.py circuit=FILE model=smollm2 task=ioi   # any circuit, as EAP-IG writes

Configuration is in conf/explain.yaml. Writes explanation.json and explanation.html into the run's
folder; for a circuit's file a run folder is made first (method=given), as discover.py makes it, so
its words are that command's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from command import CONF, check_words, hydra_words, plain, refusals_as_exit, shown
from omegaconf import DictConfig
from validate import of_file

from discovery.choices.fields import checked
from discovery.runs.folder import read_run
from discovery.settings.explanation import ExplainSettings


def explain(folder: Path, settings: ExplainSettings) -> None:
    """Explain the run in this folder, write, print."""
    read_run(folder, lines=False)  # or refused before what takes seconds to import
    from discovery.explanation.runs import explain_run, says

    done = explain_run(folder, settings, print)
    print(f"\n{says(done)}")
    print(f"page    {shown(done.page)}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="explain")
def main(config: DictConfig) -> None:
    """One explanation."""
    with refusals_as_exit():
        fields = plain(config)
        folder = Path(fields.pop("run"))
        explain(folder, checked(ExplainSettings, fields))


if __name__ == "__main__":
    if any(word.startswith("circuit=") for word in sys.argv[1:]):
        sys.argv[1:] = of_file(sys.argv[1:], "explain", ExplainSettings)
        import discover  # which imports this file too, under its own name

        hydra_words()
        discover.main()
    else:
        check_words(sys.argv[1:])
        main()
