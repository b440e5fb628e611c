"""What is said of a circuit comes from a fresh run, and a search that disagrees is a defect."""

import families
import pytest
import torch

from acdc.data import Data
from acdc.metrics import KL
from acdc.search import acdc
from discovery.job.faithfulness import evaluate


def searched(dtype):
    """A search's last step, and all that `evaluate` needs but the search's value."""
    model, prompts = families.view("gpt2", dtype), families.prompts()
    data = Data(model, model.graph(), prompts)
    last = list(acdc(data, KL, 0.02))[-1]
    return last, data, KL, last.mask


@pytest.mark.parametrize("dtype, rounding", [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_a_search_may_part_from_the_fresh_run_by_rounding_only(dtype, rounding):
    last, *rest = searched(dtype)
    for sign in (1, -1):
        near, far = (last.metric + sign * rounding * share for share in (0.5, 3.0))
        assert evaluate(*rest, near).circuit == pytest.approx(last.metric, abs=1e-4)
        with pytest.raises(RuntimeError, match=f"search says kl {far}, .*this is a defect"):
            evaluate(*rest, far)


def test_a_method_without_a_value_of_its_own_is_believed():
    last, *rest = searched(torch.float64)
    assert evaluate(*rest, None).circuit == pytest.approx(last.metric, abs=1e-9)
