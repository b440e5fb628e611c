"""What is done in a sweep's folder, and what makes room for another attempt."""

from __future__ import annotations

import json
import os
import socket

from test_settings import AS_PUBLISHED, settings

from discovery.job.pipeline import discover
from discovery.sweeps.folder import is_done, set_aside

ASKED = (*AS_PUBLISHED, "task.n=4", "method.threshold=0.5")


def test_only_what_ended_is_set_aside(tmp_path):
    folder = tmp_path / "job"
    assert set_aside(folder) is None
    folder.mkdir()
    status = {"state": "running", "pid": os.getpid(), "host": socket.gethostname()}
    (folder / "status.json").write_text(json.dumps(status))
    assert set_aside(folder) is None and folder.exists()
    for number in (1, 2):
        folder.mkdir(exist_ok=True)
        (folder / "status.json").write_text(json.dumps({**status, "state": "failed"}))
        assert set_aside(folder) == tmp_path / ".attempts" / f"job.{number}"
        assert not folder.exists()


def test_another_configuration_is_not_done(tmp_path):
    job = settings(*ASKED)
    discover(job, tmp_path / "run", [], lambda text: None)
    assert is_done(tmp_path / "run", job)
    assert is_done(tmp_path / "run", settings(*ASKED, "tracking=wandb_offline"))
    assert not is_done(tmp_path / "run", job.model_copy(update={"seed": 1}))
    (tmp_path / "run" / "result.json").unlink()
    assert not is_done(tmp_path / "run", job)
    assert not is_done(tmp_path / "none", job)
