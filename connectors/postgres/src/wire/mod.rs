//! Our own reader of PostgreSQL's protocol, for large reads: one buffer, no allocation per row.
//!
//! A [`Session`] logs in and asks the catalog through the driver; a [`CopyOut`] borrows its
//! connection, in the same transaction, and gives it back at the end of the rows. `dial` reaches
//! the server, `stream` is the socket and how the driver lends it, `messages` cuts the bytes.

mod dial;
mod messages;
mod stream;

use std::io;

use highwater_core::{Error, Result};
use tokio::io::AsyncWriteExt;

pub(crate) use dial::{Failure, dial};
use messages::{Incoming, Next, broken};
pub(crate) use stream::Lent;
use stream::Stream;

use crate::refusal::Refusal;
use crate::session::Session;

/// The kinds of messages.
mod kind {
    pub(super) const COPY_OUT: u8 = b'H';
    pub(super) const COPY_DONE: u8 = b'c';
    pub(super) const COMPLETE: u8 = b'C';
    pub(super) const ERROR: u8 = b'E';
    pub(super) const READY: u8 = b'Z';
    pub(super) const NOTICE: u8 = b'N';
    pub(super) const PARAMETER: u8 = b'S';
    pub(super) const NOTIFICATION: u8 = b'A';
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    Copying,
    Ended,
}

/// What is next of a COPY.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// Its next bytes. A server sends a row at a time; long ones come in several pieces.
    Data(&'a [u8]),
    /// [`CopyOut::fill`] has to read more.
    More,
    /// The COPY is complete.
    End,
}

/// A COPY that is being read. Dropped before its end, it closes the connection at once, so that
/// the server ends what it was doing; the session is over then.
pub(crate) struct CopyOut<'a> {
    course: Course<'a>,
    incoming: Incoming,
}

/// How far a COPY is.
struct Course<'a> {
    session: &'a Session,
    action: &'a str,
    /// Until it is given back.
    stream: Option<Stream>,
    state: State,
    refused: Option<Error>,
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        if self.stream.take().is_some() {
            self.session.lent().give_back(None);
        }
    }
}

impl<'a> CopyOut<'a> {
    /// Begins a COPY to the client; `action` completes "could not …". Until its end nothing else
    /// can be done with the session.
    ///
    /// # Errors
    /// As the server's, as [`Session::run`] gives them.
    pub(crate) async fn begin(
        session: &'a Session,
        action: &'a str,
        statement: &str,
    ) -> Result<Self> {
        let lent = session.lent();
        if !lent.is_idle() {
            // Nobody waits for the answer when a prepared statement is closed, for example.
            session.run(action, "").await?;
        }
        let stream = lent.borrow();
        let course = Course { session, action, stream, state: State::Asked, refused: None };
        let mut copy = Self { course, incoming: Incoming::new() };
        copy.course.ask(statement).await?;
        while copy.course.state == State::Asked {
            match copy.next()? {
                Piece::More => copy.fill().await?,
                Piece::Data([]) => {}
                Piece::Data(_) | Piece::End => {
                    return Err(Error::internal("A statement was no COPY to the client"));
                }
            }
        }
        Ok(copy)
    }

    /// Takes what the buffer holds of the COPY.
    ///
    /// # Errors
    /// As the server's: also after rows have come.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Piece<'_>> {
        let course = &mut self.course;
        match self.incoming.next() {
            Ok(Next::Data(piece)) if course.state == State::Copying => Ok(Piece::Data(piece)),
            Ok(Next::More) => Ok(Piece::More),
            Ok(Next::Message(kind, body)) => match course.other(kind, body)? {
                // The next call goes on in the buffer.
                false => Ok(Piece::Data(&[])),
                true => Ok(Piece::End),
            },
            Ok(Next::Data(_)) => Err(course.session.at(broken())),
            Err(error) => Err(course.session.at(error)),
        }
    }

    /// Waits for more bytes.
    ///
    /// # Errors
    /// `Transient` when the connection is lost, or what the server said before it closed it.
    pub(crate) async fn fill(&mut self) -> Result<()> {
        let course = &mut self.course;
        let read = match &mut course.stream {
            Some(stream) => self.incoming.fill(stream).await,
            None => Ok(false),
        };
        let lost = match read {
            Ok(true) => return Ok(()),
            Ok(false) => closed(),
            Err(error) => error,
        };
        // After a refusal that ends the session, its reason tells more.
        Err(course.refused.take().unwrap_or_else(|| course.lost(&lost)))
    }
}

impl Course<'_> {
    async fn ask(&mut self, statement: &str) -> Result<()> {
        let length = u32::try_from(statement.len() + 5)
            .map_err(|_| Error::internal("A statement is too long"))?;
        let mut message = Vec::with_capacity(statement.len() + 6);
        message.push(b'Q');
        message.extend(length.to_be_bytes());
        message.extend(statement.as_bytes());
        message.push(0);
        let Some(stream) = &mut self.stream else { return Err(self.lost(&closed())) };
        let sent = async {
            stream.write_all(&message).await?;
            stream.flush().await
        };
        sent.await.map_err(|error| self.lost(&error))
    }

    /// A message that is no row: few of a COPY are. Says whether it is the end.
    fn other(&mut self, kind: u8, body: &[u8]) -> Result<bool> {
        match (kind, self.state) {
            (kind::COPY_OUT, State::Asked) => self.state = State::Copying,
            (kind::COPY_DONE, State::Copying) => self.state = State::Ended,
            (kind::ERROR, _) => {
                let refused = self.session.refused(self.action, &Refusal::parse(body));
                self.refused.get_or_insert(refused);
            }
            (kind::READY, state) => {
                self.session.lent().give_back(self.stream.take());
                return match self.refused.take() {
                    Some(error) => Err(error),
                    None if state == State::Ended => Ok(true),
                    None => Err(self.session.at(broken())),
                };
            }
            (kind::COMPLETE, State::Ended) => {}
            (kind::NOTICE | kind::PARAMETER | kind::NOTIFICATION, _) => {}
            _ => return Err(self.session.at(broken())),
        }
        Ok(false)
    }

    fn lost(&self, error: &io::Error) -> Error {
        let what = match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => "the connection was closed".to_owned(),
            _ => format!("error communicating with the server: {error}"),
        };
        let action = self.action;
        self.session.at(Error::transient(format!("PostgreSQL: could not {action}: {what}")))
    }
}

fn closed() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}
