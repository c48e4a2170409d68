//! Events in Prometheus' words: a call here, batches, stages and refusals in the engine.
//!
//! They go to the `metrics` facade; its recorder is one a process, installed when the first server wants its metrics
//! seen, and servers that share a process share it. States are not recorded but read: `states.rs`.

use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{Unit, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tonic::Code;

use super::call::Method;
use super::traces::name;
use crate::engine::seen;

const CALL: &str = "rpc_server_call_duration_seconds";

/// Bounds of the buckets of all durations: 100 us to 60 s, and what is longer.
const SECONDS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Powers of two up to what a batch may hold by any setting anybody will choose.
fn counts() -> Vec<f64> {
    (0..=20).map(|power| f64::from(1 << power)).collect()
}

/// The recorder of this process; none if another one was installed before, by a program that this server is part of.
pub fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let mut builder = PrometheusBuilder::new().set_buckets(&SECONDS).expect("there are bounds");
        for counted in seen::COUNTED {
            let named = Matcher::Full(counted.into());
            builder = builder.set_buckets_for_metric(named, &counts()).expect("there are bounds");
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        ::metrics::set_global_recorder(recorder).ok()?;
        seen::describe();
        crate::jobs::seen::describe();
        crate::watch::seen::describe();
        describe_histogram!(CALL, Unit::Seconds, "Time from a call's headers to the end of its response");
        Some(handle)
    };
    RECORDER.get_or_init(install).as_ref()
}

/// A call has ended; methods that are not served are told as one.
pub fn called(method: Option<&Method>, code: Code, elapsed: Duration) {
    let (service, method) = match method {
        Some(known) => (known.service.clone(), known.method.clone()),
        None => ("other".into(), "other".into()),
    };
    let labels = [
        ("rpc_service", ::metrics::SharedString::from(service)),
        ("rpc_method", method.into()),
        ("rpc_grpc_status_code", name(code).into()),
    ];
    histogram!(CALL, &labels).record(elapsed.as_secs_f64());
}
