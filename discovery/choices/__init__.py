"""What can be chosen by a name, and how the fields of a choice are checked."""
