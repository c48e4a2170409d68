//! The integration tests, one binary.

mod bitlinear;
