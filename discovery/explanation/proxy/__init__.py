"""How far the variables alone predict the circuit's counterfactual outputs."""
