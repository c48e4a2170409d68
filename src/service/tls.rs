//! TLS: the server's certificate, the authorities of its clients' certificates, and the handshakes of connections.
//!
//! Own handshakes instead of tonic's because tonic reads a certificate once, and a server that can be left alone
//! outlives its certificate. Their time is bounded with the preface's (`connection.preface_max_ms`).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use super::files::{FileError, Followed, text, wrong};
use crate::settings::{Settings, TlsSettings};

/// Connections whose handshake is done and that are not yet taken over.
const SECURED_MAX: usize = 16;

/// What a server needs to speak TLS.
#[derive(Clone)]
pub(super) struct Tls(Followed<ServerConfig>);

impl Tls {
    /// None if no certificate is set.
    pub(super) fn open(settings: &Settings) -> Result<Option<Self>, FileError> {
        let tls = settings.tls.clone();
        let files = [&tls.certificate, &tls.key, &tls.client_ca].into_iter().flatten().cloned().collect();
        let every = Duration::from_millis(settings.keys.reload_ms);
        if tls.certificate.is_none() {
            return Ok(None);
        }
        Followed::open(files, every, move || config(&tls)).map(|config| Some(Self(config)))
    }

    /// The connections of `incoming` after their handshakes; those whose handshake fails are closed.
    pub(super) fn secured<IO, E>(
        self,
        incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    ) -> ReceiverStream<Result<TlsStream<IO>, E>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Send + 'static,
    {
        let (ready, secured) = mpsc::channel(SECURED_MAX);
        tokio::spawn(async move {
            tokio::select! {
                // Nobody takes them any more.
                () = ready.closed() => {}
                () = self.shake_hands(incoming, &ready) => {}
            }
        });
        ReceiverStream::new(secured)
    }

    async fn shake_hands<IO, E>(
        &self,
        incoming: impl Stream<Item = Result<IO, E>>,
        ready: &mpsc::Sender<Result<TlsStream<IO>, E>>,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        E: Send + 'static,
    {
        let mut incoming = std::pin::pin!(incoming);
        // As many as there may be connections.
        let mut handshakes = JoinSet::new();
        loop {
            let next = tokio::select! {
                accepted = incoming.next() => match accepted {
                    Some(Ok(connection)) => {
                        handshakes.spawn(TlsAcceptor::from(self.0.now()).accept(connection));
                        continue;
                    }
                    Some(Err(error)) => Err(error),
                    None => return,
                },
                Some(done) = handshakes.join_next() => match done.map_err(io::Error::other).flatten() {
                    Ok(connection) => Ok(connection),
                    Err(error) => {
                        tracing::debug!(%error, "TLS handshake failed");
                        continue;
                    }
                },
            };
            if ready.send(next).await.is_err() {
                return;
            }
        }
    }
}

/// Reads the files of `tls` and fails at the first that cannot be served with.
pub(super) fn config(tls: &TlsSettings) -> Result<ServerConfig, FileError> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        unreachable!("settings with one of them alone are refused")
    };
    let provider = Arc::new(ring::default_provider());
    let chain = certificates("tls.certificate", certificate)?;
    if let Some(problem) = out_of_time(&chain, provider.clone(), UnixTime::now()) {
        return Err(wrong("tls.certificate", certificate)(&problem));
    }
    let of_key = wrong("tls.key", key);
    let private = PrivateKeyDer::from_pem_slice(text("tls.key", key)?.as_bytes()).map_err(|error| of_key(&error))?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring speaks TLS 1.2 and 1.3");
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(authorities("tls.client_ca", file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong("tls.client_ca", file)(&error))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|error| match error {
        Error::InconsistentKeys(_) => of_key(&format!("is not the key of {}", certificate.display())),
        error => of_key(&error),
    })?;
    // gRPC, and gRPC-Web of clients without HTTP/2.
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    Ok(config)
}

fn certificates(setting: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let wrong = wrong(setting, file);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text(setting, file)?.as_bytes()).collect();
    match chain.map_err(|error| wrong(&error))? {
        chain if chain.is_empty() => Err(wrong(&"has no certificate in PEM")),
        chain => Ok(chain),
    }
}

fn authorities(setting: &'static str, file: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, file)? {
        roots.add(certificate).map_err(|error| wrong(setting, file)(&error))?;
    }
    Ok(roots)
}

/// What a client would say of the certificate's time. Whether it trusts the certificate is its own affair: here its own
/// chain vouches for it, and every other verdict is passed over.
fn out_of_time(chain: &[CertificateDer], provider: Arc<CryptoProvider>, now: UnixTime) -> Option<CertificateError> {
    let mut roots = RootCertStore::empty();
    roots.add(chain.last()?.clone().into_owned()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let name = ServerName::try_from("localhost").expect("a name");
    match verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now) {
        Err(Error::InvalidCertificate(
            verdict @ (CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }),
        )) => Some(verdict),
        _ => None,
    }
}
