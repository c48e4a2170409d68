//! The sessions of a server: found by the token that takes one up again, each with one client at a time.
//!
//! A session whose client is gone is kept for a while and goes on with what it has. Whoever holds one has an [`Attached`];
//! when it is dropped the session is left, whatever the way out was. A newer client takes a session over: the older one is
//! told, and the newer one waits until it has let go, so that two never speak for one session. `sessions/roll.rs` has the
//! rules.

mod roll;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use super::session::Session;
use super::spec::Spec;
use crate::engine::{Engine, EngineError, Owner, Trail, seen};
use crate::settings::{Settings, WatchSettings};
use roll::{Full, Key, Roll};

pub use roll::Counted;

/// The setting that bounds how many there are.
const SESSIONS_MAX: &str = "watch.sessions_max";

/// The sessions of a server, each with what its owner keeps beside it. Cheap to clone; all clones are one.
pub struct Sessions<T>(Arc<Inner<T>>);

impl<T> Clone for Sessions<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<T> {
    settings: Settings,
    roll: Mutex<Roll<Arc<Seat<T>>>>,
    /// Somebody has left, so that the next expiry may be another one.
    left: Notify,
}

/// A session with the place of its one client.
struct Seat<T> {
    session: Session,
    about: T,
    /// The number of the newest claim.
    claims: watch::Sender<u64>,
    taken: Arc<tokio::sync::Mutex<()>>,
}

/// What takes a session up again: 128 random bits as 32 hexadecimal digits; a secret.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    fn draw() -> Result<Self, EngineError> {
        let mut random = [0; 16];
        let drawn = OsRng.try_fill_bytes(&mut random);
        drawn.map_err(|error| EngineError::Internal(format!("no random numbers: {error}")))?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(random))))
    }

    /// As its client shows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Key {
        Sha256::digest(&self.0).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A session with whoever holds it; left when dropped.
pub struct Attached<T> {
    seat: Arc<Seat<T>>,
    token: Token,
    claim: Claim<T>,
    _taken: OwnedMutexGuard<()>,
}

/// A wish to hold a session, granted or not; given up when dropped.
struct Claim<T> {
    sessions: Sessions<T>,
    key: Key,
    number: u64,
    claims: watch::Receiver<u64>,
}

impl<T> Claim<T> {
    /// Resolves when somebody else claims the session.
    async fn superseded(&self) {
        // The sender lives with the session, which whoever asks holds.
        drop(self.claims.clone().wait_for(|newest| *newest > self.number).await);
    }
}

impl<T> Drop for Claim<T> {
    fn drop(&mut self) {
        // Dropped after the lock is given back: a session's end may take a moment.
        let gone = self.sessions.roll().leave(&self.key, self.number, Instant::now());
        self.sessions.0.left.notify_one();
        drop(gone);
    }
}

impl<T> Attached<T> {
    /// The session.
    pub fn session(&self) -> &Session {
        &self.seat.session
    }

    /// What its owner keeps beside it.
    pub fn about(&self) -> &T {
        &self.seat.about
    }

    /// What takes it up again.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// Resolves when a newer client wants the session: this one is to be dropped then.
    pub async fn superseded(&self) {
        self.claim.superseded().await;
    }

    /// The session is not kept any longer.
    pub fn end(self) {
        let gone = self.claim.sessions.roll().end(&self.claim.key, self.claim.number);
        drop(gone);
    }
}

/// A place that was taken for a session that begins; given back when dropped.
struct Opening<'a, T>(Option<&'a Sessions<T>>);

impl<T> Drop for Opening<'_, T> {
    fn drop(&mut self) {
        if let Some(sessions) = self.0 {
            sessions.roll().withdraw();
        }
    }
}

impl<T> Sessions<T> {
    /// No sessions yet.
    pub fn new(settings: &Settings) -> Self {
        let WatchSettings { sessions_max, resume_ms, .. } = settings.watch;
        let roll = Mutex::new(Roll::new(sessions_max, Duration::from_millis(resume_ms)));
        Self(Arc::new(Inner { settings: settings.clone(), roll, left: Notify::new() }))
    }

    /// Begins a session of `owner` with `engine`, with `about` beside it. Fails if there are too many, and where
    /// [`Session::start`] does.
    pub async fn open(
        &self,
        engine: Engine,
        spec: Spec,
        trail: Trail,
        owner: Owner,
        about: T,
    ) -> Result<Attached<T>, EngineError> {
        let mut place = self.enter()?;
        let token = Token::draw()?;
        let session = Session::start(engine, spec, &self.0.settings.watch, trail).await?;
        let (claims, taken) = (watch::Sender::new(1), Arc::default());
        let seat = Arc::new(Seat { session, about, claims, taken });
        let guard = seat.taken.clone().try_lock_owned().expect("nobody else knows it");
        let number = self.roll().put(token.key(), seat.clone(), owner);
        place.0 = None;
        let claim = Claim { sessions: self.clone(), key: token.key(), number, claims: seat.claims.subscribe() };
        Ok(Attached { seat, token, claim, _taken: guard })
    }

    /// Takes up the session of `token`, if it is `owner`'s and has not been forgotten; whoever has it is told to let go of
    /// it, and waited for. None if somebody else takes it meanwhile.
    pub async fn resume(&self, token: &str, owner: &Owner) -> Result<Option<Attached<T>>, EngineError> {
        let token = Token(token.into());
        let (seat, claim) = {
            let mut roll = self.roll();
            let claimed = roll.claim(&token.key(), owner, Instant::now());
            // The token is a secret: it is not repeated.
            let gone = || EngineError::Gone { what: "session", name: "of this resume_token".into() };
            let (seat, number) = claimed.ok_or_else(gone)?;
            seat.claims.send_replace(number);
            let claims = seat.claims.subscribe();
            let key = token.key();
            (seat, Claim { sessions: self.clone(), key, number, claims })
        };
        let taken = tokio::select! {
            biased;
            () = claim.superseded() => return Ok(None),
            taken = seat.taken.clone().lock_owned() => taken,
        };
        Ok(Some(Attached { seat, token, claim, _taken: taken }))
    }

    /// How many there are.
    pub fn counted(&self) -> Counted {
        self.roll().counted()
    }

    /// Forgets sessions that nobody takes up again, until `closing` resolves. From then on no session is kept that has no
    /// client.
    pub async fn look_after(self, closing: impl Future<Output = ()>) {
        let mut closing = std::pin::pin!(closing);
        loop {
            let next = self.roll().next_expiry();
            let expiry = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut closing => break,
                () = expiry => {}
                () = self.0.left.notified() => {}
            }
            let forgotten = self.roll().expire(Instant::now());
            drop(forgotten);
        }
        let left = self.roll().close();
        drop(left);
    }

    fn enter(&self) -> Result<Opening<'_, T>, EngineError> {
        let Settings { watch, service, .. } = &self.0.settings;
        if watch.sessions_max == 0 {
            let problem = "is 0: this server takes no sessions".into();
            return Err(EngineError::Unfit { subject: SESSIONS_MAX.into(), problem });
        }
        let entered = self.roll().enter(|seat| seat.session.is_over());
        let gone = entered.map_err(|Full { room_at }| {
            seen::refused("sessions");
            let [least, most] = [service.retry_after_ms, service.retry_after_max_ms].map(Duration::from_millis);
            let wait = room_at.map_or(least, |at| at.saturating_duration_since(Instant::now()));
            let retry_after = wait.min(most).max(least);
            EngineError::Exhausted { limit: SESSIONS_MAX, max: watch.sessions_max as u64, retry_after }
        })?;
        drop(gone);
        Ok(Opening(Some(self)))
    }

    fn roll(&self) -> MutexGuard<'_, Roll<Arc<Seat<T>>>> {
        self.0.roll.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
