"""Small faults put into the core, one at a time: does the nearest test notice?

    python scripts/mutants.py --sample 300                  # of all files below; about an hour
    python scripts/mutants.py acdc/graph.py acdc/prompts.py # all mutants of two files

Needs the extra `mutation`: mutmut, whose operators make the faults (`<` for `<=`, None for an
argument, 3 for 2, ...). Left alone are docstrings, types, decorators, imports, what is raised, and
zip's `strict`.
Every mutant is tried in a process forked from one that has torch and transformers loaded, on a copy
of the source, so the working tree is never touched. It is killed if a test fails, and timed out if
the tests take much longer than without it. Survivors are shown as diffs; the share of faults that
were noticed comes with an exact 95 % interval.

Of `--sample 120 --seed 21` and `--seed 22`, of all files and not looked at before, 114 and 114 were
noticed: 228 of 240, 95.0 % [91.4, 97.4], or 96.6 % of the 236 that do anything else. The twelve:

    no other behaviour (4)  None for False of a flag; counts of edges as floats; half of the writers
                            summed by the other way; rows that a mask of 0 takes out
    noticed since (8)  the name of an ablation; what a two-sided metric needs; which readers' inputs
                       a masked run passes on; a budget's allowance by edges settled; an edge of
                       which there is no writer; a guide given in the place of a number of cuts; the
                       order of edges that promise the same; how many prompts were summed over

Of `--sample 60 --seed 31`, by the cases that CI runs since of tests with many it runs some, 56: one
is noticed since (which spans lead on), two have no other behaviour (all heads picked one by one, no
default for a list that is never empty), one asks for a bridge that has no `b_U` at all.

Without another behaviour, in samples before (seeds 3, 4, 11, 12): axis 2 of 4 for axis -2, names of
axes, cos and sin absent together or not at all, another number for "no stream is blocked", a loop's
range one longer than where it breaks, counts of edges as floats.
"""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import libcst as cst  # pyright: ignore[reportMissingImports]
import libcst.matchers as matchers  # pyright: ignore[reportMissingImports]
import pytest
from mutmut.mutation.mutators import (  # pyright: ignore[reportMissingImports]
    mutation_operators,
)
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
DEVICE = "acdc/test_device.py"
WRITTEN = "acdc/test_data.py::test_what_is_written_is_what_the_mask_reads"
SUMS = "acdc/test_optimal.py::test_sums_over_runs_are_those_of_all_prompts_together"
SHARE = "discovery/test_target.py::test_share_is_that_of_measure_and_two_sided"
NEAREST = {  # what is mutated -> its tests, the quickest first
    "acdc/graph.py": ("acdc/test_graph.py", "acdc/test_spans.py"),
    "acdc/names.py": ("acdc/test_names.py",),
    "acdc/prompts.py": ("acdc/test_prompts.py", "acdc/test_lengths.py", "acdc/test_answers.py"),
    "acdc/selection.py": ("acdc/test_selection.py",),
    "acdc/model.py": (
        "acdc/test_model.py", DEVICE, "acdc/test_forward.py", "acdc/test_bridge.py",
        "acdc/test_families.py",
    ),
    "acdc/bridge.py": (
        "acdc/test_bridge_readings.py", "acdc/test_bridge.py", "acdc/test_card.py",
        "acdc/test_forward.py",
    ),
    "acdc/live.py": (DEVICE, "validation/test_resampling.py", "acdc/test_forward.py"),
    "acdc/metrics.py": ("acdc/test_metrics.py", DEVICE),
    "acdc/writers.py": (
        "acdc/test_ablation.py", "acdc/test_data_views.py", SUMS, WRITTEN, DEVICE,
    ),
    "acdc/ablation.py": ("acdc/test_ablation.py",),
    "acdc/forward.py": ("acdc/test_data_views.py", DEVICE, "acdc/test_forward.py"),
    "acdc/masked.py": ("acdc/test_masked.py", DEVICE),
    "acdc/parts.py": ("acdc/test_lengths.py",),
    "acdc/data.py": ("acdc/test_data_views.py",),
    "acdc/memory.py": ("acdc/test_memory_by_hand.py", "acdc/test_memory.py"),
    "acdc/pretrained.py": (
        "discovery/test_pretrained_outline.py", "discovery/test_pretrained.py",
    ),
    "acdc/incremental.py": ("acdc/test_incremental.py",),
    "acdc/search.py": ("acdc/test_search_steps.py", "acdc/test_parity.py", "acdc/test_search.py"),
    "acdc/attribution.py": ("acdc/test_attribution.py",),
    "acdc/curve.py": ("acdc/test_curve.py",),
    "acdc/circuit.py": ("acdc/test_circuit_sets.py", "acdc/test_graph.py"),
    "acdc/gradient.py": ("acdc/test_gradient.py", DEVICE),
    "acdc/backward.py": ("acdc/test_backward.py",),
    "acdc/learned.py": ("acdc/test_learned.py",),
    "acdc/minibatches.py": ("acdc/test_minibatches.py", "acdc/test_learned.py"),
    "acdc/iterative.py": ("acdc/test_iterative.py",),
    "acdc/optimal.py": (DEVICE, "acdc/test_optimal.py"),
    "acdc/regrow.py": ("acdc/test_regrow.py",),
    "acdc/native.py": ("discovery/test_models.py",),
    "acdc/share.py": (SHARE,),
}  # fmt: skip
# imported once, before the forks; nothing of ours, since that may be mutated
PRELOADED = (
    "torch", "transformers", "transformer_lens.model_bridge.sources", "scipy.stats", "networkx",
    "hypothesis", "jaxtyping", "beartype", "pydantic", "safetensors.torch",
)  # fmt: skip
TYPE = matchers.Subscript(matchers.Name("Literal") | matchers.Name("Callable"))
STRICT = matchers.Arg(keyword=matchers.Name("strict"))  # of zip: a check that never fails
COPIED = ("acdc", "discovery", "conf", "tests", "pyproject.toml")
PATIENCE = 5  # times the tests' time without a mutant, before it counts as timed out
MEMORY = 4 * 2**30  # bytes that a mutant may take


@dataclass(frozen=True)
class Mutant:
    """One fault."""

    file: str
    source: str  # of the whole file, fault included

    def diff(self) -> str:
        """Against the file as it is."""
        before = (ROOT / self.file).read_text().splitlines()
        lines = difflib.unified_diff(before, self.source.splitlines(), self.file, n=1, lineterm="")
        return "\n".join(line for line in lines if not line.startswith("+++"))


# --- faults


class Finder(cst.CSTVisitor):
    """Collects what mutmut would put in the place of every node."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, (cst.Annotation, cst.Decorator, cst.Raise, cst.Import, cst.ImportFrom)):
            return False
        if isinstance(node, cst.Expr) and isinstance(node.value, cst.SimpleString):
            return False  # a docstring
        if matchers.matches(node, TYPE | STRICT):
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found += [(node, other) for other in operator(node) if _alike(node, other)]
        return True


def _alike(node: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether both are strict zips or neither is."""
    checks = [[c for c in n.children if matchers.matches(c, STRICT)] for n in (node, other)]
    return [str(c.value) for c in checks[0]] == [str(c.value) for c in checks[1]]


def choose(files: Sequence[str], sample: int | None, seed: int) -> list[Mutant]:
    """All mutants of the files, or a sample of them, each a change and no two alike."""
    modules = {file: cst.parse_module((ROOT / file).read_text()) for file in files}
    places = []
    for file, module in modules.items():
        finder = Finder()
        module.visit(finder)
        places += [(file, node, other) for node, other in finder.found]
    total = len(places)
    if sample is not None and sample < total:
        places = random.Random(seed).sample(places, sample)
    seen, chosen = {module.code for module in modules.values()}, []
    for file, node, other in places:
        changed = modules[file].deep_replace(node, other)
        assert isinstance(changed, cst.Module)  # a node's replacement leaves the module one
        if changed.code not in seen:
            seen.add(changed.code)
            chosen.append(Mutant(file, changed.code))
    print(f"{len(chosen)} of {total} mutants" + (f", seed {seed}" if sample else ""), flush=True)
    return chosen


# --- tests


class Runner:
    """Runs tests in forked processes, each in a copy of the source of its own."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.free = [folder / str(i) for i in range(jobs)]
        for copy in self.free:
            for name in COPIED:
                origin = ROOT / name
                if origin.is_dir():
                    shutil.copytree(origin, copy / name)
                else:
                    shutil.copy(origin, copy / name)
        self.running: dict[int, tuple[Mutant, Path, float, float]] = {}

    def start(self, mutant: Mutant, limit: float) -> None:
        """Begin to test a mutant in a free copy."""
        copy, now = self.free.pop(), time.monotonic()
        place = copy / mutant.file
        place.write_text(mutant.source)
        stamp = time.time_ns()
        os.utime(place, ns=(stamp, stamp))
        pid = os.fork()
        if pid == 0:
            _test(copy, NEAREST[mutant.file])
        self.running[pid] = mutant, copy, now, now + limit

    def wait(self) -> tuple[Mutant, str, float]:
        """The next mutant that is through: killed, survived or timed out, and its seconds."""
        while True:
            for pid, (mutant, copy, start, deadline) in self.running.items():
                late = time.monotonic() > deadline
                if late:
                    os.killpg(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
                if done:
                    del self.running[pid]
                    shutil.copy2(ROOT / mutant.file, copy / mutant.file)
                    self.free.append(copy)
                    verdict = "timed out" if late else "killed" if status else "survived"
                    return mutant, verdict, time.monotonic() - start
            time.sleep(0.05)


def _test(copy: Path, tests: Sequence[str]) -> None:
    """Run tests and end this process with their exit code."""
    code = 99
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        os.chdir(copy)
        log = os.open(copy / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.dont_write_bytecode = True
        sys.path[:] = [str(copy), *(p for p in sys.path if Path(p) != ROOT / "scripts")]
        paths = [str(copy / "tests" / test) for test in tests]
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *paths]))
        if not str(sys.modules["acdc"].__file__).startswith(str(copy)):
            code = 98
    finally:
        os._exit(code)


def baseline(runner: Runner, files: Sequence[str]) -> dict[str, float]:
    """Seconds of each file's tests without a fault; SystemExit if they fail."""
    seconds, waiting = dict[str, float](), list(files)
    while waiting or runner.running:
        while waiting and runner.free:
            runner.start(Mutant(waiting[0], (ROOT / waiting.pop(0)).read_text()), 3600)
        mutant, verdict, took = runner.wait()
        seconds[mutant.file] = took
        print(f"{mutant.file}: tests take {took:.1f} s", flush=True)
        if verdict != "survived":
            log = (runner.free[-1] / "log.txt").read_text()
            raise SystemExit(f"the tests of {mutant.file} fail without a mutant:\n{log}")
    return seconds


def run(chosen: Sequence[Mutant], jobs: int) -> list[tuple[Mutant, str]]:
    """Verdict on each mutant."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder), jobs)
        seconds = baseline(runner, sorted({m.file for m in chosen}))
        waiting = list(chosen)
        while waiting or runner.running:
            while waiting and runner.free:
                mutant = waiting.pop(0)
                runner.start(mutant, 20 + PATIENCE * seconds[mutant.file])
            mutant, verdict, _ = runner.wait()
            results.append((mutant, verdict))
            if verdict == "survived":
                print(f"\n{mutant.diff()}", flush=True)
            if len(results) % 20 == 0:
                print(f"{len(results)} of {len(chosen)}", file=sys.stderr, flush=True)
    return results


def report(results: Sequence[tuple[Mutant, str]]) -> str:
    """A line a file, and the share of all that was noticed."""
    lines = []
    for file in (*sorted({m.file for m, _ in results}), None):
        count = Counter(verdict for m, verdict in results if file in (m.file, None))
        noticed, n = count["killed"] + count["timed out"], count.total()
        low, high = binomtest(noticed, n).proportion_ci(method="exact")
        lines.append(
            f"{file or 'all':20} {n:4} mutants: {count['killed']} killed,"
            f" {count['timed out']} timed out, {count['survived']} survived;"
            f" noticed {noticed / n:.1%} [{low:.1%}, {high:.1%}]"
        )
    return "\n".join(lines)


def main() -> None:
    """Choose mutants, try them, print."""
    parser = argparse.ArgumentParser(description="faults in the core that no test notices")
    parser.add_argument("files", nargs="*", help="default: all that have nearest tests")
    parser.add_argument("--sample", type=int, help="so many mutants of all files together")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    files = given.files or list(NEAREST)
    unknown = [file for file in files if file not in NEAREST]
    if unknown:
        raise SystemExit(f"no tests are named for {', '.join(unknown)}; see NEAREST")
    chosen = choose(files, given.sample, given.seed)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # as the tests do, before the hub's client loads
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    print(f"\n{report(run(chosen, given.jobs))}")


if __name__ == "__main__":
    main()
