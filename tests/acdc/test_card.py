"""Everything is on the device that the model is on: tried on a card that is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from acdc import bridge
from acdc.attribution import eap, eap_ig, exact
from acdc.bridge import LoadedModel, cards, load_pretrained
from acdc.data import BATCH_BYTES, Data
from acdc.errors import InputError
from acdc.memory import GIB, Shape, plan
from acdc.metrics import METRICS
from acdc.model import MLP, Model
from acdc.search import acdc
from discovery.settings.run import usable_device
from tests.fake_card import CARD, OnCard, a_card
from tests.families import BUILDERS, FAMILIES, PARTICULAR, load, prompts

pytestmark = pytest.mark.unchecked  # a stand-in is slow enough


def decided(model: Model, host: bool = False) -> dict[str, np.ndarray]:
    """Decisions and scores on a model's own device."""
    data = Data(model, model.graph(), prompts(4), part=2, host=host)
    metric = METRICS["logit_diff"]
    found = {"eap": eap(data, metric), "eap_ig": eap_ig(data, metric, 2)}
    if host:
        return found
    step = [*acdc(data, metric, 0.02)][-1]
    return found | {"search": step.mask, "exact": exact(data, metric)}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load("llama")


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(values, other[name]) for name, values in one.items())


@pytest.fixture(scope="module")
def here(loaded) -> dict[str, np.ndarray]:
    return decided(loaded.model)


def test_search_and_scores_are_the_same_on_a_card(loaded, here, monkeypatch):
    with a_card(monkeypatch):
        model = loaded.model.to(device=CARD)
        assert model.device == CARD and isinstance(model.W_U, OnCard)
        assert same(decided(model), here)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no card here")
@pytest.mark.parametrize("family", [*FAMILIES, *PARTICULAR])
def test_a_real_card_decides_as_the_cpu_does(family):
    model = load(family).model.to(torch.float64)
    here, there = decided(model), decided(model.to(device="cuda"))
    assert np.array_equal(there.pop("search"), here.pop("search"))
    for name, scores in here.items():
        np.testing.assert_allclose(there[name], scores, atol=1e-9 * max(1, np.abs(scores).max()))


def test_runs_wait_on_the_host(loaded, here, monkeypatch):
    with a_card(monkeypatch):
        model = loaded.model.to(device=CARD)
        data = Data(model, model.graph(), prompts(4), part=2, host=True)
        first = data[0].clean.streams
        kept = data._runs[0][0].streams
        assert isinstance(first, OnCard) and not isinstance(kept, OnCard)
        assert torch.equal(data[0].clean.streams.cpu(), kept) and data[0].clean.streams is not first
        assert same(decided(model, host=True), here)
    assert not Data(loaded.model, loaded.model.graph(), prompts(4), hold=False, host=True).host


@pytest.mark.slow
def test_mlps_come_to_the_card_in_turn(loaded, here, monkeypatch):
    with a_card(monkeypatch):
        model = loaded.offloaded(CARD).model
        assert isinstance(model.blocks[1].attn.W_Q, OnCard)
        assert not isinstance(model.blocks[1].mlp.W_out, OnCard)
        assert isinstance(model.mlp(1).W_out, OnCard)
        assert same(decided(model), here)
        tokens = prompts(2).clean.to(CARD)
        assert loaded.offloaded(CARD).plain_logits(tokens).device == CARD


@pytest.mark.slow
def test_mlps_on_another_card_are_gone_to(loaded, here, monkeypatch):
    """The CPU stands for the first card. Of two parts the second begins within the MLPs."""
    seen, plain = list[bool](), MLP.__call__

    def noted(self: MLP, x: torch.Tensor) -> torch.Tensor:
        seen.append(isinstance(x, OnCard))
        return plain(self, x)

    with a_card(monkeypatch):
        model = loaded.model.spread([torch.device("cpu"), CARD])
        where = [isinstance(block.mlp.W_out, OnCard) for block in model.blocks]
        assert where == sorted(where) and where[-1] and model.device.type == "cpu"
        assert not any(isinstance(block.attn.W_O, OnCard) for block in model.blocks)
        monkeypatch.setattr(MLP, "__call__", noted)
        assert same(decided(model), here) and any(seen)


def test_spreading_asks_for_two_cards(monkeypatch):
    with a_card(monkeypatch):
        with pytest.raises(InputError, match="model.offload=cards with device=cuda:0: asks for"):
            cards("cuda:0")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        assert [one.index for one in cards("cuda:1")] == [1, 0, 2]
    with pytest.raises(InputError, match="model.offload=cards with device=cpu"):
        cards("cpu")


def test_weights_that_a_card_has_no_room_for_are_refused(monkeypatch):
    module = torch.nn.Linear(1 << 10, 1 << 10, bias=False)  # 4 MiB
    cpu, card = torch.device("cpu"), torch.device("cuda", 0)
    for free, devices, fits in (
        (4 << 20, [card], True), ((4 << 20) - 1, [card], False), (0, [cpu], True),
        (2 << 20, [card, torch.device("cuda", 1)], True),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 40))
        if fits:
            bridge._check_room(module, devices, "large")
            continue
        with pytest.raises(InputError, match="device=cuda:0: the weights of 'large' take 0.00 GiB"):
            bridge._check_room(module, devices, "large")


def test_a_card_shows_what_is_left_on_the_cpu(monkeypatch):
    with a_card(monkeypatch):
        there, rows = torch.ones(3, 2).to(CARD), torch.tensor([0, 2])
        with pytest.raises(RuntimeError, match="mul: tensors on cuda:0 and on the CPU"):
            there * torch.ones(3, 2)
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device=CARD, generator=torch.Generator())
        with pytest.raises(TypeError, match="cpu"):
            np.asarray(there)
        assert there[rows].device == CARD and (there * torch.tensor(2.0)).sum().item() == 12


def test_a_search_on_a_card_is_expected_to_hold_what_it_reads_out(loaded, monkeypatch):
    few, many = (Shape(loaded.model, n, 6, True) for n in (4, 5000))
    assert few.readout() == many.readout() == 0
    with a_card(monkeypatch):
        model = loaded.model.to(device=CARD)
        for n, rows in ((4, 1024), (5000, 5000)):
            there = Shape(model, n, 6, True)
            assert there.readout() == rows * model.d_vocab * 4
            with monkeypatch.context() as patch:
                patch.setattr(Shape, "readout", lambda _: 0)
                without = plan(there, "search").peak
            assert plan(there, "search").peak == without + rows * model.d_vocab * 4


def test_auto_is_the_card_where_there_is_one(monkeypatch):
    assert usable_device("auto") == "cpu"
    with a_card(monkeypatch):
        assert usable_device("auto") == "cuda" and usable_device("cuda:0") == "cuda:0"
        with pytest.raises(InputError, match="device='cuda:1': there are 1 cards here, counted"):
            usable_device("cuda:1")


def test_what_a_card_has_room_for(loaded, monkeypatch):
    with a_card(monkeypatch, free=64 * GIB):
        shape = Shape(loaded.model.to(device=CARD), 64, 6, True)
        search, scores = plan(shape, "search"), plan(shape, "gradients")
        assert search.batch_bytes > 20 * BATCH_BYTES and not search.host
        assert scores.hold and not scores.host
    monkeypatch.undo()
    tight = shape.held() + shape.gradients(32)  # less than what is needed, by the reserve
    with a_card(monkeypatch, free=tight):
        found = plan(shape, "gradients")
        assert found.hold and found.host and "runs held in the CPU's memory" in found.says()


def test_weights_that_a_card_has_no_room_for(tmp_path, monkeypatch):
    BUILDERS["llama"]().save_pretrained(tmp_path / "model")
    with a_card(monkeypatch, free=1000):
        with pytest.raises(InputError, match=r"0.00 are free; take model.offload=true"):
            load_pretrained(str(tmp_path / "model"), torch.float32, "cuda:0")
        there = load_pretrained(str(tmp_path / "model"), torch.float32, "cuda:0", offload=True)
        assert there.model.device == CARD and there.bridge.W_E.device.type == "cpu"
