//! AdamW over named variables, with groups, global-norm clipping and a state that can be saved.
//!
//! Written here because candle's own cannot save its state. It works on plain slices: one pass over each
//! parameter, no tensor temporaries.

use std::collections::HashMap;

use candle_core::{Result, Tensor, Var};

/// What a parameter's update is multiplied by and how strongly it decays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Multiplies the schedule's learning rate; 0 freezes.
    pub rate: f32,
    /// Decoupled weight decay, per unit of learning rate.
    pub decay: f32,
}

/// One trained variable.
pub struct Parameter {
    /// Its full name in the checkpoint.
    pub name: String,
    /// The variable the forward passes read.
    pub var: Var,
    /// Its learning-rate multiplier and decay.
    pub group: Group,
}

/// A gradient a parameter, in the parameters' order; `None` where the loss did not reach.
pub type Gradients = Vec<Option<Vec<f32>>>;

/// AdamW (Loshchilov and Hutter, arXiv 1711.05101): decay is not part of the gradient.
pub struct AdamW {
    parameters: Vec<Parameter>,
    first: Vec<Vec<f32>>,
    second: Vec<Vec<f32>>,
    steps: u64,
    beta1: f32,
    beta2: f32,
}

const EPSILON: f32 = 1e-8;

impl AdamW {
    /// An optimiser with moments of zero.
    pub fn new(parameters: Vec<Parameter>, betas: (f32, f32)) -> AdamW {
        let zeros = || parameters.iter().map(|p| vec![0.0; p.var.elem_count()]).collect();
        AdamW { first: zeros(), second: zeros(), steps: 0, beta1: betas.0, beta2: betas.1, parameters }
    }

    /// The parameters, in the order of the gradients.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Applies one update at `rate`. A parameter without a gradient, or of a frozen group, stays as it is.
    pub fn step(&mut self, gradients: &Gradients, rate: f32) -> Result<()> {
        assert_eq!(gradients.len(), self.parameters.len(), "one gradient a parameter");
        self.steps += 1;
        let steps = self.steps as i32;
        let corrections = (1.0 - self.beta1.powi(steps), 1.0 - self.beta2.powi(steps));
        for (i, parameter) in self.parameters.iter().enumerate() {
            let Some(gradient) = &gradients[i] else { continue };
            let rate = rate * parameter.group.rate;
            if rate == 0.0 {
                continue;
            }
            let shrink = 1.0 - rate * parameter.group.decay;
            let mut values = parameter.var.flatten_all()?.to_vec1::<f32>()?;
            let moments = self.first[i].iter_mut().zip(self.second[i].iter_mut());
            for ((w, &g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
                *m = self.beta1 * *m + (1.0 - self.beta1) * g;
                *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
                let direction = (*m / corrections.0) / ((*v / corrections.1).sqrt() + EPSILON);
                *w = *w * shrink - rate * direction;
            }
            let updated = Tensor::from_vec(values, parameter.var.shape(), parameter.var.device())?;
            parameter.var.set(&updated)?;
        }
        Ok(())
    }

    /// The moments and the step count, as tensors named `first.NAME`, `second.NAME`, `steps`.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for (i, parameter) in self.parameters.iter().enumerate() {
            let (shape, device) = (parameter.var.shape(), parameter.var.device());
            let tensor = |values: &Vec<f32>| Tensor::from_slice(values, shape, device);
            state.insert(format!("first.{}", parameter.name), tensor(&self.first[i])?);
            state.insert(format!("second.{}", parameter.name), tensor(&self.second[i])?);
        }
        let steps = Tensor::new(&[self.steps as i64], &candle_core::Device::Cpu)?;
        state.insert("steps".to_owned(), steps);
        Ok(state)
    }

    /// Takes back what [`AdamW::state`] gave. An error names the first missing or misshapen tensor.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let find = |name: &str| {
            let missing = || candle_core::Error::Msg(format!("the optimiser's state lacks {name}"));
            state.get(name).ok_or_else(missing)
        };
        for (i, parameter) in self.parameters.iter().enumerate() {
            for (moment, slot) in [("first", &mut self.first[i]), ("second", &mut self.second[i])] {
                let name = format!("{moment}.{}", parameter.name);
                let tensor = find(&name)?;
                if tensor.dims() != parameter.var.dims() {
                    let (found, expected) = (tensor.dims(), parameter.var.dims());
                    candle_core::bail!("{name} has shape {found:?}, expected {expected:?}");
                }
                *slot = tensor.flatten_all()?.to_vec1()?;
            }
        }
        self.steps = find("steps")?.to_vec1::<i64>()?[0] as u64;
        Ok(())
    }
}

/// Scales all gradients so that their joint Euclidean norm is at most `bound`; returns the norm before.
pub fn clip_norm(gradients: &mut Gradients, bound: f32) -> f32 {
    let squares = |g: &Vec<f32>| g.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    let norm = gradients.iter().flatten().map(squares).sum::<f64>().sqrt() as f32;
    if norm > bound {
        let scale = bound / norm;
        gradients.iter_mut().flatten().flatten().for_each(|g| *g *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn one(value: f32, group: Group) -> AdamW {
        let var = Var::new(&[value], &Device::Cpu).expect("a scalar");
        AdamW::new(vec![Parameter { name: "w".into(), var, group }], (0.9, 0.99))
    }

    fn value(optimizer: &AdamW) -> f32 {
        optimizer.parameters[0].var.to_vec1::<f32>().expect("one value")[0]
    }

    #[test]
    fn two_steps_as_by_hand() {
        let mut optimizer = one(1.0, Group { rate: 1.0, decay: 0.1 });
        // Step 1: both corrected moments give g/|g| = 1: w = 1 * (1 - 0.01) - 0.1 = 0.89.
        optimizer.step(&vec![Some(vec![0.5])], 0.1).expect("a step");
        assert!((value(&optimizer) - 0.89).abs() < 1e-6);
        // Step 2, g = -1: m = .9*.05 - .1 = -.055, /.19 = -.289474; v = .99*.0025 + .01 = .012475,
        // /.0199 = .626884, root .791760; w = .89 * .99 + .1 * .365608 = .917661.
        optimizer.step(&vec![Some(vec![-1.0])], 0.1).expect("a step");
        assert!((value(&optimizer) - 0.917_661).abs() < 1e-5, "{}", value(&optimizer));
    }

    #[test]
    fn no_gradient_and_a_frozen_group_change_nothing() {
        let mut optimizer = one(1.0, Group { rate: 1.0, decay: 0.5 });
        optimizer.step(&vec![None], 0.1).expect("a step");
        assert_eq!(value(&optimizer), 1.0);
        let mut frozen = one(1.0, Group { rate: 0.0, decay: 0.5 });
        frozen.step(&vec![Some(vec![3.0])], 0.1).expect("a step");
        assert_eq!(value(&frozen), 1.0);
    }

    #[test]
    fn restored_state_continues_bit_for_bit() {
        let group = Group { rate: 0.5, decay: 0.01 };
        let (mut whole, mut before) = (one(0.3, group), one(0.3, group));
        for g in [0.7, -0.2, 0.1] {
            whole.step(&vec![Some(vec![g])], 0.05).expect("a step");
        }
        before.step(&vec![Some(vec![0.7])], 0.05).expect("a step");
        let mut after = one(value(&before), group);
        after.restore(&before.state().expect("a state")).expect("the same names");
        for g in [-0.2, 0.1] {
            after.step(&vec![Some(vec![g])], 0.05).expect("a step");
        }
        assert_eq!(value(&whole).to_bits(), value(&after).to_bits());
        let error = after.restore(&HashMap::new()).expect_err("nothing to restore from");
        assert!(error.to_string().contains("first.w"), "{error}");
    }

    #[test]
    fn clipping_bounds_the_joint_norm() {
        let mut gradients = vec![Some(vec![3.0]), None, Some(vec![0.0, 4.0])];
        assert_eq!(clip_norm(&mut gradients, 1.0), 5.0);
        assert_eq!(gradients, vec![Some(vec![0.6]), None, Some(vec![0.0, 0.8])]);
        assert_eq!(clip_norm(&mut gradients, 2.0), 1.0);
    }
}
