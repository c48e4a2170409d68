//! Own operations with a forward and a backward on plain f32 slices.
//!
//! candle's tape calls the backward; everything else about candle (storages, layouts, one trait an arity) ends here.
//! candle's own fused operations cut gradients without a word, which is why the layers do not use them.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, Tensor, bail,
};

use crate::kernel::tally::{self, Kind};

/// The gradient of each input, in order; None where there is none to give.
pub(crate) type Gradients<const N: usize> = [Option<Vec<f32>>; N];

/// A differentiable operation on N f32 tensors.
pub(crate) trait Operation<const N: usize>: Send + Sync + 'static {
    const NAME: &'static str;

    /// The shape of the result; also the place to refuse shapes that do not fit.
    fn shape(&self, shapes: [&Shape; N]) -> Result<Shape>;

    /// Writes the result (`out` is zeroed, of the size of [`Operation::shape`]).
    fn forward(&self, inputs: [&[f32]; N], out: &mut [f32]);

    /// The gradients of the inputs, each of its input's length.
    fn backward(&self, inputs: [&[f32]; N], out: &[f32], grad: &[f32]) -> Gradients<N>;
}

struct Adapter<O>(O);

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("an operation of nn was given a tensor that is not contiguous"),
    }
}

fn run<const N: usize, O: Operation<N>>(
    operation: &O,
    storages: [&CpuStorage; N],
    layouts: [&Layout; N],
) -> Result<(CpuStorage, Shape)> {
    let shape = operation.shape(layouts.map(Layout::shape))?;
    let mut inputs: [&[f32]; N] = [&[]; N];
    for ((input, storage), layout) in inputs.iter_mut().zip(storages).zip(layouts) {
        *input = slice(storage, layout)?;
    }
    let mut out = vec![0.0; shape.elem_count()];
    // Products and attention within are counted as such.
    tally::count(Kind::Elementwise, 0.0, || operation.forward(inputs, &mut out));
    Ok((CpuStorage::F32(out), shape))
}

/// Calls `work` with the values of contiguous CPU tensors.
pub(crate) fn with_values<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut values: [&[f32]; N] = [&[]; N];
    for (value, (storage, layout)) in values.iter_mut().zip(&guards) {
        match &**storage {
            Storage::Cpu(storage) => *value = slice(storage, layout)?,
            _ => bail!("the layers run on the CPU"),
        }
    }
    work(values)
}

fn back<const N: usize, O: Operation<N>>(
    operation: &O,
    inputs: [&Tensor; N],
    out: &Tensor,
    grad: &Tensor,
) -> Result<[Option<Tensor>; N]> {
    let grad = grad.contiguous()?;
    let gradients = with_values(inputs, |values| {
        with_values([out, &grad], |[out, grad]| Ok(operation.backward(values, out, grad)))
    })?;
    let mut result = [const { None }; N];
    for ((place, gradient), input) in result.iter_mut().zip(gradients).zip(inputs) {
        if let Some(gradient) = gradient {
            *place = Some(Tensor::from_vec(gradient, input.shape(), &Device::Cpu)?);
        }
    }
    Ok(result)
}

impl<O: Operation<1>> CustomOp1 for Adapter<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        run(&self.0, [s], [l])
    }
    fn bwd(&self, a: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [da] = back(&self.0, [a], out, grad)?;
        Ok(da)
    }
}

impl<O: Operation<2>> CustomOp2 for Adapter<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        run(&self.0, [s1, s2], [l1, l2])
    }
    fn bwd(&self, a: &Tensor, b: &Tensor, out: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = back(&self.0, [a, b], out, grad)?;
        Ok((da, db))
    }
}

impl<O: Operation<3>> CustomOp3 for Adapter<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }
    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        run(&self.0, [s1, s2, s3], [l1, l2, l3])
    }
    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = back(&self.0, [a, b, c], out, grad)?;
        Ok((da, db, dc))
    }
}

fn ready(x: &Tensor) -> Result<Tensor> {
    if x.dtype() != DType::F32 {
        bail!("the layers compute in f32, not {:?}", x.dtype());
    }
    x.contiguous()
}

pub(crate) fn apply1(operation: impl Operation<1>, x: &Tensor) -> Result<Tensor> {
    ready(x)?.apply_op1(Adapter(operation))
}

pub(crate) fn apply2(operation: impl Operation<2>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    ready(a)?.apply_op2(&ready(b)?, Adapter(operation))
}

pub(crate) fn apply3(operation: impl Operation<3>, [a, b, c]: [&Tensor; 3]) -> Result<Tensor> {
    ready(a)?.apply_op3(&ready(b)?, &ready(c)?, Adapter(operation))
}

/// The last dimension of a `[rows, columns]` shape, which must be `expected`.
pub(crate) fn columns(name: &str, shape: &Shape, expected: usize) -> Result<usize> {
    match shape.dims() {
        [_, columns] if *columns == expected => Ok(expected),
        _ => bail!("{name}: the input is {shape:?}, expected [rows, {expected}]"),
    }
}
