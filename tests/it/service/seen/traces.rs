//! Traces as a collector gets them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::service::{CLIP, ask, file, start};

/// A collector that keeps all spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().expect("no panic").extend(spans.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_a_call_with_its_stages_under_the_span_of_its_caller() {
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let service = TraceServiceServer::new(collector.clone());
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let server = start(|settings| settings.traces.endpoint = Some(endpoint)).await;
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let traced = |flags: &str, candidates: &[&str]| {
        let mut request = Request::new(ask(file(CLIP), candidates));
        let context = format!("00-{trace}-{parent}-{flags}").parse().expect("metadata");
        request.metadata_mut().insert("traceparent", context);
        request
    };
    server.answers().answer(traced("01", &["word1"])).await.expect("a choice");
    server.answers().answer(ask(file(CLIP), &[])).await.expect("an answer");
    // Its caller does not want it traced.
    server.answers().answer(traced("00", &["word1"])).await.expect("a choice");
    server.end().await;

    let spans = collector.0.lock().expect("no panic").clone();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let calls: Vec<&Span> = spans.iter().filter(|span| span.name == "vljepa.v1.AnswerService/Answer").collect();
    assert_eq!(calls.len(), 2, "{spans:#?}");
    let inside = calls.iter().find(|call| hex(&call.trace_id) == trace).expect("within the caller's trace");
    assert_eq!(hex(&inside.parent_span_id), parent);
    let own = calls.iter().find(|call| hex(&call.trace_id) != trace).expect("a trace of its own");
    assert!(own.parent_span_id.is_empty());
    for (call, last) in [(inside, "text"), (own, "decoder")] {
        let stages: Vec<&Span> = spans.iter().filter(|span| span.parent_span_id == call.span_id).collect();
        let names: BTreeSet<&str> = stages.iter().map(|span| &*span.name).collect();
        let expected = ["prepare", "tokenize", "decode", "queue", "vision", "predictor", last];
        assert_eq!(names, expected.into_iter().collect());
        for stage in &stages {
            assert_eq!(stage.trace_id, call.trace_id);
            let within = call.start_time_unix_nano..=call.end_time_unix_nano;
            let ends = [stage.start_time_unix_nano, stage.end_time_unix_nano];
            assert!(ends.iter().all(|end| within.contains(end)) && ends[0] <= ends[1], "{stage:?} in {call:?}");
        }
        let begins = |name: &str| stages.iter().find(|span| span.name == name).map(|span| span.start_time_unix_nano);
        let order = ["prepare", "queue", "vision", "predictor", last].map(begins);
        assert!(order.is_sorted(), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_dead_or_deaf_harms_nothing() {
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let deaf = (deaf.local_addr().expect("bound"), deaf);
    for (address, bound) in [("127.0.0.1:1".to_string(), 5), (deaf.0.to_string(), 5)] {
        let server = start(|settings| settings.traces.endpoint = Some(format!("http://{address}"))).await;
        for _ in 0..3 {
            server.answers().answer(ask(file(CLIP), &["word1"])).await.expect("an answer");
        }
        let asked = Instant::now();
        server.end().await;
        assert!(asked.elapsed() < Duration::from_secs(bound), "{address}: {:?}", asked.elapsed());
    }
}
