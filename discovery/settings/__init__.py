"""What can be configured: a run, and what is asked of its circuit afterwards."""
