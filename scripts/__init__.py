"""The commands. Installed as the package `circuit_discovery`, with conf/ beside them."""
