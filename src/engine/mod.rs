//! Requests, batching and the one thread that owns a model.
