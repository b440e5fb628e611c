"""The page as one file: its style, its scripts and the data of some runs inside.

Opens from disk without a server. The file's own policy lets exactly these scripts and this style
run, by their hashes, and nothing be loaded; run data cannot end the element it stands in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from acdc.errors import InputError
from discovery.dashboard.contents import Plain, told_apart
from discovery.dashboard.runs import MOST_CIRCUITS, circuit, details


def _text(name: str) -> str:
    return files("discovery.dashboard").joinpath("page", name).read_text(encoding="utf-8")


# as the page links them, in its order
SCRIPTS = tuple(re.findall(r'<script defer src="([\w.]+)"', _text("index.html")))
STYLES = tuple(re.findall(r'<link rel="stylesheet" href="([\w.]+)"', _text("index.html")))


def export_page(root: Path, runs: Sequence[str]) -> str:
    """Runs below the root as a self-contained page; InputError if one does not exist.

    With two runs the page opens on their comparison, with more on what they have in common, and
    then holds nothing else of them. Names and numbers of the runs are inside, of one or two their
    config and result; host, process and traceback are not.
    """
    several = len(few(runs)) > 2
    return page_of(
        {
            run: circuit(root, run) | {"record": {}}
            if several
            else details(root, run, private=False)
            for run in runs
        }
    )


def few(runs: Sequence[str]) -> Sequence[str]:
    """The runs; InputError if there are more than can be compared at once."""
    if len(runs) > MOST_CIRCUITS:
        raise InputError(f"{len(runs)} runs: at most {MOST_CIRCUITS} are compared at once")
    return runs


def page_of(found: Mapping[str, Plain]) -> str:
    """The page over these runs, each with all that its views show, by name.

    InputError where some are to be compared and one of them has no circuit.
    """
    for name, one in found.items():
        if len(found) > 1 and not one.get("circuit"):
            raise InputError(f"{name} has no circuit, so it cannot be compared.")
    data = {"runs": told_apart([one["summary"] for one in found.values()]), "details": found}
    head, tail = inlined(SCRIPTS, STYLES, data)
    before, _, rest = _text("index.html").partition("<!-- linked -->")
    _, _, after = rest.partition("<!-- /linked -->")
    body, _, end = after.partition("</body>")
    return f"{before}{head}{body}{tail}\n</body>{end}"


def inlined(scripts: Sequence[str], styles: Sequence[str], data: Any) -> tuple[str, str]:
    """What a page has in its head and at the end of its body, files and data inside.

    A policy that lets exactly these scripts and this style run, and the style; the data, as
    element "data", and the scripts.
    """
    style = "\n".join(_text(name) for name in styles)
    script = "\n".join(_text(name) for name in scripts)
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " img-src data:"
    )
    inside = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>',
        f'<script type="application/json" id="data">{inside}</script>\n<script>{script}</script>',
    )


def _hash(text: str) -> str:
    """What a policy calls a script or a style that it lets in."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
