"""Neurons of the circuit's MLPs, and what its heads rest on."""
