//! Embeddings: what leaves the model, and the fingerprint of the space it lives in.
