"""A variable's direction, added and taken out."""
