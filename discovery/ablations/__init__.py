"""Ablations as settings: what edges that are cut carry. acdc/ablation.py says what they are.

One's own is a subclass of `AblationChoice` whose `make` gives an acdc.ablation.Ablation.
"""

from discovery.ablations.choices import AblationChoice

__all__ = ["AblationChoice"]
