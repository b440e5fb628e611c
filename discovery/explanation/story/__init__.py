"""A hypothesis written from the circuit, scrubbed, and refined."""
