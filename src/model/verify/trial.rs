//! One run of `verify`: the recorded tensors, and the rows of the report as the checks add them.
//!
//! Recorded batches are padded rectangles with a mask, the model's are ragged rows; [`Ragged`] goes between the two.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::compare::{Stage, Tolerance, Values, compare};
use super::golden::Golden;
use super::{Report, VerifyError, files};
use crate::model::bundle::Part;
use crate::model::precision::{DenseKind, Precisions};
use crate::nn::linear::Dense;
use crate::nn::weights::Weights;

/// The recorded tensors and what came of comparing with them.
pub struct Trial {
    /// What was recorded.
    pub golden: Golden,
    stages: Vec<Stage>,
    names: BTreeSet<String>,
    variant: &'static str,
    precisions: Precisions,
    /// What was computed, where that is what is asked for.
    kept: Option<Vec<Computed>>,
}

/// A stage as it was computed.
pub struct Computed {
    /// The part that computed it.
    pub part: Part,
    /// How that part held its dense weights.
    pub dense: Dense,
    /// The stage's name.
    pub stage: String,
    /// Its rows.
    pub values: Values,
}

impl Trial {
    /// A trial in which nothing has been compared yet.
    pub fn new(golden: Golden) -> Trial {
        let precisions = Precisions::all(DenseKind::F32);
        Trial { golden, stages: Vec::new(), names: BTreeSet::new(), variant: "", precisions, kept: None }
    }

    /// A trial in these precisions (f32 where nothing is asked) that keeps what is computed.
    pub fn keeping(golden: Golden, precisions: Precisions) -> Trial {
        Trial { precisions, kept: Some(Vec::new()), ..Trial::new(golden) }
    }

    /// How a part holds its dense weights in this trial.
    pub fn dense(&self, part: Part) -> Dense {
        self.precisions.of(part).unwrap_or(DenseKind::F32).here()
    }

    /// The weights of a part in `dir`.
    pub fn weights(&self, dir: &Path, part: Part) -> Result<Weights, VerifyError> {
        Ok(files::weights(dir, files::MODEL)?.holding(self.dense(part)))
    }

    /// What was computed since [`Trial::keeping`].
    pub fn computed(self) -> Vec<Computed> {
        self.kept.unwrap_or_default()
    }

    /// Keeps rows that `part` computed, if they are asked for.
    pub fn keep(&mut self, part: Part, stage: &str, rows: &Tensor) -> Result<(), VerifyError> {
        let dense = self.dense(part);
        let stage = self.row(stage);
        if let Some(kept) = &mut self.kept {
            let values = Values { shape: rows.dims().to_vec(), numbers: numbers(rows)? };
            kept.push(Computed { part, dense, stage, values });
        }
        Ok(())
    }

    /// The name of a row of the report.
    fn row(&self, name: &str) -> String {
        if self.variant.is_empty() { name.to_owned() } else { format!("{}: {name}", self.variant) }
    }

    /// From here on, rows are named as computed with this variant of the weights (`""`: the only one).
    pub fn variant(&mut self, variant: &'static str) {
        self.variant = variant;
    }

    /// Compares `computed` with what is recorded under `name`; nothing happens if nothing is.
    pub fn expect(&mut self, name: &str, computed: &Values, tolerance: Tolerance) -> Result<(), VerifyError> {
        if self.golden.has(name) {
            let recorded = self.golden.values(name)?;
            let row = self.row(name);
            self.names.insert(name.to_owned());
            self.stages.push(compare(row, computed, &recorded, tolerance));
        }
        Ok(())
    }

    /// [`Trial::expect`] for plain numbers that have the recorded shape if they have its length.
    pub fn expect_numbers(&mut self, name: &str, numbers: Vec<f64>, tolerance: Tolerance) -> Result<(), VerifyError> {
        if !self.golden.has(name) {
            return Ok(());
        }
        let shape = self.golden.shape(name)?;
        let fits = shape.iter().product::<usize>() == numbers.len();
        let shape = if fits { shape.to_vec() } else { vec![numbers.len()] };
        self.expect(name, &Values { shape, numbers }, tolerance)
    }

    /// [`Trial::expect_numbers`] for the values of a tensor: the recorded shape may group the axes otherwise.
    pub fn expect_tensor(&mut self, name: &str, tensor: &Tensor, tolerance: Tolerance) -> Result<(), VerifyError> {
        if !self.golden.has(name) {
            return Ok(());
        }
        self.expect_numbers(name, numbers(tensor)?, tolerance)
    }

    /// A row for something that is recorded outside the golden file.
    pub fn expect_beside(&mut self, name: &str, computed: &Values, recorded: &Values) {
        self.stages.push(compare(name.to_owned(), computed, recorded, Tolerance::EXACT));
    }

    /// The rows so far, and the names in the golden file that no check knows.
    pub fn report(self) -> Report {
        Report { stages: self.stages, not_checked: self.golden.untouched() }
    }
}

/// The values of a tensor, row-major.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f64>, VerifyError> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

/// An f32 tensor of the recorded values, reshaped.
pub fn tensor(values: &Values, shape: &[usize]) -> Result<Tensor, VerifyError> {
    let floats: Vec<f32> = values.numbers.iter().map(|&v| v as f32).collect();
    Ok(Tensor::from_vec(floats, shape, &Device::Cpu)?)
}

/// Where the valid places of a padded batch are: sequence `i` occupies `rows[i]` of the places of line `i`.
pub struct Ragged {
    places: usize,
    rows: Vec<Range<usize>>,
}

impl Ragged {
    /// The valid places that the mask `name` ([sequences, places], 1 = valid) shows. A hole between valid places is an error:
    /// whether positions count on through it is a question that the recorded file does not answer.
    pub fn from_mask(golden: &Golden, name: &str) -> Result<Ragged, VerifyError> {
        let [_, places] = golden.axes(name)?;
        let mask = golden.ids(name)?;
        let mut rows = Vec::new();
        for (line, mask) in mask.chunks(places.max(1)).enumerate() {
            let start = mask.iter().position(|&m| m != 0).unwrap_or(0);
            let len = mask.iter().filter(|&&m| m != 0).count();
            if mask.iter().skip(start).take(len).any(|&m| m == 0) {
                return Err(golden.fault(name, &format!("has a hole in line {line}; padding stands at one end")));
            }
            rows.push(start..start + len);
        }
        Ok(Ragged { places, rows })
    }

    /// A batch without padding.
    pub fn full(sequences: usize, places: usize) -> Ragged {
        Ragged { places, rows: vec![0..places; sequences] }
    }

    /// The same sequences behind `ahead` places that are all valid; the padding must stand on the right.
    pub fn behind(&self, ahead: usize) -> Ragged {
        let rows = self.rows.iter().map(|row| 0..ahead + row.end).collect();
        Ragged { places: ahead + self.places, rows }
    }

    /// The valid entries of each sequence of a padded list.
    pub fn strip<'a, T>(&self, padded: &'a [T]) -> Vec<&'a [T]> {
        let line = |(i, row): (usize, &Range<usize>)| &padded[i * self.places + row.start..i * self.places + row.end];
        self.rows.iter().enumerate().map(line).collect()
    }

    /// The rows of `padded` ([sequences, places, width]) that are valid, as one [rows, width] tensor.
    pub fn strip_rows(&self, padded: &Values) -> Result<Tensor, VerifyError> {
        let width = padded.shape.last().copied().unwrap_or(1);
        let valid = |(i, row): (usize, &Range<usize>)| {
            let start = (i * self.places + row.start) * width;
            padded.numbers[start..start + row.len() * width].to_vec()
        };
        let numbers: Vec<f64> = self.rows.iter().enumerate().flat_map(valid).collect();
        let shape = [numbers.len() / width.max(1), width];
        tensor(&Values { shape: shape.to_vec(), numbers }, &shape)
    }

    /// Where the sequences lie among the valid rows.
    pub fn segments(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let mut segment = |row: &Range<usize>| {
            let start = end;
            end += row.len();
            start..end
        };
        self.rows.iter().map(&mut segment).collect()
    }

    /// The rows of `ragged` ([valid rows, width]) back in their places, zeros elsewhere: [sequences, places, width].
    pub fn pad(&self, ragged: &Tensor) -> Result<Values, VerifyError> {
        let (_, width) = ragged.dims2()?;
        self.pad_over(ragged, vec![0.0; self.rows.len() * self.places * width])
    }

    /// [`Ragged::pad`] over what the places without a row hold. Rows that do not fit keep their own shape.
    pub fn pad_over(&self, ragged: &Tensor, mut places: Vec<f64>) -> Result<Values, VerifyError> {
        let (rows, width) = ragged.dims2()?;
        let values = numbers(ragged)?;
        let valid: usize = self.rows.iter().map(Range::len).sum();
        if rows != valid || places.len() != self.rows.len() * self.places * width {
            return Ok(Values { shape: vec![rows, width], numbers: values });
        }
        let mut left = values.as_slice();
        for (i, row) in self.rows.iter().enumerate() {
            let (here, rest) = left.split_at(row.len() * width);
            let start = (i * self.places + row.start) * width;
            places[start..start + here.len()].copy_from_slice(here);
            left = rest;
        }
        Ok(Values { shape: vec![self.rows.len(), self.places, width], numbers: places })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_goes_and_comes_back_as_zeros() {
        let ragged = Ragged { places: 3, rows: vec![0..2, 2..3, 0..0] };
        assert_eq!(ragged.strip(&[1, 2, 0, 0, 0, 3, 0, 0, 0]), [&[1, 2][..], &[3], &[]]);
        let padded = Values { shape: vec![3, 3, 1], numbers: vec![1.0, 2.0, 9.0, 9.0, 9.0, 3.0, 9.0, 9.0, 9.0] };
        let rows = ragged.strip_rows(&padded).expect("three rows");
        assert_eq!(rows.dims(), [3, 1]);
        assert_eq!(ragged.pad(&rows).expect("padded").numbers, [1.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0]);
        assert_eq!(ragged.behind(2).rows, [0..4, 0..5, 0..2]);
    }

    #[test]
    fn rows_that_do_not_fit_keep_their_own_shape() {
        let rows = Tensor::zeros((4, 2), DType::F32, &Device::Cpu).expect("a tensor");
        assert_eq!(Ragged::full(1, 3).pad(&rows).expect("values").shape, [4, 2]);
    }
}
