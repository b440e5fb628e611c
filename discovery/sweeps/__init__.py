"""Many runs: what is said of them together, their folder, their picture."""
