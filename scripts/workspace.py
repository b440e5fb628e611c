"""A view of a W&B project, or a report: runs side by side, searches, circuits, validations.

    python scripts/workspace.py my-team/my-circuits
    python scripts/workspace.py my-team/my-circuits --report   # a draft, to write what was found

Needs `wandb login` or WANDB_API_KEY, and the extra `workspaces`; nothing else there changes.
"""

from __future__ import annotations

import argparse

from command import refusals_as_exit

from discovery.runs.workspace import save, save_report


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and save the view."""
    parser = argparse.ArgumentParser(
        prog="circuits workspace", description="Save a view of a W&B project."
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT", help="where runs were tracked to")
    parser.add_argument("--report", action="store_true", help="save a draft of a report instead")
    asked = parser.parse_args(arguments)
    with refusals_as_exit():
        if asked.report:
            print(f"report  {save_report(asked.project)}")
        else:
            print(f"view  {save(asked.project)}")


if __name__ == "__main__":
    main()
