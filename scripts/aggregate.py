"""The summary of a sweep's folder, made again: python scripts/aggregate.py FOLDER [--track]

Writes sweep.json, sweep.md and the figures into the folder, which may hold runs of several sweeps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from command import shown

from acdc.errors import InputError
from discovery.sweeps.folder import aggregate, track


def summarise(folder: Path, tracked: bool, again: bool = False) -> bool:
    """Aggregate the folder and say what is in it; whether all its runs are done.

    It is tracked if asked for, and if there is news since the last time or it is to be `again`.
    """
    summary = folder / "sweep.json"
    before = summary.read_bytes() if summary.exists() else b""
    try:
        members = aggregate(folder)
        print((folder / "sweep.md").read_text(encoding="utf-8"))
        if tracked and (again or summary.read_bytes() != before):
            track(folder, members)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    missing = sum(not m.complete for m in members)
    if missing:
        print(f"error: {missing} of {len(members)} runs are not done, see above", file=sys.stderr)
    print(f"summary  {shown(summary)}")
    if (folder / "pareto.png").exists():
        print(f"picture  {shown(folder / 'pareto.png')}")
    return not missing


def main() -> None:
    """One summary; exit code 1 unless all runs in the folder are done."""
    parser = argparse.ArgumentParser(
        prog="circuits aggregate",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, help="whose subfolders are runs of scripts/discover.py"
    )
    parser.add_argument("--track", action="store_true", help="also as a W&B run, as its runs were")
    given = parser.parse_args()
    sys.exit(0 if summarise(given.folder.absolute(), given.track, again=True) else 1)


if __name__ == "__main__":
    main()
