"""Who is in the circuit."""
