//! What browsers need, and what is no gRPC at all: origins, gRPC-Web, content types.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tonic::body::Body;
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::ServeError;

const SENT: [&str; 4] = ["x-grpc-web", "x-user-agent", "grpc-timeout", "traceparent"];
const READ: [&str; 3] = ["grpc-status", "grpc-message", "grpc-status-details-bin"];

/// Lets pages of `origins` call, and no other but those of this very server.
pub(super) fn cors(origins: Option<&str>) -> Result<CorsLayer, ServeError> {
    let names = |names: &'static [&'static str]| names.iter().map(|name| HeaderName::from_static(name));
    Ok(CorsLayer::new()
        .allow_origin(allowed(origins.unwrap_or_default())?)
        .allow_methods([Method::POST])
        .allow_headers(names(&SENT).chain([CONTENT_TYPE, AUTHORIZATION]).collect::<Vec<_>>())
        .expose_headers(names(&READ).collect::<Vec<_>>()))
}

fn allowed(origins: &str) -> Result<AllowOrigin, ServeError> {
    let words = origins.split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut listed = Vec::new();
    for word in words {
        let host = word.strip_prefix("https://").or(word.strip_prefix("http://"));
        match (word, HeaderValue::from_str(word)) {
            ("*", _) => return Ok(AllowOrigin::any()),
            (_, Ok(value)) if host.is_some_and(|host| !host.is_empty() && !host.contains('/')) => listed.push(value),
            _ => return Err(ServeError::Origin(word.into())),
        }
    }
    Ok(AllowOrigin::list(listed))
}

/// Refuses what is not gRPC with 415, as its protocol asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct GrpcOnly;

impl<S> Layer<S> for GrpcOnly {
    type Service = Refusing<S>;

    fn layer(&self, inner: S) -> Refusing<S> {
        Refusing(inner)
    }
}

/// A service that sees nothing but gRPC and gRPC-Web.
#[derive(Debug, Clone)]
pub(super) struct Refusing<S>(S);

impl<S> Service<Request<Body>> for Refusing<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.headers().get(CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes())) {
            return Box::pin(self.0.call(request));
        }
        let mut refusal = Response::new(Body::empty());
        *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Box::pin(async move { Ok(refusal) })
    }
}

fn is_grpc(content_type: &[u8]) -> bool {
    let Some(rest) = content_type.strip_prefix(b"application/grpc") else { return false };
    matches!(rest, b"" | b"-web" | b"-web+proto" | b"-web-text" | b"-web-text+proto" | [b'+' | b';', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_told_apart() {
        for kind in ["", "+proto", "+json", ";charset=utf-8", "-web", "-web+proto", "-web-text", "-web-text+proto"] {
            assert!(is_grpc(format!("application/grpc{kind}").as_bytes()), "{kind}");
        }
        for kind in ["application/grpcx", "application/grpc-web2", "application/json", "text/html", ""] {
            assert!(!is_grpc(kind.as_bytes()), "{kind}");
        }
    }

    #[test]
    fn origins_are_spelt_as_browsers_do() {
        for right in ["", "*", "https://example.org", " http://localhost:8080 , https://a.b ,"] {
            assert!(cors(Some(right)).is_ok(), "{right}");
        }
        for wrong in
            ["example.org", "https://", "https://example.org/", "ftp://example.org", "https://a.b https://c.d\n"]
        {
            let error = cors(Some(wrong)).expect_err(wrong).to_string();
            assert!(error.contains(wrong.trim()) && error.contains("VLJEPA_WEB_ORIGINS"), "{error}");
        }
    }
}
