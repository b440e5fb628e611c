"""What routes and edge scores cost, in plain forward passes of the same batch in the same run.

    python scripts/cost.py              # SmolLM2 and the embedded model, one thread; minutes

Every method is timed beside plain forward passes, in turn, and the median of the ratios is given.
A method's base runs count as its own: for attributions the clean and the corrupt trace. The peak
is that of a process that does nothing else, the model and torch included. Fails if a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from acdc import attribution
from acdc.bridge import LoadedModel, from_bridge, load_pretrained
from acdc.data import Data
from acdc.iterative import How as Rounds
from acdc.iterative import iterative
from acdc.learned import How, learn, start
from acdc.metrics import LOGIT_DIFF
from acdc.prompts import Prompts
from discovery.flow.routes import find_route
from discovery.flow.scores import edge_flow
from discovery.flow.shares import flow_graph
from discovery.job.pipeline import peak_memory
from discovery.models.induction import load_induction
from discovery.models.smollm2 import smollm2_folder
from discovery.runs.json_files import write_bytes, write_json
from discovery.show.tables import markdown
from discovery.tasks import induction

STEPS = 5  # of what goes by steps

Work = Callable[[LoadedModel, Prompts], object]


@dataclass(frozen=True)
class Case:
    """A method, how it is measured, and what it may cost."""

    name: str
    work: Work
    size: tuple[int, int]  # prompts, tokens
    repeats: int
    most: float | None = None  # forward passes
    most_gib: float | None = None
    embedded: bool = False  # on the embedded model; by edge, not as a whole


def routes(loaded: LoadedModel, prompts: Prompts) -> None:
    """The route of every prompt, from the logit of its answer."""
    graph = flow_graph(loaded.model, prompts.clean, right=prompts.answers)
    for prompt in range(len(prompts)):
        find_route(graph, prompt)


def edges(loaded: LoadedModel, prompts: Prompts) -> None:
    """The scores of method=ifr."""
    edge_flow(loaded.model, loaded.model.graph(), prompts.clean, right=prompts.answers)


def attribute(method: Callable[..., object], loaded: LoadedModel, prompts: Prompts) -> None:
    """An attribution with its base runs."""
    method(Data(loaded.model, loaded.model.graph(), prompts), LOGIT_DIFF)


def rounds(loaded: LoadedModel, prompts: Prompts) -> None:
    """Rounds of iterative attribution from the whole model down."""
    data = Data(loaded.model, loaded.model.graph(), prompts)
    list(islice(iterative(data, LOGIT_DIFF, 1, Rounds(batch=len(prompts)), 0), STEPS))


def steps(loaded: LoadedModel, prompts: Prompts) -> None:
    """Steps of learnt masks, for a fifth of the edges at most."""
    data = Data(loaded.model, loaded.model.graph(), prompts)
    legal, n = data.graph.legal, data.graph.n_edges
    first = start(attribution.random_scores(data.graph, 0), legal)
    how = How(smallest=n / 100, largest=n / 5, steps=STEPS, batch=len(prompts))
    list(learn(data, LOGIT_DIFF, legal, first, how, 0))


EAP = partial(attribute, attribution.eap)
EAP_IG = partial(attribute, partial(attribution.eap_ig, steps=5))
ACTIVATIONS = partial(attribute, partial(attribution.eap_ig_activations, steps=5))
CASES = (
    Case("IFR, routes", routes, (8, 15), 9, most=1.5),
    Case("IFR, routes", routes, (1, 128), 9, most=3),
    Case("IFR, routes", routes, (1, 512), 1, most_gib=4),
    Case("IFR, edge scores", edges, (8, 15), 5),
    Case("EAP", EAP, (8, 15), 5, most=6),
    Case("EAP-IG, 5 steps", EAP_IG, (8, 15), 3, most=25),
    Case("EAP-IG activations, 5 steps", ACTIVATIONS, (8, 15), 1),
    Case(f"iterative, {STEPS} rounds", rounds, (8, 15), 3),
    Case(f"learnt masks, {STEPS} steps", steps, (8, 15), 3),
    Case("exact, each edge", partial(attribute, attribution.exact), (32, 24), 5, embedded=True),
)


def load(case: Case) -> tuple[LoadedModel, Prompts]:
    """The model, and prompts of the case's size; on SmolLM2 random tokens, which cost the same."""
    n, length = case.size
    if case.embedded:
        loaded = from_bridge(load_induction(), None, "induction")
        return loaded, induction.build(d_vocab=128, n=n, seed=0, length=length)
    loaded = load_pretrained(str(smollm2_folder()), torch.float32, "cpu", "smollm2")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, loaded.model.d_vocab, (2, n, length), generator=draw)
    return loaded, Prompts(ids[0], ids[1], ((1,),) * n, ((2,),) * n, length - 1)


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(case: Case) -> dict[str, float]:
    """Median over repeats of seconds / seconds of a plain pass beside it, and the peak in GiB."""
    loaded, prompts = load(case)
    plain = partial(loaded.plain_logits, prompts.clean)
    work = partial(case.work, loaded, prompts)
    if case.repeats > 1:
        work()  # the first is slower; not counted
    plain()
    ratios = []
    for _ in range(case.repeats):
        before, own, after = seconds(plain), seconds(work), seconds(plain)
        ratios.append(2 * own / (before + after))
    cost = statistics.median(ratios)
    edges_of = loaded.model.graph().n_edges if case.embedded else 1
    return {"forwards": cost / edges_of, "gib": peak_memory(loaded.model.device)}


def row(case: Case, found: dict[str, float]) -> dict[str, object]:
    """One line of the table; `ok` says whether the targets are met."""
    met = case.most is None or found["forwards"] <= case.most
    met = met and (case.most_gib is None or found["gib"] < case.most_gib)
    return {
        "method": case.name,
        "model": "embedded" if case.embedded else "SmolLM2",
        "prompts x tokens": f"{case.size[0]} x {case.size[1]}",
        "forward passes": f"{found['forwards']:.3g}",
        "at most": case.most,
        "peak GiB": f"{found['gib']:.2f}",
        "below": case.most_gib,
        "ok": "yes" if met else "NO",
    }


def main() -> None:
    """Measure each case in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description="cost of routes and edge scores")
    parser.add_argument("--case", type=int, help="measure this one alone and print it as JSON")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/cost"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.case is not None:
        print(json.dumps(measure(CASES[given.case])))
        return
    rows = []
    for number, case in enumerate(CASES):
        command = [sys.executable, __file__, f"--case={number}", f"--threads={given.threads}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(row(case, json.loads(done.stdout.splitlines()[-1])))
        print(f"{case.name}: {rows[-1]['forward passes']} forward passes", file=sys.stderr)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out.with_suffix(".md"), markdown(rows).encode())
    write_json(given.out.with_suffix(".json"), rows)
    print(markdown(rows) + f"\nwritten to {given.out}.md and {given.out}.json")
    missed = [r["method"] for r in rows if r["ok"] == "NO"]
    if missed:
        raise SystemExit(f"targets missed: {', '.join(map(str, missed))}")


if __name__ == "__main__":
    main()
