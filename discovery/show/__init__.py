"""Circuits as pictures, results as tables."""
