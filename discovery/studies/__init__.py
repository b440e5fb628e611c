"""Other questions than a circuit: methods compared, the route of a prompt, components."""
