//! Layers, each with its forward and its backward.
