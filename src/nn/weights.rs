//! Where a layer's parameters come from: memory-mapped files, given tensors, or fresh random numbers.
//!
//! Names mirror the checkpoint: `weights.pp("layer").pp(3).get(.., "norm1.weight", ..)` reads `layer.3.norm1.weight`.
//! Asking never fails at once; what is missing or has another shape is noted, and [`Weights::finish`] reports all of
//! it in one error. In training mode every parameter is a variable that the optimiser can find by its name.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use candle_core::{DType, Device, Tensor, Var};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use self::checkpoint::{Checkpoint, Stored, element_bytes};
use self::fresh::fresh_values;
use self::noise::Noise;
use super::linear::Dense;

mod checkpoint;
mod fresh;
mod noise;
mod ternary;

/// What kept weights from being used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file that cannot be opened or mapped.
    #[error("{file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not in the safetensors format.
    #[error("{file}: not a safetensors file: {reason}")]
    Format {
        /// The file, or `embedded`.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Every tensor that is missing or does not fit.
    #[error("{} fault(s) in {place}:\n  {}", faults.len(), faults.join("\n  "))]
    Faults {
        /// The files, or what else the weights came from.
        place: String,
        /// Each with the tensor's name.
        faults: Vec<String>,
    },
}

/// Whether parameters are constants or variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Constants; ternary layers are packed for this machine's kernel.
    Infer,
    /// Variables; ternary layers keep f32 masters and train by straight-through estimation.
    Train,
}

/// How a parameter begins when there is no file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// 0
    Zeros,
    /// 1
    Ones,
    /// Normal with this standard deviation, cut at two of them.
    Normal(f32),
    /// Normal with `gain / sqrt(fan_in)`, cut at two of them; fan_in is the product of all but the first dimension.
    FanIn(f32),
}

/// A place among the names of a checkpoint. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    prefix: String,
    dense: Dense,
}

struct Shared {
    source: Source,
    mode: Mode,
    faults: Mutex<Vec<String>>,
    used: Mutex<HashSet<String>>,
    variables: Mutex<BTreeMap<String, Var>>,
}

enum Source {
    Files(Vec<Checkpoint>),
    Tensors(HashMap<String, Tensor>),
    Fresh(u64),
    Noise(u64),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Weights {
    fn new(source: Source, mode: Mode) -> Self {
        let shared =
            Shared { source, mode, faults: Mutex::default(), used: Mutex::default(), variables: Mutex::default() };
        Self { shared: Arc::new(shared), prefix: String::new(), dense: Dense::default() }
    }

    /// Maps safetensors files; several (shards) are one namespace.
    pub fn open(files: &[PathBuf], mode: Mode) -> Result<Self, WeightsError> {
        Ok(Self::new(Source::Files(files.iter().map(|file| Checkpoint::map(file)).collect::<Result<_, _>>()?), mode))
    }

    /// Reads safetensors bytes that are part of the program.
    pub fn from_static(bytes: &'static [u8], mode: Mode) -> Result<Self, WeightsError> {
        Ok(Self::new(Source::Files(vec![Checkpoint::embedded(bytes)?]), mode))
    }

    /// Parameters by their [`Init`], the same for the same seed and name whatever the order of asking.
    pub fn fresh(seed: u64, mode: Mode) -> Self {
        Self::new(Source::Fresh(seed), mode)
    }

    /// Parameters with the spread of their [`Init`], made in a fraction of the time: for measuring only.
    pub fn noise(seed: u64) -> Self {
        Self::new(Source::Noise(seed), Mode::Infer)
    }

    /// Takes parameters from a map of full names.
    pub fn from_tensors(tensors: HashMap<String, Tensor>, mode: Mode) -> Self {
        Self::new(Source::Tensors(tensors), mode)
    }

    /// The place below this one: `weights.pp("layer").pp(3)`.
    pub fn pp(&self, segment: impl Display) -> Self {
        Self { shared: self.shared.clone(), prefix: format!("{}{segment}.", self.prefix), dense: self.dense }
    }

    /// The same place, whose dense layers are held as `dense` in serving. Training keeps them f32.
    pub fn holding(self, dense: Dense) -> Self {
        Self { dense, ..self }
    }

    /// The same place, for layers whose rounding to bytes is felt: bf16 where the others are bytes.
    pub fn fine(self) -> Self {
        match self.dense {
            Dense::Int8 => self.holding(Dense::Bf16),
            Dense::F32 | Dense::Bf16 => self,
        }
    }

    /// How dense layers read from here are held in serving.
    pub fn dense(&self) -> Dense {
        self.dense
    }

    /// Whether parameters are constants or variables here.
    pub fn mode(&self) -> Mode {
        self.shared.mode
    }

    /// A number of its own for every name, the same on every machine.
    pub(crate) fn hash(&self, name: &str) -> u64 {
        fresh::hash(&self.full(name))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether the source holds this name. A fresh source holds every name that ends in `weight` or `bias`
    /// only when asked for, so the answer there is no: optional parts are made only on demand.
    pub fn has(&self, name: &str) -> bool {
        let name = self.full(name);
        match &self.shared.source {
            Source::Files(files) => files.iter().any(|file| file.header.info(&name).is_some()),
            Source::Tensors(tensors) => tensors.contains_key(&name),
            Source::Fresh(_) | Source::Noise(_) => false,
        }
    }

    /// Whether any name begins with this.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        let prefix = self.full(prefix);
        self.all_names().iter().any(|name| name.starts_with(&prefix))
    }

    /// Full names under this place, sorted; of a fresh source those made so far.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.all_names().into_iter().filter(|name| name.starts_with(&self.prefix)).collect();
        names.sort();
        names
    }

    fn all_names(&self) -> Vec<String> {
        match &self.shared.source {
            Source::Files(files) => files.iter().flat_map(|file| file.header.offset_keys()).collect(),
            Source::Tensors(tensors) => tensors.keys().cloned().collect(),
            Source::Fresh(_) | Source::Noise(_) => locked(&self.shared.used).iter().cloned().collect(),
        }
    }

    /// Names under this place that nobody asked for.
    pub fn unused(&self) -> Vec<String> {
        let used = locked(&self.shared.used);
        self.names().into_iter().filter(|name| !used.contains(name)).collect()
    }

    /// Bytes of the tensors under this place in the source.
    pub fn bytes(&self) -> u64 {
        let Source::Files(files) = &self.shared.source else { return 0 };
        let size = |info: &TensorInfo| (info.data_offsets.1 - info.data_offsets.0) as u64;
        let under = |file: &Checkpoint| -> u64 {
            file.header.tensors().iter().filter(|(name, _)| name.starts_with(&self.prefix)).map(|(_, i)| size(i)).sum()
        };
        files.iter().map(under).sum()
    }

    /// Notes that something about these weights does not hold.
    pub fn fault(&self, text: String) {
        locked(&self.shared.faults).push(text);
    }

    /// Every fault noted so far, as one error.
    pub fn finish(&self) -> Result<(), WeightsError> {
        let faults = std::mem::take(&mut *locked(&self.shared.faults));
        if faults.is_empty() { Ok(()) } else { Err(WeightsError::Faults { place: self.place(), faults }) }
    }

    fn place(&self) -> String {
        match &self.shared.source {
            Source::Files(files) => {
                let paths: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
                paths.join(", ")
            }
            Source::Tensors(_) => "the given weights".into(),
            Source::Fresh(_) | Source::Noise(_) => "fresh weights".into(),
        }
    }

    /// The variables made so far, sorted by full name. Empty outside training.
    pub fn variables(&self) -> Vec<(String, Var)> {
        locked(&self.shared.variables).iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn stored(&self, name: &str) -> Option<Stored<'_>> {
        let Source::Files(files) = &self.shared.source else { return None };
        files.iter().find_map(|file| file.stored(name))
    }

    /// Whether this name is stored as packed ternary bytes.
    pub fn is_packed(&self, name: &str) -> bool {
        let name = self.full(name);
        match &self.shared.source {
            Source::Tensors(tensors) => tensors.get(&name).is_some_and(|tensor| tensor.dtype() == DType::U8),
            _ => self.stored(&name).is_some_and(|stored| stored.dtype == Dtype::U8),
        }
    }

    /// The f32 parameter `name` of this shape: a variable in training, else a constant.
    ///
    /// Never fails: a missing name, another shape or a type that is not a float is noted for [`Weights::finish`], and
    /// zeros take its place. Asking twice gives the same parameter.
    pub fn get(&self, shape: &[usize], name: &str, init: Init) -> Tensor {
        let name = self.full(name);
        if let Some(variable) = locked(&self.shared.variables).get(&name) {
            if variable.dims() != shape {
                self.fault(format!("{name}: asked for as {shape:?}, made as {:?}", variable.dims()));
            }
            return variable.as_tensor().clone();
        }
        match self.floats(&name, shape, init) {
            Ok(values) => self.keep(name, values, shape),
            Err(fault) => {
                self.fault(fault);
                absent(shape)
            }
        }
    }

    /// The values of a constant, for layers that hold them in a form of their own; faults are noted as by
    /// [`Weights::get`], and nothing takes their place.
    pub(crate) fn values(&self, shape: &[usize], name: &str, init: Init) -> Option<Vec<f32>> {
        self.floats(&self.full(name), shape, init).map_err(|fault| self.fault(fault)).ok()
    }

    /// Whether `name` can be read row by row where it is stored: floats of this shape in a file, outside training.
    pub(crate) fn stays_stored(&self, shape: &[usize], name: &str) -> bool {
        let name = self.full(name);
        let stored = self.stored(&name).filter(|_| self.shared.mode == Mode::Infer);
        let fits = stored.is_some_and(|stored| stored.shape == shape && element_bytes(stored.dtype).is_some());
        if fits {
            locked(&self.shared.used).insert(name);
        }
        fits
    }

    /// Rows of `columns` floats that [`Weights::stays_stored`] found, one after the other; none beyond the last.
    pub(crate) fn stored_rows(&self, name: &str, columns: usize, rows: &[u32]) -> Option<Vec<f32>> {
        let Stored { dtype, shape, data } = self.stored(&self.full(name))?;
        let row_bytes = columns * element_bytes(dtype)?;
        let mut values = Vec::with_capacity(rows.len() * columns);
        for &row in rows {
            let start = row as usize * row_bytes;
            values.extend(Stored { dtype, shape, data: data.get(start..start + row_bytes)? }.to_f32()?);
        }
        Some(values)
    }

    /// Bytes of one tensor in its file; 0 where there is none.
    pub(crate) fn stored_bytes(&self, name: &str) -> usize {
        self.stored(&self.full(name)).map_or(0, |stored| stored.data.len())
    }

    /// Makes these values the parameter `name`, for layers that convert what they read (packed weights to masters).
    pub(crate) fn variable(&self, name: &str, values: Vec<f32>, shape: &[usize]) -> Tensor {
        self.keep(self.full(name), values, shape)
    }

    fn keep(&self, name: String, values: Vec<f32>, shape: &[usize]) -> Tensor {
        let Ok(tensor) = Tensor::from_vec(values, shape, &Device::Cpu) else { return absent(shape) };
        if self.shared.mode == Mode::Infer {
            return tensor;
        }
        let variable = Var::from_tensor(&tensor).expect("a copy on the CPU");
        let tensor = variable.as_tensor().clone();
        locked(&self.shared.variables).insert(name, variable);
        tensor
    }

    fn floats(&self, name: &str, shape: &[usize], init: Init) -> Result<Vec<f32>, String> {
        locked(&self.shared.used).insert(name.to_string());
        let fits = |found: &[usize]| {
            if found == shape { Ok(()) } else { Err(format!("{name}: the shape is {found:?}, expected {shape:?}")) }
        };
        match &self.shared.source {
            Source::Fresh(seed) => Ok(fresh_values(*seed, name, shape, init)),
            Source::Noise(seed) => Ok(Noise::new(*seed, name).values(shape, init)),
            Source::Tensors(tensors) => {
                let tensor = tensors.get(name).ok_or_else(|| format!("{name}: missing, expected {shape:?}"))?;
                fits(tensor.dims())?;
                let flat = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1());
                flat.map_err(|error| format!("{name}: {error}"))
            }
            Source::Files(_) => {
                let stored = self.stored(name).ok_or_else(|| format!("{name}: missing, expected {shape:?}"))?;
                fits(stored.shape)?;
                stored.to_f32().ok_or_else(|| format!("{name}: stored as {:?}, expected floats", stored.dtype))
            }
        }
    }
}

/// Stands where a parameter cannot be read: zeros that take no memory, since the shape is only what a config claims.
fn absent(shape: &[usize]) -> Tensor {
    let zero = Tensor::zeros(1, DType::F32, &Device::Cpu).and_then(|zero| zero.broadcast_as(shape));
    zero.expect("one zero can stand for any shape")
}

#[cfg(test)]
mod tests;
