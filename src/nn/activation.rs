//! The activations of the MLPs, alone and as gates.

use candle_core::{Result, Shape, Tensor, bail};

use super::op::{Gradients, Operation, apply1, apply2};
use crate::kernel::elementwise as kernel;
pub use crate::kernel::elementwise::Activation;

impl Activation {
    /// The activation that a Hugging Face config names `hidden_act`, if we know it.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::GeluErf),
            "gelu_pytorch_tanh" | "gelu_new" => Some(Self::GeluTanh),
            "silu" | "swish" => Some(Self::Silu),
            "relu2" => Some(Self::Relu2),
            _ => None,
        }
    }

    /// `act(x)`, any shape.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        apply1(Activate(self), x)
    }

    /// `act(gate) * up`, both of one shape.
    pub fn gate(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        apply2(Gate(self), gate, up)
    }
}

struct Activate(Activation);

impl Operation<1> for Activate {
    const NAME: &'static str = "activate";

    fn shape(&self, [x]: [&Shape; 1]) -> Result<Shape> {
        Ok(x.clone())
    }

    fn forward(&self, [x]: [&[f32]; 1], out: &mut [f32]) {
        kernel::activate(self.0, x, out);
    }

    fn backward(&self, [x]: [&[f32]; 1], _: &[f32], grad: &[f32]) -> Gradients<1> {
        let mut dx = vec![0.0; x.len()];
        kernel::activate_gradient(self.0, x, grad, &mut dx);
        [Some(dx)]
    }
}

struct Gate(Activation);

impl Operation<2> for Gate {
    const NAME: &'static str = "gate";

    fn shape(&self, [gate, up]: [&Shape; 2]) -> Result<Shape> {
        if gate != up {
            bail!("gate: {gate:?} and {up:?} differ");
        }
        Ok(gate.clone())
    }

    fn forward(&self, [gate, up]: [&[f32]; 2], out: &mut [f32]) {
        kernel::gate(self.0, gate, up, out);
    }

    fn backward(&self, [gate, up]: [&[f32]; 2], _: &[f32], grad: &[f32]) -> Gradients<2> {
        let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; up.len()]);
        kernel::gate_gradient(self.0, (gate, up), grad, (&mut dgate, &mut dup));
        [Some(dgate), Some(dup)]
    }
}
