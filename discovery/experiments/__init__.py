"""Published experiments on their networks: graphs, features, hypotheses and the figures to meet."""
