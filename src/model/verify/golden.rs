//! Recorded tensors: safetensors files read as plain numbers, with a memory of which names somebody asked for.
//!
//! Apart from the checks because they all share one duty: a name that no check touched must become visible, or a stage that
//! nobody compares would look like one that agrees.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::VerifyError;
use super::compare::Values;

/// Names under which a folder keeps what was recorded.
const FILES: [&str; 2] = ["io.safetensors", "stream.safetensors"];

/// The tensors of one or more files, as one namespace.
pub struct Golden {
    files: Vec<(PathBuf, Vec<u8>)>,
    tensors: BTreeMap<String, Recorded>,
    touched: RefCell<BTreeSet<String>>,
}

struct Recorded {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Golden {
    /// Opens `path`: a safetensors file, or a folder that holds `io.safetensors`, `stream.safetensors` or both.
    pub fn open(path: &Path) -> Result<Golden, VerifyError> {
        let files: Vec<PathBuf> = match path.is_dir() {
            true => FILES.iter().map(|name| path.join(name)).filter(|file| file.is_file()).collect(),
            false => vec![path.to_path_buf()],
        };
        if files.is_empty() {
            return Err(VerifyError::new(path, format!("holds no {}", FILES.join(" or "))));
        }
        Golden::read(&files)
    }

    /// Reads `files` into one namespace.
    pub fn read(files: &[PathBuf]) -> Result<Golden, VerifyError> {
        let mut golden = Golden { files: Vec::new(), tensors: BTreeMap::new(), touched: RefCell::default() };
        for (number, file) in files.iter().enumerate() {
            let bytes = std::fs::read(file).map_err(|e| VerifyError::new(file, e))?;
            let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| VerifyError::new(file, e))?;
            let data = size_of::<u64>() + header;
            for (name, tensor) in metadata.tensors() {
                let bytes = data + tensor.data_offsets.0..data + tensor.data_offsets.1;
                let recorded = Recorded { file: number, dtype: tensor.dtype, shape: tensor.shape.clone(), bytes };
                if golden.tensors.insert(name.clone(), recorded).is_some() {
                    return Err(VerifyError::new(file, format!("{name} stands in another file too")));
                }
            }
            golden.files.push((file.clone(), bytes));
        }
        Ok(golden)
    }

    /// Whether `name` is recorded.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What stands before `suffix` in the names that end with it, sorted: the clips, cases or layers of a file.
    pub fn before(&self, suffix: &str) -> Vec<String> {
        self.names().filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
    }

    /// Names that nobody asked for.
    pub fn untouched(&self) -> Vec<String> {
        let touched = self.touched.borrow();
        self.tensors.keys().filter(|name| !touched.contains(*name)).cloned().collect()
    }

    /// Shape of `name`.
    pub fn shape(&self, name: &str) -> Result<&[usize], VerifyError> {
        Ok(&self.recorded(name)?.shape)
    }

    /// Shape of `name`, which must have `N` axes.
    pub fn axes<const N: usize>(&self, name: &str) -> Result<[usize; N], VerifyError> {
        let recorded = self.recorded(name)?;
        let found = || format!("{name} has shape {:?}, expected {N} axes", recorded.shape);
        recorded.shape.as_slice().try_into().map_err(|_| VerifyError::new(&self.files[recorded.file].0, found()))
    }

    /// The values of `name`; it counts as touched from now on.
    pub fn values(&self, name: &str) -> Result<Values, VerifyError> {
        let recorded = self.recorded(name)?;
        self.touched.borrow_mut().insert(name.to_owned());
        let (file, bytes) = &self.files[recorded.file];
        let bytes = &bytes[recorded.bytes.clone()];
        let numbers = numbers(recorded.dtype, bytes).ok_or_else(|| {
            VerifyError::new(file, format!("{name} has type {:?}, which we do not read", recorded.dtype))
        })?;
        Ok(Values { shape: recorded.shape.clone(), numbers })
    }

    /// The values of `name` as f32.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, VerifyError> {
        Ok(self.values(name)?.numbers.iter().map(|&v| v as f32).collect())
    }

    /// The values of `name` as token ids or a mask; a negative or fractional one is an error.
    pub fn ids(&self, name: &str) -> Result<Vec<u32>, VerifyError> {
        let whole = |&v: &f64| (v == v.trunc() && (0.0..=f64::from(u32::MAX)).contains(&v)).then_some(v as u32);
        let values = self.values(name)?;
        let ids: Option<Vec<u32>> = values.numbers.iter().map(whole).collect();
        ids.ok_or_else(|| self.fault(name, "holds a value that is no id: ids are whole and not negative"))
    }

    /// [`Golden::ids`] of tokens, all in a vocabulary of this size.
    pub fn tokens(&self, name: &str, vocabulary: usize) -> Result<Vec<u32>, VerifyError> {
        let ids = self.ids(name)?;
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(id) => Err(self.fault(name, &format!("holds id {id}; the vocabulary ends before {vocabulary}"))),
            None => Ok(ids),
        }
    }

    /// An error about `name` that says which file it stands in.
    pub fn fault(&self, name: &str, what: &str) -> VerifyError {
        let file = self.tensors.get(name).map_or(0, |recorded| recorded.file);
        VerifyError::new(&self.files[file].0, format!("{name} {what}"))
    }

    fn recorded(&self, name: &str) -> Result<&Recorded, VerifyError> {
        self.tensors.get(name).ok_or_else(|| self.fault(name, "is missing"))
    }
}

/// Little-endian values as f64, or nothing for a type that no golden file uses.
fn numbers(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<N>().0.iter().map(|&b| number(b)).collect()
    }
    Some(match dtype {
        Dtype::BOOL | Dtype::U8 => each(bytes, |[b]| f64::from(b)),
        Dtype::I8 => each(bytes, |b| f64::from(i8::from_le_bytes(b))),
        Dtype::I16 => each(bytes, |b| f64::from(i16::from_le_bytes(b))),
        Dtype::I32 => each(bytes, |b| f64::from(i32::from_le_bytes(b))),
        Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f64()),
        Dtype::F32 => each(bytes, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F64 => each(bytes, f64::from_le_bytes),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::TensorView;

    use super::*;

    /// A folder with one tensor of every type, each holding 1, 2.
    fn folder() -> tempfile::TempDir {
        let bytes: HashMap<&str, (Dtype, Vec<u8>)> = HashMap::from([
            ("u8", (Dtype::U8, vec![1, 2])),
            ("i8", (Dtype::I8, vec![1, 2])),
            ("i32", (Dtype::I32, [1i32, 2].map(i32::to_le_bytes).concat())),
            ("i64", (Dtype::I64, [1i64, 2].map(i64::to_le_bytes).concat())),
            ("bf16", (Dtype::BF16, [1.0, 2.0].map(|v| bf16::from_f32(v).to_le_bytes()).concat())),
            ("f32", (Dtype::F32, [1f32, 2.0].map(f32::to_le_bytes).concat())),
            ("f64", (Dtype::F64, [1f64, 2.0].map(f64::to_le_bytes).concat())),
            ("half", (Dtype::F32, [0.5f32, -1.0].map(f32::to_le_bytes).concat())),
        ]);
        let views = bytes.iter().map(|(n, (t, b))| (*n, TensorView::new(*t, vec![1, 2], b).expect("two values")));
        let folder = tempfile::tempdir().expect("a temporary folder");
        safetensors::serialize_to_file(views, None, &folder.path().join(FILES[0])).expect("written");
        folder
    }

    #[test]
    fn every_type_reads_as_the_same_numbers() {
        let golden = Golden::open(folder().path()).expect("opens");
        for name in ["u8", "i8", "i32", "i64", "bf16", "f32", "f64"] {
            assert_eq!(golden.values(name).expect(name), Values { shape: vec![1, 2], numbers: vec![1.0, 2.0] });
            assert_eq!(golden.ids(name).expect(name), [1, 2]);
        }
        assert_eq!(golden.untouched(), ["half"]);
        assert!(golden.ids("half").is_err_and(|e| e.to_string().contains("half")));
        assert!(golden.axes::<3>("f32").is_err_and(|e| e.to_string().contains("[1, 2]")));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(Golden::open(folder.path()).is_err_and(|e| e.to_string().contains("io.safetensors")));
        let file = folder.path().join(FILES[1]);
        std::fs::write(&file, b"not safetensors at all").expect("written");
        assert!(Golden::open(folder.path()).is_err_and(|e| e.to_string().contains("stream.safetensors")));
    }
}
