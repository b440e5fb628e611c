"""Causal scrubbing of a bracket classifier: the ladder of hypotheses, and controls beside it.

    python scripts/scrub.py weights=model.safetensors strings=strings.txt.gz references=20000

Writes scrub.json into the run folder.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from acdc.errors import InputError
from discovery.experiments import brackets
from discovery.experiments.brackets_graph import prepare
from discovery.experiments.brackets_report import (
    HEADER,
    data_facts,
    data_lines,
    null_facts,
    null_lines,
    read_strings,
    row,
)
from discovery.models.brackets import load_brackets, tokenize
from discovery.records import RunFolder, termination_as_exit
from discovery.settings import read_scrub_settings


def run(config: DictConfig, overrides: list[str], folder: Path) -> None:
    """Prepare, scrub, print as results come, write."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = read_scrub_settings(plain)
    torch.set_num_threads(1)  # small matrices run faster so, and sums do not depend on the machine
    network = load_brackets(Path(settings.weights))
    tokens = tokenize(read_strings(Path(settings.strings)), len(network.W_pos))
    with termination_as_exit(), RunFolder.create(folder, plain, overrides) as record:
        data = prepare(network, tokens)
        facts = data_facts(data)
        print(data_lines(facts) + "\n\n" + HEADER, flush=True)
        generator = np.random.default_rng(settings.seed)
        references = generator.integers(data.size, size=settings.references)
        results = []
        for experiment in brackets.ladder(data) + brackets.controls(data):
            one = brackets.run(data, experiment, references, settings.seed, settings.draws)
            results.append(one)
            print(row(one), flush=True)
        scores = brackets.role_scores(data, references, settings.seed)
        ranks = null_facts(scores, results)
        print("\n" + null_lines(scores, ranks))
        written = {
            "data": facts,
            "results": [asdict(one) for one in results],
            "roles": {" ".join(roles): score for roles, score in scores.items()},
            "null": {name: asdict(rank) for name, rank in ranks.items()},
        }
        record.write("scrub.json", written)
        print(f"results  {record.path('scrub.json')}")


@hydra.main(version_base="1.3", config_path="../conf", config_name="scrub")
def main(config: DictConfig) -> None:
    """One experiment."""
    runtime = HydraConfig.get()
    try:
        run(config, list(runtime.overrides.task), Path(runtime.runtime.output_dir))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
