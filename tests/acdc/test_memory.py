"""What fits is planned, what does not is refused with the numbers that would."""

import families
import pytest
import torch

from acdc import memory
from acdc.data import Data
from acdc.errors import InputError
from acdc.memory import GIB, Shape, plan


@pytest.fixture
def shape(monkeypatch):
    """A model on a machine of 8 GiB, 1 of them taken."""
    monkeypatch.setattr(memory, "occupied", lambda device: GIB)
    monkeypatch.setattr(memory, "available", lambda device: 7 * GIB)
    return Shape(families.view("llama", torch.float32), 32, 6, True)


def bytes_of(data):
    runs = [(f.clean, f.corrupt) for f in data]
    clean = sum(c.writers.nbytes + c.streams.nbytes + c.logits.nbytes for c, _ in runs)
    corrupt = sum(c.writers.nbytes + c.logits.nbytes for _, c in runs)
    return clean + corrupt


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("part", [32, 5])
def test_what_is_held_is_counted(family, part):
    model = families.view(family, torch.float32)
    data = Data(model, model.graph(), families.prompts(n=9), part=part)
    shape = Shape(model, 9, data.n_pos, True)
    kept = 9 * data[0].clean.logits[0].nbytes  # of a metric
    assert bytes_of(data) + kept == shape.held()


def test_there_are_two_copies_of_what_writers_put_out(shape):
    """And none of the difference, however a search goes on."""
    from acdc.incremental import States
    from acdc.metrics import KL

    model = shape.model
    data = Data(model, model.graph(), families.prompts(n=9))
    (state,) = States(data, KL).parts
    forward = state.forward
    assert forward.ablated is forward.corrupt.writers
    assert forward.clean.streams.untyped_storage().data_ptr() == (
        state.x[len(data.graph.readers) - 1].untyped_storage().data_ptr()
    )


def test_all_is_held_where_there_is_room(shape):
    for work, part in (("search", 32), ("gradients", 32), ("runs", 32), ("masks", 8)):
        found = plan(shape, work)
        assert found.part == part and found.hold and found.limit == int(GIB + 0.9 * 7 * GIB)
        assert GIB < found.peak < found.limit


def test_runs_are_made_again_where_they_do_not_fit_and_parts_shrink(shape):
    large = Shape(shape.model, 10_000, 64, True)
    limit = (GIB + large.held() // 2) / GIB
    found = plan(large, "gradients", limit)
    assert not found.hold and found.peak < found.limit
    tight = (GIB + large.gradients(4) + large.pass_(4)) / GIB
    assert plan(large, "gradients", tight).part < 32


def test_what_does_not_fit_is_refused_with_what_would(shape):
    large = Shape(shape.model, 10_000_000, 64, True)
    with pytest.raises(InputError, match=r"memory_gib=7\.30: 10000000 prompts of 64 .* task\.n="):
        plan(large, "search")
    with pytest.raises(InputError) as refusal:
        plan(large, "search", 4.0)
    fits = int(str(refusal.value).split("task.n=")[1].split()[0])
    assert plan(Shape(shape.model, fits, 64, True), "search", 4.0).peak <= 4 * GIB * 1.1
    with pytest.raises(InputError, match="task.n="):
        plan(Shape(shape.model, 2 * fits, 64, True), "search", 4.0)


def test_a_control_group_is_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory._left_in_group() == 1 << 62
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory._left_in_group() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_in_group() == 1 << 62
