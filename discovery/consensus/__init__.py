"""Consensus: what a method finds whatever prompts, order and threshold it is given.

core.py says which edges those are, with their false discoveries bounded; circuits.py finds the
circuits; second.py looks for another circuit beside the first; runs.py reads and writes folders.
"""
