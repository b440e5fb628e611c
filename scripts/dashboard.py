"""The runs below a folder, or of a W&B project, as a local web page.

    python scripts/dashboard.py runs
    python scripts/dashboard.py multirun --port 8080
    python scripts/dashboard.py --wandb ENTITY/PROJECT

    python scripts/dashboard.py runs --notes     # the page may write notes.json into run folders

Reads only, but for these notes. Needs the extra `dashboard`:
pip install -c constraints.txt -e ".[dashboard]".
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

from command import refusals_as_exit

from acdc.errors import InputError
from discovery.runs.wandb_log import check_project


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server at this address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """InputError if this port cannot be listened on at this host, by trying to."""
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such name"
        raise InputError(f"--host {host} cannot be bound: {reason}") from error
    failures = [_bind(family, place) for family, _, _, _, place in places]
    found = {failure.errno for failure in failures if failure is not None}
    if errno.EADDRINUSE in found:
        raise InputError(f"port {port} is in use; choose another with --port")
    if errno.EACCES in found:
        raise InputError(f"port {port} needs more rights than you have; choose another with --port")
    if failures[0] is not None and None not in failures:
        reason = failures[0].strerror or failures[0]
        raise InputError(f"--host {host} cannot be bound: {reason}")


def _bind(family: int, place: Any) -> OSError | None:
    """Take the address for a moment; what hindered that."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":  # as the server does: what just ended does not count
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
            probe.listen()  # two may bind one address, but not listen
    except OSError as error:
        return error
    return None


def serve(
    folder: Path | None, project: str | None, host: str, port: int, notes: bool = False
) -> None:
    """Serve until interrupted; InputError if the question or the installation forbids it."""
    if folder is None and project is None:
        raise InputError("name a folder with runs, or a W&B project: --wandb ENTITY/PROJECT")
    if notes and folder is None:
        raise InputError("--notes: they are written into run folders, so name a folder with runs")
    if project is not None:
        check_project(project)
    try:
        import uvicorn

        from discovery.dashboard.app import make_app
        from discovery.dashboard.sources import Project
    except ModuleNotFoundError as error:
        raise InputError(
            f"The dashboard needs {error.name}:"
            ' pip install -c constraints.txt -e ".[dashboard]" installs it.'
        ) from error
    if not 0 < port < 2**16:
        raise InputError(f"--port {port}: allowed are 1 to {2**16 - 1}")
    projects = [Project(project)] if project is not None else []
    app = make_app(folder, None if is_local(host) else ["*"], projects, notes)
    check_address(host, port)
    if not is_local(host):
        places = [f"below {folder}"] * (folder is not None) + [f"of {project}"] * len(projects)
        print(
            f"warning: --host {host} lets other machines read every run {' and '.join(places)}"
            f"{' and write notes on it' if notes else ''}, without a password",
            file=sys.stderr,
        )
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/  (Ctrl-C ends it)", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning", server_header=False)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="circuits dashboard", description="Runs as a local web page."
    )
    parser.add_argument(
        "folder", type=Path, nargs="?",
        help="searched, at any depth, for run folders and offline W&B runs",
    )  # fmt: skip
    parser.add_argument(
        "--wandb", metavar="ENTITY/PROJECT", help="a W&B project, asked at most once a minute"
    )
    parser.add_argument(
        "--notes", action="store_true", help="let the page write notes.json into run folders"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args(arguments)
    with refusals_as_exit():
        serve(asked.folder, asked.wandb, asked.host, asked.port, asked.notes)


if __name__ == "__main__":
    main()
