"""Several methods on one task: the table, the curves, what they share.

    python scripts/compare.py model=smollm2 task=ioi methods=[acdc,ifr,eap,eap_ig,random]

Writes compare.json, curve.png and curve.svg into the run folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from command import check_words, plain, refusals_as_exit, this_run
from hydra import compose
from omegaconf import DictConfig

from acdc.errors import InputError
from discovery.records import RunFolder, termination_as_exit
from discovery.settings import Settings, read_settings
from discovery.tables import markdown

OWN = ("methods", "metric", "ablation", "rule")  # fields of conf/compare.yaml


def method_settings(config: DictConfig, overrides: list[str]) -> list[Settings]:
    """One checked configuration a method: its own file, the shared metric and ablation.

    ACDC keeps the metric of its own file, which is what its threshold is in.
    """
    shared = [o for o in overrides if o.split("=")[0].lstrip("+") not in OWN]
    out = []
    for name in config.methods:
        own = [f"method={name}", f"method.ablation={config.ablation}"]
        own += [] if name == "acdc" else [f"method.metric={config.metric}"]
        out.append(read_settings(plain(compose("config", own + shared))))
    if not out:
        raise InputError("methods=[]: name at least one, such as methods=[eap_ig,random]")
    return out


def run(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Compare, write, print."""
    methods = method_settings(config, overrides)
    from discovery.compare import compare, draw_curves, facts  # seconds, for settings that hold
    from discovery.doubts import doubts
    from discovery.prepare import prepare

    with termination_as_exit(), RunFolder.create(folder, plain(config), overrides) as record:
        job = prepare(methods[0], config.metric, config.ablation)
        forward, metric = job.forward, job.metric
        print(job.describe())
        for sentence in doubts(job.loaded, forward, metric, None):
            print(f"warning: {sentence}")
        found = compare(forward, metric, methods, config.rule)
        rows = facts(found, forward)
        curves = {one.method: one.curves.to_json() for one in found}
        record.write("compare.json", {"table": rows, "curves": curves})
        title = f"{methods[0].task.name} in {forward.model.name}, {metric.name}, {config.ablation}"
        picture = draw_curves(folder, found, title)
        print(markdown(rows) + f"\npicture  {picture}\nresults  {record.path('compare.json')}")


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
def main(config: DictConfig) -> None:
    """One comparison."""
    with refusals_as_exit():
        run(config, *this_run())


if __name__ == "__main__":
    check_words(sys.argv[1:])
    main()
