"""The embedder: CLIP embeddings, and the reference photographs that are nearest to them."""
