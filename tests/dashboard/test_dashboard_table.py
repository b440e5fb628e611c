"""The table of runs: conditions, columns and groups, kept in the address; notes; progress."""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import CHROMIUM, Server, go, picture, table  # noqa: E402

from discovery.dashboard.run_fields import LONGEST_VALUE, MOST_FIELDS, run_fields  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LEGIBLE = Path(__file__).with_name("legible.js").read_text()
RUNS = {  # name: threshold, seed, held out, task, state
    "sweep/threshold=0.01,seed=0,n=8_0123abcd": (0.01, 0, 0.95, "ioi"),
    "sweep/threshold=0.1,seed=0,n=8_1123abcd": (0.1, 0, 0.8, "ioi"),
    "sweep/threshold=0.1,seed=10,n=8_2123abcd": (0.1, 10, 0.7, "ioi"),
    "alone": (0.5, 2, None, "docstring"),
}


@pytest.fixture(scope="module")
def few(tmp_path_factory, written, many_edges):
    root = tmp_path_factory.mktemp("few")
    for name, (threshold, seed, held_out, task) in RUNS.items():
        method = {"name": "acdc", "threshold": threshold}
        config = {"task": {"name": task, "n": 8}, "model": {"kind": "gpt2"}, "method": method}
        result = {"seed": seed, "test_faithfulness": held_out, "n_edges": 10, "splits": {"a": 1},
                  "holds": "the circuit does part of the task: on 8 prompts …"}  # fmt: skip
        written(root / name, status={"state": "done"}, result=result, circuit=many_edges(9),
                config={"config": config, "config_hash": "ab12"})  # fmt: skip
    status = {"state": "running", "pid": os.getpid(), "host": os.uname().nodename}
    line = {"reader": "a0.h0<q>", "n_edges": 70, "n_kept": 10, "n_settled": 40, "metric": 0.1}
    written(root / "live", status=status, metrics=json.dumps(line) + "\n",
            config={"config": {"task": {"name": "ioi", "n": 20}}})  # fmt: skip
    return root


@pytest.fixture(scope="module")
def few_address(few):
    with Server(few, notes=True) as address:
        yield address


def shown(page):
    return page.locator("[data-run]").evaluate_all("rows => rows.map(r => r.dataset.run)")


CONDITIONS = {  # what is typed: the runs that meet it
    "threshold<0.1": [0],
    "threshold<=.1 seed=0": [0, 1],
    "seed=1": [],  # and not 10
    "seed!=0": [2, 3, "live"],  # what has none has not 0
    "held-out>=80%": [0, 1],
    "method.threshold=0.5": [3],
    "task=ioi state=done": [0, 1, 2],
    "task=*oc*": [3],
    'task="docstring"': [3],
    "run~seed=10": [2],
    "held-out= task=docstring": [3],
    "splits.a=1 hash=ab12 alone": [3],
    "task.n>8": ["live"],
    "verdict~part threshold>0.1": [3],
    "nonesuch": [],
}
REFUSED = {
    "nonesuch<3": "nonesuch: no run has this field",
    "name=x": "name: several fields end so; there are method.name, task.name",
    "<3": "A condition without a field",
}


def test_conditions_on_any_field(page, few_address):
    go(page, few_address, options="?sort=threshold")
    for typed, those in CONDITIONS.items():
        page.fill("#filter", typed)
        names = [list(RUNS)[i] if i != "live" else "live" for i in those]
        assert sorted(shown(page)) == sorted(names), typed
        assert page.inner_text("#filter-error") == ""
    for typed, said in REFUSED.items():
        page.fill("#filter", typed)
        assert page.inner_text("#filter-error").startswith(said)
        assert len(shown(page)) == 5


def test_a_view_is_in_the_address(page, few_address):
    go(page, few_address)
    page.fill("#filter", "threshold<=0.1")
    page.select_option("#grouped", "folder")
    page.click("text=Columns")
    for column in ("n", "seed", "hash"):
        page.fill("#add-column", column)
        page.keyboard.press("Enter")
    page.fill("#add-column", "nonesuch")
    page.keyboard.press("Enter")
    assert "no run has this field" in page.inner_text(".choice .error")
    page.click("[aria-label='without model']")
    page.click("[data-key='sort seed']")
    assert shown(page) == [list(RUNS)[i] for i in (2, 0, 1)]
    picture(page, "columns")
    address = page.url
    rows = table(page, ".list")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    assert table(page, ".list") == rows
    heads = page.locator(".list thead button").all_inner_texts()
    assert heads[-3:] == ["n", "seed ↓", "hash"] and "model" not in heads
    assert page.inner_text(".group th").startswith("▾ sweep 3 runs: 3 done")
    names = page.locator("[data-run] a").all_inner_texts()  # in a group: what tells them apart
    assert names == ["threshold=0.1,seed=10", "threshold=0.01,seed=0", "threshold=0.1,seed=0"]
    page.click(".group button")
    assert shown(page) == []
    page.click(".group button")
    page.click("[data-run] a")
    page.wait_for_selector("body[data-ready=run]")
    page.click("nav >> text=Runs")
    page.wait_for_selector("body[data-ready=runs]")
    assert page.url == address  # the way back


def test_groups_are_ticked_at_once_and_a_search_says_how_far_it_is(page, few_address):
    go(page, few_address, options="?group=folder")
    assert page.locator('[data-run="live"] .state').inner_text() == "▶ running 40 %"
    page.check("[aria-label='compare all sweep']")
    assert page.locator("[data-run] input:checked").count() == 3
    assert "Compare all 3" in page.inner_text("#chosen")
    page.uncheck(f'[data-run="{list(RUNS)[0]}"] input')
    assert not page.is_checked("[aria-label='compare all sweep']")
    assert "Compare both" in page.inner_text("#chosen")


def test_notes_are_written_from_the_page_and_filtered_by(page, few, few_address):
    go(page, few_address, "run", "alone")
    page.click("text=Write a note")
    page.fill("#note", "<b>look</b> again")
    page.fill("#tags", "best, to check")
    page.click(".notes button")
    page.wait_for_selector("text=Saved.")
    kept = json.loads((few / "alone/notes.json").read_text())
    assert kept == {"note": "<b>look</b> again", "tags": ["best", "to check"], "groups": {}}
    assert page.inner_text(".notes .prose") == kept["note"]
    page.click(".notes .role >> text=to check")
    page.wait_for_selector("body[data-ready=runs]")
    assert shown(page) == ["alone"]
    (few / "alone/notes.json").unlink()


def test_without_the_option_notes_are_only_shown(page, few):
    (few / "alone/notes.json").write_text('{"note": "seen", "tags": ["x"]}')
    with Server(few) as address:
        go(page, address, "run", "alone")
        assert page.inner_text(".notes").split() == ["x", "seen"]
        go(page, address, "run", "live")
        assert page.locator(".notes, textarea").count() == 0
    (few / "alone/notes.json").unlink()


def test_the_table_fits(page, few_address):
    for width in (420, 1920):
        page.set_viewport_size({"width": width, "height": 800})
        go(page, few_address, options="?group=folder")
        assert page.evaluate(LEGIBLE)["problems"] == [], width
        picture(page, f"runs_{width}")


def test_fields_are_all_single_values_by_their_path():
    config = {"config": {"task": {"n": 3}, "seed": 1, "overrides": ["a"]}, "config_hash": "ab"}
    result = {"seed": 2, "deep": {"er": {"x": True}}, "none": None, "nan": float("nan"),
              "list": ["a", 2, [3]], "long": "x" * 999}  # fmt: skip
    fields = run_fields(config, result)
    assert fields["asked"] == {"task.n": 3, "seed": 1, "config_hash": "ab"}
    assert fields["found"].pop("long") == "x" * (LONGEST_VALUE - 1) + "…"
    assert fields["found"] == {"seed": 2, "deep.er.x": True, "list": "a, 2"}
    nested: dict = {}
    for _ in range(2000):
        nested = {"a": nested}
    many = {f"f{i}": i for i in range(1000)} | {"y" * 99: 1}
    fields = run_fields({"config": nested}, many)
    assert len(fields["found"]) == MOST_FIELDS and fields["asked"] == {}
