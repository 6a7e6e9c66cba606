"""Methods that shape the distribution of the embeddings."""
