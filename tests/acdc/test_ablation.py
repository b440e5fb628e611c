"""What cut edges carry, against the dense outputs of every writer."""

from dataclasses import replace

import families
import pytest
import torch

from acdc.ablation import ABLATIONS, OTHER, RESAMPLE, Ablation, Mean
from acdc.data import Data
from acdc.errors import InputError
from acdc.writers import Writers

MODEL = families.view("llama")
PROMPTS = families.prompts(n=5, length=4)


def data(ablation, prompts=PROMPTS, part=2):
    return Data(MODEL, MODEL.graph(), prompts, ablation, part)


def carried(some):
    return torch.cat([f.ablated.dense() for f in some], dim=1)


def written(some, which="corrupt"):
    return torch.cat([getattr(f, which).writers.dense() for f in some], dim=1)


def test_each_has_its_name():
    assert all(own.name == name for name, own in ABLATIONS.items())
    assert (RESAMPLE.name, OTHER.name) == ("resample", "other")


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_each_by_its_definition():
    corrupt = written(data(RESAMPLE))
    close(carried(data(ABLATIONS["resample"])), corrupt)
    close(carried(data(ABLATIONS["zero"])), torch.zeros_like(corrupt))
    close(carried(data(ABLATIONS["mean"])), corrupt.mean(1, keepdim=True).expand_as(corrupt))
    assert {name: a.name for name, a in ABLATIONS.items()} == {n: n for n in ABLATIONS}


def test_a_mean_without_corrupt_prompts_is_the_clean_ones():
    same = replace(PROMPTS, corrupt=PROMPTS.clean)
    clean = written(data(RESAMPLE, same), "clean")
    close(carried(data(ABLATIONS["mean"], same)), clean.mean(1, keepdim=True).expand_as(clean))


def test_a_mean_is_taken_in_double_and_kept_in_the_models_own():
    model = MODEL.to(torch.float32)
    some = Data(model, model.graph(), PROMPTS, ABLATIONS["mean"], part=1)
    assert some[0].ablated.rest.dtype == some[0].ablated.z.dtype == torch.float32
    rest = torch.cat([f.corrupt.writers.rest for f in some], dim=1)
    exact = (rest.double().sum(1) / 5).to(torch.float32)
    assert torch.equal(some[0].ablated.rest[:, 0], exact)


def test_what_needs_corrupt_prompts_and_what_looks_at_others():
    reference = replace(ABLATIONS["mean"], reference=PROMPTS)
    needs = {name: a.needs_corrupt for name, a in ABLATIONS.items()}
    assert needs == {"resample": True, "zero": False, "mean": False}
    assert Ablation("own").needs_corrupt and Ablation("own").reference is None
    looks = {name: a.by_prompt for name, a in ABLATIONS.items()}
    assert looks == {"resample": True, "zero": True, "mean": False}
    assert reference.by_prompt
    with pytest.raises(NotImplementedError):
        data(Ablation("own"))[0].ablated  # noqa: B018


def test_a_mean_of_nothing_and_of_another_length():
    with pytest.raises(InputError, match="^ablation=mean: there are no prompts"):
        Mean("mean").fit([])
    fitted = data(ABLATIONS["mean"]).ablation
    other = data(RESAMPLE, families.prompts(length=3))[0].clean.writers
    with pytest.raises(InputError, match="have 4 tokens, the task's 3; a mean"):
        fitted.of(other, other, range(3))
    few = data(RESAMPLE, families.prompts(n=2, length=4))[0].clean.writers
    assert fitted.of(few, few, range(2)).n_prompts == 2


def test_what_is_done_to_both_tensors_is_done_to_the_outputs():
    whole = data(RESAMPLE, part=5)[0].clean.writers
    assert isinstance(whole, Writers) and whole.n_prompts == 5
    both = whole.with_(whole.map(lambda x: 2 * x), torch.add)
    close(both.dense(), 3 * whole.dense())
    close(both[3], 3 * whole.dense()[3])
