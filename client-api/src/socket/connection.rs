//! A connection: waits for whatever happens next, and does what it calls for.

use std::time::Duration;

use hearth_endpoint::{Client, MatrixError};
use hearth_engine::{
    Engine,
    accounts::{self, AuthenticateError},
    presence::{self, Connected, State},
    sync::{self, Feed, FeedRequest},
    tokens::SyncToken,
};
use hyper::upgrade::Upgraded;
use metrics::counter;
use ruma::presence::PresenceState;
use tokio::{
    pin,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    Sockets,
    end::End,
    frames::{self, BadFrame, Frame, SyncFrame},
    limits::Counted,
    line::Line,
    pushes::Pushes,
    requests::{Origin, Requests},
    session::{Session, Turn, admit},
};

/// How long requests under way may take to be answered once the server stops.
const FINISHING: Duration = Duration::from_secs(4);

/// The server asks clients to come back after a time of their own, so that they don't all come at once.
const EARLIEST_RETURN_MS: u64 = 1000;
const RETURN_SPREAD_MS: u64 = 4000;

/// What is known of a connection when it is opened.
#[derive(Debug)]
pub(super) struct Opening {
    pub origin: Origin,
    pub client: Client,
    /// Who it is, where a header told.
    pub session: Option<Session>,
    pub _counted: Counted,
}

struct Connection<'a> {
    sockets: &'a Sockets,
    line: &'a mut Line,
    client: &'a Client,
    session: Session,
    requests: Requests,
    pushes: Pushes,
    connected: Connected<'a>,
}

/// What happens to a connection.
enum Happened {
    Answer(Result<String, End>),
    Woken,
    Time,
    Frame(Result<Utf8Bytes, End>),
    Push(Result<Option<String>, End>),
}

/// Serves a connection until it ends. What is large is boxed, so that one which waits takes little memory.
pub(super) async fn run(sockets: &Sockets, upgraded: Upgraded, opening: Opening) {
    let Opening {
        origin,
        client,
        session,
        _counted,
    } = opening;
    let mut line = Line::new(upgraded, sockets).await;
    let session = match session {
        Some(session) => Ok(session),
        None => Box::pin(introduction(sockets, &mut line, &client)).await,
    };
    let end = match session {
        Ok(session) => {
            let mut connection = Connection {
                // Nobody is to be seen before they say what they want to be seen as.
                connected: presence::connected(&sockets.engine, &session.requester, None),
                sockets,
                line: &mut line,
                client: &client,
                session,
                requests: Requests::new(sockets.router.clone(), origin),
                pushes: Pushes::default(),
            };
            let end = connection.run().await;
            if let End::Shutdown(_) = end {
                Box::pin(connection.finish()).await;
            }
            admit(&sockets.engine, &connection.session.requester, &client);
            end
        }
        Err(end) => end,
    };
    let code = end.frame().map_or(1000, |frame| u16::from(frame.code));
    counter!("hearth_sockets_closed_total", "code" => code.to_string()).increment(1);
    Box::pin(line.close(&end)).await;
}

/// Has the client say who it is.
async fn introduction(sockets: &Sockets, line: &mut Line, client: &Client) -> Result<Session, End> {
    let engine = &sockets.engine;
    let said = async {
        loop {
            let text = line.next().await?;
            match frames::read(&text) {
                Ok(Frame::Auth(token)) => return Ok(token.into_owned()),
                Ok(Frame::Ping(id)) => line.send(frames::pong(id)).await?,
                Ok(_) | Err(_) => return Err(End::Unauthenticated),
            }
        }
    };
    let token = tokio::select! {
        said = timeout(sockets.settings.authentication, said) => said.unwrap_or(Err(End::Unauthenticated))?,
        () = engine.shutdown.cancelled() => return Err(shutdown(engine)),
    };
    let requester = match accounts::authenticate(engine, &token).await {
        Ok(requester) => requester,
        Err(AuthenticateError::Unknown) => return Err(End::LoggedOut),
        Err(AuthenticateError::SoftLoggedOut) => return Err(End::Expired),
        Err(AuthenticateError::Failed(error)) => {
            tracing::warn!(%error, "could not look a token up");
            return Err(End::Failed);
        }
    };
    let user = sockets.limits.of_user(&requester).ok_or(End::TooMany)?;
    admit(engine, &requester, client);
    Ok(Session::new(requester, &token, user))
}

impl Connection<'_> {
    async fn run(&mut self) -> End {
        let engine = &self.sockets.engine;
        let wait = sync::wait(engine, &self.session.requester);
        // Registered from now on: what happened since the client was let in is found out here.
        if let Err(end) = Box::pin(self.session.check(engine)).await {
            return end;
        }
        let woken = wait.woken();
        let timer = sleep_until(self.deadline());
        pin!(woken, timer);
        loop {
            self.pushes.begin(engine, &self.session);
            timer.as_mut().reset(self.deadline());
            let happened = tokio::select! {
                biased;
                () = engine.shutdown.cancelled() => return shutdown(engine),
                answer = self.requests.answered() => Happened::Answer(answer),
                () = woken.as_mut() => {
                    // Made before looking, so that what comes while looking wakes it.
                    woken.set(wait.woken());
                    Happened::Woken
                }
                () = timer.as_mut() => Happened::Time,
                frame = self.line.next() => Happened::Frame(frame),
                push = self.pushes.ready() => Happened::Push(push),
            };
            if let Err(end) = Box::pin(self.take(happened)).await {
                return end;
            }
        }
    }

    /// When something is to be done though nothing happens.
    fn deadline(&self) -> Instant {
        let ping = self.line.deadline();
        let session = self
            .session
            .deadline(&self.sockets.engine, &self.sockets.settings);
        session.map_or(ping, |session| session.min(ping))
    }

    async fn take(&mut self, happened: Happened) -> Result<(), End> {
        match happened {
            Happened::Answer(answer) => self.line.send(answer?).await,
            Happened::Push(push) => match push? {
                Some(push) => self.line.send(push).await,
                None => Ok(()),
            },
            Happened::Frame(frame) => self.hear(&frame?).await,
            Happened::Woken => {
                self.session.check(&self.sockets.engine).await?;
                self.pushes.note_news();
                Ok(())
            }
            Happened::Time => {
                self.line.beat().await?;
                let Sockets { engine, settings, .. } = self.sockets;
                match self.session.turn(engine, settings) {
                    Turn::Nothing => Ok(()),
                    Turn::Warn => self.line.send(frames::auth_needed()).await,
                    Turn::Over => Err(End::Expired),
                }
            }
        }
    }

    /// Serves a frame of the client.
    async fn hear(&mut self, text: &str) -> Result<(), End> {
        admit(&self.sockets.engine, &self.session.requester, self.client);
        let refused = match frames::read(text) {
            Ok(Frame::Ping(id)) => return self.line.send(frames::pong(id)).await,
            Ok(Frame::Auth(token)) => self.renew(&token).await?,
            Ok(Frame::Sync(frame)) => self.sync(frame).await.err(),
            Ok(Frame::Ack(pos)) => self.confirm(&pos).err(),
            Ok(Frame::Request(frame)) => {
                let begun = self.requests.begin(&frame, &self.session.token);
                match begun {
                    Ok(()) => None,
                    Err(error) => return self.line.send(frames::error(Some(frame.id), error)).await,
                }
            }
            Err(BadFrame { error, id }) => return self.line.send(frames::error(id, error)).await,
        };
        match refused {
            Some(error) => self.line.send(frames::error(None, error)).await,
            None => Ok(()),
        }
    }

    /// Takes a fresh token. One that isn't good leaves things as they were.
    async fn renew(&mut self, token: &str) -> Result<Option<MatrixError>, End> {
        match accounts::authenticate(&self.sockets.engine, token).await {
            Ok(requester) if requester.device_nid == self.session.requester.device_nid => {
                self.session.renew(requester, token);
                self.pushes.note_news();
                Ok(None)
            }
            Ok(_) => Err(End::OtherDevice),
            Err(error) => Ok(Some(error.into())),
        }
    }

    /// Begins to push.
    async fn sync(&mut self, frame: SyncFrame) -> Result<(), MatrixError> {
        let (engine, requester) = (&self.sockets.engine, &self.session.requester);
        let request = FeedRequest {
            filter: frame.filter()?,
            since: frame.since,
            use_state_after: frame.use_state_after,
        };
        let state = presence_in(frame.set_presence.as_deref())?;
        let feed = Feed::open(engine, requester, request).await?;
        self.connected.say(state);
        self.pushes.start(feed);
        Ok(())
    }

    fn confirm(&mut self, pos: &str) -> Result<(), MatrixError> {
        let token: SyncToken = pos
            .parse()
            .map_err(|error| MatrixError::invalid_param(format!("`pos`: {error}")))?;
        // One that was confirmed before, or was not sent on this connection, opens nothing.
        if self.pushes.confirm(pos) {
            sync::confirmed(&self.sockets.engine, &self.session.requester, &token);
        }
        Ok(())
    }

    /// Answers what is under way, as far as there is time.
    async fn finish(&mut self) {
        let answer_all = async {
            while !self.requests.is_idle() {
                let answer = self.requests.answered().await?;
                self.line.send(answer).await?;
            }
            Ok::<(), End>(())
        };
        let _ = timeout(FINISHING, answer_all).await;
    }
}

/// What a client says its user is; online, where it says nothing.
fn presence_in(set_presence: Option<&str>) -> Result<State, MatrixError> {
    let state = State::of(&PresenceState::from(set_presence.unwrap_or("online")));
    state.ok_or_else(|| MatrixError::invalid_param("`set_presence` is online, unavailable or offline."))
}

fn shutdown(engine: &Engine) -> End {
    let mut random = [0; 8];
    engine.entropy.fill(&mut random);
    let after_ms = EARLIEST_RETURN_MS + u64::from_le_bytes(random) % RETURN_SPREAD_MS;
    End::Shutdown(Duration::from_millis(after_ms))
}
