"""Variables in subspaces: interchange interventions and distributed alignment search."""
