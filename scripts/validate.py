"""Is the circuit that a run found true?

    python scripts/validate.py run=FOLDER
    python scripts/validate.py run=[A,B,C]      # of one model and task: they share what they can
    python scripts/validate.py run=FOLDER budget=1h prompts=MINE.jsonl
    python scripts/validate.py circuit=FILE model=smollm2 task=ioi   # any circuit, as EAP-IG writes

Configuration is in conf/validate.yaml. Writes validation.json, figures and report.html into each
run folder; for a circuit's file a run folder is made first (method=given), as discover.py makes
it, so its words are that command's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from command import CONF, check_words, hydra_words, plain, refusals_as_exit, shown
from omegaconf import DictConfig

from discovery.choices.fields import Fields, checked
from discovery.runs.folder import read_run
from discovery.settings.evaluation import FullEvaluation
from discovery.show.tables import markdown


def validate(folders: Sequence[Path], settings: FullEvaluation) -> None:
    """Validate the runs in these folders, write, print."""
    for folder in folders:
        read_run(folder, lines=False)  # or refused before what takes seconds to import
    from discovery.validation.runs import read_found, says, table, validate_runs

    found = read_found(folders, settings.device, settings.threads)
    done = validate_runs(found, settings, print)
    for one in done:
        print(f"\n{one.folder}: {says(one)}")
        print(f"report  {shown(one.report)}")
    if len(done) > 1:
        print("\n" + markdown(table(done)))


@hydra.main(version_base="1.3", config_path=CONF, config_name="validate")
def main(config: DictConfig) -> None:
    """One validation."""
    with refusals_as_exit():
        fields = plain(config)
        run = fields.pop("run")
        folders = [Path(folder) for folder in (run if isinstance(run, list) else [run])]
        validate(folders, checked(FullEvaluation, fields))


def of_file(words: Sequence[str], kind: str, evaluation: type[Fields]) -> list[str]:
    """The words with which scripts/discover.py measures a circuit's file, and then asks more."""
    run = ("seed", "device", "threads", "kind")  # are the run's
    asked = [name for name in evaluation.model_fields if name not in run]
    out = ["method=given", f"evaluation={kind}"]
    for word in words:
        field = word.partition("=")[0].partition(".")[0]
        prefix = {"circuit": "method.", **dict.fromkeys(asked, "evaluation.")}.get(field, "")
        out.append(prefix + word)
    return out


if __name__ == "__main__":
    if any(word.startswith("circuit=") for word in sys.argv[1:]):
        sys.argv[1:] = of_file(sys.argv[1:], "full", FullEvaluation)
        import discover  # which imports this file too, under its own name

        hydra_words()
        discover.main()
    else:
        check_words(sys.argv[1:])
        main()
