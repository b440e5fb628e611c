"""MIB's circuit-localization track (Mueller et al. 2025).

    python scripts/mib.py evaluate scores=FILE model=hf model.name=gpt2 task=pairs task.path=FILE
    python scripts/mib.py submit FOLDER ioi_gpt2=RUN mcqa_qwen2.5=FILE --form pt
    python scripts/mib.py check FOLDER

Scores are a file in EAP-IG's and MIB's forms, JSON or .pt, or a run folder. Configuration is in
conf/mib.yaml. `evaluate` writes mib.json and circuits.npz into its run folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import hydra
from command import CONF, hydra_words, plain, refusals_as_exit, shown, this_run
from omegaconf import DictConfig

from acdc.errors import InputError
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.runs.json_files import write_bytes
from discovery.settings.run import MibSettings, read_as
from discovery.show.tables import markdown


def run(config: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    """Evaluate, write, print."""
    settings = read_as(MibSettings, config)
    from discovery.job.prepare import describe_prompts, load
    from discovery.mib import evaluate as mib  # seconds, for settings that hold

    with termination_as_exit(), RunFolder.create(folder, config, overrides) as record:
        loaded = load(settings)
        data = mib.prompts_of(settings, loaded)
        print(describe_prompts(loaded, data.prompts))
        found = mib.evaluate(settings, data)
        record.write("mib.json", mib.as_json(found, settings))
        write_bytes(record.path("circuits.npz"), mib.as_arrays(found))
        print(f"\n{markdown(mib.table(found))}")
        print("\n".join(mib.says(found)))
        print(f"results  {shown(record.path('mib.json'))}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="mib")
def main(config: DictConfig) -> None:
    """One evaluation."""
    with refusals_as_exit():
        run(plain(config), *this_run())


def submission(words: list[str]) -> None:
    """Write a submission's folder, or check one; exit code 2 if it is against a rule."""
    parser = argparse.ArgumentParser(prog="circuits mib")
    asked = parser.add_subparsers(dest="what", required=True)
    asked.add_parser("evaluate", help="ten sizes, CPR, CMD; its words are conf/mib.yaml's fields")
    submit = asked.add_parser("submit", help="write a submission's folder, and check it")
    submit.add_argument("out", type=Path, help="the folder to make")
    submit.add_argument(
        "entries", nargs="+", help="ioi_gpt2=RUN: a run folder or a file of scores for each entry"
    )
    submit.add_argument("--form", choices=["json", "pt"], default="json")
    submit.add_argument("--circuits", action="store_true", help="nine circuits, not the scores")
    submit.add_argument("--ranking", choices=["absolute", "signed"], default="absolute")
    submit.add_argument("--rule", choices=["top_n", "greedy"], default="top_n")
    asked.add_parser("check", help="check a folder").add_argument("folder", type=Path)
    given = parser.parse_args(words)
    with refusals_as_exit():
        if given.what == "submit":
            write_submission(given)
        check_submission(given.out if given.what == "submit" else given.folder)


def write_submission(given: argparse.Namespace) -> None:
    """Write it and print its files; InputError for an entry that is no NAME=PATH."""
    from discovery.mib import submission

    for word in given.entries:
        if "=" not in word:
            raise InputError(f"{word}: write NAME=PATH, such as ioi_gpt2=runs/mine")
    sources = {name: Path(path) for name, _, path in (w.partition("=") for w in given.entries)}
    made = submission.write(
        given.out, sources, given.form, given.circuits, given.ranking, given.rule
    )
    for path in made:
        print(f"file  {shown(path.resolve())}")


def check_submission(folder: Path) -> None:
    """Print what is found; InputError if something is against a rule."""
    from discovery.mib.submission import check

    found = check(folder)
    for one in found:
        print(f"{'wrong' if one.wrong else 'note'}  {one.where or folder}: {one.says}")
    wrong = sum(one.wrong for one in found)
    if wrong:
        raise InputError(f"{folder}: {wrong} against MIB's rules")
    print(f"{folder}: within MIB's stated rules")


if __name__ == "__main__":
    if sys.argv[1:2] == ["evaluate"]:
        del sys.argv[1]
        hydra_words()
        main()
    else:
        submission(sys.argv[1:])
