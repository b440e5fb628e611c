"""What a search costs in plain passes, how that grows, and beside another commit.

The unit is one plain Hugging Face pass of the same batch (its own attention, logits at every
position), and the clean and corrupt runs count as the search's own. Times are of the processor, all
threads together. Each case is measured in a process of its own, which may import another commit's
packages: so two commits are compared by one measure, in turn. `scripts/benchmark.py` prints these.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from acdc.bridge import LoadedModel, from_module, load_pretrained
from acdc.data import Data
from acdc.metrics import METRICS
from acdc.prompts import Prompts
from acdc.search import Order, Step, acdc
from discovery.models.smollm2 import smollm2_folder
from discovery.tasks import ioi

ROOT = Path(__file__).resolve().parents[1]
Figures = dict[str, Any]
Size = Annotated[int, Field(ge=1)]
Amount = Annotated[FiniteFloat, Field(gt=0)]
PLAIN = 5  # plain passes before the search and after it
FEWEST, MOST = 34, 47  # edges that a search keeps where growth over layers is asked
TRIED = 12  # thresholds that are tried for it


@dataclass(frozen=True)
class Case:
    """A search. Without a model: a GPT-2 of random weights, on random tokens."""

    model: str | None = None  # a hub id, a folder, or smollm2: on IOI
    layers: Size = 4
    heads: Size = 4
    width: Size = 128
    vocabulary: Size = 1000
    prompts: Size = 8
    tokens: Size = 15  # of random prompts
    scale: Amount = 0.15  # standard deviation of random weights
    threshold: Amount | None = 0.02  # None: such that FEWEST to MOST edges are kept
    metric: Annotated[str, Field(pattern=f"^({'|'.join(METRICS)})$")] = "kl"
    gates: bool = True  # first try to cut all edges into a head's q, k or v at once
    threads: Size = 1

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", strict=True)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width={self.width}: it is {self.heads} heads times a whole number")

    @property
    def name(self) -> str:
        """What it is called in a table."""
        shape = (
            f"GPT-2 shape {self.layers} x {self.heads}, d {self.width}, V {self.vocabulary},"
            f" weights of {self.scale:g}"
        )
        tests = self.metric if self.gates else f"{self.metric}, without gates"
        return f"{self.model or shape}, {self.prompts} x {self.tokens}, {tests}"


def asked(text: str) -> Case:
    """A case given as JSON; ArgumentTypeError where it is none."""
    try:
        return TypeAdapter(Case).validate_json(text)
    except ValidationError as error:
        each = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        wrong = "; ".join(f"{at}: {says}" if at else says for at, says in each)
        known = ", ".join(field.name for field in fields(Case))
        said = f"{text}: a JSON object of {known} ({wrong})"
        raise argparse.ArgumentTypeError(said) from None


GROWTH: dict[str, list[Case]] = {
    "layers": [Case(layers=n, threshold=None) for n in (2, 4, 8, 16)],
    "prompts": [Case(prompts=n) for n in (4, 8, 16, 32, 64)],
    "tokens": [Case(tokens=n) for n in (8, 16, 32, 64, 128)],
}


# ---- one case, in this process -------------------------------------------------------------------


def load(case: Case) -> tuple[LoadedModel, Any, Prompts]:
    """The model, a Hugging Face module of the same cost that nothing was done to, the prompts."""
    torch.manual_seed(0)
    if case.model is None:
        config = GPT2Config(
            vocab_size=case.vocabulary, n_positions=max(64, case.tokens), n_embd=case.width,
            n_layer=case.layers, n_head=case.heads, initializer_range=case.scale,
        )  # fmt: skip
        plain = GPT2LMHeadModel(config).eval()
        loaded = from_module(GPT2LMHeadModel(config), None, "random GPT-2")
        ids = torch.randint(0, case.vocabulary, (2, case.prompts, case.tokens))
        n = case.prompts
        return loaded, plain, Prompts(ids[0], ids[1], ((1,),) * n, ((2,),) * n, case.tokens - 1)
    folder = str(smollm2_folder()) if case.model == "smollm2" else case.model
    loaded = load_pretrained(folder, torch.float32, "cpu", case.model)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    built = ioi.build(loaded.tokenizer, n=case.prompts, seed=0, prepend_bos=False, corruption="abc")
    return loaded, plain, built


def cpu_seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of one call, and what came out."""
    start = time.process_time()
    out = action()
    return time.process_time() - start, out


@torch.inference_mode()
def measure(case: Case) -> Figures:
    """One search from nothing, in plain passes beside it."""
    torch.set_num_threads(case.threads)
    loaded, module, prompts = load(case)

    def plain() -> float:
        return cpu_seconds(lambda: module(prompts.clean))[0]

    def search(threshold: float) -> Step:
        model, order = loaded.model, Order(gates=case.gates)
        data = Data(model, model.graph(), prompts)
        *_, last = acdc(data, METRICS[case.metric], threshold, order)
        return last

    plain()  # the first of anything is slower
    search(math.inf)
    threshold = case.threshold or threshold_for(search)
    passes = [plain() for _ in range(PLAIN)]
    seconds, last = cpu_seconds(lambda: search(threshold))
    passes += [plain() for _ in range(PLAIN)]
    forward = statistics.median(passes)
    return {
        "edges": loaded.model.graph().n_edges,
        "threshold": threshold,
        "kept": last.n_kept,
        "tests": last.n_tests,
        "cpu_seconds": round(seconds, 4),
        "forward_seconds": round(forward, 5),
        "forwards": round(seconds / forward, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "circuit": hashlib.sha256(last.mask.tobytes()).hexdigest()[:12],
    }


def threshold_for(search: Callable[[float], Step]) -> float:
    """One at which FEWEST to MOST edges are kept, or the last that was tried."""
    low, high, middle = -12.0, 2.0, 0.0  # logarithms: too many are kept, too few
    for _ in range(TRIED):
        middle = (low + high) / 2
        kept = search(math.exp(middle)).n_kept
        if FEWEST <= kept <= MOST:
            break
        low, high = (middle, high) if kept > MOST else (low, middle)
    return math.exp(middle)


# ---- many cases, in processes of their own -------------------------------------------------------


def in_process(case: Case, root: Path = ROOT) -> Figures:
    """The figures of a case by the packages that lie in a folder."""
    command = [sys.executable, __file__, json.dumps(asdict(case))]
    own = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=own)
    return json.loads(done.stdout.splitlines()[-1])


def growth(run: Callable[[Case], Figures], threads: int) -> tuple[list[Figures], list[Figures]]:
    """Rows of all cases, and of each dimension the exponent of time and of memory."""
    rows, exponents = list[Figures](), list[Figures]()
    for over, cases in GROWTH.items():
        found = [run(replace(case, threads=threads)) for case in cases]
        size = [
            f["edges"] if over == "layers" else getattr(c, over)
            for c, f in zip(cases, found, strict=True)
        ]
        rows += [{"over": over, "size": n, **f} for n, f in zip(size, found, strict=True)]
        seconds = exponent(size, [f["cpu_seconds"] for f in found])
        last = exponent(size[-2:], [f["cpu_seconds"] for f in found[-2:]])
        more = found[-1]["peak_mib"] - found[0]["peak_mib"]
        exponents.append({
            "over": "edges (layers)" if over == "layers" else over,
            "from": size[0], "to": size[-1],
            "exponent": round(seconds, 2), "of the last step": round(last, 2),
            "MiB each": round(more / (size[-1] - size[0]), 3),
        })  # fmt: skip
    return rows, exponents


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size, by least squares."""
    x, y = ([math.log(v) for v in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def against(
    cases: Sequence[Case], run: Callable[[Case, Path], Figures], other: Path, repeats: int
) -> list[Figures]:
    """This commit beside another's folder, in turn there and back; ratio above 1: it is slower."""
    rows = list[Figures]()
    for case in cases:
        found: dict[Path, list[Figures]] = {ROOT: [], other: []}
        for turn in range(repeats):
            for root in (ROOT, other) if turn % 2 == 0 else (other, ROOT):
                found[root].append(run(case, root))
        ratios = [b["cpu_seconds"] / a["cpu_seconds"] for a, b in zip(*found.values(), strict=True)]
        mine, theirs = (
            statistics.median(one["forwards"] for one in found[root]) for root in (ROOT, other)
        )
        rows.append({
            "case": case.name, "forwards": mine, "the other's": theirs,
            "the other's time / this": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2), "most": round(max(ratios), 2),
            "same circuit": found[ROOT][0]["circuit"] == found[other][0]["circuit"],
        })  # fmt: skip
    return rows


@contextmanager
def commit_folder(commit: str) -> Iterator[Path]:
    """A worktree of a commit, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other"
        git("worktree", "add", "--quiet", "--detach", str(path), commit)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


# ---- history -------------------------------------------------------------------------------------


def git(*words: str) -> str:
    """What a git command says."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def stamp() -> Figures:
    """What a line of the history begins with; a + behind the commit: files were changed."""
    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "commit": git("rev-parse", "--short", "HEAD") + changed,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }


def remembered(history: str, rows: Sequence[Figures], stamped: Figures) -> str:
    """The history with rows more, one a line."""
    return history + "".join(json.dumps({**stamped, **row}) + "\n" for row in rows)


def main() -> None:
    """Measure one case, given as JSON, and print its figures: what `in_process` runs."""
    parser = argparse.ArgumentParser(description="one search in plain passes; see benchmark.py")
    parser.add_argument("case", type=asked)
    print(json.dumps(measure(parser.parse_args().case)))


if __name__ == "__main__":
    main()
