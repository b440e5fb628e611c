"""What one prompt's prediction is made of: its information flow route.

    python scripts/route.py model=smollm2 text="When Mary and John met, John thanked" target=" Mary"
    python scripts/route.py model=smollm2 task=ioi prompt=3

Configuration is in conf/route.yaml. Writes route.json, route.png and route.svg into the run folder.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import hydra
from command import CONF, hydra_words, in_quotes, plain, refusals_as_exit, shown, this_run
from omegaconf import DictConfig

from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.settings.run import RouteSettings, read_as

# fields whose value is text: Hydra would split it at commas and strip the space before a word
TEXT = re.compile(r"(text|target|contrast)=(.*)", re.DOTALL)
AS_IS = re.compile(r"null|(['\"]).*\1|", re.DOTALL)
ID = re.compile(r"(target|contrast)=-?\d+")


def quoted(argument: str) -> str:
    """A text on the command line as one string for Hydra; ids and quoted values as they are."""
    match = TEXT.fullmatch(argument)
    if match is None or AS_IS.fullmatch(match[2]) or ID.fullmatch(argument):
        return argument
    return f"{match[1]}={in_quotes(match[2])}"


def run(config: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    """Find the route, write, print."""
    settings = read_as(RouteSettings, config)
    from discovery.flow.answers import find_answer, to_json  # seconds, for settings that hold
    from discovery.job.prepare import describe_ids, load
    from discovery.studies import route

    with termination_as_exit(), RunFolder.create(folder, config, overrides) as record:
        loaded = load(settings)
        question = route.read_question(settings, loaded)
        print(f"prompt    {describe_ids(loaded, list(question.ids))}")
        answer = find_answer(question, loaded, settings.threshold, settings.renormalise)
        record.write("route.json", to_json(answer, loaded))
        picture = route.draw(answer, loaded, folder)
        print(route.table(answer, loaded))
        print(f"picture   {shown(picture)}\nresults   {shown(record.path('route.json'))}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="route")
def main(config: DictConfig) -> None:
    """One route."""
    with refusals_as_exit():
        run(plain(config), *this_run())


if __name__ == "__main__":
    sys.argv[1:] = map(quoted, sys.argv[1:])
    hydra_words()
    main()
