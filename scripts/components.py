"""Importance of heads and MLPs over a data set, and how it differs from another data set's.

    python scripts/components.py model=smollm2 task=ioi
    python scripts/components.py model=smollm2 task=ioi versus=greater_than
    python scripts/components.py model=smollm2 task=pairs task.path=code.jsonl versus=prose.jsonl

Configuration is in conf/components.yaml. Writes components.json and heat maps into the run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from command import CONF, hydra_words, plain, refusals_as_exit, shown, this_run
from hydra import compose
from omegaconf import DictConfig

from acdc.errors import InputError
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.settings.run import ComponentsSettings, read_as
from discovery.show.tables import markdown

# fields that the second task takes from the first; a file takes only the last
SHARED = ("n", "length", "prepend_bos")


def checked(config: dict[str, Any]) -> ComponentsSettings:
    """The settings, with `versus` as a task of its own."""
    fields = dict(config)
    versus, changes = fields.pop("versus"), fields.pop("versus_fields")
    if versus is None and changes:
        raise InputError(f"versus_fields={changes}: there is no versus that could have fields")
    if versus is not None:
        if not isinstance(versus, str):
            raise InputError(f"versus={versus!r}: must be a task's name or a .jsonl file")
        fields["versus"] = _second_task(versus, changes, fields["task"])
    return read_as(ComponentsSettings, fields)


def _second_task(versus: str, changes: dict[str, Any], first: dict[str, Any]) -> dict[str, Any]:
    """Fields of the task named by `versus`, or of pairs in that file."""
    is_file = versus.endswith(".jsonl")
    name = "pairs" if is_file else versus
    task = compose("config", [f"task={name}"]).task
    shared = [f for f in SHARED[2 * is_file :] if f in task and first.get(f) is not None]
    for field in shared:
        task[field] = first[field]
    if is_file:
        task.path = versus
    return plain(task) | changes


def run(config: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    """Measure, compare, write, print."""
    settings = checked(config)
    from discovery.job.prepare import describe_prompts, load
    from discovery.studies import components  # seconds, for settings that hold

    with termination_as_exit(), RunFolder.create(folder, config, overrides) as record:
        loaded = load(settings)
        graph, name = loaded.model.graph(), settings.task.label
        prompts = components.data_set(settings, settings.task, loaded)
        other = components.other_data_set(settings, loaded)
        print(describe_prompts(loaded, prompts))
        flow = components.importances(settings, prompts, loaded)
        found: dict[str, Any] = {"start": settings.start, "threshold": settings.threshold}
        found["task"] = {"name": name, **components.flow_json(flow)}
        title = f"Flow through the components of {loaded.model.name}, {name}"
        picture = components.draw_components(folder, "components", graph, flow.mean, title=title)
        print(f"\n{markdown(components.flow_rows(flow))}")
        if other is not None:
            print(describe_prompts(loaded, other))
            second = components.importances(settings, other, loaded)
            gap = components.difference(flow, second, settings.seed)
            label = config["versus"]
            found["versus"] = {"name": label, **components.flow_json(second)}
            found["difference"] = components.difference_json(gap)
            title = f"{name} less {label} in {loaded.model.name}; a dot: named as different"
            picture = components.draw_components(
                folder, "difference", graph, gap.flow, title=title, marked=gap.named
            )
            print(f"\n{components.describe_difference(gap)}")
        record.write("components.json", found)
        print(f"picture   {shown(picture)}\nresults   {shown(record.path('components.json'))}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="components")
def main(config: DictConfig) -> None:
    """One data set, or two."""
    with refusals_as_exit():
        run(plain(config), *this_run())


if __name__ == "__main__":
    hydra_words()
    main()
