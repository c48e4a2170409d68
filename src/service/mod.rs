//! The gRPC face of the engine.
