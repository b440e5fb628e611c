"""From a circuit to an explanation that was tried: one file a part, one page for all."""
