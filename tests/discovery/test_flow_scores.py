"""Component and edge scores from flow: laws, literal loops, and a known model."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import families
import numpy as np
import pytest
import torch

from acdc.bridge import from_bridge
from acdc.errors import InputError
from acdc.forward import before_norm, stream_of, trace
from acdc.model import Block, Model
from discovery.flow.processed import left_behind
from discovery.flow.routes import Kind, find_route
from discovery.flow.scores import component_flow, edge_flow
from discovery.flow.shares import flow_graph
from discovery.flow.uniform import uniform_shares
from discovery.models.induction import load_induction
from discovery.tasks import induction

PROMPTS = families.prompts(n=3, length=5)
AIM = {"right": PROMPTS.answers, "wrong": PROMPTS.wrong}


@pytest.fixture(scope="module", params=families.FAMILIES)
def model(request) -> Model:
    return families.view(request.param)


@pytest.mark.parametrize("aim", [{}, AIM])
def test_components_equal_a_sum_over_the_rows_of_routes(model, aim):
    found = component_flow(model, PROMPTS.clean, threshold=0.05, batch_size=2, **aim)
    graph, edges = flow_graph(model, PROMPTS.clean, **aim), model.graph()
    flow, kept = np.zeros_like(found.flow), np.zeros_like(found.on_route)
    for b in range(3):
        for threshold in (0.0, 0.05):
            route = find_route(graph, b, threshold=threshold)
            for kind, _, layer, head, *_, amount in route.edges.tolist():
                if kind in (Kind.HEAD, Kind.MLP):
                    w = edges.head(layer, head) if kind == Kind.HEAD else edges.mlp(layer)
                    flow[b, w] += amount * (threshold == 0)
                    kept[b, w] |= threshold > 0
            flow[b, 0] += float(route.input.sum()) * (threshold == 0)
            kept[b, 0] |= bool(route.input.sum() > 0) and threshold > 0
            if threshold == 0:
                assert found.constant[b] == pytest.approx(route.constant, abs=1e-12)
    assert found.writers == edges.writers
    np.testing.assert_allclose(found.flow, flow, atol=1e-12)
    np.testing.assert_array_equal(found.on_route, kept)
    assert kept.any() and not kept.all()
    np.testing.assert_allclose(found.flow[:, 0] + found.constant, 1, atol=1e-12)
    np.testing.assert_allclose(found.spread, flow.std(0, ddof=1), atol=1e-12)


def test_difference_of_two_data_sets(model):
    one, two = (component_flow(model, t, **AIM) for t in (PROMPTS.clean, PROMPTS.corrupt))
    gap = one.minus(two)
    np.testing.assert_allclose(gap.flow, one.flow.mean(0) - two.flow.mean(0))
    error = ((one.flow.var(0, ddof=1) + two.flow.var(0, ddof=1)) / 3) ** 0.5
    np.testing.assert_allclose(gap.error, error, atol=1e-15)
    assert np.abs(gap.flow).max() > 0.01 and (one.minus(one).flow == 0).all()
    with pytest.raises(InputError, match="share the model and the threshold"):
        one.minus(component_flow(model, PROMPTS.clean, threshold=0.1, **AIM))


@pytest.fixture(scope="module")
def composition(model):
    """literal_composition, each stream and position once."""
    run, graph = trace(model, PROMPTS.clean), model.graph()
    known = {}

    def find(reader, b: int, t: int) -> tuple[np.ndarray, float]:
        key = stream_of(graph, reader.layer, reader.part), b, t % 5
        if key not in known:
            known[key] = literal_composition(model, run, reader, b, t)
        return known[key]

    return find


def literal_composition(model, run, reader, b: int, t: int) -> tuple[np.ndarray, float]:
    """Shares of the writers, and of all biases, in what a reader sees at one position."""
    graph = model.graph()
    whole = run.streams[stream_of(graph, reader.layer, reader.part), b, t]
    parts = list(run.writers.take(range(graph.writers_before(reader.layer, reader.part)))[:, b, t])
    bias = torch.zeros_like(whole)
    for layer, block in enumerate(model.blocks):
        own = reader.part == "mlp" and not model.parallel and layer == reader.layer
        if block.attn.b_O is not None and (layer < reader.layer or own):
            bias = bias + block.attn.b_O
    torch.testing.assert_close(sum(parts) + bias, whole, atol=1e-9, rtol=0)
    near = [float(max(0.0, whole.abs().sum() - (whole - z).abs().sum())) for z in [*parts, bias]]
    return np.array(near[:-1]) / sum(near), near[-1] / sum(near)


def test_uniform_shares_equal_literal_loops_over_the_processed_model(model):
    graph, at = model.graph(), [PROMPTS.clean[[row]] for row in range(3)]
    expected = np.zeros(graph.legal.shape)
    for tokens in at:
        run, raw, left = trace(model, tokens), before_norm(model, tokens), left_behind(model)
        for (r, reader), t in product(enumerate(graph.readers), range(5)):
            whole = run.streams[stream_of(graph, reader.layer, reader.part), 0, t]
            near = np.zeros(len(graph.writers))
            for w in np.flatnonzero(graph.legal[:, r]).tolist():
                own = raw[w][0, t] - left.writers(raw)[w][0, t]
                if model.ln_final.kind == "layer":
                    own = own - own.mean()
                    whole = whole - whole.mean()
                near[w] = max(0.0, float(whole.abs().sum() - (whole - own).abs().sum()))
            expected[:, r] += near / near.sum() / 15
    found = uniform_shares(model, graph, PROMPTS.clean, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert np.allclose(found.sum(0), 1) and (found[~graph.legal] == 0).all()
    for reader in (r for r in graph.readers if r.part in "kv"):
        column = graph.reader(reader.layer, reader.part, reader.group)
        np.testing.assert_array_equal(found[:, column], found[:, graph.reader(reader.layer, "q")])


def test_a_value_bias_that_the_output_bias_takes_back_changes_no_share():
    """Attention adds up to 1, so every token would put it out: the model says what it said."""
    model = families.view("gpt2")

    def moved(block: Block) -> Block:
        attn = block.attn
        taken = attn.b_O - attn.W_O.sum((0, 1))
        return replace(block, attn=replace(attn, b_V=attn.b_V + 1, b_O=taken))

    other = replace(model, blocks=tuple(map(moved, model.blocks)))
    one, two = (uniform_shares(m, m.graph(), PROMPTS.clean) for m in (model, other))
    np.testing.assert_allclose(one, two, atol=1e-9)
    three = edge_flow(other, model.graph(), PROMPTS.clean).scores
    assert np.abs(three - edge_flow(model, model.graph(), PROMPTS.clean).scores).max() > 0.01


@pytest.mark.parametrize("aim", [{}, AIM, {"position": 2}])
def test_flow_scores_equal_literal_loops(model, composition, aim):
    graph = model.graph()
    found = edge_flow(model, graph, PROMPTS.clean, batch_size=2, **aim)
    flow = flow_graph(model, PROMPTS.clean, **aim)
    expected = np.zeros_like(found.scores)
    for b in range(3):
        at = aim.get("position", None if aim else -1)
        edges = find_route(flow, b, threshold=0.0, position=at).edges
        for kind, direct, layer, head, source, target, _, amount in edges.tolist():
            into = []
            if kind == Kind.HEAD:
                q, k, v = graph.head_readers(layer, head)
                into = [(q, target), (k, source), (v, source)]
            elif kind == Kind.MLP:
                into = [(graph.reader(layer, "mlp"), target)]
            for r, t in into:
                shares, _ = composition(graph.readers[r], b, t)
                expected[: len(shares), r] += amount * shares / 3
            if direct and kind in (Kind.HEAD, Kind.MLP, Kind.INPUT):
                writer = {Kind.HEAD: graph.head(layer, head), Kind.INPUT: 0}
                expected[writer.get(kind, graph.mlp(layer)), -1] += amount / 3
        if not aim.get("right"):
            shares, _ = composition(graph.readers[-1], b, at)
            expected[:, -1] += shares / 3
    np.testing.assert_allclose(found.scores, expected, atol=1e-10)
    assert (found.scores[~graph.legal] == 0).all() and (found.scores >= 0).all()
    assert found.scores[:, -1].sum() + found.constant[-1] == pytest.approx(1)


def test_a_group_sums_its_heads():
    model = families.view("llama")
    heads, groups = (
        edge_flow(model, model.graph(kv), PROMPTS.clean, **AIM).scores
        for kv in ("per_query_head", "per_group")
    )
    one, two = model.graph(), model.graph("per_group")
    for group in range(2):
        columns = [one.reader(1, "v", head) for head in (2 * group, 2 * group + 1)]
        np.testing.assert_allclose(
            groups[:, two.reader(1, "v", group)], heads[:, columns].sum(1), atol=1e-12
        )


def test_nothing_to_share_gives_no_nan():
    plain = families.view("llama")
    known = torch.arange(len(plain.W_E)) != 7
    model = replace(plain, W_E=plain.W_E * known[:, None])  # of token 7 every part is 0
    tokens = torch.full((1, 3), 7)
    found = edge_flow(model, model.graph(), tokens)
    assert np.isfinite(found.scores).all() and found.undefined > 0
    assert found.scores[0, -1] == pytest.approx(1)
    assert (uniform_shares(model, model.graph(), tokens) == 0).all()


# ---- a model whose heads are known ---------------------------------------------------------------


@pytest.mark.parametrize("aimed", [False, True])
def test_the_induction_circuit_ranks_first(aimed):
    """Roles are recognised by attention alone; flow must then put them above all other heads."""
    model = from_bridge(load_induction(), None, "induction").model
    prompts = induction.build(d_vocab=model.d_vocab, n=24, seed=3, length=18)
    run, rows = trace(model, prompts.clean), torch.arange(24)
    match = torch.tensor(prompts.marks["match"])
    previous = run.patterns[0].diagonal(-1, dim1=-2, dim2=-1).mean((0, 2))
    matching = run.patterns[1][rows, :, -1, match].mean(0)
    graph = model.graph()
    mover, layer_one = graph.head(0, int(previous.argmax())), matching.argsort(descending=True)
    aim = {"right": prompts.answers, "wrong": prompts.wrong} if aimed else {}
    found = component_flow(model, prompts.clean, **aim)
    order = [int(w) for w in np.argsort(-found.mean) if w != 0]
    assert mover in order[:2]  # so the other of the first two is the strongest of all other heads
    first = next(w for w in order if w != mover)
    assert first - graph.head(1, 0) in layer_one[: len(layer_one) // 2].tolist()
    assert found.mean[order[1]] > 1.1 * found.mean[order[2]]
    assert found.frequency[[mover, first]].tolist() == [1, 1]
    gap = found.minus(component_flow(model, prompts.corrupt, **aim))
    assert gap.flow[first] > 4 * gap.error[first]  # corrupt prompts repeat nothing


def test_refusals():
    model = families.view("gpt2")
    graph = model.graph()
    with pytest.raises(InputError, match="batch_size=0"):
        component_flow(model, PROMPTS.clean, batch_size=0)
    with pytest.raises(InputError, match="2 rows for 3 prompts"):
        component_flow(model, PROMPTS.clean, right=PROMPTS.answers[:2])
    with pytest.raises(InputError, match="position 5"):
        edge_flow(model, graph, PROMPTS.clean, position=5)
    with pytest.raises(InputError, match="token 50"):
        component_flow(model, torch.full((1, 3), 50))
