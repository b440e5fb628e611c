"""One thread (tiny models run faster so), no hub, the same cache folder for every test."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import torch  # noqa: E402

torch.set_num_threads(1)

LONGEST = (  # begun first, so that no worker is left alone with one of them at the end
    "test_sweeps.py", "test_real_model.py", "test_notebooks.py", "test_command_line.py",
    "test_laws.py", "test_data.py", "test_search.py", "test_dashboard_legible.py",
    "test_dashboard_server.py", "test_docs.py", "test_own.py", "test_api.py", "test_validate.py",
    "test_resume.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """A stable order: the longest files, then the others as they were found."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
