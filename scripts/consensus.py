"""Which edges does a run's method find whatever prompts it is given?

    python scripts/consensus.py run=FOLDER
    python scripts/consensus.py run=FOLDER pairs=25 q=0.05 times=[0.5,1,2]

Configuration is in conf/consensus.yaml. Writes consensus.json, the core as circuit.json and its
picture into FOLDER/consensus.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from command import CONF, check_words, plain, refusals_as_exit, shown
from omegaconf import DictConfig

from discovery.choices.fields import checked
from discovery.consensus.settings import ConsensusSettings
from discovery.runs.folder import read_run


@hydra.main(version_base="1.3", config_path=CONF, config_name="consensus")
def main(config: DictConfig) -> None:
    """One consensus."""
    with refusals_as_exit():
        fields = plain(config)
        folder = Path(fields.pop("run"))
        settings = checked(ConsensusSettings, fields)
        read_run(folder, lines=False)  # or refused before what takes seconds to import
        from discovery.consensus.runs import FOLDER, consensus, says

        for sentence in says(consensus(folder, settings, print)):
            print(sentence)
        print(f"results  {shown(folder.resolve() / FOLDER / 'consensus.json')}")


if __name__ == "__main__":
    check_words(sys.argv[1:])
    main()
