//! Packed ternary weights: bytes are refused exactly when they are no matrix, and a matrix is what its bytes say,
//! written again and multiplied.

use vljepa::kernel::isa::Isa;
use vljepa::kernel::packed::PackedMatrix;
use vljepa::kernel::quantize::QuantizedRows;
use vljepa::kernel::ternary::TernaryMatrix;

/// Takes a shape from the first bytes and the codes from the rest.
pub fn ternary(bytes: &[u8]) {
    let [rows, cols_low, cols_high, codes @ ..] = bytes else { return };
    let rows = usize::from(*rows) % 80;
    let cols = usize::from(u16::from_le_bytes([*cols_low, *cols_high])) % 700;
    let (stride, codes) = (rows.div_ceil(4), codes.to_vec());
    let code = |row: usize, col: usize| codes[(row % stride) * cols + col] >> (2 * (row / stride)) & 3;
    let whole = codes.len() == stride * cols;
    let sound = whole && (0..4 * stride).all(|row| (0..cols).all(|col| code(row, col) != 3));
    let matrix = match TernaryMatrix::from_packed(rows, cols, codes.clone(), 0.5) {
        Ok(matrix) => matrix,
        Err(error) => return assert!(!sound, "refused: {error}"),
    };
    assert!(sound, "accepted, {rows} rows of {cols} columns, {} bytes", codes.len());
    let signs: Vec<i8> = (0..rows)
        .flat_map(|row| (0..cols).map(move |col| (row, col)))
        .map(|(row, col)| matrix.sign(row, col))
        .collect();
    assert!((0..rows * cols).all(|at| signs[at] == code(at / cols, at % cols) as i8 - 1), "signs");
    let again = TernaryMatrix::from_signs(rows, cols, &signs, 0.5);
    let reread = TernaryMatrix::from_packed(rows, cols, again.packed().to_vec(), 0.5).expect("our own packing");
    assert!(reread == again, "written and read again");
    if rows > 0 && cols > 0 {
        multiply(&matrix, &signs);
    }
}

/// Every instruction set here gives the sums of the signs.
fn multiply(matrix: &TernaryMatrix, signs: &[i8]) {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let values: Vec<i8> = (0..3 * cols).map(|at| (at * 37 + 11) as u8 as i8).collect();
    let sum = |x: &[i8], w: &[i8]| -> i32 { w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum() };
    let mut expected = Vec::new();
    for x in values.chunks(cols) {
        expected.extend(signs.chunks(cols).map(|w| sum(x, w)));
    }
    let x = QuantizedRows::from_values(cols, values, vec![1.0; 3]);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let packed = PackedMatrix::pack_for(isa, &[matrix]).expect("it is available");
        let mut sums = vec![0; 3 * rows];
        packed.multiply_i32(&x, &mut [&mut sums]);
        assert_eq!(sums, expected, "{isa:?}, {rows} rows of {cols} columns");
    }
}
