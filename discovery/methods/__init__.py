"""Methods: ways to propose a circuit. `Method` is one search, `Scoring` one number an edge.

Each is a class of settings that knows what to do: `find(data, metric, seed)` yields Steps and ends
in one Found. The main job, comparisons, stability and validation all go through it. One's own is a
subclass, in whatever module.
"""

from discovery.methods.found import Done, Found, Step, TestedEdge, last, shown
from discovery.methods.method import Method, Scoring

__all__ = ["Done", "Found", "Method", "Scoring", "Step", "TestedEdge", "last", "shown"]
