//! Traces over OTLP: a span a call, and under it a span a stage, made from the instants of its trail when it has
//! ended.
//!
//! The caller's context comes as W3C metadata. Spans leave in batches on a thread of their own, through a bounded
//! queue that drops what a slow collector does not take; the end of the server waits for it no longer than a bound.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tonic::Code;

use super::call::Told;
use crate::settings::TraceSettings;

/// How long the end of the server waits for the last spans to leave.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// How long one batch may take to leave.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// Tells calls to a collector.
pub(in crate::service) struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl Traces {
    /// None without an endpoint. Fails if it is no address, or the sampler's share no share; the message names the
    /// variable. Must be called within the runtime that it is to use.
    pub fn start(settings: &TraceSettings) -> Result<Option<Self>, String> {
        let endpoint = settings.traces_endpoint.as_ref().or(settings.endpoint.as_ref());
        let disabled = settings.disabled.eq_ignore_ascii_case("true");
        let Some(endpoint) = endpoint.filter(|_| !disabled) else { return Ok(None) };
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let exporter = exporter
            .with_timeout(EXPORT_MAX)
            .build()
            .map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT is {endpoint:?}: {error}"))?;
        let resource = Resource::builder().with_service_name(settings.service_name.clone());
        let resource = resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_sampler(sampler(&settings.sampler, settings.sampler_share.as_deref())?)
            .with_resource(resource.build())
            .with_batch_exporter(Candid { exporter, failing: AtomicBool::new(false) })
            .build();
        let tracer = provider.tracer("vljepa");
        Ok(Some(Self { provider, tracer, propagator: TraceContextPropagator::new() }))
    }

    /// The caller's span, as far as its metadata tells one.
    pub fn parent(&self, headers: &HeaderMap) -> Context {
        self.propagator.extract_with_context(&Context::new(), &Metadata(headers))
    }

    /// Makes the spans of a call; returns the id of its trace if it is told to the collector.
    pub fn tell(&self, call: &Told, known: bool, parent: &Context) -> Option<String> {
        let at = |instant: Instant| call.started_at + instant.saturating_duration_since(call.started);
        let name = if known { call.method.to_owned() } else { "other".into() };
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(call.started_at);
        let mut span = builder.with_attributes(attributes(call)).start_with_context(&self.tracer, parent);
        if !span.is_recording() {
            return None;
        }
        if server_fault(call.code) {
            span.set_status(Status::error(call.message.to_owned()));
        }
        let trace = span.span_context().trace_id().to_string();
        let ended: SystemTime = call.started_at + call.elapsed;
        let inside = Context::new().with_remote_span_context(span.span_context().clone());
        for stage in &call.steps.stages {
            let builder = self.tracer.span_builder(stage.name).with_start_time(at(stage.started));
            builder.start_with_context(&self.tracer, &inside).end_with_timestamp(at(stage.ended));
        }
        span.end_with_timestamp(ended);
        Some(trace)
    }

    /// Sends what has not left yet, and waits for that no longer than a bound.
    pub async fn end(&self) {
        let provider = self.provider.clone();
        let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_MAX)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the last traces did not reach their collector");
        }
    }
}

/// Faults of the server, which a span tells as its own; what the client did wrong is not.
fn server_fault(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

fn attributes(call: &Told) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", call.method.to_owned()),
        KeyValue::new("rpc.response.status_code", name(call.code)),
        KeyValue::new("vljepa.request_id", call.id.to_owned()),
    ];
    if let Some(peer) = call.peer {
        attributes.push(KeyValue::new("client.address", peer.ip().to_string()));
        attributes.push(KeyValue::new("client.port", i64::from(peer.port())));
    }
    if let Some(model) = &call.steps.model {
        attributes.push(KeyValue::new("vljepa.model", model.clone()));
    }
    if let Some(class) = call.steps.class {
        attributes.push(KeyValue::new("vljepa.class", class.name()));
        attributes.push(KeyValue::new("vljepa.cost", call.steps.cost as i64));
    }
    attributes
}

/// The sampler in OpenTelemetry's spelling.
fn sampler(name: &str, share: Option<&str>) -> Result<Sampler, String> {
    if let Some(otherwise) = name.strip_prefix("parentbased_") {
        return Ok(Sampler::ParentBased(Box::new(sampler(otherwise, share)?)));
    }
    let of_all = || match share.map_or(Ok(1.0), str::parse::<f64>) {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(Sampler::TraceIdRatioBased(part)),
        _ => Err(format!("OTEL_TRACES_SAMPLER_ARG is {:?}, must be from 0 to 1", share.unwrap_or_default())),
    };
    match name {
        "always_off" => Ok(Sampler::AlwaysOff),
        "always_on" => Ok(Sampler::AlwaysOn),
        "traceidratio" => of_all(),
        other => {
            Err(format!("OTEL_TRACES_SAMPLER ends in {other:?}, must be one of always_on, always_off, traceidratio"))
        }
    }
}

struct Metadata<'a>(&'a HeaderMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|key| key.as_str()).collect()
    }
}

/// An exporter that logs when the collector is lost, and when it is found again.
#[derive(Debug)]
struct Candid<E> {
    exporter: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Candid<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let outcome = self.exporter.export(batch).await;
        match (&outcome, self.failing.swap(outcome.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "traces do not reach their collector"),
            (Ok(()), true) => tracing::info!("traces reach their collector again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// A status as gRPC writes it.
pub fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
