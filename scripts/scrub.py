"""Causal scrubbing: hypotheses on a bracket classifier or on induction heads, controls beside them.

    python scripts/scrub.py weights=model.safetensors strings=strings.txt.gz references=20000
    python scripts/scrub.py experiment=roles
    python scripts/scrub.py experiment=induction references=2000

The first runs the published ladder, the second searches which part carries which feature, the third
scrubs induction heads path by path. Writes scrub.json into the run folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from command import CONF, check_words
from hydra.core.hydra_config import HydraConfig
from jaxtyping import Int
from omegaconf import DictConfig, OmegaConf

from acdc.errors import InputError
from discovery.experiments import brackets, feature_search, induction, induction_report
from discovery.experiments.bracket_network import load_brackets, tokenize
from discovery.experiments.bracket_problem import bracket_problem
from discovery.experiments.bracket_strings import draw_strings, tokens_of
from discovery.experiments.brackets_graph import BracketData, prepare
from discovery.experiments.brackets_report import (
    HEADER,
    data_facts,
    data_lines,
    null_facts,
    null_lines,
    read_strings,
    row,
)
from discovery.experiments.feature_report import found_lines, noised_lines
from discovery.experiments.induction_heads import candidates, head_scores, named_heads
from discovery.experiments.induction_report import head_lines
from discovery.experiments.markov_text import texts
from discovery.experiments.two_layer import load_two_layer
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.settings.run import (
    InductionSettings,
    RolesSettings,
    ScrubSettings,
    read_scrub_settings,
)

FRESH = 20_000  # strings drawn where none are given
SCORED, COUNTED = 500, 4000  # texts that name the heads, and texts that choose the tokens
UNTRAINED = 10  # stream of data that no training drew from

Experiment = Callable[[], dict[str, Any]]  # prints as results come; returns what is written


def ladder(settings: ScrubSettings) -> Experiment:
    """The published hypotheses on a bracket classifier."""
    network = load_brackets(Path(settings.weights))
    tokens = tokenize(read_strings(Path(settings.strings)), len(network.W_pos))

    def experiment() -> dict[str, Any]:
        data = prepare(network, tokens)
        facts = data_facts(data)
        print(data_lines(facts) + "\n\n" + HEADER, flush=True)
        references = drawn_references(data, settings)
        results = []
        for one in brackets.ladder(data) + brackets.controls(data):
            result = brackets.run(data, one, references, settings.seed, settings.draws)
            results.append(result)
            print(row(result), flush=True)
        scores = brackets.role_scores(data, references, settings.seed)
        ranks = null_facts(scores, results)
        print("\n" + null_lines(scores, ranks))
        return {
            "data": facts,
            "results": [asdict(one) for one in results],
            "roles": {" ".join(roles): score for roles, score in scores.items()},
            "null": {name: asdict(rank) for name, rank in ranks.items()},
        }

    return experiment


def drawn_references(data: BracketData, settings: ScrubSettings) -> Int[np.ndarray, " reference"]:
    """Draw rows of the data with replacement."""
    return np.random.default_rng(settings.seed).integers(data.size, size=settings.references)


def roles_search(settings: RolesSettings) -> Experiment:
    """Which part of a bracket classifier carries which feature."""
    network = load_brackets(Path(settings.weights)) if settings.weights else load_brackets()
    if settings.strings is None:
        tokens = tokens_of(draw_strings(FRESH, np.random.default_rng([settings.seed, UNTRAINED])))
    else:
        tokens = tokenize(read_strings(Path(settings.strings)), len(network.W_pos))

    def experiment() -> dict[str, Any]:
        data = prepare(network, tokens)
        problem = bracket_problem(data, settings.draws)
        references = drawn_references(data, settings)
        found = feature_search.search(problem, references, settings.seed)
        print(found_lines(found) + "\n", flush=True)
        noised = feature_search.noising(problem, references, settings.seed)
        print(noised_lines(noised))
        return {
            "found": asdict(found) | {"null_scores": found.null_scores.tolist()},
            "noised": [asdict(one) for one in noised],
        }

    return experiment


def induction_ladder(settings: InductionSettings) -> Experiment:
    """Induction heads, path by path."""
    network = load_two_layer(Path(settings.weights)) if settings.weights else load_two_layer()
    length = len(network.positions) + 1

    def experiment() -> dict[str, Any]:
        generator = np.random.default_rng([settings.seed, UNTRAINED])
        scores = head_scores(network, texts(SCORED, length, generator))
        heads = named_heads(scores)
        print(head_lines(heads, scores) + "\n\n" + induction_report.HEADER, flush=True)
        counted = candidates(texts(COUNTED, length, generator))
        drawn = texts(settings.references, length, generator)
        one = induction.Experiment(network, drawn, counted, heads.induction, settings.draws)
        rungs = []
        for rung in induction.rungs(one, heads, settings.seed):
            rungs.append(asdict(rung))
            print(induction_report.row(rung), flush=True)
        return {"heads": asdict(heads), "rungs": rungs}

    return experiment


PREPARE: dict[str, Callable[[Any], Experiment]] = {
    "brackets": ladder,
    "roles": roles_search,
    "induction": induction_ladder,
}


def run(config: DictConfig, overrides: list[str], folder: Path) -> None:
    """Prepare, scrub, print as results come, write."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = read_scrub_settings(plain)
    torch.set_num_threads(1)  # small matrices run faster so, and sums do not depend on the machine
    experiment = PREPARE[settings.experiment](settings)
    with termination_as_exit(), RunFolder.create(folder, plain, overrides) as record:
        record.write("scrub.json", experiment())
        print(f"results  {record.path('scrub.json')}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="scrub")
def main(config: DictConfig) -> None:
    """One experiment."""
    runtime = HydraConfig.get()
    try:
        run(config, list(runtime.overrides.task), Path(runtime.runtime.output_dir))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    check_words(sys.argv[1:])
    main()
