"""Tasks: each module makes one batch of clean/corrupt prompt pairs (acdc.prompts.Prompts).

`ioi` and `greater_than` need a tokenizer, `induction` needs only a vocabulary size, and `pairs`
reads the user's own file. Tasks know nothing of models, metrics, configuration or circuits.
"""
