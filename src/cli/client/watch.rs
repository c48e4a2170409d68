//! A live session as the command holds it, wherever it is: in this process or on a server. Both take the same inputs and
//! tell the same events; a call that breaks is taken up again, and nobody here hears of it.
//!
//! `conversation` is what is said over one session on a server, without the calls; `convert` the words it is said in.

mod conversation;
mod convert;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use self::conversation::{Conversation, Heard};
use super::{Caller, SourceArgs, connect, refused};
use crate::cli::start_engine;
use crate::engine::{Engine, Trail};
use crate::service::proto;
use crate::service::proto::watch_service_client::WatchServiceClient;
use crate::settings::{Settings, WatchSettings};
use crate::watch::{Ended, Input, Numbered, Session, Spec};

/// Messages that are on their way to a server's connection.
const SENDING_MAX: usize = 4;
/// Events that nobody has asked for yet.
const EVENTS_MAX: usize = 64;
/// First and longest time between two attempts to take a session up again.
const ATTEMPT_AFTER: Duration = Duration::from_millis(100);
const ATTEMPT_AFTER_MAX: Duration = Duration::from_secs(5);
/// How long it is attempted; a server keeps a session for a minute unless it is told otherwise.
const ATTEMPTS_MAX: Duration = Duration::from_secs(90);
/// How long a server may take to answer that a call has begun.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the status is waited for that follows the last event.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Where sessions are held.
pub(in crate::cli) enum Sessions {
    /// In this process.
    Here(Engine, WatchSettings),
    /// On the server at this address.
    There(Box<Server>),
}

/// A server and how it is called.
#[derive(Clone)]
pub(in crate::cli) struct Server {
    address: String,
    settings: Settings,
    caller: Caller,
}

impl SourceArgs {
    /// Where the sessions are that these options ask for.
    pub(in crate::cli) fn sessions(&self, settings: &Settings) -> anyhow::Result<Sessions> {
        Ok(match &self.server {
            Some(address) => {
                let caller = Caller::new(ANSWER, &settings.client)?;
                let server = Server { address: address.clone(), settings: settings.clone(), caller };
                Sessions::There(Box::new(server))
            }
            None => Sessions::Here(start_engine(&self.bundle, settings.clone())?.0, settings.watch.clone()),
        })
    }
}

impl Sessions {
    /// Starts one; `want_embeddings` says whether a server sends the values of embeddings, which are always there
    /// otherwise.
    pub async fn start(&self, spec: Spec, want_embeddings: bool) -> anyhow::Result<(Sender, Events)> {
        match self {
            Self::Here(engine, bounds) => {
                let session = Session::start(engine.clone(), spec, bounds, Trail::default()).await?;
                Ok((Sender::Here(session.clone()), Events::Here { session, after: 0 }))
            }
            Self::There(server) => {
                let conversation = Conversation::new(convert::start(&spec, want_embeddings));
                let (inputs, input) = mpsc::channel(1);
                let (event, events) = mpsc::channel(EVENTS_MAX);
                let mut speaker = Speaker { server: (**server).clone(), conversation, input: Some(input), event };
                // What cannot be started is told at once.
                let call = speaker.dial().await?;
                tokio::spawn(speaker.run(call));
                Ok((Sender::There(inputs), Events::There(events)))
            }
        }
    }
}

/// The end at which a session takes inputs.
pub(in crate::cli) enum Sender {
    Here(Session),
    There(mpsc::Sender<Input>),
}

impl Sender {
    /// Sends, waiting while there is no room.
    pub async fn send(&self, input: Input) -> Result<(), Ended> {
        match self {
            Self::Here(session) => session.send(input).await,
            Self::There(inputs) => inputs.send(input).await.map_err(|_| Ended),
        }
    }
}

/// The end at which it tells what happens.
pub(in crate::cli) enum Events {
    Here { session: Session, after: u64 },
    There(mpsc::Receiver<anyhow::Result<Arc<Numbered>>>),
}

impl Events {
    /// The next event; none: nothing follows. The ones before it need not be kept any more. May be given up and asked
    /// again.
    pub async fn next(&mut self) -> anyhow::Result<Option<Arc<Numbered>>> {
        match self {
            Self::Here { session, after } => {
                session.acknowledge(*after);
                let next = session.next(*after).await;
                *after = next.as_ref().map_or(*after, |event| event.number);
                Ok(next)
            }
            Self::There(events) => events.recv().await.transpose(),
        }
    }
}

/// Holds the conversation with a server, over as many calls as it takes.
struct Speaker {
    server: Server,
    conversation: Conversation,
    /// None when no more will come.
    input: Option<mpsc::Receiver<Input>>,
    event: mpsc::Sender<anyhow::Result<Arc<Numbered>>>,
}

/// A call that has begun.
struct Call {
    outgoing: mpsc::Sender<proto::WatchRequest>,
    incoming: Streaming<proto::WatchResponse>,
}

/// How a call ended.
enum Hung {
    /// Everything has been told.
    Up,
    /// In the midst of it; why.
    Broken(anyhow::Error),
}

impl Speaker {
    /// Begins a call, whose first message has been sent then.
    async fn dial(&mut self) -> anyhow::Result<Call> {
        let channel = connect(&self.server.address, &self.server.settings.client).await?;
        let bytes_max = self.server.settings.service.message_bytes_max;
        let mut client = WatchServiceClient::new(channel).max_decoding_message_size(bytes_max);
        let (outgoing, messages) = mpsc::channel(SENDING_MAX);
        outgoing.try_send(self.conversation.begin()).context("no room for the first message")?;
        // It lasts as long as the stream does: no deadline.
        let request = self.server.caller.lasting(ReceiverStream::new(messages));
        let answer = tokio::time::timeout(ANSWER, client.watch(request)).await;
        let incoming = answer.context("server: no answer to the call")?.map_err(Refused)?.into_inner();
        Ok(Call { outgoing, incoming })
    }

    /// Goes on until everything is told or nobody listens.
    async fn run(mut self, first: Call) {
        let mut call = Some(first);
        let mut broken: Option<(Instant, Duration)> = None;
        loop {
            let began = self.conversation.begun();
            let outcome = match call.take() {
                Some(call) => self.converse(call).await,
                None => match self.dial().await {
                    Ok(call) => self.converse(call).await,
                    Err(error) => after(error),
                },
            };
            let error = match outcome {
                Ok(Hung::Up) => return,
                Ok(Hung::Broken(error)) => error,
                Err(error) => return self.give_up(error).await,
            };
            // Where it was taken up since, patience begins anew.
            if self.conversation.begun() > began {
                broken = None;
            }
            let (since, pause) = *broken.get_or_insert((Instant::now(), ATTEMPT_AFTER));
            if !self.conversation.can_resume() || since.elapsed() + pause > ATTEMPTS_MAX {
                return self.give_up(error).await;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.event.closed() => return,
            }
            broken = Some((since, (2 * pause).min(ATTEMPT_AFTER_MAX)));
        }
    }

    async fn give_up(&self, error: anyhow::Error) {
        // Whoever does not listen does not miss it.
        let _ = self.event.send(Err(error)).await;
    }

    /// One call, as far as it goes. Fails where another one would end in the same way.
    async fn converse(&mut self, mut call: Call) -> anyhow::Result<Hung> {
        loop {
            let wants_input = self.conversation.wants_input();
            let taking = async {
                match &mut self.input {
                    Some(input) if wants_input => input.recv().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                // Reading goes before sending: what is heard may forbid it.
                biased;
                room = self.event.reserve(), if self.conversation.tells() => match room {
                    Ok(room) => if let Some(event) = self.conversation.tell() {
                        let last = matches!(event.event, crate::watch::Event::Finished(_));
                        room.send(Ok(event));
                        if last {
                            return Ok(Hung::Up);
                        }
                    },
                    Err(_) => return Ok(Hung::Up),
                },
                heard = call.incoming.message(), if !self.conversation.tells() => match heard {
                    Ok(Some(message)) => match self.conversation.hear(message)? {
                        Heard::Word => {}
                        Heard::Last(mut finished) => {
                            finished.error = finished.error.or(last_word(&mut call.incoming).await);
                            self.conversation.finish(finished);
                        }
                    },
                    Ok(None) => return Ok(Hung::Broken(anyhow!("the server ended the call before the session"))),
                    Err(status) => return after(Refused(status).into()),
                },
                room = call.outgoing.reserve(), if self.conversation.speaks() => match room {
                    Ok(room) => if let Some(message) = self.conversation.speak() {
                        room.send(message);
                    },
                    // The call is over; its status comes by the other direction.
                    Err(_) => match call.incoming.message().await {
                        Err(status) => return after(Refused(status).into()),
                        Ok(Some(message)) => {
                            self.conversation.hear(message)?;
                        }
                        Ok(None) => return Ok(Hung::Broken(anyhow!("the server does not listen any more"))),
                    },
                },
                taken = taking => match taken {
                    Some(input) => self.conversation.take(input),
                    // Nobody sends any more: as if they had said so.
                    None => {
                        self.input = None;
                        self.conversation.take(Input::Stop);
                    }
                },
                () = self.event.closed() => return Ok(Hung::Up),
            }
        }
    }
}

/// The status that follows the last event, if it is none of success.
async fn last_word(incoming: &mut Streaming<proto::WatchResponse>) -> Option<crate::engine::EngineError> {
    match tokio::time::timeout(LAST_WORD, incoming.message()).await {
        Ok(Err(status)) => Some(convert::fault("server", format!("{:?}: {}", status.code(), status.message()))),
        Ok(Ok(_)) | Err(_) => None,
    }
}

/// A server's refusal, in a person's words.
#[derive(Debug)]
struct Refused(Status);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        refused(&self.0).fmt(f)
    }
}

impl std::error::Error for Refused {}

/// What is to be done about a call that failed: a refusal stays one, all else may pass. What the transport says of a torn
/// connection comes as one of these codes.
fn after(error: anyhow::Error) -> anyhow::Result<Hung> {
    const PASSING: [Code; 4] = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
    match error.downcast_ref::<Refused>() {
        Some(Refused(status)) if !PASSING.contains(&status.code()) => Err(error),
        _ => Ok(Hung::Broken(error)),
    }
}
