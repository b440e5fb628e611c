"""How a circuit comes about over the checkpoints of a training.

    python scripts/arise.py checkpoints=ckpt              # of scripts/train_induction.py
    python scripts/arise.py model=hf model.name=ckpt/step-1000 checkpoints=ckpt task=ioi
    python scripts/arise.py model=hf model.name=EleutherAI/pythia-160m revisions=[step0,step1000]

Configuration is in conf/arise.yaml. Writes arise.json, arise.png and arise.svg into the run folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from command import CONF, hydra_words, plain, refusals_as_exit, shown, this_run
from omegaconf import DictConfig

from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.runs.tracking import Outcome, check_tracking, start_tracker
from discovery.settings.run import AriseSettings, read_as
from discovery.show.tables import markdown


def run(config: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    """Ask every checkpoint, write, print."""
    settings = read_as(AriseSettings, config)
    from discovery.studies import arise, arise_drawing  # seconds, for settings that hold

    states = arise.checkpoints(settings)
    tracking = settings.tracking
    with termination_as_exit(), RunFolder.create(folder, config, overrides) as record:
        check_tracking(tracking.mode)
        with start_tracker(
            tracking.mode, folder=folder, project=tracking.project,
            config=settings.model_dump(mode="json"), name=f"arise {settings.task.label}",
            group=None, job_type="arise",
            tags=[f"model:{settings.model.label}", f"task:{settings.task.label}"],
        ) as tracker:  # fmt: skip
            points = list[arise.Point]()
            for one in arise.arise(settings, states, print):
                points.append(one)  # what is known is written, whatever becomes of the others
                record.write("arise.json", arise.as_json(points))
                tracker.log({k: v for k, (v,) in arise.curves([one]).items() if v is not None},
                            step=one.step)  # fmt: skip
            title = f"{settings.task.label} in {settings.model.label}, {settings.method.label}"
            picture = arise_drawing.draw(folder, points, title)
            told = arise.says(points)
            summary = {f"finding {i}": sentence for i, sentence in enumerate(told, 1)}
            tracker.finish(Outcome(summary, pictures={"arise": picture}))
        print(markdown(arise.rows(points)))
        print("\n".join(told))
        print(f"picture  {shown(picture)}\nresults  {shown(record.path('arise.json'))}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="arise")
def main(config: DictConfig) -> None:
    """One training."""
    with refusals_as_exit():
        run(plain(config), *this_run())


if __name__ == "__main__":
    hydra_words()
    main()
