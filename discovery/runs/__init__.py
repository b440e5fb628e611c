"""Run folders, and their mirror in Weights & Biases."""
