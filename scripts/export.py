"""One run, or two side by side, as one HTML file that opens anywhere.

python scripts/export.py RUN [RUN2] --out FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

from command import refusals_as_exit, shown

from acdc.errors import InputError
from discovery.dashboard.export import export_page
from discovery.dashboard.files import run_folder
from discovery.runs.json_files import write_bytes


def export(runs: list[Path], out: Path) -> None:
    """Write the page; InputError if a folder is no run, or of two one has no circuit."""
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
    write_bytes(out, export_page(root, names).encode())
    print(f"page  {shown(out.resolve())}")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(
        prog="circuits export", description="Runs as one self-contained HTML file."
    )
    parser.add_argument("run", type=Path, help="a run folder, or an offline W&B run's directory")
    parser.add_argument("versus", type=Path, nargs="?", help="a second one, to compare")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file to write")
    asked = parser.parse_args(arguments)
    with refusals_as_exit():
        export([r for r in (asked.run, asked.versus) if r is not None], asked.out)


if __name__ == "__main__":
    main()
