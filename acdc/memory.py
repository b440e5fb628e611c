"""What work on prompts takes in memory, known before it begins, and how to stay within a limit.

Held are both runs of all prompts: every writer's output (heads before W_O, see acdc/writers.py) of
either, every reader's input and the logits of the clean one. On top comes the work on one part, or,
for a search, one batch of trial cuts over all parts: how large these are depends on what the search
keeps, so they are expected within bounds. Estimates are of the process: what it has now and what is
to come.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
import torch

from acdc.data import BATCH_BYTES, PART, POINT_ROWS
from acdc.errors import InputError
from acdc.gradient import MASKED_PART
from acdc.model import Model
from acdc.readout import CARD_BLOCK, CARD_ROWS

# targeted: a search, then gradients of masks and circuits on prompts that are held beside
Work = Literal["search", "targeted", "gradients", "runs", "masks"]
SEARCHES: tuple[Work, ...] = ("search", "targeted")
GIB = 2**30
RESERVE = 0.1  # of what is free, left to others
LEAST_BATCH = 64 << 20  # bytes of trial cuts below which a search is not worth beginning
LIVE = 8  # tensors of a whole stream that a variant holds, where few readers are alive
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Shape:
    """What memory depends on."""

    model: Model
    n: int  # prompts
    n_pos: int  # tokens of each, or of the longest
    has_corrupt: bool
    beside: int = 0  # prompts whose runs are held too, to tune on
    tokens: int | None = None  # of all n together, where lengths are mixed

    @property
    def number(self) -> int:
        """Bytes of one number."""
        return self.model.W_E.element_size()

    @property
    def token(self) -> int:
        """Bytes of d_model numbers at every position of one prompt."""
        return self.number * self.n_pos * self.model.d_model

    def run(self, lean: bool) -> int:
        """Bytes of one prompt's run."""
        model = self.model
        layers, d_head = len(model.blocks), model.blocks[0].attn.W_O.shape[1]
        heads = layers * model.n_heads * d_head * self.n_pos * self.number
        mlps = sum(b.mlp is not None for b in model.blocks)
        vocabulary = model.W_U.shape[1] * self.number
        streams = 0 if lean else (2 * layers + 1) * self.token
        return heads + (1 + mlps) * self.token + streams + vocabulary

    def held(self) -> int:
        """Bytes of both runs of all prompts, and of what a metric keeps of the clean logits."""
        mean = self.n_pos if self.tokens is None else -(-self.tokens // self.n)
        return (self.n + self.beside) * replace(self, n_pos=mean).prompt()

    def prompt(self) -> int:
        """Of which each prompt has so many."""
        both = self.run(lean=False) + (self.run(lean=True) if self.has_corrupt else 0)
        return both + self.model.W_U.shape[1] * self.number

    @property
    def writers(self) -> int:
        """Writers of the graph."""
        return len(self.model.graph().writers)

    def gradients(self, part: int) -> int:
        """Bytes of attribution on a part: dense outputs, one layer's gradients, a path's points."""
        model, layers = self.model, len(self.model.blocks)
        readers = model.n_heads + 2 * model.n_kv_heads
        rows = max(part, POINT_ROWS)
        hidden = max((b.mlp.d_mlp for b in model.blocks if b.mlp), default=0)
        wide = 6 * hidden * self.n_pos + 5 * model.W_U.shape[1]
        return (
            2 * part * self.writers * self.token
            + rows * (3 * readers + 2 * layers + 1) * self.token
            + rows * wide * self.number
        )

    def masked(self, part: int) -> int:
        """Bytes of a masked run of a part with its gradients; see acdc/gradient.py.

        Two buffers of all writers, and of each layer its readers' inputs, twice more in the norms.
        """
        model, layers = self.model, len(self.model.blocks)
        hidden = max((b.mlp.d_mlp for b in model.blocks if b.mlp), default=0)
        return part * (
            2 * self.writers * self.token
            + 3 * layers * (3 * model.n_heads + 1) * self.token
            + 5 * layers * hidden * self.n_pos * self.number
            + 6 * model.W_U.shape[1] * self.number
        )

    def readout(self) -> int:
        """Bytes of the logits of as many variants as a card reads out at a time."""
        if self.model.device.type != "cuda":
            return 0
        rows = max(CARD_ROWS, self.n)
        return rows * min(CARD_BLOCK, self.model.W_U.shape[1]) * self.number

    def pass_(self, part: int) -> int:
        """Bytes of a plain pass of a part: what a layer makes and lets go again."""
        model = self.model
        hidden = max((b.mlp.d_mlp for b in model.blocks if b.mlp), default=0)
        attention = 3 * model.n_heads * self.n_pos
        return part * (
            self.number * self.n_pos * (3 * hidden + attention)
            + (model.n_heads + 6) * self.token
            + 2 * model.W_U.shape[1] * self.number
        )


@dataclass(frozen=True)
class Plan:
    """How some work is to be done."""

    part: int  # most prompts at a time
    hold: bool  # whether the runs of all parts stay in memory
    batch_bytes: int  # of trial cuts
    floor: int  # bytes that the process is expected to reach, by a search that keeps nothing
    peak: int  # and by one that keeps little; of other work the two are equal
    limit: int
    host: bool = False  # whether that is the CPU's, the model's own being too small

    def says(self) -> str:
        """In one line."""
        kept = "runs held" if self.hold else "runs made again for every part"
        kept += " in the CPU's memory" if self.host else ""
        low, high = (f"{size / GIB:.2f}" for size in (self.floor, self.peak))
        expected = f"about {high}" if low == high else f"{low} to {high}"
        return (
            f"memory: {expected} GiB of {self.limit / GIB:.1f},"
            f" at most {self.part} prompts at a time, {kept}"
        )


def plan(shape: Shape, work: Work, limit_gib: float | None = None) -> Plan:
    """Parts, and what is held, for some work within a limit (None: what is free less a reserve).

    InputError if it cannot fit, with the numbers that would.
    """
    now, free = occupied(shape.model.device), available(shape.model.device)
    limit = int(limit_gib * GIB) if limit_gib is not None else now + int((1 - RESERVE) * free)
    part = min(MASKED_PART if work == "masks" else PART, shape.n)
    while part > 1 and now + _least(shape, work, part) > limit:
        part //= 2
    least = now + _least(shape, work, part)
    if least > limit:
        raise InputError(_refusal(shape, work, now, limit, least))
    room = limit - now - shape.held() - shape.pass_(part) - shape.readout()
    most = BATCH_BYTES if shape.model.device.type == "cpu" else limit
    batch = min(most, max(LEAST_BATCH, room // 2)) if work in SEARCHES else BATCH_BYTES
    working = _working(shape, work, part, batch)
    near = work in SEARCHES or now + shape.held() + working <= limit
    host = not near and _host_holds(shape)
    held = shape.held() if near else part * shape.prompt()
    floor, peak = (
        now + held + max(_working(shape, work, part, tried), shape.pass_(part))
        for tried in (0, batch)
    )
    return Plan(PART if part == shape.n else part, near or host, batch, floor, peak, limit, host)


def _host_holds(shape: Shape) -> bool:
    """Whether a card's runs find room in the CPU's memory."""
    if shape.model.device.type == "cpu":
        return False
    return shape.held() < (1 - RESERVE) * available(torch.device("cpu"))


def _working(shape: Shape, work: Work, part: int, batch_bytes: int) -> int:
    if work in SEARCHES:
        search = shape.pass_(part) + min(batch_bytes // 2, _usual_batch(shape)) + shape.readout()
        return search if work == "search" else max(search, shape.masked(min(part, MASKED_PART)))
    if work == "masks":
        return shape.masked(part)
    return shape.gradients(part) if work == "gradients" else shape.pass_(part)


def _usual_batch(shape: Shape) -> int:
    """Bytes of trial cuts in a search that keeps little: all senders of a reader, a few readers.

    What a search takes of its batch depends on what it keeps: from a tenth to two thirds was seen,
    and at most half is expected.
    """
    return LIVE * shape.writers * shape.n * shape.token


def _least(shape: Shape, work: Work, part: int) -> int:
    """Bytes on top of what the process has, without which the work cannot be done."""
    held = shape.held() if work in SEARCHES else part * shape.prompt()
    return held + _working(shape, work, part, LEAST_BATCH)


def _refusal(shape: Shape, work: Work, now: int, limit: int, least: int) -> str:
    working = max(shape.pass_(1) + LEAST_BATCH, _working(shape, work, 1, LEAST_BATCH))
    fits = max(0, int((limit - now - working) / shape.prompt()) - shape.beside)
    what = f"{shape.n} prompts of {shape.n_pos} tokens take {least / GIB:.2f} GiB"
    less = f"task.n={fits} or fewer, or " if work in SEARCHES and fits else ""
    return (
        f"memory_gib={limit / GIB:.2f}: {what}, of which the process has {now / GIB:.2f} already;"
        f" ask for {less}memory_gib={least / GIB + 0.01:.2f} or more"
    )


def occupied(device: torch.device) -> int:
    """Bytes that this process has now, on the device that the model is on."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss


def available(device: torch.device) -> int:
    """Bytes that this process could still have."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _left_in_group())


def batch_bytes(device: torch.device) -> int:
    """What a batch of trial cuts may hold where nothing was planned: half of what a card has."""
    return BATCH_BYTES if device.type == "cpu" else max(LEAST_BATCH, available(device) // 2)


def _left_in_group() -> int:
    """Bytes left to this process's control group, where it has a limit (Linux)."""
    try:
        most = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        return int(most) - used if most != "max" else 1 << 62
    except (OSError, ValueError):
        return 1 << 62
