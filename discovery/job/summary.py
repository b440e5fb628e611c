"""The end of a run in a few lines: sizes, shares on each part of the prompts, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from discovery.job.shares import carried, yardstick
from discovery.show.tables import html, markdown


def table(result: dict[str, Any], folder: Path) -> str:
    """The end of a run as text."""
    lines = [f"{name:14}{text}" for name, text in facts(result, folder)]
    lines += ["", markdown(rows(result)), f"shares: {yardstick(result['ablation'])}"]
    return "\n".join([*lines, "", result["holds"]])


def title(result: Mapping[str, Any]) -> str:
    """What a picture of the circuit is called."""
    return f"Circuit for {result['task']} in {result['model']}"


def caption(result: Mapping[str, Any]) -> str:
    """How it was found and how good it is: on the test prompts, where there are any."""
    part = "test" if "test" in result["splits"] else "search"
    own, size = result["splits"][part], result["threshold"]
    how = result["method"] if size is None else f"{result['method']}, threshold {size:g}"
    how += "" if result["target"] is None else f", target {result['target']:g}"
    how += f": {result['n_edges']} of {result['n_edges_total']:,} edges"
    if own["circuit"] is None:
        return f"{how}, not evaluated: the task has no corrupt prompts"
    where = f"{own['n']} {'new' if part == 'test' else 'searched'} prompts"
    unit = result.get("unit") or ""  # not said before 2026-12
    how += f"; on {where} {result['metric']} {own['circuit']:.3g} {unit}".rstrip()
    if own["faithfulness"] is None:
        return f"{how}, faithfulness undefined"
    return f"{how}, faithfulness {own['faithfulness']:.1%} (0%: {carried(result['ablation'])})"


def page(result: dict[str, Any], folder: Path) -> str:
    """The same as HTML."""
    lines = [f"<b>{escape(name)}</b> {escape(text)}" for name, text in facts(result, folder)]
    said = [f"shares: {yardstick(result['ablation'])}", result["holds"]]
    return f"<p>{'<br>'.join(lines)}</p>{html(rows(result))}" + "".join(
        f"<p>{escape(sentence)}</p>" for sentence in said
    )


def facts(result: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Sizes, cost, and where everything is, each with its name."""
    found = [
        ("edges", f"{result['n_edges']} of {result['n_edges_total']:,}"
         f" ({result['n_nodes']} nodes)"),
    ]  # fmt: skip
    if "n_tests" in result:
        text = f"{result['n_tests']:,} in {result['n_passes']:,} batched passes"
        if "n_read" in result:  # not said before 2026-12
            text += f", {result['n_read']:,} variants read out"
        found.append(("tests", text))
    if "n_edges_requested" in result:
        found.append(("asked for", f"{result['n_edges_requested']:,} edges"))
    return found + [
        *_skipped(result),
        ("search", f"{result['seconds']['search']:.1f} s ="
         f" {result['search_in_forwards']:,.0f} plain forward passes of the same batch"),
        ("picture", str(folder / "circuit.png")),
        ("results", str(folder / "result.json")),
    ]  # fmt: skip


def rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """A row for the prompts to search, tune and test on."""
    return [_split_row(result, *item) for item in result["splits"].items()]


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
