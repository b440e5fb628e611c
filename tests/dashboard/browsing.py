"""A server in a thread, and how the tests read its pages; needs uvicorn."""

import shutil
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import uvicorn

from discovery.dashboard.app import make_app

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
BOTH = ["light", pytest.param("dark", marks=pytest.mark.slow)]  # of `page`: the browser's scheme
PICTURES = Path(__file__).parents[2] / "build" / "dashboard"


class Server(uvicorn.Server):
    """In a thread, on a free port."""

    def __init__(self, root, notes=False):
        super().__init__(uvicorn.Config(make_app(root, notes=notes), port=0, log_level="error"))
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        while not self.started:
            assert self.thread.is_alive()
            time.sleep(0.01)
        return f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}/"

    def __exit__(self, *_):
        self.should_exit = True
        self.thread.join(timeout=10)


def go(page, address, *parts, options=""):
    """Open a page of the dashboard afresh."""
    page.goto("about:blank")
    page.goto(address + "#/" + "/".join(quote(part, safe="") for part in parts) + options)
    page.wait_for_selector("body[data-ready]")


def settled(page):
    """Wait until what follows a new width, or a fold that opens, is drawn."""
    page.wait_for_function("new Promise(go => requestAnimationFrame(() => setTimeout(go, 50)))")


def picture(page, name):
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")


def drawn(page, within=""):
    """Edges that can be seen."""
    return page.locator(f"{within} .edge:not(.off)").count()


def table(page, selector):
    rows = page.locator(f"{selector} tbody tr").all_inner_texts()
    return [[cell.strip() for cell in row.split("\t")] for row in rows]
