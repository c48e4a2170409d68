//! Ternary matrices as they come: packed bytes with their scale, or floats that are rounded here.

use super::noise::Noise;
use super::{Init, Source, Weights, locked};
use crate::kernel::ternary::{COLS_MAX, TernaryError, TernaryMatrix};
use crate::nn::linear::WeightScale;

impl Weights {
    /// The ternary matrix `name` (`[outputs, inputs]`): unpacked from Hugging Face's bytes and `{name}_scale`, or
    /// quantised from floats. Faults are noted as by [`Weights::get`]; a matrix without rows takes its place.
    pub fn ternary(&self, outputs: usize, inputs: usize, name: &str, scale: WeightScale) -> TernaryMatrix {
        self.try_ternary(outputs, inputs, name, scale).unwrap_or_else(|fault| {
            self.fault(fault);
            TernaryMatrix::from_f32(0, inputs.min(COLS_MAX), &[])
        })
    }

    fn try_ternary(
        &self,
        outputs: usize,
        inputs: usize,
        name: &str,
        scale: WeightScale,
    ) -> Result<TernaryMatrix, String> {
        if inputs > COLS_MAX {
            return Err(format!("{}: {}", self.full(name), TernaryError::Cols(inputs)));
        }
        if let Source::Noise(seed) = self.shared.source {
            let codes = Noise::new(seed, &self.full(name)).codes(outputs.div_ceil(4) * inputs);
            let worth = Init::FanIn(0.7).deviation(&[outputs, inputs]).unwrap_or(1.0);
            return TernaryMatrix::from_packed(outputs, inputs, codes, worth)
                .map_err(|error| format!("{name}: {error}"));
        }
        if !self.is_packed(name) {
            let values = self.floats(&self.full(name), &[outputs, inputs], Init::FanIn(0.7))?;
            return Ok(TernaryMatrix::from_f32(outputs, inputs, &values));
        }
        let full = self.full(name);
        let codes = self.codes(&full, &[outputs.div_ceil(4), inputs])?;
        let stored = self.floats(&format!("{full}_scale"), &[1], Init::Ones)?[0];
        if !(stored.is_finite() && stored > 0.0) {
            return Err(format!("{full}_scale: {stored}, expected a finite number above 0"));
        }
        let factor = match scale {
            WeightScale::Divides => 1.0 / stored,
            WeightScale::Multiplies => stored,
        };
        TernaryMatrix::from_packed(outputs, inputs, codes, factor).map_err(|error| format!("{full}: {error}"))
    }

    fn codes(&self, name: &str, shape: &[usize]) -> Result<Vec<u8>, String> {
        locked(&self.shared.used).insert(name.to_string());
        let (found, codes) = match &self.shared.source {
            Source::Tensors(tensors) => {
                let tensor = tensors.get(name).ok_or_else(|| format!("{name}: missing"))?;
                let codes = tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(|e| format!("{name}: {e}"))?;
                (tensor.dims().to_vec(), codes)
            }
            _ => {
                let stored = self.stored(name).ok_or_else(|| format!("{name}: missing"))?;
                (stored.shape.to_vec(), stored.data.to_vec())
            }
        };
        if found != shape {
            return Err(format!("{name}: packed as {found:?}, expected {shape:?}"));
        }
        Ok(codes)
    }
}
