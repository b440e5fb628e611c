"""The rungs of the resampling ladder in plain words, for whoever shows them."""

from __future__ import annotations

from collections.abc import Mapping

TWIN = "no: the paired corrupt prompt"  # nothing is drawn: what the search itself used
TWINS = {
    "other": "no: another prompt of the task",
    "resample": TWIN,
    "mean": "no: means over corrupt prompts",
    "zero": "no: zeros",
}
OWN = "the reference's own"
NONE = "no edge kept"  # the floor: what resampling alone leaves, without any circuit

CUT_EDGES: Mapping[str, str] = {
    TWIN: "cut edges: the prompt's corrupt twin",
    TWINS["other"]: "cut edges: another prompt of the task",
    TWINS["mean"]: "cut edges: means over the corrupt prompts",
    TWINS["zero"]: "cut edges: zeros",
    "shared": "cut edges: one random prompt",
    "per node": "cut edges: a random prompt per node",
    "per edge": "cut edges: a random prompt per edge",
}


def cut_edges(resampled: str) -> str:
    """What the edges outside the circuit carry; an unknown way as it is."""
    return CUT_EDGES.get(resampled, resampled)


def circuit_input(inputs: str) -> str:
    """Whose input the circuit itself reads: its own prompt's, or one's with the same features."""
    fixed = {OWN: "input: the prompt's own", NONE: "no edge kept: what is there without a circuit"}
    return fixed.get(inputs, f"input: a prompt's with the same {inputs}")
