"""The machine: graph, model view, patched forward, metrics and the exact greedy search."""
