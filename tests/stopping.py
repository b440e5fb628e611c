"""Runs that are stopped while a method is at work, for the tests of those that go on."""

from contextlib import contextmanager

import pytest

from discovery.job import propose as module


class Stop(Exception):
    """What stops them."""


def checkpoint_at_every_chance(patch):
    patch.setattr(module, "EVERY_SECONDS", 0.0)
    patch.setattr(module, "OVERHEAD", 1e9)


@contextmanager
def stopped_after(steps):
    """What is run in this ends in the middle of that step: its lines are written, no more."""
    write, done = module._Work.write, []

    def until(self, step):
        write(self, step)
        done.append(step)
        if len(done) == steps:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Work, "write", until)
        with pytest.raises(Stop):
            yield
