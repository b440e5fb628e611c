"""How does the circuit that a run found do its task?

    python scripts/explain.py run=FOLDER
    python scripts/explain.py run=FOLDER parts=[paths,story] prompts=64
    python scripts/explain.py circuit=FILE model=smollm2 task=ioi   # any circuit, as EAP-IG writes

Configuration is in conf/explain.yaml. Writes explanation.json and explanation.html into the run's
folder; for a circuit's file a run folder is made first (method=given).
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from command import CONF, check_words, plain, refusals_as_exit, shown
from omegaconf import DictConfig

from discovery.explanation.settings import read_explain


@hydra.main(version_base="1.3", config_path=CONF, config_name="explain")
def main(config: DictConfig) -> None:
    """One explanation."""
    with refusals_as_exit():
        fields = plain(config)
        folder = Path(fields.pop("run"))
        asked = read_explain(fields)
        from discovery.explanation.runs import explain_run, says

        done = explain_run(folder, asked, print)
        print(says(done))
        print(f"page  {shown(done.page)}")


if __name__ == "__main__":
    check_words(sys.argv[1:])
    main()
