"""Real runs of the embedded model, small enough for seconds, in one folder for all tests here."""

import json
import os
import shutil
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from acdc.errors import InputError
from discovery.choices.fields import checked
from discovery.flow.answers import find_answer, to_json
from discovery.job.pipeline import discover
from discovery.job.prepare import load
from discovery.runs.folder import RunFolder, record_refusal
from discovery.settings.evaluation import FullEvaluation
from discovery.settings.run import RouteSettings, read_as, read_settings
from discovery.studies import route
from discovery.validation.runs import read_found, validate_runs

ROOT = Path(__file__).parents[2]
SMALL = (
    "prompts=76", "chunk=76", "threads=1", "chance.circuits=29", "chance.misplaced=29",
    "chance.prompts=3", "scrubbing.prompts=4", "scrubbing.draws=2", "completeness.prompts=6",
    "completeness.random=3", "completeness.runs=1", "completeness.iterations=1",
    "completeness.candidates=2",
    "minimality.prompts=4", "minimality.draws=10", "stability.resamples=6",
    "stability.searches=null",
)  # fmt: skip


def config(name, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True)


def search(folder, *overrides):
    paired = ["metric=kl", "ablation=resample", "tune=0", "test=0"]
    fixed = ["tracking=disabled", "threads=1", "task.n=16", "task.length=12", *paired]
    overrides = [*fixed, *overrides]
    return discover(read_settings(config("config", *overrides)), folder, overrides, str)


def route_run(folder):
    asked = config("route", "ids=[5,9,3,40,5]", "target=9")
    settings = read_as(RouteSettings, asked)
    with RunFolder.create(folder, asked, []) as record:
        loaded = load(settings)
        answer = find_answer(
            route.read_question(settings, loaded), loaded, settings.threshold, settings.renormalise
        )
        record.write("route.json", to_json(answer, loaded))


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Three searches (one validated), one that failed, one route."""
    root = tmp_path_factory.mktemp("dashboard") / "runs"
    for threshold in ("0.05", "0.5"):
        search(root / f"acdc_{threshold}", f"method.threshold={threshold}")
    search(root / "other" / "eap_ig", "method=eap_ig", "method.n_edges=20")
    record_refusal(root / "failed", ["task=nonesuch"], InputError("task=nonesuch: no such task"))
    route_run(root / "route")
    validate_runs(read_found([root / "acdc_0.05"]), small_validation(), str)
    return root


@pytest.fixture(scope="session")
def tracked_runs(tmp_path_factory):
    """Two searches with offline W&B runs that mirror them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        root = tmp_path_factory.mktemp("tracked") / "runs"
        search(root / "acdc", "tracking.mode=wandb_offline", "method.threshold=0.05")
        method = ("method=eap_ig", "method.n_edges=20")
        search(root / "eap_ig", "tracking.mode=wandb_offline", *method)
    return root


@pytest.fixture(scope="session")
def copied_runs(tracked_runs, tmp_path_factory):
    """Their W&B directories as somebody else got them, without the run folders."""
    root = tmp_path_factory.mktemp("copied")
    for name in ("acdc", "eap_ig"):
        (run,) = tracked_runs.glob(f"{name}/wandb/offline-run-*")
        shutil.copytree(run, root / name / "wandb" / "offline-run-20260101_000000-abc")
    return root


def small_validation():
    asked = config("validate", "run=x", *SMALL)
    asked.pop("run")
    return checked(FullEvaluation, asked)


@pytest.fixture(scope="session")
def on_disk(runs):
    """A JSON file of a run."""
    return lambda *path: json.loads(runs.joinpath(*path).read_text())


def written(folder, **files):
    """A run folder with these files, each a mapping or a text; `metrics` is a .jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        path = folder / (f"{name}.jsonl" if name == "metrics" else f"{name}.json")
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


@pytest.fixture(name="written", scope="session")
def written_fixture():
    return written


def many_edges(count):
    """A circuit.json of GPT-2's size with so many edges, of either sign, all on paths."""
    readers = [f"a11.h{h}<{part}>" for h in range(12) for part in "qkv"] + ["logits"]
    names = [n for h in range(12) for n in (f"input->a11.h{h}<q>", f"a11.h{h}->logits")]
    names += [f"input->{reader}" for reader in readers if not reader.endswith("<q>")]
    for head in (f"a{layer}.h{h}" for layer in range(11) for h in range(12)):
        names += [f"input->{head}<q>", *(f"{head}->{r}" for r in readers)]
    names = names[:count]
    assert len(names) == count
    edges = {
        name: {"score": (-1) ** i * 1.003 ** (-i), "in_graph": True} for i, name in enumerate(names)
    }
    cfg = {"n_layers": 12, "n_heads": 12, "d_model": 768, "parallel_attn_mlp": False}
    return {"cfg": cfg, "nodes": {}, "edges": edges}


@pytest.fixture(name="many_edges", scope="session")
def many_edges_fixture():
    return many_edges


# ---- the browser; tests that ask for it have made sure that it is there --------------------------


@pytest.fixture(scope="module")
def browser():
    from browsing import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture(params=["light"])
def page(browser, request):
    """A page of 1280 x 800 that may talk to this machine only and must not complain."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme=request.param
    )
    context.set_default_timeout(10_000)
    asked, complaints = [], []
    context.on("request", lambda r: asked.append(r.url))
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
    yield page
    away = [u for u in asked if urlsplit(u).hostname not in (None, "127.0.0.1")]
    context.close()
    assert complaints == [] and away == []


@pytest.fixture(scope="module")
def address(runs):
    from browsing import Server

    with Server(runs) as address:
        yield address


# ---- comparisons of methods and of components ----------------------------------------------------


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """One comparison of three methods, one analysis of components over two data sets."""
    root = tmp_path_factory.mktemp("dashboard") / "studies"
    small = ["task.n=8", "task.length=12", "threads=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        compare, components = import_module("compare"), import_module("components")
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            asked = ["tracking=disabled", "methods=[acdc,eap,random]", *small]
            compare.run(compose("compare", asked), root / "methods", asked)
            asked = [*small, "versus=induction", "+versus_fields.length=20"]
            config = OmegaConf.to_container(compose("components", asked), resolve=True)
            components.run(config, root / "components", asked)
    return root
