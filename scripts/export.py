"""One run, two side by side, or what many share, as one HTML file; or a run's circuit.

python scripts/export.py RUN [RUN ...] --out FILE
python scripts/export.py RUN --out circuit.pt   # or .json (EAP-IG's forms, MIB's), or .graphml
python scripts/export.py RUN --out circuit.neuronpedia.json   # an attribution graph
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from command import refusals_as_exit, shown

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.schema import ALL
from discovery.dashboard.export import export_page
from discovery.dashboard.files import run_folder
from discovery.runs.json_files import encode, read_json, write_bytes
from discovery.runs.neuronpedia import attribution_graph

CIRCUITS = (".json", ".pt", ".graphml")
NEURONPEDIA = ".neuronpedia.json"  # and circuit-tracer's


def export(runs: list[Path], out: Path) -> None:
    """Write the page, or by the file's ending the circuit; InputError if a folder is no run, or of
    several one has no circuit.
    """
    for run in runs:
        if not run.is_dir():
            raise InputError(f"{run} is not a folder, so it holds no run.")
    folders = [run.resolve() for run in runs]
    root = folders[0].parent
    while not all(folder.is_relative_to(root) for folder in folders):
        root = root.parent
    names = [folder.relative_to(root).as_posix() for folder in folders]
    for run, name in zip(runs, names, strict=True):
        try:
            run_folder(root, name)
        except InputError:
            raise InputError(f"{run} is no run's folder, so there is nothing to export.") from None
    if out.suffix in CIRCUITS:
        write_circuit(runs, out)
        return
    write_bytes(out, export_page(root, names).encode())
    print(f"page  {shown(out.resolve())}")


def write_circuit(runs: list[Path], out: Path) -> None:
    """Write the circuit of a run, in the form that the ending says; InputError if it has none."""
    from networkx import generate_graphml

    from acdc.circuit_files import read, tensors

    if len(runs) > 1:
        raise InputError(f"--out {out}: a circuit is one run's; give one, or an .html file")
    data = read(runs[0] / "circuit.json")
    if out.name.endswith(NEURONPEDIA):
        write_bytes(out, encode(_attribution_graph(runs[0], Circuit.from_json(data), out)))
    elif out.suffix == ".graphml":
        graph = Circuit.from_json(data).to_networkx()
        write_bytes(out, "\n".join(generate_graphml(graph)).encode() + b"\n")
    elif out.suffix == ".pt":  # a form without spans
        write_bytes(out, tensors(Circuit.from_json(data).without_spans().to_json()))
    else:
        write_bytes(out, encode(data))
    print(f"circuit  {shown(out.resolve())}")


def _attribution_graph(run: Path, circuit: Circuit, out: Path) -> dict[str, Any]:
    """Of a run: the first prompt of heads.json, and the roles that its scores suggest."""
    from acdc.spans import last_tokens  # seconds, where a page is asked for

    known = read_json(run / "heads.json") or {}
    first = next(iter(known.get("prompts", [])), {})
    prompt, marks = first.get("tokens", []), first.get("marks", {})
    roles = dict[str, list[str]]()
    for head, about in known.get("heads", {}).items():
        for role in about["candidates"][:1]:
            roles.setdefault(role, []).append(head)
    model = str((read_json(run / "result.json") or {}).get("model", "model"))
    slug = out.name.removesuffix(NEURONPEDIA)
    spans = None if circuit.graph.spans == ALL else last_tokens(circuit.graph.spans, prompt, marks)
    scan = model.rpartition("/")[2].lower()
    return attribution_graph(circuit, prompt, roles, scan, slug, spans)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="circuits export", description="Runs as one self-contained HTML file."
    )
    parser.add_argument(
        "run", type=Path, nargs="+",
        help="a run folder, or an offline W&B run's directory; several are compared",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the file to write: a page, or by its ending the circuit: .json, .pt, .graphml,"
        " .neuronpedia.json",
    )
    asked = parser.parse_args(arguments)
    with refusals_as_exit():
        export(asked.run, asked.out)


if __name__ == "__main__":
    main()
