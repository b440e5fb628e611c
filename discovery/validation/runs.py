"""Validate run folders: read what a run found, try it on other prompts, report beside it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from acdc.circuit import Circuit
from acdc.errors import InputError
from discovery.ablations.choices import AblationChoice
from discovery.job.build import build_prompts, graph_of
from discovery.job.finished import read_finished
from discovery.job.mirror import run_name, tags
from discovery.job.origin import commit
from discovery.job.prepare import Cache, describe_ids, load
from discovery.job.splits import split
from discovery.runs.folder import termination_as_exit
from discovery.runs.json_files import write_json
from discovery.runs.tracking import Outcome, start_tracker
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.run import GraphSettings, Settings
from discovery.validation.decision import next_steps
from discovery.validation.figures import figures
from discovery.validation.held_out import held_out, run_ablation
from discovery.validation.report import write_report
from discovery.validation.validate import Validator
from discovery.validation.verdicts import (
    Verdict,
    headline,
    in_words,
    lead,
    left_out,
    verdicts,
)

Say = Callable[[str], None]
SAMPLES = 4  # prompts that are shown
LOOKS = 0.4  # mean attention from which a head is put in the class of what it looks at


@dataclass(frozen=True)
class Found:
    """A run's circuit as it lies on disk."""

    folder: Path
    settings: Settings
    circuit: Mapping[str, Any]
    n_edges: int
    search_seconds: float
    result: Mapping[str, Any]  # result.json
    overrides: Sequence[str]  # the words of its command
    attention: Mapping[str, Mapping[str, float]]  # between marked tokens, by head


@dataclass(frozen=True)
class Validated:
    """One run's outcome."""

    folder: Path
    validation: Mapping[str, Any]
    verdicts: list[Verdict]
    report: Path


def read_found(
    folders: Sequence[Path], device: str | None = None, threads: int | None = None
) -> list[Found]:
    """The runs to validate; InputError before any model is loaded if one of them cannot be.

    They must be of one model, task and graph, and hold a circuit of at least one edge. They are
    asked on `device` with `threads`; None: as each run had.
    """
    if not folders:
        raise InputError("run=[]: name at least one run folder")
    found = [_read(folder, device, threads) for folder in folders]
    for one in found[1:]:
        for field in ("model", "task", "graph", "seed"):
            mine, first = getattr(one.settings, field), getattr(found[0].settings, field)
            if mine != first:
                raise InputError(
                    f"run: {one.folder} and {found[0].folder} differ in {field}; runs that are"
                    " validated together must be of one model and task"
                )
    return found


def _read(folder: Path, device: str | None, threads: int | None) -> Found:
    done = read_finished(folder, device, threads)
    settings, run = done.settings, done.run
    assert run.circuit is not None and run.result is not None  # it is finished
    path = folder / "heads.json"
    heads = json.loads(path.read_text(encoding="utf-8"))["heads"] if path.exists() else {}
    attention = {name: entry["attention"] for name, entry in heads.items()}
    seconds = float((run.result.get("seconds") or {}).get("search") or 0.0)
    overrides = list((run.config or {}).get("overrides", []))
    return Found(
        folder, settings, run.circuit, int(run.result["n_edges"]), seconds, run.result, overrides,
        attention,
    )  # fmt: skip


def validate_runs(
    found: Sequence[Found], settings: FullEvaluation, say: Say, cache: Cache | None = None
) -> list[Validated]:
    """Validate each; writes validation.json, figures and report.html into each run's folder.

    `cache` holds the model, if it is there already.
    """
    run = found[0].settings
    loaded = load(run, cache)
    used = build_prompts(run, loaded)
    seen = [used, *(p for part, p in split(run, loaded, used).items() if part == "tune")]
    prompts = held_out(run, loaded, seen, settings.prompts, settings.seed)
    say(f"{len(prompts)} held-out prompts, none of the run's {sum(map(len, seen))}")
    ablations = {a: run_ablation(a, run, loaded, used) for a in _asked(found)}
    with torch.inference_mode():
        validators: dict[tuple[AblationChoice, GraphSettings], Validator] = {}
        out = []
        for one in found:
            asked = one.settings.ablation, one.settings.graph
            if asked not in validators:
                graph = graph_of(one.settings, loaded, used)
                validators[asked] = Validator.on(
                    settings, one.settings, loaded, graph, prompts, ablations[asked[0]],
                    max(f.n_edges for f in found if f.settings.graph == one.settings.graph),
                )  # fmt: skip
            out.append(_validate(one, validators[asked], used, say))
    return out


def _asked(found: Sequence[Found]) -> list[AblationChoice]:
    return list(dict.fromkeys(one.settings.ablation for one in found))


def _validate(one: Found, validator: Validator, used: Any, say: Say) -> Validated:
    circuit = Circuit.from_json(one.circuit, validator.bench.graph)
    tracking = one.settings.tracking
    with (
        termination_as_exit(),
        start_tracker(
            tracking.mode, folder=one.folder, project=tracking.project,
            config=validator.settings.model_dump(), name=run_name(one.settings, "validate"),
            group=None, job_type="validation", tags=tags(one.settings),
        ) as tracker,
    ):  # fmt: skip
        validation = {
            "model": one.settings.model.label,
            "task": one.settings.task.label,
            "method": one.settings.method.name,
            "settings": validator.settings.model_dump(),
            "provenance": provenance(one),
            "samples": samples(validator, circuit),
            **validator.validate(
                one.settings, circuit, used, classes(one.attention), one.search_seconds,
                lambda part: say(f"{one.folder.name}: {part}"),
            ),
        }  # fmt: skip
        validation["next"] = next_steps(validation, one.result, str(one.folder))
        found = verdicts(validation)
        validation |= in_words(validation, found)
        write_json(one.folder / "validation.json", validation)
        page = write_report(one.folder, validation)
        tracker.finish(_outcome(one.folder, validation, found, page))
    return Validated(one.folder, validation, found, page)


def _outcome(
    folder: Path, validation: Mapping[str, Any], found: Sequence[Verdict], page: Path
) -> Outcome:
    rows = [{"says": v.says, "holds": str(v.holds), "figures": v.figures} for v in found]
    summary: dict[str, Any] = {f"{v.name} holds": str(v.holds) for v in found}
    summary["verdict"] = validation["decision"]["verdict"]
    for one in validation["decision"]["figures"]:
        share = one["share"] or {}
        summary |= {f"{one['name']} word": one["word"]} | {
            f"{one['name']}{end}": share[part]
            for end, part in (("", "estimate"), (" low", "low"), (" high", "high"))
            if share.get(part) is not None
        }
    return Outcome(
        summary,
        tables={"verdicts": rows},
        pictures={name: folder / f"{name}.png" for name in figures(validation)},
        pages={"report": page.read_text(encoding="utf-8")},
        files=[folder / "validation.json"],
    )


def provenance(one: Found) -> dict[str, Any]:
    """How the circuit came to be, and with what it was validated."""
    return {
        "folder": str(one.folder),
        "command": shlex.join(["circuits", "discover", *one.overrides]),
        "seed": one.settings.seed,
        **{name: one.result.get(name) for name in ("config_hash", "commit", "machine", "versions")},
        "validated_by": {"circuit-discovery": version("circuit-discovery"), "commit": commit()},
    }


def samples(validator: Validator, circuit: Circuit) -> list[dict[str, Any]]:
    """The first held-out prompts, and the score of model, circuit and empty circuit on each."""
    bench, loaded = validator.bench.first(SAMPLES), validator.loaded
    prompts = bench.data.prompts
    runs = {"model": bench.model, "circuit": bench.circuit(circuit.mask), "empty": bench.empty}
    return [
        {
            "prompt": describe_ids(loaded, prompts.tokens(row)),
            "answers": [describe_ids(loaded, [token]) for token in prompts.answers[row][:3]],
            **{run: float(values.score[row]) for run, values in runs.items()},
        }
        for row in range(min(SAMPLES, len(prompts)))
    ]


def classes(heads: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Heads by the marked tokens that they look at most, such as "end->io"; weak ones in none."""
    out: dict[str, list[str]] = {}
    for head, looks in heads.items():
        if looks:
            place = max(looks, key=lambda mark: looks[mark])
            if looks[place] >= LOOKS:
                out.setdefault(place, []).append(head)
    return out


def says(one: Validated) -> str:
    """The headline, a line a property, and what was left out."""
    lines = [*lead(one.validation), headline(one.validation, one.verdicts)]
    for sign, answer in (("+", True), ("-", False), ("?", None)):
        for verdict in (v for v in one.verdicts if v.holds is answer):
            beside = "" if verdict.counted else " (beside the count)"
            lines.append(f"  {sign} {verdict.says} {verdict.name}: {verdict.figures}{beside}")
    return "\n".join([*lines, *(f"  {sentence}" for sentence in left_out(one.validation))])


def table(validated: Sequence[Validated]) -> list[dict[str, str]]:
    """The verdicts, and a row a property: + shown to hold, - shown to fail, ? not decided."""
    signs = {True: "+", False: "-", None: "?"}
    rows: dict[str, dict[str, str]] = {}
    names = [f"{one.validation['method']} ({one.validation['n_edges']})" for one in validated]
    if len(set(names)) < len(names):
        names = [f"{name}, {i}" for i, name in enumerate(names, 1)]
    decided = {
        n: one.validation["decision"]["verdict"] for n, one in zip(names, validated, strict=True)
    }
    rows["verdict"] = {"property": "verdict", **decided}
    for name, one in zip(names, validated, strict=True):
        for verdict in one.verdicts:
            blank = {"property": verdict.name, **dict.fromkeys(names, "")}  # if it was not asked
            row = rows.setdefault(verdict.name, blank)
            row[name] = signs[verdict.holds]
    return list(rows.values())
