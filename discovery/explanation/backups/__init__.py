"""Knock-outs of the whole model, and who takes over."""
