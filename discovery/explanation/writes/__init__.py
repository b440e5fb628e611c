"""What nodes write: direct effects, the logit lens, tokens, and which input tokens matter."""
