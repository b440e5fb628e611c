"""How long the dashboard takes with many runs and a large circuit.

    python scripts/benchmark_dashboard.py           # 500 runs, 5,000 edges, 40 compared; a minute

Run folders and offline W&B runs are listed, and listed again; in a browser (Chromium, by way of
playwright) the table of runs is opened and filtered, a circuit drawn, its slider moved, and forty
circuits of 400 edges compared. Run folders hold the fields of a real search. Each is done five
times, a first listing once; the table gives the median and the largest, in seconds. What these
times rest on, requests, files read and elements made, is counted by tests/dashboard.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from acdc.circuit import Circuit
from acdc.graph import Graph
from discovery.dashboard.app import make_app
from discovery.dashboard.runs import summaries
from discovery.runs.json_files import write_json
from discovery.show.tables import markdown

REPEATS = 5
COMPARED = 40  # circuits
DRAW = """async () => {
  const { circuit } = await loadRun("run0");
  circuit.off_path = []; // random edges lie on no path more often than those of a search
  const start = performance.now();
  document.getElementById("main").replaceChildren(circuitView(circuit));
  const slider = document.getElementById("least");
  slider.value = 0; // all of them, not the strongest alone
  slider.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  return (performance.now() - start) / 1000;
}"""
SLIDE = """() => {
  const slider = document.getElementById("least");
  slider.value = slider.value === "0" ? slider.max / 2 : 0;
  const start = performance.now();
  slider.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  return (performance.now() - start) / 1000;
}"""


FILTER = """(typed) => {
  const field = document.getElementById("filter");
  field.value = typed;
  const start = performance.now();
  field.dispatchEvent(new Event("input"));
  document.body.getBoundingClientRect();
  return (performance.now() - start) / 1000;
}"""


def searched(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and result.json of a search of the embedded model."""
    command = [sys.executable, Path(__file__).parent / "discover.py", f"hydra.run.dir={folder}"]
    done = subprocess.run([*command, "tracking.mode=wandb_offline"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the search that is to be copied failed:\n{done.stderr}")
    config, result = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("config", "result")
    )
    return config, result


def write_folders(root: Path, search: Path, n_runs: int, n_edges: int) -> None:
    """Run folders as far as the table reads them; random circuits of GPT-2's size, run0's large."""
    config, result = searched(search)
    for i in range(n_runs):
        (root / f"run{i}").mkdir(parents=True)
        write_json(root / f"run{i}" / "status.json", {"state": "done"})
        write_json(root / f"run{i}" / "config.json", config)
        told = {**result, "n_edges": i + 1, "threshold": i / n_runs}
        write_json(root / f"run{i}" / "result.json", told)
    graph, rng = Graph(12, 12, 12, 768), np.random.default_rng(0)
    for i in range(1 + COMPARED):
        mask = np.zeros_like(graph.legal)
        places = rng.permutation(np.argwhere(graph.legal))[: n_edges if i == 0 else 400]
        mask[tuple(places.T)] = True
        circuit = Circuit(graph, mask, np.where(mask, rng.normal(size=mask.shape), 0.0))
        write_json(root / f"run{i}" / "circuit.json", circuit.to_json())


def write_logs(root: Path, search: Path, n_runs: int) -> None:
    """Offline W&B runs without run folders: those of the search, copied."""
    (run,) = search.glob("wandb/offline-run-*")
    for i in range(n_runs):
        shutil.copytree(run, root / "wandb" / f"offline-run-{i}")


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def listing(root: Path, n_runs: int) -> Iterator[tuple[str, list[float]]]:
    """Listing of both kinds of run, the first time and from then on."""
    for kind, folder in (("run folders", root / "folders"), ("W&B runs", root / "logs")):
        first, *again = [seconds(lambda: summaries(folder)) for _ in range(1 + REPEATS)]  # noqa: B023
        yield f"{n_runs} {kind} listed", [first]
        yield f"{n_runs} {kind} listed again", again


@contextmanager
def served(root: Path) -> Iterator[str]:
    """The address of a server in a thread."""
    server = uvicorn.Server(uvicorn.Config(make_app(root), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(timeout=10)


def in_browser(root: Path, n_runs: int, n_edges: int) -> Iterator[tuple[str, list[float]]]:
    """What a person waits for."""
    from playwright.sync_api import sync_playwright

    with served(root / "folders") as address, sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 800})

        def go(place: str) -> None:
            page.goto("about:blank")
            page.goto(f"{address}#/{place}")
            page.wait_for_selector("body[data-ready]")

        yield f"table of {n_runs} runs open", [seconds(lambda: go("")) for _ in range(REPEATS)]
        typed = ("threshold<0.5", "threshold<0.1 acdc", "", "seed=0", "test_accuracy>=50%")
        yield "filter typed", [page.evaluate(FILTER, words) for words in typed]
        many = "compare/" + "/".join(f"run{i + 1}" for i in range(COMPARED))
        times = [seconds(lambda: go(many)) for _ in range(REPEATS)]
        yield f"{COMPARED} circuits of 400 edges compared", times
        go("run/run0")
        yield f"circuit of {n_edges} edges drawn", [page.evaluate(DRAW) for _ in range(REPEATS)]
        yield "slider moved", [page.evaluate(SLIDE) for _ in range(REPEATS)]
        browser.close()


def main() -> None:
    """Make runs, measure, print."""
    parser = argparse.ArgumentParser(description="times of the dashboard")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--edges", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_dashboard.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folders(root / "folders", root / "search", given.runs, given.edges)
        write_logs(root / "logs", root / "search", given.runs)
        measured = [*listing(root, given.runs), *in_browser(root, given.runs, given.edges)]
    rows: list[dict[str, Any]] = [
        {
            "what": what,
            "median": round(statistics.median(times), 3),
            "largest": round(max(times), 3),
        }
        for what, times in measured
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, {"seconds": rows})
    print(f"{markdown(rows)}\nwritten to {given.out}")


if __name__ == "__main__":
    main()
