"""Pictures and tables of a view as files: complete, plain, and harmless where they are opened."""

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, drawn, go  # noqa: E402

from discovery.dashboard.export import export_page  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
SVG = "{http://www.w3.org/2000/svg}"


def saved(page, label):
    """What the button of this label of the menu gives."""
    if not page.locator(".save .panel").is_visible():
        page.click(".save summary")
    with page.expect_download() as download:
        page.locator(f".save [aria-label^='{label}']").first.click()
    return Path(download.value.path()).read_bytes(), download.value.suggested_filename


def test_a_circuit_as_svg_png_and_csv(page, tmp_path, written, many_edges):
    written(tmp_path / "run", status={"state": "done"}, circuit=many_edges(400))
    (tmp_path / "page.html").write_text(export_page(tmp_path, ["run"]))
    with Server(tmp_path) as address:
        for base in (address, f"file://{tmp_path}/page.html"):
            go(page, base, "run", "run")
            data, name = saved(page, "SVG: Circuit")
            root = ElementTree.fromstring(data.decode())
            lines = [e for e in root.iter(f"{SVG}path") if e.get("fill") == "none"]
            assert name == "Circuit_of_400_edges.svg" and len(lines) >= drawn(page) == 60
            assert "a11.h3" in "".join(root.itertext())
            assert not [e for e in root.iter() if e.get("class") or e.get("tabindex")]
            data, _ = saved(page, "PNG: Circuit")
            assert data.startswith(b"\x89PNG") and len(data) > 10_000
            page.fill("#least", "0")
            data, name = saved(page, "CSV: Edges")
            rows = list(csv.reader(io.StringIO(data.decode())))
            edges = {f"{a}->{b}": float(effect) for a, b, effect in rows[1:]}
            kept = {k: e["score"] for k, e in many_edges(400)["edges"].items()}
            assert rows[0] == ["from", "into", "effect"] and edges == pytest.approx(kept)


def test_cells_are_what_programs_read_and_no_formula(page, address):
    go(page, address)
    cells = [["−1,234.5", "=1+1", "+a", "-x", "@y", 'say "a", b', "12 %", "1e−5", None]]
    line = page.evaluate("cells => csv(cells)", cells)
    (found,) = csv.reader(io.StringIO(line))
    assert found == ["-1234.5", "'=1+1", "'+a", "'-x", "'@y", 'say "a", b', "12 %", "1e-5", ""]


@pytest.mark.slow
def test_every_view_offers_its_pictures_and_tables(page, address):
    for parts, count in {(): 1, ("sweep",): 3, ("run", "acdc_0.05", "heads"): 3,
                         ("run", "acdc_0.05", "search"): 4}.items():  # fmt: skip
        go(page, address, *parts)
        page.click(".save summary")
        page.wait_for_selector(".save .row")  # made when it opens
        names = page.locator(".save .row").all_inner_texts()
        assert len(names) >= count, (parts, names)
        page.keyboard.press("Escape")
        assert not page.locator(".save .panel").is_visible()
