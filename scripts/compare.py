"""Several methods on one task: the table, the curves, what they share.

    python scripts/compare.py model=smollm2 task=ioi methods=[learned,eap_ig,random]

Writes compare.json and, unless curves=false, curve.png and curve.svg into the run folder.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from command import CONF, asked, hydra_words, plain, refusals_as_exit, this_run
from hydra import compose
from omegaconf import DictConfig

from acdc.errors import InputError
from acdc.selection import RULES
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.settings.run import Settings, read_settings
from discovery.show.tables import markdown

OWN = ("methods", "rule", "targets", "curves")  # fields of conf/compare.yaml


def method_settings(config: DictConfig, overrides: list[str]) -> list[Settings]:
    """One checked configuration a method: its own file, all else shared.

    A method is its name, and what is asked of it alone: "eap method.backward=gim".
    """
    shared = [o for o in overrides if o.split("=")[0].lstrip("+") not in OWN]
    out = []
    for words in config.methods:
        name, *more = words.split()
        own = asked([f"method={name}", *shared, *more])
        out.append(read_settings(plain(compose("config", own))))
    if not out:
        raise InputError("methods=[]: name at least one, such as methods=[eap_ig,random]")
    if config.rule not in RULES:
        raise InputError(f"rule={config.rule!r}: allowed are {', '.join(RULES)}")
    return out


def run(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Compare, write, print."""
    methods = method_settings(config, overrides)
    from discovery.job.doubts import doubts
    from discovery.job.prepare import prepare
    from discovery.studies.compare import (  # seconds, for settings that hold
        as_json,
        compare_on,
        draw_curves,
    )

    with termination_as_exit(), RunFolder.create(folder, plain(config), overrides) as record:
        job = prepare(methods[0])
        print(job.describe())
        for sentence in doubts(job.loaded, job.data, job.metric, None):
            print(f"warning: {sentence}")
        found, results, asked_of = [], {}, [s.method for s in methods]
        for one in compare_on(job, asked_of, config.rule, config.targets, config.curves):
            found.append(one)  # what is known is written, whatever becomes of the others
            results = as_json(found, job.data)
            record.write("compare.json", results)
        words = (
            methods[0].task.label,
            job.loaded.model.name,
            job.metric.name,
            job.data.ablation.name,
        )
        title = "{} in {}, {}, {}".format(*words)
        print(f"edges needed for a share of the model\n\n{markdown(results['needed'])}")
        print(markdown(results["table"]))
        if config.curves:
            print(f"picture  {draw_curves(folder, found, title)}")
        print(f"results  {record.path('compare.json')}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="compare")
def main(config: DictConfig) -> None:
    """One comparison."""
    with refusals_as_exit():
        run(config, *this_run())


if __name__ == "__main__":
    hydra_words()
    main()
