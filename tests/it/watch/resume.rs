//! Sessions that outlive their calls: connections that break anywhere, clients that take over, tokens of others, and what is
//! told again.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use vljepa::service::keys::{NewKey, Scope};
use vljepa::service::proto::watch_request::Message as Asked;
use vljepa::service::proto::watch_response::Message as Told;
use vljepa::service::proto::watch_service_client::WatchServiceClient;
use vljepa::service::proto::{WatchFrame, WatchRequest, WatchResponse, WatchStart};

use super::{Client, Wire, begin, frames, message, resume, timeless, uniform};
use crate::service::{Running, fields, start};

/// Tells the numbers of events apart from all else.
fn numbers(told: &[WatchResponse]) -> Vec<u64> {
    told.iter().map(|one| one.event).filter(|&event| event > 0).collect()
}

/// Sends what is still to come, as there are credits, and reads, until the connection breaks or the session is over: true.
/// Every event must be the next one.
async fn some(client: &mut Client, all: &[WatchFrame], log: &mut Vec<WatchResponse>, chance: &mut ChaCha8Rng) -> bool {
    let mut next = client.started.seq.unwrap_or(0) as usize;
    let mut stopped = false;
    loop {
        while client.credits > 0 && next < all.len() {
            client.credits -= 1;
            client.send(Asked::Frame(all[next].clone())).await;
            next += 1;
        }
        if next == all.len() && !stopped {
            client.send(Asked::Stop(Default::default())).await;
            stopped = true;
        }
        match client.responses.message().await {
            Ok(Some(WatchResponse { message: Some(Told::Credit(more)), .. })) => client.credits += more.frames,
            Ok(Some(told)) => {
                assert_eq!(told.event, log.len() as u64 + 1, "no gap, and nothing twice: {told:?}");
                let over = matches!(told.message, Some(Told::Finished(_)));
                log.push(told);
                if chance.random_bool(0.2) {
                    client.ack(log.len() as u64).await;
                }
                if over {
                    return true;
                }
            }
            Ok(None) => panic!("an end without a last word"),
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_often_the_connection_breaks_nothing_is_lost_and_nothing_comes_twice() {
    // Few credits, so that a session takes many messages; and a stop that was lost is sent again.
    let server = start(|settings| settings.watch.frames_waiting_max = 4).await;
    let all = frames(160);
    let asked = WatchStart { want_embeddings: true, ..uniform() };
    let unbroken = begin(&server.channel, asked.clone()).await.whole(&all).await;
    unbroken.status.as_ref().expect("a good end");
    assert!(unbroken.told.len() > 150, "{}", unbroken.told.len());
    let wire = Wire::to(server.address).await;
    let mut breaks = 0;
    for seed in 0..4 {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let (mut log, mut token): (Vec<WatchResponse>, Option<String>) = (Vec::new(), None);
        loop {
            let channel = wire.channel().await;
            // An ending that comes while the call begins is one, too.
            let cut = Duration::from_micros(chance.random_range(0..40_000));
            let mut session = ChaCha8Rng::seed_from_u64(chance.random());
            let call = async {
                let client = match &token {
                    None => super::open(&channel, asked.clone(), None).await,
                    Some(token) => resume(&channel, token, log.len() as u64).await,
                };
                let Ok(mut client) = client else { return false };
                token = Some(client.started.resume_token.clone());
                some(&mut client, &all, &mut log, &mut session).await
            };
            let breaking = async {
                tokio::time::sleep(cut).await;
                wire.breaks();
                std::future::pending::<()>().await;
            };
            let over = tokio::select! { over = call => over, () = breaking => unreachable!("it waits") };
            if over {
                break;
            }
            breaks += 1;
        }
        assert_eq!(timeless(&log), timeless(&unbroken.told), "seed {seed}");
    }
    println!("{breaks} breaks");
    assert!(breaks > 20, "only {breaks} breaks");
    drop(wire);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_not_repeated_and_what_was_not_is() {
    let server = start(|_| {}).await;
    let wire = Wire::to(server.address).await;
    let mut client = begin(&wire.channel().await, uniform()).await;
    let token = client.started.resume_token.clone();
    assert!(token.len() == 32 && token.bytes().all(|digit| digit.is_ascii_hexdigit()), "{token}");
    for frame in frames(20) {
        client.send(Asked::Frame(frame)).await;
    }
    let told: Vec<_> = {
        let mut told = Vec::new();
        while told.len() < 10 {
            told.push(client.next().await.expect("no error").expect("an event"));
        }
        told
    };
    client.ack(4).await;
    // Read back: the acknowledgement has been read when this is answered.
    client.send(Asked::Flush(Default::default())).await;
    client.until(|one| matches!(&one.message, Some(Told::Decode(event)) if event.trigger == 5).then_some(())).await;
    wire.breaks();
    let refused = async |after| {
        let status = resume(&server.channel, &token, after).await.expect_err("refused");
        (status.code(), fields(&status).join(","))
    };
    let wrong = || (Code::InvalidArgument, "start.resume_after".to_string());
    assert_eq!((refused(3).await, refused(1_000_000).await), (wrong(), wrong()));
    for after in [4, 7] {
        let mut again = resume(&server.channel, &token, after).await.expect("it is kept");
        assert_eq!(again.started.seq, Some(20), "every frame has come");
        let mut repeated = Vec::new();
        while repeated.len() < 10 - after as usize {
            repeated.push(again.next().await.expect("no error").expect("an event"));
        }
        assert_eq!(repeated, told[after as usize..], "word for word");
    }
    assert_eq!(refused(6).await, wrong(), "who took it up after 7 has had 6");
    let last = resume(&server.channel, &token, 7).await.expect("it is kept").finish().await;
    last.status.as_ref().expect("a good end");
    assert_eq!(last.stats().frames, 20);
    assert_eq!(numbers(&last.told).first(), Some(&8));
    // It is over, and still there for whoever has not read its end.
    let end = last.told.last().expect("an end").event;
    let again = resume(&server.channel, &token, end - 1).await.expect("it is kept").finish().await;
    assert_eq!((again.told.len(), again.stats()), (1, last.stats()));
    let nothing = resume(&server.channel, &token, end).await.expect("it is kept").finish().await;
    assert!(nothing.told.is_empty() && nothing.status.is_ok(), "{nothing:?}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_client_takes_over_and_the_older_one_is_told() {
    let server = start(|_| {}).await;
    let mut first = begin(&server.channel, uniform()).await;
    let token = first.started.resume_token.clone();
    for frame in frames(10) {
        first.send(Asked::Frame(frame)).await;
    }
    first.until(|one| (one.event == 3).then_some(())).await;
    let _second = resume(&server.channel, &token, 3).await.expect("it is there");
    let status = loop {
        match first.next().await {
            Ok(told) => assert!(told.is_some(), "it ends with a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted, "{status}");
    // Many at once: one of them has it in the end, the others are told, and the session is whole.
    let mut rivals = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (channel, token) = (server.channel.clone(), token.clone());
        rivals.spawn(async move {
            let mut client = resume(&channel, &token, 3).await.map_err(|status| status.code())?;
            loop {
                match tokio::time::timeout(Duration::from_secs(3), client.next()).await {
                    Ok(Ok(told)) => assert!(told.is_some(), "it ends with a status"),
                    Ok(Err(status)) => return Err(status.code()),
                    // Nobody else wants it.
                    Err(_) => return Ok(client),
                }
            }
        });
    }
    let (kept, lost): (Vec<_>, Vec<_>) = rivals.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((kept.len(), lost.len()), (1, 15));
    assert!(lost.into_iter().all(|one| one.err() == Some(Code::Aborted)));
    let Some(Ok(last)) = kept.into_iter().next() else { panic!("one is kept") };
    let last = last.finish().await;
    assert_eq!(last.stats().frames, 10);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_forgotten_when_nobody_takes_it_up_in_time() {
    let server = start(|settings| settings.watch.resume_ms = 150).await;
    let wire = Wire::to(server.address).await;
    let client = begin(&wire.channel().await, uniform()).await;
    let token = client.started.resume_token.clone();
    tokio::time::sleep(Duration::from_millis(400)).await;
    wire.breaks();
    // While its client was there it was not forgotten.
    let again = resume(&wire.channel().await, &token, 0).await.expect("in time");
    assert_eq!(again.started.seq, None);
    wire.breaks();
    tokio::time::sleep(Duration::from_millis(600)).await;
    for token in [&*token, "", "0", &"f".repeat(32), &"x".repeat(1 << 20)] {
        // Nothing is no token but a beginning without a query.
        let expected = if token.is_empty() { Code::InvalidArgument } else { Code::NotFound };
        let status = resume(&server.channel, token, 0).await.expect_err("it is not there");
        assert_eq!(status.code(), expected, "{status}");
        assert!(token.len() < 32 || !status.message().contains(token), "a secret is not repeated");
    }
    server.end().await;
}

type Keyed =
    WatchServiceClient<InterceptedService<Channel, Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>>>;

fn keyed(server: &Running, token: &str) -> Keyed {
    let bearer: tonic::metadata::AsciiMetadataValue = format!("Bearer {token}").parse().expect("printable");
    let show = move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    };
    WatchServiceClient::with_interceptor(server.channel.clone(), Box::new(show))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_the_key_that_began_the_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = |name, scopes: &[Scope]| NewKey::draw(name, scopes, None).expect("a key");
    let (one, other, less) =
        (new("one", &[Scope::Watch]), new("other", &[Scope::Watch]), new("less", &[Scope::Predict]));
    let file = folder.path().join("keys.toml");
    std::fs::write(&file, [&*one.block, &other.block, &less.block].concat()).expect("written");
    let server = start(|settings| settings.keys.file = Some(file)).await;
    let first = async |client: &mut Keyed, start: WatchStart| {
        let requests = tokio_stream::iter(vec![message(Asked::Start(start))] as Vec<WatchRequest>);
        // It stays open, so that the session does.
        let requests = tokio_stream::StreamExt::chain(requests, tokio_stream::pending());
        let mut responses = client.watch(requests).await?.into_inner();
        match responses.message().await?.and_then(|first| first.message) {
            Some(Told::Started(started)) => Ok::<_, Status>((started, responses)),
            other => panic!("{other:?}"),
        }
    };
    let refused = first(&mut keyed(&server, &less.token), uniform()).await.expect_err("the scope is missing");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let (started, responses) = first(&mut keyed(&server, &one.token), uniform()).await.expect("a session");
    let again = || WatchStart { resume_token: started.resume_token.clone(), ..Default::default() };
    let stolen = first(&mut keyed(&server, &other.token), again()).await.expect_err("it is another's");
    assert_eq!(stolen.code(), Code::NotFound, "{stolen}");
    first(&mut keyed(&server, &one.token), again()).await.expect("it is its own");
    drop(responses);
    server.end().await;
}
