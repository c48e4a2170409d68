//! The layer that lets a call in by its key, before its body is read. `keys.rs` has the rules.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower::{Layer, Service};

use super::files::Followed;
use super::keys::{Keys, Refusal};
use super::seen::KeyName;
use super::status;

/// Puts a [`Door`] before the services; without keys it stands open.
#[derive(Clone)]
pub(super) struct Keyed(pub Option<Followed<Keys>>);

impl<S> Layer<S> for Keyed {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door { inner, keys: self.0.clone() }
    }
}

/// Services behind a door.
#[derive(Clone)]
pub(super) struct Door<S> {
    inner: S,
    keys: Option<Followed<Keys>>,
}

impl<S> Door<S> {
    /// Also leaves the name of the key where the log looks for it.
    fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let Some(keys) = &self.keys else { return Ok(()) };
        let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
        let admitted = keys.now().admit(request.uri().path(), authorization, SystemTime::now());
        let caller = admitted.as_ref().map_or_else(Refusal::caller, Option::as_ref);
        if let (Some(caller), Some(name)) = (caller, request.extensions().get::<KeyName>()) {
            // One call has one key.
            let _ = name.0.set(caller.to_string());
        }
        admitted.map(drop)
    }
}

impl<S, B, R> Service<Request<B>> for Door<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>,
    S::Future: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.admit(&request) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refusal) => Box::pin(ready(Ok(status::refused(&refusal).into_http()))),
        }
    }
}
