//! From bytes to what a model takes: pixels and tokens, under limits.
