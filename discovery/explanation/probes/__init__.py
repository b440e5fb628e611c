"""What nodes know: linear probes with controls."""
