"""One run, two side by side, or what many share, as one HTML file; or a run's circuit.

python scripts/export.py RUN [RUN ...] --out FILE
python scripts/export.py RUN --out circuit.pt   # or .json (EAP-IG's forms, MIB's), or .graphml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import refusals_as_exit, shown

from acdc.errors import InputError
from discovery.dashboard.export import export_page
from discovery.dashboard.files import run_folder
from discovery.runs.json_files import encode, write_bytes

CIRCUITS = (".json", ".pt", ".graphml")


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

    from acdc.circuit import Circuit
    from acdc.circuit_files import read, tensors

    if len(runs) > 1:
        raise InputError(f"--out {out}: a circuit is one run's; give one, or an .html file")
    data = read(runs[0] / "circuit.json")
    if out.suffix == ".graphml":
        graph = Circuit.from_json(data).to_networkx()
        write_bytes(out, "\n".join(generate_graphml(graph)).encode() + b"\n")
    else:
        write_bytes(out, tensors(data) if out.suffix == ".pt" else encode(data))
    print(f"circuit  {shown(out.resolve())}")


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
        help="the file to write: a page, or by its ending .json, .pt, .graphml the circuit",
    )
    asked = parser.parse_args(arguments)
    with refusals_as_exit():
        export(asked.run, asked.out)


if __name__ == "__main__":
    main()
