"""A node split by a sparse autoencoder."""
