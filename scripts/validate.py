"""Is the circuit that a run found true?

    python scripts/validate.py run=FOLDER
    python scripts/validate.py run=[A,B,C]      # of one model and task: they share what they can

Configuration is in conf/validate.yaml. Writes validation.json, figures and report.html into each
run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from command import plain, refusals_as_exit, shown
from omegaconf import DictConfig

from discovery.tables import markdown
from discovery.validation.runs import Validated, read_found, table, validate_runs
from discovery.validation.settings import read_validation
from discovery.validation.verdicts import headline


def run(config: dict[str, Any]) -> list[Validated]:
    """Validate, write, print."""
    folders = config.pop("run")
    settings = read_validation(config)
    found = read_found([Path(f) for f in (folders if isinstance(folders, list) else [folders])])
    done = validate_runs(found, settings, print)
    for one in done:
        print(f"\n{one.folder}: {headline(one.validation, one.verdicts)}")
        for sign, answer in (("+", True), ("-", False), ("?", None)):
            for verdict in (v for v in one.verdicts if v.holds is answer):
                print(f"  {sign} {verdict.question}: {verdict.figures}")
        print(f"report  {shown(one.report)}")
    if len(done) > 1:
        print("\n" + markdown(table(done)))
    return done


@hydra.main(version_base="1.3", config_path="../conf", config_name="validate")
def main(config: DictConfig) -> None:
    """One validation."""
    with refusals_as_exit():
        run(plain(config))


if __name__ == "__main__":
    main()
