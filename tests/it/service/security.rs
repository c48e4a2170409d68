//! TLS, client certificates and keys, with certificates made here: who is let in, who is not, and what either is told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;
use vljepa::service::keys::{NewKey, Scope};
use vljepa::service::proto::embedding_service_client::EmbeddingServiceClient;
use vljepa::service::proto::media_service_client::MediaServiceClient;
use vljepa::service::proto::model_service_client::ModelServiceClient;
use vljepa::service::proto::{self, DeleteMediaRequest, EncodeTextRequest, ListModelsRequest};
use vljepa::service::proto::{UploadMediaRequest, upload_media_request};
use vljepa::service::{ServeError, check_files, serve};
use vljepa::settings::Settings;

use super::wire::{ByHand, closed};
use super::{CLIP, Running, ask as question, start};

/// An authority, and what it signed: a server's certificate and a client's, as files in a folder.
struct Papers {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Papers {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let authority = parameters.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
        let papers = Self { folder, issuer: Issuer::new(parameters, key) };
        papers.sign("server", 2099);
        papers.sign("client", 2099);
        papers
    }

    /// Writes NAME.pem, good until the beginning of `year`, and NAME.key.
    fn sign(&self, name: &str, year: i32) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut parameters = CertificateParams::new(names).expect("names");
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("written");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).expect("written before")
    }

    fn set(&self, settings: &mut Settings) {
        (settings.tls.certificate, settings.tls.key) = (Some(self.path("server.pem")), Some(self.path("server.key")));
    }

    /// A client that trusts this authority.
    fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.text("ca.pem")))
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(self.text("client.pem"), self.text("client.key"))
    }
}

/// Connects with TLS and asks how the server is.
async fn ask(server: &Running, tls: ClientTlsConfig) -> Result<Channel, Box<dyn std::error::Error>> {
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address))?.tls_config(tls)?;
    let channel = endpoint.timeout(Duration::from_secs(5)).connect().await?;
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await?;
    Ok(channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_whom_it_should_and_plain_text_does_not_hurt_it() {
    let (papers, strangers) = (Papers::new("ours"), Papers::new("theirs"));
    let server = start(|settings| papers.set(settings)).await;
    let channel = ask(&server, papers.client()).await.expect("it trusts the authority");
    let request = EncodeTextRequest { texts: vec!["word1".into()], ..Default::default() };
    let encoded = EmbeddingServiceClient::new(channel).encode_text(request).await.expect("an answer").into_inner();
    assert_eq!(encoded.results.len(), 1);
    ask(&server, strangers.client()).await.expect_err("it trusts another authority");

    // Plain gRPC, plain HTTP, noise: each is refused, and the server goes on.
    server.embeddings().encode_text(EncodeTextRequest::default()).await.expect_err("plain text");
    for noise in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xff, 0xff, 1], &[0; 64]]
    {
        let mut socket = TcpStream::connect(server.address).await.expect("it listens");
        socket.write_all(noise).await.expect("written");
        socket.shutdown().await.expect("written");
        let mut heard = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut heard)).await;
        assert!(end.is_ok() && !heard.starts_with(b"HTTP"), "{noise:?}: {heard:?}");
    }
    ask(&server, papers.client()).await.expect("it still serves");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_of_clients_only_its_clients_are_served() {
    let (papers, strangers) = (Papers::new("ours"), Papers::new("theirs"));
    let server = start(|settings| {
        papers.set(settings);
        settings.tls.client_ca = Some(papers.path("ca.pem"));
    })
    .await;
    ask(&server, papers.client()).await.expect_err("no certificate");
    ask(&server, papers.client().identity(strangers.identity())).await.expect_err("of another authority");
    papers.sign("client", 2002);
    ask(&server, papers.client().identity(papers.identity())).await.expect_err("expired");
    papers.sign("client", 2099);
    ask(&server, papers.client().identity(papers.identity())).await.expect("of the authority");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_without_a_restart_and_a_torn_one_is_not() {
    let (papers, next) = (Papers::new("ours"), Papers::new("next"));
    let server = start(|settings| {
        papers.set(settings);
        settings.keys.reload_ms = 20;
    })
    .await;
    let old = papers.client();
    ask(&server, old.clone()).await.expect("the first certificate");
    std::fs::write(papers.path("server.pem"), "torn").expect("written");
    tokio::time::sleep(Duration::from_millis(200)).await;
    ask(&server, old.clone()).await.expect("what was read before stays");
    for file in ["server.key", "server.pem"] {
        std::fs::copy(next.path(file), papers.path(file)).expect("copied");
    }
    let mut renewed = false;
    for _ in 0..250 {
        renewed = ask(&server, next.client()).await.is_ok();
        if renewed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(renewed, "the next certificate is served");
    ask(&server, old).await.expect_err("the first one no longer is");
    server.end().await;
}

/// What a server with these settings says before it serves anything.
fn refused(set: impl FnOnce(&mut Settings)) -> String {
    let mut settings = Settings::default();
    set(&mut settings);
    check_files(&settings).expect_err("it cannot be served with").to_string()
}

#[test]
fn files_that_cannot_be_served_with_are_named_at_the_start() {
    let (papers, strangers) = (Papers::new("ours"), Papers::new("theirs"));
    papers.sign("expired", 2002);
    let named = |setting: &str, file: &str| format!("{setting}: {}: ", papers.path(file).display());
    let certificate = |file: &str| {
        refused(|settings| {
            papers.set(settings);
            settings.tls.certificate = Some(papers.path(file));
        })
    };
    for (file, told) in [
        ("missing.pem", "No such file"),
        ("server.key", "has no certificate in PEM"),
        ("expired.pem", "certificate expired"),
    ] {
        let error = certificate(file);
        assert!(error.starts_with(&named("tls.certificate", file)) && error.contains(told), "{error}");
    }
    let key = |path: PathBuf| {
        refused(|settings| {
            papers.set(settings);
            settings.tls.key = Some(path);
        })
    };
    let error = key(strangers.path("server.key"));
    assert!(error.contains("is not the key of ") && error.contains("server.pem"), "{error}");
    let error = key(papers.path("server.pem"));
    assert!(error.starts_with(&named("tls.key", "server.pem")), "{error}");
    let error = refused(|settings| {
        papers.set(settings);
        settings.tls.client_ca = Some(papers.path("client.key"));
    });
    assert!(error.starts_with(&named("tls.client_ca", "client.key")), "{error}");
    let error = refused(|settings| settings.keys.file = Some(papers.path("server.pem")));
    assert!(error.starts_with(&named("keys.file", "server.pem")) && error.contains("line 1: "), "{error}");
}

/// Writes a file of keys, and returns their tokens.
fn write_keys<const N: usize>(file: &Path, keys: [(&str, &[Scope], Option<&str>); N]) -> [String; N] {
    let keys = keys.map(|(name, scopes, expires)| NewKey::draw(name, scopes, expires).expect("a key"));
    let blocks: String = keys.iter().map(|key| &*key.block).collect();
    std::fs::write(file, blocks).expect("written");
    keys.map(|key| key.token)
}

fn with_key<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: AsciiMetadataValue = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", value);
    request
}

async fn encode(server: &Running, token: &str) -> Result<(), Status> {
    let request = EncodeTextRequest { texts: vec!["word1".into()], ..Default::default() };
    server.embeddings().encode_text(with_key(request, token)).await.map(drop)
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("a reason").reason
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_what_their_scopes_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    let [camera, dashboard, old] = write_keys(
        &file,
        [
            ("camera", &[Scope::Predict], None),
            ("dashboard", &[Scope::Models], Some("2099-01-01")),
            ("old", &[Scope::Predict], Some("2001-01-01")),
        ],
    );
    let server = start(|settings| settings.keys.file = Some(file)).await;

    encode(&server, &camera).await.expect("its scope");
    let mut models = ModelServiceClient::new(server.channel.clone());
    models.list_models(with_key(ListModelsRequest::default(), &dashboard)).await.expect("its scope");
    let status = encode(&server, &dashboard).await.expect_err("another scope");
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "key dashboard has no scope predict"));
    assert_eq!(status.get_details_error_info().expect("details").metadata["scope"], "predict");

    let none = server.embeddings().encode_text(EncodeTextRequest::default()).await.expect_err("no key");
    for (status, because) in [
        (none, "KEY_MISSING"),
        (encode(&server, &camera[..camera.len() - 1]).await.expect_err("shortened"), "KEY_UNKNOWN"),
        (encode(&server, "").await.expect_err("empty"), "KEY_UNKNOWN"),
        (encode(&server, &old).await.expect_err("expired"), "KEY_EXPIRED"),
    ] {
        assert_eq!((status.code(), &*reason(&status)), (Code::Unauthenticated, because), "{status:?}");
    }
    HealthClient::new(server.channel.clone()).check(HealthCheckRequest::default()).await.expect("health needs no key");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_its_keys_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    let scopes: &[Scope] = &[Scope::Predict, Scope::Media];
    let [owner, other] = write_keys(&file, [("owner", scopes, None), ("other", scopes, None)]);
    let server = start(|settings| settings.keys.file = Some(file)).await;
    let mut media = MediaServiceClient::new(server.channel.clone());
    let chunk = UploadMediaRequest { message: Some(upload_media_request::Message::Chunk(CLIP.to_vec())) };
    let upload = media.upload_media(with_key(tokio_stream::once(chunk), &owner)).await.expect("room").into_inner();
    let uploaded = Some(proto::Media { source: Some(proto::media::Source::Upload(upload.name.clone())) });
    let delete = DeleteMediaRequest { name: upload.name };
    let absent = [
        server.answers().answer(with_key(question(uploaded.clone(), &["word1"]), &other)).await.map(drop),
        media.delete_media(with_key(delete.clone(), &other)).await.map(drop),
    ];
    for outcome in absent {
        let status = outcome.expect_err("another's");
        assert_eq!((status.code(), &*reason(&status)), (Code::NotFound, "NAME_UNKNOWN"), "{status}");
    }
    server.answers().answer(with_key(question(uploaded, &["word1"]), &owner)).await.expect("its own");
    media.delete_media(with_key(delete, &owner)).await.expect("its own");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_withdrawn_is_good_for_nothing_soon_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    let [before] = write_keys(&file, [("before", &[Scope::Predict], None)]);
    let path = file.clone();
    let server = start(|settings| (settings.keys.file, settings.keys.reload_ms) = (Some(path), 20)).await;
    encode(&server, &before).await.expect("known");
    // A file that cannot be read lets nobody else in, and nobody out.
    std::fs::write(&file, "[[key]").expect("written");
    tokio::time::sleep(Duration::from_millis(100)).await;
    encode(&server, &before).await.expect("what was read before stays");
    let [after] = write_keys(&file, [("after", &[Scope::Predict], None)]);
    for _ in 0..250 {
        if encode(&server, &before).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(encode(&server, &before).await.expect_err("withdrawn").code(), Code::Unauthenticated);
    encode(&server, &after).await.expect("known");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_the_body() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    write_keys(&file, [("one", &[Scope::Predict], None)]);
    let server = start(|settings| settings.keys.file = Some(file)).await;
    // A stream whose first message never comes.
    let silent = server.embeddings().stream_predict(tokio_stream::pending()).await;
    assert_eq!(silent.expect_err("no key").code(), Code::Unauthenticated);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_shows_no_key_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.toml");
    write_keys(&file, [("one", &[Scope::Predict], None)]);
    let server = start(|settings| {
        (settings.keys.file, settings.connection.preface_max_ms) = (Some(file), 500);
    })
    .await;
    let mut stranger = ByHand::connect(server.address).await;
    stranger.call("/vljepa.v1.EmbeddingService/EncodeText", b"").await;
    // Idle connections of those who have a key are kept for minutes.
    closed(&mut stranger.0).await;
    server.end().await;
}

#[tokio::test]
async fn a_server_does_not_begin_without_its_files() {
    let mut settings = Settings::default();
    settings.keys.file = Some("/nowhere/keys.toml".into());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let outcome = serve(listener, vljepa::engine::Models::new(settings), std::future::pending()).await;
    assert!(matches!(outcome, Err(ServeError::File(_))), "{outcome:?}");
}

fn vljepa(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_vljepa"));
    program.args(arguments).envs(variables.iter().copied()).output().expect("the binary runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_certificate_and_key_and_say_what_is_missing() {
    let papers = Papers::new("ours");
    let made = vljepa(&["key", "new", "me", "--scopes", "predict,models"], &[]);
    let (token, block) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    let token = token.trim();
    let keys = papers.path("keys.toml");
    std::fs::write(&keys, &*block).expect("written");
    let server = start(|settings| {
        papers.set(settings);
        (settings.tls.client_ca, settings.keys.file) = (Some(papers.path("ca.pem")), Some(keys));
    })
    .await;
    let address = format!("https://{}", server.address);
    let [ca, certificate, key] =
        ["ca.pem", "client.pem", "client.key"].map(|file| papers.path(file).to_string_lossy().into_owned());
    let embed = ["embed", "--text", "word1", "--server", &address];
    let ask = |more: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&embed[..], more].concat();
        let output = tokio::task::block_in_place(|| vljepa(&arguments, variables));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let shown = ["--ca", &*ca, "--client-cert", &certificate, "--client-key", &key];
    assert_eq!(ask(&shown, &[("VLJEPA_API_KEY", token)]), (Some(0), String::new()));
    assert_eq!(ask(&[&shown[..], &["--api-key", token]].concat(), &[]), (Some(0), String::new()));
    for (more, variables, told) in [
        (&[][..], &[][..], "error: https needs the server's authorities: --ca FILE\n"),
        (&shown[..2], &[("VLJEPA_API_KEY", token)], "error: "),
        (&shown[..4], &[], "error: client.key is missing: client.certificate is of no use without it\n"),
        (&shown, &[], "error: word1: server: Unauthenticated: a key is needed: "),
        (&shown, &[("VLJEPA_API_KEY", "wrong")], "error: word1: server: Unauthenticated: the key is not known\n"),
    ] {
        let (status, error) = ask(more, variables);
        assert!(status == Some(1) && error.starts_with(told) && !error.contains("wrong"), "{more:?}: {error}");
    }
    server.end().await;

    let effective = vljepa(&["settings", "--json", "--set", "client.api_key=hush"], &[("VLJEPA_API_KEY", "hush")]);
    let effective = String::from_utf8_lossy(&effective.stdout).into_owned();
    assert!(effective.contains("(hidden)") && !effective.contains("hush"), "{effective}");
    let wrong = vljepa(&["key", "new", "me", "--scopes", "all"], &[]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
