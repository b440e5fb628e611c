"""All commands by one name: circuits discover model=smollm2 task=ioi

Each runs the script of its name as if by its path, so the words after it are that script's.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

COMMANDS = {
    "discover": "a model and a task in, a circuit out; -m for sweeps",
    "compare": "several methods on one task",
    "route": "what one prompt's prediction is made of",
    "components": "importance of heads and MLPs over a data set, and how another differs",
    "validate": "is the circuit that a run found true?",
    "explain": "how the circuit that a run found does its task",
    "arise": "how a circuit comes about over the checkpoints of a training",
    "consensus": "which of a run's edges come back on other prompts?",
    "truth": "which method finds circuits that are known?",
    "scrub": "causal scrubbing of a bracket classifier or of induction heads",
    "aggregate": "the summary of a sweep's folder, made again",
    "mib": "MIB's track: evaluate scores, submit circuits, check a submission",
    "draw": "a circuit as a picture for a paper",
    "workspace": "a view of a W&B project",
    "dashboard": "runs as a local web page",
    "export": "a run, or two, as one HTML file",
}
HERE = Path(__file__).resolve().parent


def usage() -> str:
    """One line a command."""
    lines = [f"  {name:12}{says}" for name, says in COMMANDS.items()]
    return "\n".join(["circuits COMMAND [words]", "", *lines, "", "circuits COMMAND --help"])


def main() -> None:
    """Run the command that is named first; exit code 2 if there is none of that name."""
    name = "".join(sys.argv[1:2])
    if name in ("", "-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        print(f"error: circuits {name}: known are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.path.insert(0, str(HERE))  # they import each other by bare names
    del sys.argv[1]
    runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")


if __name__ == "__main__":
    main()
