"""Which method finds circuits that are known, and does validation know them from false ones?

    python scripts/truth.py
    python scripts/truth.py methods=[acdc] validation=1
    python scripts/truth.py methods=[eap_ig] files=[FOLDER] circuits=[or,and]
    python scripts/truth.py 'methods=[acdc,"eap_ig method.steps=20"]' sets=[constructed] seeds=2

Configuration is in conf/truth.yaml. Writes truth.json, truth.png and truth.svg into the run folder;
with validation also power.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from command import CONF, asked, hydra_words, plain, refusals_as_exit, shown, this_run
from hydra import compose
from omegaconf import DictConfig

from acdc.errors import InputError
from discovery.choices.fields import checked
from discovery.methods import Method
from discovery.methods.files import of_circuit, of_files
from discovery.runs.folder import RunFolder, termination_as_exit
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.run import TruthSettings, read_settings
from discovery.show.tables import markdown


def questions(fields: dict[str, Any]) -> tuple[TruthSettings, list[Method]]:
    """What is asked, and each method as its own file and its own words say."""
    settings = checked(TruthSettings, fields)
    methods = []
    for words in settings.methods:
        name, *more = words.split()
        composed = compose("config", asked([f"method={name}", *more]))
        methods.append(read_settings(plain(composed)).method)
    return settings, methods


def run(fields: dict[str, Any], folder: Path, overrides: list[str]) -> None:
    """Try every method on every case, write, print."""
    settings, methods = questions(fields)
    of_files(settings.files)  # what is no file of scores or of a circuit is said at once
    import torch  # seconds, for settings that hold
    from tqdm.auto import tqdm

    from discovery.show.drawing import save_figure
    from discovery.truth import bench, power
    from discovery.truth.drawing import figure_of

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with termination_as_exit(), RunFolder.create(folder, fields, overrides) as record:
        found, why = list[bench.Judged](), dict[tuple[str, str, str], str]()
        asked_for = settings.sets, settings.ablations, settings.seeds, settings.circuits
        cases, missing = bench.every_case(*asked_for)
        for sentence in missing:
            print(f"skipped  {sentence}")
        for name, seed, case in tqdm(cases, unit="case", dynamic_ncols=True):
            why.setdefault((name, case.ablation, case.name), case.why)
            tried = [*methods, *of_circuit(settings.files, case.name)]
            found += [bench.judged(name, case, method, seed) for method in tried]
        told = bench.as_json(found, why, settings.seed)
        record.write("truth.json", told)
        figure = figure_of(found)
        save_figure(figure, folder, "truth", "svg")
        picture = save_figure(figure, folder, "truth", "png")
        print("medians [95 % interval] over circuits and draws")
        print(f"\n{markdown(told['table'])}")
        print(f"AUROC of edges, circuit by circuit\n\n{markdown(told['circuits'])}")
        for sentence in bench.refused(found):
            print(f"not tried  {sentence}")
        some = [one for one in cases if one[1] < settings.validation]
        if some:
            validated = list[power.Tested]()
            for name, seed, case in tqdm(some, unit="case", dynamic_ncols=True):
                try:
                    validated += power.tested(name, case, FullEvaluation(), seed)
                except InputError as error:
                    print(f"not validated  {error}")
                record.write("power.json", power.as_json(validated))
            print(f"validation of true and of false circuits\n\n{markdown(power.rows(validated))}")
            print(f"the words of the verdict\n\n{power.words_table(validated)}")
        print(f"picture  {shown(picture)}\nresults  {shown(record.path('truth.json'))}")


@hydra.main(version_base="1.3", config_path=CONF, config_name="truth")
def main(config: DictConfig) -> None:
    """One table."""
    with refusals_as_exit():
        run(plain(config), *this_run())


if __name__ == "__main__":
    hydra_words()
    main()
