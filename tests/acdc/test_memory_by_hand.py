"""What work takes, counted by hand for one tiny model, and every border of a plan.

The model: 2 layers of 4 heads (2 groups) of 8 numbers, d_model 32, hidden 48, 50 tokens, float32.
"""

import re
from types import SimpleNamespace

import families
import psutil
import pytest
import torch

from acdc import memory
from acdc.data import BATCH_BYTES, PART
from acdc.errors import InputError
from acdc.memory import GIB, LEAST_BATCH, Shape, plan

LLAMA = families.view("llama", torch.float32)
PLAIN = families.view("attention_only", torch.float32)
TOKEN = 6 * 32 * 4  # of 6 positions
RUN = 2 * 4 * 8 * 6 * 4 + 3 * TOKEN + 50 * 4  # heads; input and MLPs; logits
STREAMS = 5 * TOKEN


def shape(model=LLAMA, n=7, n_pos=6, has_corrupt=True):
    return Shape(model, n, n_pos, has_corrupt)


def test_a_run():
    one = shape()
    assert (one.number, one.token, one.writers) == (4, TOKEN, 11)
    assert (one.run(lean=True), one.run(lean=False)) == (RUN, RUN + STREAMS)
    assert one.held() == 7 * (2 * RUN + STREAMS + 50 * 4)  # and the metric's logits
    assert shape(has_corrupt=False).held() == 7 * (RUN + STREAMS + 50 * 4)
    double = shape(families.view("llama"))
    assert double.run(lean=True) == 2 * RUN
    assert shape(PLAIN).run(lean=True) == RUN - 2 * TOKEN  # no MLPs
    assert shape(PLAIN).writers == 9


def test_gradients():
    """Dense outputs twice; on 64 rows 8 readers thrice and 5 streams; 6 hidden, 5 vocabularies."""
    row = (3 * 8 + 5) * TOKEN + (6 * 48 * 6 + 5 * 50) * 4
    assert shape().gradients(3) == 2 * 3 * 11 * TOKEN + 64 * row
    assert shape().gradients(64) == 2 * 64 * 11 * TOKEN + 64 * row
    assert shape().gradients(100) == 2 * 100 * 11 * TOKEN + 100 * row
    bare = (3 * 12 + 5) * TOKEN + 5 * 50 * 4  # four heads of their own, no MLPs
    assert shape(PLAIN).gradients(3) == 2 * 3 * 9 * TOKEN + 64 * bare


def test_a_pass():
    """Three hidden, three patterns of 4 heads; the heads' outputs and six streams; two logits."""
    one = 3 * 48 * 6 * 4 + 3 * 4 * 6 * 6 * 4 + (4 + 6) * TOKEN + 2 * 50 * 4
    assert (shape().pass_(1), shape().pass_(9)) == (one, 9 * one)
    assert shape(PLAIN).pass_(1) == one - 3 * 48 * 6 * 4


@pytest.fixture
def machine(monkeypatch):
    """1000 bytes taken, 2000 free."""
    monkeypatch.setattr(memory, "occupied", lambda device: 1000)
    monkeypatch.setattr(memory, "available", lambda device: 2000)


@pytest.mark.usefixtures("machine")
def test_the_limit_is_what_is_asked_for_or_what_is_free_less_a_tenth():
    assert plan(shape(), "runs", 0.5).limit == GIB // 2
    with pytest.raises(InputError, match="memory_gib=0.00: 7 prompts of 6 tokens take 0.00 GiB"):
        plan(shape(), "runs")


def test_a_tenth_of_what_is_free_is_left(monkeypatch):
    monkeypatch.setattr(memory, "occupied", lambda device: 10**6)
    monkeypatch.setattr(memory, "available", lambda device: 10**8)
    assert plan(shape(), "runs").limit == 10**6 + 9 * 10**7


def gib(limit):
    return limit / GIB


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("work", ["runs", "gradients"])
def test_borders_of_holding_and_of_parts(work):
    one = shape(n=100)

    def working(part):
        return one.gradients(part) if work == "gradients" else one.pass_(part)

    whole = 1000 + one.held() + working(32)
    found = plan(one, work, gib(whole))
    assert (found.part, found.hold, found.batch_bytes) == (32, True, BATCH_BYTES)
    assert found.limit == whole
    assert found.floor == found.peak == 1000 + one.held() + max(working(32), one.pass_(32))
    found = plan(one, work, gib(whole - 1))
    assert (found.part, found.hold) == (32, False)
    held = 32 * one.held() // 100  # of the part at hand
    assert found.peak == 1000 + held + max(working(32), one.pass_(32))
    for part in (32, 16, 8, 4, 2, 1):
        least = 1000 + part * one.held() // 100 + working(part)
        assert plan(one, work, gib(least)).part == part
        assert not plan(one, work, gib(least)).hold
        if part > 1:
            assert plan(one, work, gib(least - 1)).part == part // 2
    with pytest.raises(InputError):
        plan(one, work, gib(least - 1))


@pytest.mark.usefixtures("machine")
def test_all_prompts_in_one_part_leave_room_for_more():
    assert plan(shape(n=7), "runs", 1.0).part == PART  # not 7: the circuit's own may be more
    few = shape(n=7)
    least = 1000 + 3 * few.held() // 7 + few.pass_(3)
    assert plan(few, "runs", gib(least)).part == 3


@pytest.mark.usefixtures("machine")
def test_a_search_holds_all_and_gives_half_of_the_room_to_its_batch():
    one = shape(n=1600)
    usual = 8 * 11 * 1600 * TOKEN  # eight streams a writer and prompt
    fixed = 1000 + one.held() + one.pass_(32)
    assert LEAST_BATCH == 64 * 2**20 < usual < BATCH_BYTES / 2 == 2**29
    tight = plan(one, "search", gib(fixed + LEAST_BATCH))
    assert (tight.batch_bytes, tight.hold, tight.part) == (LEAST_BATCH, True, 32)
    assert (tight.floor, tight.peak) == (fixed, fixed + LEAST_BATCH // 2)
    middle = plan(one, "search", gib(fixed + 4 * LEAST_BATCH - 99))
    assert middle.batch_bytes == 2 * LEAST_BATCH - 50
    assert middle.peak == fixed + LEAST_BATCH - 25
    wide = plan(one, "search", 64.0)
    assert (wide.batch_bytes, wide.floor, wide.peak) == (BATCH_BYTES, fixed, fixed + usual)
    least = fixed + LEAST_BATCH // 2
    assert plan(one, "search", gib(least)).part == 32
    assert plan(one, "search", gib(least - 1)).part == 16
    bare = 1000 + one.held() + one.pass_(1) + LEAST_BATCH // 2
    assert plan(one, "search", gib(bare)).part == 1
    with pytest.raises(InputError):
        plan(one, "search", gib(bare - 1))


@pytest.mark.usefixtures("machine")
def test_a_search_to_a_target_holds_the_tuning_prompts_and_differentiates_masks():
    one, both = shape(n=100), Shape(LLAMA, 100, 6, True, beside=64)
    assert both.held() == one.held() + 64 * (2 * RUN + STREAMS + 50 * 4)
    plain, found = (plan(both, work, 64.0) for work in ("search", "targeted"))
    assert found.hold and found.part == 32 and found.batch_bytes == plain.batch_bytes
    usual = 8 * 11 * 100 * TOKEN
    search = max(one.pass_(32) + usual, one.pass_(32))
    assert plain.peak == 1000 + both.held() + search
    assert found.peak == 1000 + both.held() + max(search, one.masked(8))
    assert found.floor == 1000 + both.held() + max(one.pass_(32), one.masked(8))
    few = Shape(LLAMA, 2, 6, True, beside=64)  # gradients are the larger here
    assert few.masked(2) > few.pass_(2) + 8 * 11 * 2 * TOKEN
    assert plan(few, "targeted", 64.0).peak == 1000 + few.held() + few.masked(2)


@pytest.mark.usefixtures("machine")
def test_a_plan_in_words(monkeypatch):
    one = shape(n=100)
    says = memory.Plan(32, True, 1, 3 * GIB // 2, 3 * GIB // 2, 4 * GIB).says()
    assert says == "memory: about 1.50 GiB of 4.0, at most 32 prompts at a time, runs held"
    says = memory.Plan(32, True, 1, GIB, 3 * GIB // 2, 4 * GIB).says()
    assert says.startswith("memory: 1.00 to 1.50 GiB of 4.0, at most 32")
    assert memory.Plan(4, False, 1, GIB, GIB, GIB).says() == (
        "memory: about 1.00 GiB of 1.0, at most 4 prompts at a time, runs made again for every part"
    )
    monkeypatch.setattr(memory, "occupied", lambda device: GIB)
    with pytest.raises(InputError) as refusal:
        plan(one, "gradients", 0.5)
    assert str(refusal.value) == (
        "memory_gib=0.50: 100 prompts of 6 tokens take 1.00 GiB, of which the process has 1.00"
        " already; ask for memory_gib=1.01 or more"
    )
    large = shape(n=100_000_000)
    with pytest.raises(InputError) as refusal:
        plan(large, "search", 3.0)
    fits = (2 * GIB - large.pass_(1) - LEAST_BATCH) // (large.held() // large.n)
    assert f"task.n={fits} or fewer, or memory_gib=" in str(refusal.value)
    least = GIB + large.held() + large.pass_(1) + LEAST_BATCH // 2
    assert re.search(r"or memory_gib=(\S+) or more", str(refusal.value))[1] == (
        f"{least / GIB + 0.01:.2f}"
    )
    with pytest.raises(InputError) as refusal:
        plan(large, "search", 0.5)  # not even one
    assert "task.n" not in str(refusal.value)


def test_what_the_process_has_and_could_have(monkeypatch, tmp_path):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    now = psutil.Process().memory_info().rss
    assert memory.occupied(cpu) == pytest.approx(now, rel=0.05)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5 * (device == cuda))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * (device == cuda), 9))
    assert (memory.occupied(cuda), memory.available(cuda)) == (5, 7)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available(cpu) == 1000
    (tmp_path / "memory.max").write_text("900\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert memory.available(cpu) == 600
    (tmp_path / "memory.max").write_text("no number\n")
    assert memory.available(cpu) == 1000
