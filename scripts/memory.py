"""What work on prompts takes in memory, expected and measured.

    python scripts/memory.py                     # four models; ten minutes on two cores
    python scripts/memory.py --case gpt2-eap_ig  # one of them, in this process

Each case runs in a process of its own, so that the peak is its own: expected is what acdc/memory.py
says before the work, measured the largest resident size once the model was loaded (Linux). Searches
of the large case are stopped after a minute: how they begin is what a limit has to hold for. Writes
the table as Markdown and JSON; ends with an error if a limit is passed, or the peak lies more than
a quarter outside what was expected: of a search, which may keep nothing or little, two bounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from acdc.attribution import eap_ig
from acdc.bridge import LoadedModel, from_bridge, from_module, load_pretrained
from acdc.data import Data
from acdc.memory import GIB, Plan, Shape, Work, plan
from acdc.metrics import KL
from acdc.prompts import Prompts
from acdc.search import acdc
from discovery.models.induction import load_induction
from discovery.models.smollm2 import smollm2_folder
from discovery.runs.json_files import write_bytes, write_json
from discovery.show.tables import markdown

OFF = 0.25  # share of the measured peak by which an estimate may be off
SECONDS = 60.0  # of a search that is only begun


def gpt2() -> LoadedModel:
    """GPT-2 small's shape, random weights."""
    torch.manual_seed(0)
    return from_module(GPT2LMHeadModel(GPT2Config()), None, "GPT-2 small, random")


def llama() -> LoadedModel:
    """A Llama of eight layers, random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, vocab_size=32000, max_position_embeddings=256,
        initializer_range=0.1,
    )  # fmt: skip
    return from_module(LlamaForCausalLM(config), None, "Llama, 8 layers, random")


def embedded() -> LoadedModel:
    """The shipped induction model."""
    return from_bridge(load_induction(), None, "induction")


def smollm2() -> LoadedModel:
    """SmolLM2-135M."""
    return load_pretrained(str(smollm2_folder()), torch.float32, "cpu", "smollm2")


@dataclass(frozen=True)
class Case:
    """A model, so many prompts, and what is done with them."""

    load: Callable[[], LoadedModel]
    n: int
    n_pos: int
    work: Work
    threshold: float = 0.05
    most_gib: float | None = None


CASES = {
    "embedded-acdc": Case(embedded, 32, 24, "search"),
    "llama-eap_ig": Case(llama, 64, 30, "gradients"),
    "llama-acdc": Case(llama, 64, 30, "search"),
    "smollm2-eap_ig": Case(smollm2, 32, 15, "gradients"),
    "smollm2-acdc": Case(smollm2, 32, 15, "search"),
    "gpt2-eap_ig": Case(gpt2, 1000, 15, "gradients", most_gib=6),
    "gpt2-acdc": Case(gpt2, 1000, 15, "search", most_gib=6),
}


def measure(name: str) -> dict[str, float | int | str]:
    """One case in this process."""
    case = CASES[name]
    loaded = case.load()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, loaded.model.d_vocab, (2, case.n, case.n_pos), generator=draw)
    answers = ((1,),) * case.n
    prompts = Prompts(ids[0], ids[1], answers, ((2,),) * case.n, case.n_pos - 1)
    shape = Shape(loaded.model, case.n, case.n_pos, True)
    how = plan(shape, case.work, case.most_gib)
    data = Data(
        loaded.model, loaded.model.graph(), prompts, part=how.part, hold=how.hold,
        batch_bytes=how.batch_bytes,
    )  # fmt: skip
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was the loading's
    start = time.perf_counter()
    steps = work(case, data)
    return {
        "case": name, "prompts": case.n, "at a time": how.part, "held": str(how.hold),
        "at least GiB": round(how.floor / GIB, 2), "expected GiB": round(how.peak / GIB, 2),
        "measured GiB": round(peak() / GIB, 2), "seconds": round(time.perf_counter() - start, 1),
        "edges settled": steps, **limit_of(how, case),
    }  # fmt: skip


def work(case: Case, data: Data) -> int:
    """Do it; how many edges have their answer."""
    if case.work == "gradients":
        eap_ig(data, KL, 2)  # more steps take longer, not more
        return data.graph.n_edges
    start, settled = time.perf_counter(), 0
    for step in acdc(data, KL, case.threshold):
        settled = step.n_settled
        if time.perf_counter() - start > SECONDS:
            break
    return settled


def limit_of(how: Plan, case: Case) -> dict[str, float]:
    """The limit, where the case has one."""
    return {} if case.most_gib is None else {"limit GiB": round(how.limit / GIB, 2)}


def within(row: dict[str, float]) -> bool:
    """Whether the peak is between the bounds, give or take a quarter of it."""
    measured = row["measured GiB"]
    low, high = row["at least GiB"], row["expected GiB"]
    return low - OFF * measured <= measured <= high + OFF * measured


def peak() -> int:
    """Largest resident size since it was reset, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """All cases, each in its own process, or one here."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case)))
        return
    rows = []
    for name in CASES:
        done = subprocess.run(
            [sys.executable, __file__, "--case", name], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out.with_suffix(".md"), markdown(rows).encode())
    write_json(given.out.with_suffix(".json"), rows)
    print(markdown(rows))
    off = [row["case"] for row in rows if not within(row)]
    over = [r["case"] for r in rows if r["measured GiB"] > r.get("limit GiB", float("inf"))]
    if off or over:
        raise SystemExit(
            f"more than {OFF:.0%} outside what was expected: {off}; over their limit: {over}"
        )


if __name__ == "__main__":
    main()
