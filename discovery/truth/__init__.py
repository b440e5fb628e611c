"""Models whose circuit is known, and how well what is found agrees with it."""
