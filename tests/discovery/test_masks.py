"""Methods that look at a mask again and again, through the main job: found, stopped, refused."""

import re

import numpy as np
import pytest
from stopping import checkpoint_at_every_chance, stopped_after
from test_settings import AS_PUBLISHED, settings

from acdc.circuit import Circuit
from acdc.errors import InputError
from acdc.selection import best_edges
from discovery.job.pipeline import discover
from discovery.methods import last
from discovery.runs.folder import read_run

pytestmark = pytest.mark.unchecked
PAIRED = ("metric=kl", "ablation=resample", "test=0")
ASKED = {
    "iterative": ("method=iterative", "method.n_edges=15", *PAIRED),
    "learned": ("method=learned", "method.n_edges=15", "method.steps=120", *PAIRED),
}
# of the embedded model: a previous token head, induction heads that read it, and the tokens
INDUCTION = r"input->a0\.h\d<v>|input->a1\.h\d<v>|a0\.h\d->a1\.h\d<[kv]>|a1\.h\d->logits"


@pytest.fixture(scope="module", params=list(ASKED))
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    discover(settings(*AS_PUBLISHED, *ASKED[request.param]), folder, [], print)
    return request.param, folder


@pytest.mark.quick("learned")
def test_the_induction_circuit_is_found(whole):
    _, folder = whole
    run, circuit = read_run(folder), Circuit.load(folder / "circuit.json")
    known = [edge for edge in circuit.edges if re.fullmatch(INDUCTION, edge)]
    assert len(known) >= circuit.n_edges - 2 >= 10
    assert run.result["metric_circuit"] < 0.02 < 8 < run.result["metric_empty"]
    assert circuit.n_edges == run.result["n_edges"] <= 15 == run.result["n_edges_requested"]
    best = best_edges(circuit.graph, circuit.scores, 15, "signed")
    assert (Circuit(circuit.graph, best).pruned().mask == circuit.mask).all()
    assert (best == best_edges(circuit.graph, circuit.scores, 15)).all()  # whatever the ranking


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.quick("learned-4")
def test_stopped_it_goes_on_and_ends_with_the_same_bytes(whole, tmp_path, monkeypatch, steps):
    name, folder = whole
    checkpoint_at_every_chance(monkeypatch)
    asked, run = settings(*AS_PUBLISHED, *ASKED[name]), tmp_path / "run"
    with stopped_after(steps):
        discover(asked, run, [], lambda text: None)
    assert (run / "checkpoint.safetensors").exists()
    discover(asked, run, [], lambda text: None)
    for file in ("circuit.json", "edges.jsonl"):
        assert (run / file).read_bytes() == (folder / file).read_bytes(), file
    rows, wanted = ([dict(r, seconds=0) for r in read_run(f).metrics] for f in (run, folder))
    assert rows == wanted and len(rows) > steps


@pytest.mark.quick("learned")
def test_scores_are_what_the_search_ends_with(whole):
    from discovery.job.prepare import prepare

    name, folder = whole
    asked = settings(*AS_PUBLISHED, *ASKED[name])
    job = prepare(asked)
    scores = asked.method.scores(job.data, job.metric, 0)
    assert (scores == last(asked.method.find(job.data, job.metric, 0)).scores).all()
    assert np.allclose(scores, Circuit.load(folder / "circuit.json").scores, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=iterative", "method.drop=0"], "method.drop=0: .* greater than 0"),
        (["method=iterative", "method.drop=1"], "method.drop=1: .* less than 1"),
        (["method=iterative", "method.n_edges=258"], "method.n_edges=258: allowed are .* 257"),
        (["method=iterative", "method.threshold=1"], "method.threshold=1"),
        (["method=iterative", "method.loss=kl"], "method.loss='kl': .*'share' or 'metric'"),
        (["method=iterative", "method.rule=greedy"], "method.rule='greedy'"),
        (["method=learned", "method.n_edges=258"], "method.n_edges=258: allowed are .* 257"),
        (["method=learned", "method.within=258"], "method.within=258: the graph has 257 edges"),
        (
            ["method=learned", "method.within=9", "method.n_edges=10"],
            "method: within=9: fewer than n_edges=10",
        ),
        (["method=learned", "method.start=acdc"], "start='acdc' gives no scores"),
        (["method=learned", "method.start=eap", "metric=kl"], "exactly zero"),
        (["method=learned", "method.steps=0"], "method.steps=0"),
        (["method=learned", "method.spread=0.5"], "method.spread=0.5: .* greater than or equal"),
        (["method=learned", "method.ranking=absolute"], "method.ranking='absolute'"),
    ],
)
def test_refusals(overrides, message, tmp_path):
    words = ("tracking=disabled", "metric=kl", "ablation=resample", "test=0")
    with pytest.raises(InputError, match=message):
        discover(settings(*words, *overrides), tmp_path / "run", [], print)
