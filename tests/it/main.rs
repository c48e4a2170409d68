//! The integration tests, one binary.

mod architecture;
mod bitlinear;
mod input;
mod model_laws;
mod preprocess;
