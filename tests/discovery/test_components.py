"""Differences between data sets: planted ones are found, the others are not."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_settings import CONF

from acdc.errors import InputError
from acdc.graph import Graph
from discovery.flow.scores import ComponentFlow
from discovery.job.prepare import load
from discovery.settings.run import ComponentsSettings, read_as
from discovery.studies import components
from discovery.studies.components import Difference, difference

N_WRITERS = 60


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("components", list(overrides)), resolve=True)
    del config["versus"], config["versus_fields"]
    return read_as(ComponentsSettings, config)


def data(seed: int, shift: float = 0.0, n: int = 30) -> ComponentFlow:
    """Noise of sd 0.1 around 0.5; the first three components shifted, the last constant."""
    flow = 0.5 + 0.1 * np.random.default_rng(seed).standard_normal((n, N_WRITERS))
    flow[:, :3] += shift
    flow[:, -1] = 0.25
    names = tuple(f"w{i}" for i in range(N_WRITERS))
    return ComponentFlow(names, flow, flow > 0.5, np.zeros(n), 0.04)


def test_planted_differences_are_named_and_no_others():
    gap = difference(data(0, shift=0.2), data(1), seed=0)
    assert np.flatnonzero(gap.named).tolist() == [0, 1, 2]
    np.testing.assert_allclose(gap.flow[:3], 0.2, atol=0.08)
    assert ((gap.low <= gap.flow) & (gap.flow <= gap.high)).all()
    assert (gap.low[:3] > 0).all() and gap.adjusted_p[-1] == 1
    lines = components.describe_difference(gap).splitlines()
    assert lines[0].startswith("3 of 60") and len(lines) == 6
    none = difference(data(2), data(3), seed=0)
    assert not none.named.any() and components.describe_difference(none).count("\n") == 0


def test_the_interval_has_the_width_of_the_standard_error():
    gap = difference(data(0), data(1), seed=0)
    error = np.sqrt(data(0).spread ** 2 / 30 + data(1).spread ** 2 / 30)
    np.testing.assert_allclose((gap.high - gap.low)[:-1], 2 * 1.96 * error[:-1], rtol=0.15)
    assert gap.low[-1] == gap.high[-1] == 0


def test_the_sign_turns_with_the_order_and_the_seed_decides():
    one, two = data(0, 0.2), data(1, n=20)
    gap, back, again = difference(one, two, 0), difference(two, one, 0), difference(one, two, 0)
    np.testing.assert_allclose(gap.flow, -back.flow)
    assert (gap.low == again.low).all() and (gap.low != difference(one, two, 1).low).any()


def test_one_prompt_has_no_interval():
    with pytest.raises(InputError, match="at least 2 prompts a data set, not 1"):
        difference(data(0), data(1, n=1), seed=0)


def test_the_embedded_models_components(tmp_path):
    chosen = settings("task.n=8")
    loaded = load(chosen)
    prompts = components.data_set(chosen, chosen.task, loaded)
    flows = {
        start: components.importances(chosen.model_copy(update={"start": start}), prompts, loaded)
        for start in ("state", "answers", "contrast")
    }
    assert all((a.flow != flows["state"].flow).any() for n, a in flows.items() if n != "state")
    assert (flows["answers"].flow != flows["contrast"].flow).any()
    found = components.flow_json(flows["contrast"])
    assert found["n_prompts"] == 8 and len(found["components"]) == 17
    flow = flows["contrast"]
    total = flow.flow[:, 0] + flow.constant
    np.testing.assert_allclose(total, 1, atol=1e-6)
    rows = components.flow_rows(flow)
    assert [r["component"] for r in rows if r["component"] == "input"] == []
    sizes = [float(r["mean"]) for r in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_what_the_start_needs_is_told_with_its_line(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"clean_ids": [1, 2]}\n{"clean_ids": [3, 4], "answers": [7]}\n')
    chosen = settings("task=pairs", f"task.path={path}")
    loaded = load(chosen)
    prompts = components.data_set(chosen, chosen.task, loaded)
    assert prompts.clean.tolist() == [[1, 2], [3, 4]] and not prompts.has_corrupt
    with pytest.raises(InputError, match="line 1: field 'answers' is missing"):
        components.data_set(chosen.model_copy(update={"start": "answers"}), chosen.task, loaded)
    both = chosen.model_copy(update={"start": "contrast", "versus": chosen.task})
    with pytest.raises(InputError, match="^versus: .*line 1: field 'answers'"):
        components.other_data_set(both, loaded)


@pytest.mark.parametrize("has_mlp", [False, True])
def test_heat_maps_are_deterministic_and_hold_every_component(tmp_path, has_mlp):
    graph = Graph(n_layers=3, n_heads=4, n_kv_heads=2, d_model=8, has_mlp=has_mlp)
    n = len(graph.writers)
    values = np.random.default_rng(0).standard_normal(n)
    gap = Difference(graph.writers, *[values] * 5, named=values > 0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        components.draw_components(
            tmp_path / folder, "x", graph, gap.flow, title="A & B", marked=gap.named
        )
    one, two = ((tmp_path / f / "x.svg").read_bytes() for f in "ab")
    assert one == two and len(one) > 5000 and (b"MLP" in one) == has_mlp
