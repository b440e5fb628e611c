"""Path patching: which edges move the answer, one at a time, walked back from the logits."""
