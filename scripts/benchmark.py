"""How long the search takes, as ratios within one run.

    python scripts/benchmark.py                  # the embedded model and a random Llama; a minute
    python scripts/benchmark.py --smollm2        # and SmolLM2 on IOI, without the dense search

For each case: the search's time in plain forward passes of the same batch, and how many times
longer the same search takes when every test is one dense run of the patched forward (the obvious
way), whose circuit must come out equal. Writes the table as Markdown and JSON.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from acdc.bridge import LoadedModel, from_bridge, from_module, load_pretrained
from acdc.forward import PatchedForward
from acdc.metrics import Metric, make_metric
from acdc.prompts import Prompts
from acdc.search import Order, acdc, itinerary, sender_order
from discovery.models.induction import load_induction
from discovery.models.smollm2 import smollm2_folder
from discovery.records import write_bytes, write_json
from discovery.tables import markdown
from discovery.tasks import induction, ioi


@dataclass(frozen=True)
class Case:
    """A model, prompts, and what is searched for."""

    name: str
    loaded: LoadedModel
    prompts: Prompts
    threshold: float
    dense: bool  # whether the dense search is to be run too
    threads: int


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


@torch.inference_mode()
def dense_search(forward: PatchedForward, metric: Metric, threshold: float) -> np.ndarray:
    """ACDC with one dense run a test: same order, same rule, nothing shared between tests."""
    graph, order = forward.graph, Order()
    mask = graph.legal.copy()
    value = lambda m: metric.sign * metric.of_logits(forward.run(m)).double().mean().item()  # noqa: E731
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


def measure(case: Case) -> dict[str, float | int | str | bool | None]:
    """One row of the table."""
    torch.set_num_threads(case.threads)
    with torch.inference_mode():
        forward = PatchedForward(case.loaded.model, case.loaded.model.graph(), case.prompts)
        metric = make_metric("kl", forward.prompts, forward.clean.logits)
    run = lambda: case.loaded.plain_logits(forward.prompts.clean)  # noqa: E731
    plain = [seconds(run) for _ in range(6)][1:]
    start = time.perf_counter()
    *_, last = acdc(forward, metric, case.threshold)
    search = time.perf_counter() - start
    plain += [seconds(run) for _ in range(5)]
    dense = same = None
    if case.dense:
        start = time.perf_counter()
        mask = dense_search(forward, metric, case.threshold)
        dense, same = time.perf_counter() - start, bool((mask == last.mask).all())
    one = statistics.median(plain)
    return {
        "case": case.name,
        "edges": forward.graph.n_edges,
        "kept": last.n_kept,
        "tests": last.n_tests,
        "passes": last.n_passes,
        "search_seconds": round(search, 3),
        "forward_seconds": round(one, 5),
        "search_in_forwards": round(search / one, 1),
        "dense_over_search": None if dense is None else round(dense / search, 1),
        "same_circuit": same,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="times of the search, as ratios within one run")
    parser.add_argument("--smollm2", action="store_true", help="also the real language model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    given = parser.parse_args()
    rows = [measure(case) for case in cases(given.smollm2, given.threads)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out.with_suffix(".md"), markdown(rows).encode())
    write_json(given.out.with_suffix(".json"), rows)
    print(markdown(rows) + f"\nwritten to {given.out}.md and {given.out}.json")
    if any(row["same_circuit"] is False for row in rows):
        raise SystemExit("the dense search found another circuit: this is a defect")


if __name__ == "__main__":
    main()
