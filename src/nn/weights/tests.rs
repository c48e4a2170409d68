//! Faults are gathered, fresh numbers repeat, variables are shared, torn files are refused.

use super::*;

#[test]
fn every_fault_is_in_one_error() {
    let tensor = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).expect("a tensor");
    let weights = Weights::from_tensors(HashMap::from([("a.weight".to_string(), tensor)]), Mode::Infer);
    weights.pp("a").get(&[3, 2], "weight", Init::Zeros);
    weights.pp("a").get(&[3], "bias", Init::Zeros);
    let text = weights.finish().expect_err("two faults").to_string();
    assert!(text.contains("a.weight: the shape is [2, 3], expected [3, 2]"), "{text}");
    assert!(text.contains("a.bias: missing, expected [3]"), "{text}");
    weights.finish().expect("the faults were taken");
}

#[test]
fn faults_name_their_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, b"\x08\0\0\0\0\0\0\0{}      ").expect("written");
    let weights = Weights::open(std::slice::from_ref(&file), Mode::Infer).expect("an empty file of weights");
    weights.pp("a").get(&[3], "bias", Init::Zeros);
    let text = weights.finish().expect_err("a fault").to_string();
    assert!(text.contains(&format!("1 fault(s) in {}:", file.display())), "{text}");
}

#[test]
fn fresh_numbers_depend_on_name_and_seed_only() {
    let values = |weights: &Weights, name: &str| -> Vec<f32> {
        weights.get(&[400], name, Init::Normal(0.5)).to_vec1().expect("a vector")
    };
    let (one, two) = (Weights::fresh(1, Mode::Infer), Weights::fresh(1, Mode::Train));
    let (a, b) = (values(&one, "a"), values(&one, "b"));
    assert_eq!(values(&two, "b"), b);
    assert_eq!(values(&two, "a"), a);
    assert_ne!(a, b);
    assert_ne!(values(&Weights::fresh(2, Mode::Infer), "a"), a);
    assert!(a.iter().all(|v| v.abs() <= 1.0));
    let deviation = (a.iter().map(|v| v * v).sum::<f32>() / 400.0).sqrt();
    assert!((0.36..0.52).contains(&deviation), "{deviation}");
}

#[test]
fn variables_are_found_by_name_and_shared() {
    let weights = Weights::fresh(1, Mode::Train);
    weights.get(&[2], "b", Init::Ones);
    weights.get(&[2], "a", Init::Ones);
    weights.get(&[2], "b", Init::Ones);
    let names: Vec<String> = weights.variables().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn torn_files_are_refused() {
    static TORN: [u8; 20] = *b"\x02\0\0\0\0\0\0\0{}0123456789";
    let error = Weights::from_static(&TORN, Mode::Infer).err().expect("ten bytes too many").to_string();
    assert!(error.contains("not fully covered"), "{error}");
    assert!(Weights::from_static(b"\xff", Mode::Infer).is_err());
}
