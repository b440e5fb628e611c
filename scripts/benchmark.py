"""How long the search takes, as ratios within one run.

    python scripts/benchmark.py                  # the embedded model and a random Llama; a minute
    python scripts/benchmark.py --smollm2        # and SmolLM2 on IOI, without the dense search
    python scripts/benchmark.py --parts          # what it costs to work in parts; minutes
    python scripts/benchmark.py --forwards --model=smollm2   # of any model, and of random ones
    python scripts/benchmark.py --growth         # over layers, prompts, tokens; minutes
    python scripts/benchmark.py --against=HEAD~1 # beside another commit, in turn

For each case: the search's time in plain forward passes of the same batch, and how many times
longer the same search takes when every test is one dense run of the patched forward (the obvious
way), whose circuit must come out equal. Then searches that another method's scores guide, beside
the exact one: what they save and how far they part. Writes the tables as Markdown and JSON.

Parts are measured apart: 32 prompts of SmolLM2 together against the same prompts some at a time, in
turn, by CPU time; ends with an error if a median ratio is above what is promised.

The last three are of scripts/speed.py: plain Hugging Face passes, clean and corrupt runs counted
in, each case in a process of its own. What they find is put into a history, one line a case, with
its commit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import speed
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from acdc.attribution import eap_ig
from acdc.bridge import LoadedModel, from_bridge, from_module, load_pretrained
from acdc.data import Data
from acdc.metrics import KL, METRICS, Metric
from acdc.prompts import Prompts
from acdc.search import Guide, Order, Step, acdc, itinerary, sender_order
from acdc.selection import best_edges
from discovery.models.induction import load_induction
from discovery.models.smollm2 import smollm2_folder
from discovery.runs.json_files import write_bytes, write_json
from discovery.show.tables import markdown
from discovery.tasks import induction, ioi

Row = dict[str, float | int | str | bool | None]
AT_A_TIME = (32, 16, 8)  # prompts of 32: in one part, two and four
BEGUN = 4000  # edges that a search in parts settles before it is stopped
MOST = 1.05  # times the CPU time of one part that several may take


@dataclass(frozen=True)
class Case:
    """A model, prompts, and what is searched for."""

    name: str
    loaded: LoadedModel
    prompts: Prompts
    threshold: float
    dense: bool  # whether the dense search is to be run too
    threads: int
    guides: tuple[str, ...] = ("weakest first", "20 % shortlist", "5 % shortlist")


def cases(smollm2: bool, threads: int) -> Iterator[Case]:
    """The models, smallest first."""
    embedded = from_bridge(load_induction(), None, "induction")
    prompts = induction.build(d_vocab=128, n=32, seed=0, length=24)
    yield Case("embedded, induction", embedded, prompts, 0.05, True, 1)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=2, vocab_size=2000, max_position_embeddings=64,
        initializer_range=0.15,
    )  # fmt: skip
    ids = torch.randint(0, 2000, (2, 8, 15))
    random = Prompts(ids[0], ids[1], ((),) * 8, ((),) * 8, 14)
    llama = from_module(LlamaForCausalLM(config), None, "random Llama")
    yield Case("random Llama, 6 layers", llama, random, 0.02, True, 1)
    if smollm2:
        real = load_pretrained(str(smollm2_folder()), torch.float32, "cpu", "smollm2")
        prompts = ioi.build(real.tokenizer, n=8, seed=0, prepend_bos=False, corruption="abc")
        yield Case("SmolLM2-135M, IOI", real, prompts, 0.05, False, threads)


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def dense_search(data: Data, metric: Metric, threshold: float) -> np.ndarray:
    """ACDC with one dense run a test: same order, same rule, nothing shared between tests."""
    graph, order = data.graph, Order()
    mask = graph.legal.copy()
    value = lambda m: metric.sign * data.circuits(metric, [m]).mean().item()  # noqa: E731
    now = value(mask)
    for visit in itinerary(graph, order):
        reader = graph.readers[visit.reader]
        if reader.nodes and not mask[list(reader.nodes)].any():
            mask[:, visit.reader] = False
            continue
        senders = [w for w in sender_order(graph, order) if mask[w, visit.reader]]
        for cut in [senders] if visit.kind == "gate" else [[w] for w in senders]:
            trial = mask.copy()
            trial[cut, visit.reader] = False
            after = value(trial)
            if after - now < threshold:
                mask, now = trial, after
    return mask


def prepare(case: Case) -> tuple[Data, Metric]:
    """The case's prompts, both runs made, and KL."""
    torch.set_num_threads(case.threads)
    data = Data(case.loaded.model, case.loaded.model.graph(), case.prompts)
    data.each(lambda forward: forward.clean)
    return data, KL


def plain_seconds(case: Case) -> list[float]:
    """A few plain forward passes, one not counted."""
    run = lambda: case.loaded.plain_logits(case.prompts.clean)  # noqa: E731
    return [seconds(run) for _ in range(6)][1:]


def measure(case: Case) -> tuple[Row, list[Row]]:
    """The exact search's row, and those of guided searches beside it."""
    data, metric = prepare(case)
    plain = plain_seconds(case)
    last, search = timed(data, metric, case.threshold, None)
    guided = [guide_row(case, data, metric, last, name) for name in case.guides]
    plain += plain_seconds(case)
    one = statistics.median(plain)
    dense = same = None
    if case.dense:
        start = time.perf_counter()
        with torch.inference_mode():
            mask = dense_search(data, metric, case.threshold)
        dense, same = time.perf_counter() - start, bool((mask == last.mask).all())
    row: Row = {
        "case": case.name,
        "edges": data.graph.n_edges,
        "kept": last.n_kept,
        "tests": last.n_tests,
        "passes": last.n_passes,
        "search_seconds": round(search, 3),
        "forward_seconds": round(one, 5),
        "search_in_forwards": round(search / one, 1),
        "dense_over_search": None if dense is None else round(dense / search, 1),
        "same_circuit": same,
    }
    exact: Row = {
        "case": case.name, "guide": "none: exact", "kept": last.n_kept, "shared": last.n_kept,
        "kl": round(last.metric, 4), "tests": last.n_tests, "skipped": 0, "damage": 0.0,
        "seconds_over_exact": 1.0,
    }  # fmt: skip
    for other in guided:
        other["seconds_over_exact"] = round(float(other["seconds_over_exact"] or 0) / search, 2)
    return row, [exact, *guided]


def timed(data: Data, metric: Metric, threshold: float, guide: Guide | None) -> tuple[Step, float]:
    """The last step of a search and its seconds."""
    start = time.perf_counter()
    *steps, last = acdc(data, metric, threshold, guide=guide)
    skipped, damage = (sum(getattr(s, f) for s in (*steps, last)) for f in ("n_skipped", "damage"))
    return replace(last, n_skipped=skipped, damage=damage), time.perf_counter() - start


def guide_row(case: Case, data: Data, metric: Metric, exact: Step, name: str) -> Row:
    """A search guided by EAP-IG: as an order, or by a shortlist of a share of the edges."""
    start = time.perf_counter()
    scores = eap_ig(data, metric, 5)
    scoring = time.perf_counter() - start
    if name == "weakest first":
        guide = Guide(weakest_first=scores)
    else:
        n = int(float(name.removesuffix(" % shortlist")) / 100 * data.graph.n_edges)
        guide = Guide(shortlist=best_edges(data.graph, scores, n))
    last, search = timed(data, metric, case.threshold, guide)
    return {
        "case": case.name, "guide": name, "kept": int(last.mask.sum()),
        "shared": int((last.mask & exact.mask).sum()), "kl": round(last.metric, 4),
        "tests": last.n_tests, "skipped": last.n_skipped, "damage": round(last.damage, 4),
        "seconds_over_exact": scoring + search,
    }  # fmt: skip


def begin(data: Data) -> None:
    """The first edges of a search."""
    next(step for step in acdc(data, KL, 0.05) if step.n_settled >= BEGUN)


def in_parts(repeats: int) -> list[Row]:
    """CPU time in parts over that in one, base runs counted in: median, least and most."""
    loaded = load_pretrained(str(smollm2_folder()), torch.float32, "cpu", "smollm2")
    prompts = ioi.build(loaded.tokenizer, n=32, seed=0, prepend_bos=False, corruption="abc")
    work: dict[str, Callable[[Data], object]] = {
        f"search, the first {BEGUN:,} edges": begin,
        "EAP-IG, 2 steps": lambda data: eap_ig(data, KL, 2),
    }
    model, rows = loaded.model, list[Row]()
    for name, act in work.items():
        turns = list[dict[int, float]]()
        for sizes in [AT_A_TIME, AT_A_TIME[::-1]] * repeats:  # there and back: no drift counts
            parts = {n: Data(model, model.graph(), prompts, part=n) for n in sizes}
            turns.append({n: cpu_seconds(act, data) for n, data in parts.items()})
        for n in AT_A_TIME:
            ratios = [turn[n] / turn[AT_A_TIME[0]] for turn in turns]
            rows.append({
                "work": name, "parts": AT_A_TIME[0] // n,
                "cpu_seconds": round(statistics.median(turn[n] for turn in turns), 1),
                "over_one_part": round(statistics.median(ratios), 3),
                "least": round(min(ratios), 3), "most": round(max(ratios), 3),
            })  # fmt: skip
    return rows


def cpu_seconds(act: Callable[[Data], object], data: Data) -> float:
    """CPU time of one piece of work, all threads together."""
    start = time.process_time()
    act(data)
    return time.process_time() - start


def speeds(given: argparse.Namespace) -> str:
    """What was asked of scripts/speed.py, as tables; into the history too."""
    cases = [replace(given.case, threads=given.threads)]
    if given.model is not None:
        real = {"model": given.model, "threshold": 0.05, "threads": given.threads}
        cases.append(speed.Case(**real, prompts=given.prompts, metric=given.metric))
    if given.against is not None:
        with speed.commit_folder(given.against) as other:
            rows = speed.against(cases, speed.in_process, other, given.repeats)
        rows = [{"against": speed.git("rev-parse", "--short", given.against), **r} for r in rows]
        tables = markdown(rows)
    elif given.growth:
        rows, exponents = speed.growth(speed.in_process, given.threads)
        tables = f"{markdown(rows)}\n{markdown(exponents)}"
    else:
        rows = [{"case": case.name, **speed.in_process(case)} for case in cases]
        tables = markdown(rows)
    before = given.history.read_text(encoding="utf-8") if given.history.exists() else ""
    given.history.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.history, speed.remembered(before, rows, speed.stamp()).encode())
    return f"{tables}\nadded to {given.history}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="times of the search, as ratios within one run")
    parser.add_argument("--smollm2", action="store_true", help="also the real language model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--parts", action="store_true", help="what parts cost, and no more")
    parser.add_argument("--forwards", action="store_true", help="searches in plain passes")
    parser.add_argument("--growth", action="store_true", help="over layers, prompts and tokens")
    parser.add_argument("--against", metavar="COMMIT", help="beside another commit, in turn")
    parser.add_argument("--model", help="for these: smollm2, a hub id or a folder, on IOI")
    parser.add_argument("--case", type=speed.asked, default="{}", help="a random one, as JSON")
    parser.add_argument("--prompts", type=int, default=8, help="of that model")
    parser.add_argument("--metric", default="kl", choices=sorted(METRICS))
    parser.add_argument("--repeats", type=int, default=3, help="of --against")
    parser.add_argument("--history", type=Path, default=Path("runs/benchmark.jsonl"))
    given = parser.parse_args()
    if given.forwards or given.growth or given.against is not None:
        print(speeds(given))
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if given.parts:
        torch.set_num_threads(given.threads)
        rows = in_parts(repeats=2)
        write_bytes(given.out.with_name("parts.md"), markdown(rows).encode())
        print(markdown(rows))
        if any(float(row["over_one_part"] or 0) > MOST for row in rows):
            raise SystemExit(f"parts cost more than {MOST:g} times the CPU time of one")
        return
    measured = [measure(case) for case in cases(given.smollm2, given.threads)]
    rows, guided = [row for row, _ in measured], [row for _, some in measured for row in some]
    tables = f"{markdown(rows)}\n{markdown(guided)}"
    write_bytes(given.out.with_suffix(".md"), tables.encode())
    write_json(given.out.with_suffix(".json"), {"search": rows, "guided": guided})
    print(f"{tables}\nwritten to {given.out}.md and {given.out}.json")
    if any(row["same_circuit"] is False for row in rows):
        raise SystemExit("the dense search found another circuit: this is a defect")


if __name__ == "__main__":
    main()
