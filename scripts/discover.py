"""A model and a task in, a circuit out.

    python scripts/discover.py model=smollm2 task=ioi method.threshold=0.05 task.n=8
    python scripts/discover.py evaluation=full     # and is it true? See scripts/validate.py
    python scripts/discover.py model=smollm2 task=ioi +sweep=thresholds

Configuration is in conf/; the run folder is described in README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from command import CONF, hydra_words, plain, refusals_as_exit, shown, this_run
from omegaconf import DictConfig
from sweeping import check_launcher, in_sweep, run_job, summed_up
from validate import validate

from acdc.errors import InputError
from discovery.job.shares import yardstick
from discovery.runs.folder import record_refusal
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.run import Settings, read_settings
from discovery.show.tables import markdown


def table(result: dict[str, Any], folder: Path) -> str:
    """The end of a run in a few lines."""
    rows = [
        ("edges", f"{result['n_edges']} of {result['n_edges_total']:,}"
         f" ({result['n_nodes']} nodes)"),
    ]  # fmt: skip
    if "n_tests" in result:
        text = f"{result['n_tests']:,} in {result['n_passes']:,} batched passes"
        rows.append(("tests", text))
    if "n_edges_requested" in result:
        rows.append(("asked for", f"{result['n_edges_requested']:,} edges"))
    rows += [
        *_skipped(result),
        ("search", f"{result['seconds']['search']:.1f} s ="
         f" {result['search_in_forwards']:,.0f} plain forward passes of the same batch"),
        ("picture", str(folder / "circuit.png")),
        ("results", str(folder / "result.json")),
    ]  # fmt: skip
    lines = [f"{name:14}{text}" for name, text in rows]
    shares = markdown([_split_row(result, *item) for item in result["splits"].items()])
    lines += ["", shares, f"shares: {yardstick(result['ablation'])}", "", result["holds"]]
    return "\n".join(lines)


def _split_row(result: dict[str, Any], part: str, own: dict[str, Any]) -> dict[str, str]:
    """One line of how good the circuit is: two-sided shares first, means after."""
    metric, scores = result["metric"], own["scores"] or {}
    row = {"prompts": f"{part}, {own['n']}", "KL share": _share(own["kl_share"])}
    if metric != "kl":
        row[f"error share of {metric}"] = _share(own["error_share"])
    for name, form in (("accuracy", "{:.1%}"), ("logit_diff", "{:.2f}")):
        runs = [scores.get(run, {}).get(name) for run in ("circuit", "model")]
        if None not in runs:
            row[name] = "{} of {}".format(*(form.format(value) for value in runs))
    values = [own[run] for run in ("circuit", "model", "empty")]
    shown = [_number(value) for value in values]
    row[f"{metric} (model, empty)"] = "{} ({}, {})".format(*shown)
    undefined = "undefined" if own["undefined"] is None else f"undefined: {own['undefined']}"
    row["faithfulness"] = undefined if own["faithfulness"] is None else _share(own["faithfulness"])
    return row


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value + 0.0 if abs(value) >= 5e-5 else 0.0:.4f}"


def _skipped(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What a shortlist left untested, if there was one."""
    if "n_skipped" not in result:
        return []
    cost = f"{result['skipped_damage']:+.4f} (positive = worse)"
    text = (
        f"{result['n_skipped']:,} edges cut untested, off the shortlist; {result['metric']} {cost}"
    )
    return [("skipped", text)]


@hydra.main(version_base="1.3", config_path=CONF, config_name="discover")
def main(config: DictConfig) -> None:
    """One job, alone or of a sweep."""
    from discovery.job.pipeline import discover, plan_only

    folder, overrides = this_run()
    if in_sweep():
        result = run_job(config, folder, overrides)
        if result is not None:
            print(table(result, shown(folder)))
        return
    with refusals_as_exit():
        settings = _settings(config, folder, overrides)
        if settings.plan:
            plan_only(settings, print)
            return
        result = discover(settings, folder, overrides, print)
        print(table(result, shown(folder)))
        if isinstance(settings.evaluation, FullEvaluation):
            validate([folder], settings.evaluation)


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
