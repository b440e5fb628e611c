"""MIB's circuit-localization track (Mueller et al. 2025).

    python scripts/mib.py evaluate scores=FILE model=hf model.name=gpt2 task=pairs task.path=FILE

Scores are a file in EAP-IG's and MIB's forms, JSON or .pt, or a run folder. Configuration is in
conf/mib.yaml. `evaluate` writes mib.json into its run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from command import CONF, hydra_words, plain, refusals_as_exit, shown, this_run
from omegaconf import DictConfig

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


if __name__ == "__main__":
    if sys.argv[1:2] != ["evaluate"]:
        print(f"error: mib {''.join(sys.argv[1:2])}: known are evaluate", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    hydra_words()
    main()
