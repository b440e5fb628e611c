"""Several methods on one task: the table, the curves, what they share.

    python scripts/compare.py model=smollm2 task=ioi methods=[learned,eap_ig,random]
    python scripts/compare.py model=smollm2 task=ioi methods=[eap_ig] files=[A.json,B.pt,FOLDER]

Writes into the run folder compare.json, of each row the circuit as soon as it is known (kept
edges with their scores, circuit_METHOD_TARGET.json), and, unless curves=false, curve.png and .svg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from command import CONF, asked, cleaned, hydra_words, plain, refusals_as_exit, this_run
from hydra import compose
from omegaconf import DictConfig

from discovery.choices.fields import checked
from discovery.methods.files import of_files
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.settings.run import CompareSettings, Settings, read_settings
from discovery.show.tables import markdown

if TYPE_CHECKING:
    from discovery.studies.needed import Needed


def questions(
    fields: dict[str, Any], overrides: list[str]
) -> tuple[CompareSettings, list[Settings]]:
    """What the comparison asks, and one checked configuration a method: its own file, all else
    shared.

    A method is its name, and what is asked of it alone: "eap method.backward=gim".
    """
    own = checked(CompareSettings, {name: fields[name] for name in CompareSettings.model_fields})
    shared = [o for o in overrides if o.split("=")[0].lstrip("+") not in type(own).model_fields]
    out = []
    for words in own.methods:
        name, *more = words.split()
        composed = compose("config", asked([f"method={name}", *shared, *more]))
        out.append(read_settings(plain(composed)))
    return own, out


def file_of(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The file of a row's circuit; None where none reached the target.

    Methods that differ in their fields alone may go by one name: what `rows` have is not taken
    again, but numbered.
    """
    if row["edges"] is None:
        return None
    target = "" if row["target"] is None else f"_{row['target']:g}"
    stem = "circuit_" + cleaned(row["method"]).replace("=", "-") + target  # a word can name it
    taken = {other["circuit"] for other in rows}
    names = (f"{stem}{number}.json" for number in chain([""], (f"_{i}" for i in count(2))))
    return next(name for name in names if name not in taken)


def run(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """Compare, write, print."""
    fields = plain(config)
    own, methods = questions(fields, overrides)
    elsewhere = of_files(own.files)
    from discovery.job.doubts import doubts
    from discovery.job.prepare import prepare
    from discovery.studies.compare import (  # seconds, for settings that hold
        as_json,
        check_questions,
        compare_on,
        draw_curves,
    )

    check_questions(methods)
    with termination_as_exit(), RunFolder.create(folder, fields, overrides) as record:
        job = prepare(methods[0])
        print(job.describe())
        for sentence in doubts(job.loaded, job.data, job.metric, None):
            print(f"warning: {sentence}")
        found, rows = [], list[dict[str, Any]]()
        asked_of = [*(s.method for s in methods), *elsewhere]
        results: dict[str, Any] = as_json(found, job.data)

        def keep(one: Needed) -> None:
            """Write the row and its circuit, whatever becomes of the others."""
            if name := file_of(one.row, rows):
                kept = replace(one.circuit, scores=one.circuit.scores * one.circuit.mask)
                record.write(name, kept.to_json(about={"score": one.score}))
            rows.append({**one.row, "circuit": name})
            record.write("compare.json", results | {"needed": rows})

        for one in compare_on(job, asked_of, own.rule, own.targets, own.curves, keep):
            found.append(one)
            results = as_json(found, job.data) | {"needed": rows}
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
        if own.curves:
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
