"""A model and a task in, a circuit out.

    python scripts/discover.py model=smollm2 task=ioi method.threshold=0.05 task.n=8
    python scripts/discover.py evaluation=full     # and is it true? See scripts/validate.py
    python scripts/discover.py evaluation=explain  # and how does it do it? See scripts/explain.py
    python scripts/discover.py model=smollm2 task=ioi +sweep=thresholds

Configuration is in conf/; the run folder is described in docs/pages/run_folder.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from command import CONF, hydra_words, plain, refusals_as_exit, shown, this_run
from explain import explain
from omegaconf import DictConfig
from sweeping import check_launcher, in_sweep, run_job, summed_up
from validate import validate

from acdc.errors import InputError
from discovery.dashboard.embed import circuit_html
from discovery.job.summary import table
from discovery.runs.folder import record_refusal
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.explanation import ExplainSettings
from discovery.settings.run import Settings, read_settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="discover")
def main(config: DictConfig) -> None:
    """One job, alone or of a sweep."""
    folder, overrides = this_run()
    if in_sweep():
        result = run_job(config, folder, overrides)
        if result is not None:
            print(table(result, shown(folder)))
        return
    with refusals_as_exit():
        settings = _settings(config, folder, overrides)
        from discovery.job.pipeline import discover, plan_only  # seconds, for settings that hold

        if settings.plan:
            plan_only(settings, print)
            return
        result = discover(settings, folder, overrides, print, page=circuit_html)
        print(table(result, shown(folder)))
        if isinstance(settings.evaluation, FullEvaluation):
            validate([folder], settings.evaluation)
        if isinstance(settings.evaluation, ExplainSettings):
            explain(folder, settings.evaluation)


def _settings(config: DictConfig, folder: Path, overrides: list[str]) -> Settings:
    """The checked settings; a refusal is recorded in the folder that Hydra has made."""
    try:
        return read_settings(plain(config))
    except InputError as error:
        record_refusal(folder, overrides, error)
        raise


if __name__ == "__main__":
    hydra_words()
    check_launcher(sys.argv[1:])
    with summed_up():
        main()
