"""Who sees little, or has no mouse: contrast, sizes, names and the keyboard, in every view."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import BOTH, CHROMIUM, Server, drawn, go, picture, settled  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LEGIBLE = Path(__file__).with_name("legible.js").read_text()
VIEWS = {
    "runs": (),
    "sweep": ("sweep",),
    "compare": ("compare", "acdc_0.05", "other/eap_ig"),
    "failed": ("run", "failed"),
    "route": ("run", "route", "route"),
    **{
        view: ("run", "acdc_0.05", view)
        for view in ("circuit", "search", "validation", "heads", "record")
    },
}
STUDY_VIEWS = {name: ("run", name, name) for name in ("methods", "components")}
PRESSED = {"button", "link", "checkbox", "textbox", "searchbox", "slider", "combobox", "menuitem"}


def audit(page, name, address, parts, scheme):
    """Open the view, keep its picture, and return what is wrong with it."""
    go(page, address, *parts)
    settled(page)
    picture(page, f"{name}_{scheme}")
    found = page.evaluate(LEGIBLE)
    assert found["texts"] > 5, name
    return [f"{name}: {problem}" for problem in found["problems"] + unnamed(page)]


def unnamed(page):
    """What can be reached or pressed and has no name, by the browser's own accessibility tree."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    problems, pressed = [], 0
    for node in nodes:
        facts = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role in ("RootWebArea", "main"):
            continue
        pressed += role in PRESSED
        if (role in PRESSED or facts.get("focusable")) and not node["name"]["value"].strip():
            problems.append(f"a {role} has no name")
    assert pressed > 3
    return problems


@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_every_view_can_be_read(page, address, studies, request):
    scheme = request.node.callspec.params["page"]
    problems = []
    for name, parts in VIEWS.items():
        problems += audit(page, name, address, parts, scheme)
    with Server(studies) as other:
        for name, parts in STUDY_VIEWS.items():
            problems += audit(page, name, other, parts, scheme)
    assert problems == []


@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_large_circuits_can_be_read(page, tmp_path, written, many_edges, request):
    """400 edges of GPT-2's size, one head in focus, and beside another circuit."""
    for name, count in (("left", 400), ("right", 300)):
        written(tmp_path / name, status={"state": "done"}, circuit=many_edges(count))
    scheme = request.node.callspec.params["page"]
    with Server(tmp_path) as address:
        problems = audit(page, "large", address, ("run", "left"), scheme)
        page.click('.node[data-id="a11.h3"]')
        problems += page.evaluate(LEGIBLE)["problems"]
        problems += audit(page, "large_compare", address, ("compare", "left", "right"), scheme)
    assert problems == []


def test_no_view_is_wider_than_the_window_at_200_percent_or_on_a_telephone(page, address):
    for name, parts in VIEWS.items():
        go(page, address, *parts)
        for width in (640, 420):
            page.set_viewport_size({"width": width, "height": 400})
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, (name, width)


def test_the_audit_finds_faults(page, address):
    """It is not blind: grey text, small text, a faint line, a wide page, a button without name."""
    go(page, address, "run", "acdc_0.05")
    assert page.evaluate(LEGIBLE)["problems"] == [] and unnamed(page) == []
    page.evaluate(
        """() => {
          const main = document.getElementById("main");
          const words = (id) => el("p", { id }, `${id} words`);
          main.append(words("grey"), words("small"), words("wide"), el("button", {}));
          document.getElementById("grey").style.color = "#999";
          document.getElementById("small").style.fontSize = "9px";
          document.getElementById("wide").style.width = "3000px";
          document.querySelector(".edge .line").style.strokeOpacity = 0.2;
          const labels = [...document.querySelectorAll(".picture text.small")];
          labels.pop().setAttribute("x", -40);
          labels[1].setAttribute("y", labels[0].getAttribute("y"));
          document.querySelector(".side .scroll").firstChild.style.width = "900px";
        }"""
    )
    found = " ".join(page.evaluate(LEGIBLE)["problems"] + unnamed(page))
    for words in ("grey words” has contrast", "small words” has 9.0 px", "px wide", "no name",
                  "path.line “” has contrast", "is cut off", "lies over", "wider"):  # fmt: skip
        assert words in found


def tab_to(page, condition, limit=80):
    """Press the tab key until the focus is where `condition`, of `here`, is true."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate(
            f"(() => {{ const here = document.activeElement; return {condition}; }})()"
        ):
            return
    raise AssertionError(f"the tab key does not lead to {condition}")


def test_the_main_path_by_keyboard_alone(page, address, on_disk):
    """Runs, a circuit, the slider, a head, then two runs compared; no pointer, no script."""
    go(page, address)
    tab_to(page, "here.dataset.key === 'open acdc_0.05'")
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready=run]")
    n_edges = on_disk("acdc_0.05", "result.json")["n_edges"]
    tab_to(page, "here.matches('.node')")  # one stop for all nodes
    first = page.evaluate("document.activeElement.dataset.id")
    tab_to(page, "here.id === 'least'", limit=1)
    page.keyboard.press("ArrowRight")
    assert drawn(page) == n_edges - 1
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.dataset.id") == first
    for _ in range(6):  # from the input, or the logits, to a head
        if re.fullmatch(r"a\d+\.h\d+", page.evaluate("document.activeElement.dataset.id")):
            break
        page.keyboard.press("ArrowUp" if first == "input" else "ArrowDown")
    head = page.evaluate("document.activeElement.dataset.id")
    assert re.fullmatch(r"a\d+\.h\d+", head)
    page.keyboard.press("Enter")
    assert page.get_attribute(f'.node[data-id="{head}"]', "aria-pressed") == "true"
    assert page.inner_text("#edges-title").startswith(f"{head}: ")

    for _ in range(80):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.textContent") == "Runs":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready=runs]")
    for run in ("acdc_0.05", "other/eap_ig"):
        tab_to(page, f"here.dataset.key === 'choose {run}'")
        page.keyboard.press("Space")
    tab_to(page, "here.textContent === 'Compare'")  # past the end of the page to its start
    page.keyboard.press("Enter")
    page.wait_for_selector("body[data-ready=compare]")
    assert drawn(page, "[data-side='0']") == n_edges


@pytest.mark.slow
def test_arrows_move_between_components(page, studies):
    with Server(studies) as address:
        go(page, address, "run", "components", "components")
        flows = json.loads((studies / "components/components.json").read_text())["task"]
        tab_to(page, "here.matches('.cell')")
        assert page.evaluate("document.activeElement.dataset.component") == "a0.h0"
        for key, name in (("ArrowRight", "a0.h1"), ("ArrowUp", "a1.h1"), ("ArrowLeft", "a1.h0")):
            page.keyboard.press(key)
            assert page.evaluate("document.activeElement.dataset.component") == name
        assert name in flows["components"] and name in page.inner_text("#tip")
