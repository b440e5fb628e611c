"""What a circuit's heads do: where they look, what they write for, which role would fit them."""
