"""A view of a W&B project: runs side by side, searches, circuits, validations.

    python scripts/workspace.py my-team/my-circuits

Needs `wandb login` or WANDB_API_KEY, and the extra `workspaces`; nothing else there changes.
"""

from __future__ import annotations

import argparse

from command import refusals_as_exit

from discovery.runs.workspace import save


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and save the view."""
    parser = argparse.ArgumentParser(
        prog="circuits workspace", description="Save a view of a W&B project."
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="where runs were tracked to")
    asked = parser.parse_args(arguments)
    with refusals_as_exit():
        print(f"view  {save(asked.project)}")


if __name__ == "__main__":
    main()
