"""MIB's circuit-localization track (Mueller et al. 2025): its evaluation, tasks and submissions."""
