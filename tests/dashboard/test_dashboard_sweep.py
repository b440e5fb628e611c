"""The sweep page: what is compared, which runs are on the front, and that the table fits."""

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `dashboard` is not installed")
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from browsing import BOTH, CHROMIUM, Server, go, picture, settled, table  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from discovery.dashboard.app import make_app  # noqa: E402

LEGIBLE = Path(__file__).with_name("legible.js").read_text()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def finished(written, folder, n_edges, faithfulness, value=0.1, **more):
    result = {"model": "m", "task": "ioi", "method": "acdc", "metric": "kl", "ablation": "resample",
              "threshold": 0.001234, "n_edges": n_edges, "faithfulness": faithfulness,
              "metric_circuit": value}  # fmt: skip
    written(folder, status={"state": "done"}, result={**result, **more})


def front(page):
    return [row[0] for row in table(page, ".front-runs")]


def test_faithfulness_is_best_at_one(page, tmp_path, written):
    """b is above 1 and farther away than c of the same side; d is as near as c from the other."""
    values = {"a": (10, 0.5), "b": (20, 1.6), "c": (30, 0.9), "d": (40, 1.1), "e": (50, 1.05),
              "f": (50, 0.95), "g": (60, 1.0499999999)}  # fmt: skip
    for name, (n_edges, faithfulness) in values.items():
        finished(written, tmp_path / name, n_edges, faithfulness, value=1 / n_edges)
    with Server(tmp_path) as address:
        go(page, address, "sweep")
        assert front(page) == ["a", "c", "e", "f"]
        assert page.locator("#folder").count() == 0
        page.select_option("#measure", "kl")
        assert front(page) == list("abcdef") + ["g"]  # less is better


def test_only_like_runs_are_compared_and_folders_can_be_chosen(page, tmp_path, written):
    for i in range(3):
        finished(written, tmp_path / "one" / f"run{i}", 10 + i, 0.5 + i / 10)
    finished(written, tmp_path / "two" / "run", 10, 0.8)
    finished(written, tmp_path / "two" / "zero", 10, 0.8, ablation="zero")
    finished(written, tmp_path / "two" / "diff", 10, 0.8, metric="logit_diff")
    with Server(tmp_path) as address:
        go(page, address, "sweep")
        options = "all => all.map((o) => o.textContent)"
        found = page.locator("#group option").evaluate_all(options)
        names = [f"ioi in m, {m}" for m in ("kl, resample", "kl, zero", "logit_diff, resample")]
        assert found == names and page.input_value("#group") == names[0]
        assert page.locator("#measure option").evaluate_all(options) == ["faithfulness", "kl"]
        assert page.locator("svg [data-run]").count() == 4 and front(page) == ["run"]
        assert page.locator("#folder option").evaluate_all(options) == ["all", "one", "two"]
        page.select_option("#folder", "one")
        assert page.locator("#group option").evaluate_all(options) == names[:1]
        assert front(page) == ["run0", "run1", "run2"]
        page.select_option("#folder", "two")
        page.select_option("#group", names[2])
        page.select_option("#measure", "logit_diff")
        assert front(page) == ["diff"]


def test_which_side_of_a_metric_is_better_is_the_results_word(page, tmp_path, written):
    """More edges and a larger value: worse of a divergence, better of what is to be high."""
    for name, more in {"own": {"lower_is_better": False}, "kl": {}, "prob_diff": {}}.items():
        for n_edges in (10, 20):
            run = tmp_path / name / str(n_edges)
            finished(written, run, n_edges, 0.5, value=n_edges, metric=name, **more)
    with Server(tmp_path) as address:
        go(page, address, "sweep")
        for name, best in {"own": ["10", "20"], "kl": ["10"], "prob_diff": ["10", "20"]}.items():
            page.select_option("#group", f"ioi in m, {name}, resample")
            page.select_option("#measure", name)
            assert front(page) == best


def test_long_names_leave_the_numbers_in_sight(page, tmp_path, written):
    long = "method.name=acdc,method.threshold=0.001234567,task.n=100,seed=12"
    finished(written, tmp_path / "sweep" / long, 12345, 0.987)
    with Server(tmp_path) as address:
        go(page, address, "sweep")
        link = page.locator(".front-runs a")
        assert link.inner_text() == long and link.get_attribute("title") == f"sweep/{long}"
        assert link.bounding_box()["height"] < 30
        assert page.locator(".front-runs td").nth(1).inner_text() == "acdc"
        place = page.locator(".scroll:has(.front-runs)").bounding_box()
        assert place["x"] + place["width"] <= 1280
        for cell in page.locator(".front-runs :is(td, th)").all():
            box = cell.bounding_box()
            assert box["x"] + box["width"] <= place["x"] + place["width"] + 1
            assert cell.evaluate("c => c.className === 'long' || c.scrollWidth <= c.clientWidth")


def summed_up(written, root):
    """Three thresholds, two seeds each, and what a sweep says of them."""
    points = []
    for i, threshold in enumerate((0.01, 0.1, 1.0)):
        names = [f"threshold={threshold},seed={seed}" for seed in (0, 1)]
        for seed, name in enumerate(names):
            more = {"threshold": threshold, "seed": seed, "test_faithfulness": 0.8 - 0.1 * seed}
            finished(written, root / name, 100 - 40 * i + seed, 0.9 - 0.1 * i, 10.0**i, **more)
            asked = {"seed": seed, "method": {"threshold": threshold}}
            written(root / name, config={"config": asked})
        mean = {"mean": 100.5 - 40 * i, "low": 99.0 - 40 * i, "high": 102.0 - 40 * i}
        value = {"mean": 10.0**i, "low": 8.0 * 10.0**i, "high": 12.0 * 10.0**i}
        told = {"series": "acdc", "metric": "kl", "threshold": threshold, "front": True}
        points.append({**told, "names": names, "edges": mean, "value": value})
    points.append({"names": "none", "edges": {"mean": "x"}})
    written(root, sweep={"points": points})


@pytest.mark.parametrize("page", BOTH, indirect=True)
def test_means_thresholds_and_what_a_click_does(page, tmp_path, written):
    summed_up(written, tmp_path / "all")
    with Server(tmp_path) as address:
        go(page, address, "sweep")
        page.select_option("#measure", "kl")
        page.wait_for_selector("[data-mean]")
        means = page.locator("[data-mean]")
        assert means.count() == 3 and page.locator("svg [data-run]").count() == 6
        label = means.first.get_attribute("aria-label")
        assert (
            "threshold 0.01; edges 100.5" in label.replace("101", "100.5") and "[99, 102]" in label
        )
        texts = page.locator(".chart text").all_text_contents()
        assert {"0.01", "0.1", "1", "kl, logarithmic"} <= set(texts)
        assert page.locator("[data-line]").count() == 6
        for width in (420, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 800})
            settled(page)
            assert page.evaluate(LEGIBLE)["problems"] == [], width
        picture(page, "sweep_means")
        page.fill("#sweep-filter", "held-out>=75%")  # one seed of each: no means of all runs
        assert page.locator("svg [data-run]").count() == 3 == page.locator("[data-line]").count()
        page.fill("#sweep-filter", "nonesuch=1")
        assert "no run has this field" in page.inner_text(".error")
        page.fill("#sweep-filter", "")
        page.wait_for_selector("[data-mean]")
        page.select_option("#press", "tick")
        page.wait_for_selector("[data-mean]")
        page.locator("[data-mean] path").nth(1).click()
        assert page.locator("nav >> text=Compare").get_attribute("href").count("/") == 3
        page.select_option("#press", "open")
        page.wait_for_selector("[data-mean]")
        assert "threshold%3D0.1%2Cseed%3D1" in means.nth(1).get_attribute("href")


def test_a_sweep_that_makes_no_sense_is_none(tmp_path, written):
    written(tmp_path / "one", sweep={"points": [3, {"edges": []}]})
    written(tmp_path / "two", sweep="[")
    (tmp_path / "out").symlink_to("/etc")
    asking = TestClient(make_app(tmp_path), base_url="http://127.0.0.1")
    for folder, found in {"one": {"points": []}, "nothing": None, "..": None, "out": None}.items():
        assert asking.get("/api/sweep", params={"folder": folder}).json() == {"sweep": found}
    assert "sweep.json" in asking.get("/api/sweep?folder=two").json()["error"]
