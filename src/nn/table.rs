//! Tables of embeddings, of which a request reads a few rows.
//!
//! In serving a table stays in its file, as it is stored: the rows asked for are read through the memory map. In
//! training, and where the weights come from elsewhere, it is a tensor.

use candle_core::{Device, Result, Tensor, bail};

use super::linear::LayerFacts;
use super::rows;
use super::weights::{Init, Weights};

/// `[rows, columns]`
pub struct Table {
    held: Held,
    rows: usize,
    columns: usize,
}

enum Held {
    Tape(Tensor),
    Stored(Weights),
}

/// The name below the table's place.
const NAME: &str = "weight";

impl Table {
    /// Reads `weight` (`[rows, columns]`). Faults are noted in `weights`.
    pub fn load(weights: &Weights, rows: usize, columns: usize, init: Init) -> Table {
        let held = match weights.stays_stored(&[rows, columns], NAME) {
            true => Held::Stored(weights.clone()),
            false => Held::Tape(weights.get(&[rows, columns], NAME, init)),
        };
        Table { held, rows, columns }
    }

    /// Rows `ids` as `[ids, columns]`. Errors beyond the table.
    pub fn gather(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.rows) {
            bail!("token id {id} is outside the vocabulary of {}", self.rows);
        }
        match &self.held {
            Held::Tape(table) => rows::gather(table, ids),
            Held::Stored(weights) => {
                let Some(values) = weights.stored_rows(NAME, self.columns, ids) else {
                    bail!("the table of {} rows is not stored as floats", self.rows);
                };
                Tensor::from_vec(values, (ids.len(), self.columns), &Device::Cpu)
            }
        }
    }

    /// What the table holds; what is mapped from a file is counted as it is stored.
    pub fn facts(&self) -> LayerFacts {
        let parameters = self.rows * self.columns;
        let bytes = match &self.held {
            Held::Tape(_) => parameters * size_of::<f32>(),
            Held::Stored(weights) => weights.stored_bytes(NAME),
        };
        LayerFacts { parameters, bytes, is_ternary: false }
    }
}
