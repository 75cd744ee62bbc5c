//! The byte stream below the protocol, and how it is lent to the driver.
//!
//! The driver logs in and runs all but the large reads. For one of these the stream is taken from
//! it, in the middle of a session and of a transaction, and given back afterwards; meanwhile it
//! waits. That is safe only while nothing is under way: [`Lent`] watches where messages end, and
//! counts questions and answers.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

type Encrypted = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::Stream;

/// A connected socket, encrypted or not. Dropping it closes it.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Encrypted>),
}

macro_rules! inner {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        inner!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// Where in a row of messages a reader stands: each is a byte, a length that counts itself, and a
/// body.
#[derive(Debug, Default)]
struct Position {
    header: [u8; 5],
    header_read: usize,
    body_left: usize,
}

impl Position {
    /// Passes bytes, and calls `each` with the kind of every message that begins there.
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(u8)) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.body_left > 0 {
                let passed = self.body_left.min(bytes.len());
                self.body_left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.header_read] = *first;
            self.header_read += 1;
            bytes = rest;
            if self.header_read == self.header.len() {
                self.header_read = 0;
                let [kind, length @ ..] = self.header;
                self.body_left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                each(kind);
            }
        }
    }

    fn is_between_messages(&self) -> bool {
        self.header_read == 0 && self.body_left == 0
    }
}

/// A stream that the driver uses until it is taken back.
#[derive(Clone)]
pub(crate) struct Lent(Arc<Mutex<Loan>>);

struct Loan {
    place: Where,
    /// The driver's task, where it waits for the stream.
    waiting: Option<Waker>,
    read: Position,
    written: Position,
    /// Questions of the driver that the server has not answered to the end.
    unanswered: i64,
}

enum Where {
    Lent(Stream),
    Taken,
    Lost,
}

/// What ends a question (Query, Sync), and what ends its answer.
const QUERY: u8 = b'Q';
const SYNC: u8 = b'S';
const READY: u8 = b'Z';

impl Lent {
    pub(crate) fn new(stream: Stream) -> Self {
        Self(Arc::new(Mutex::new(Loan {
            place: Where::Lent(stream),
            waiting: None,
            read: Position::default(),
            written: Position::default(),
            unanswered: 0,
        })))
    }

    /// The log-in is done: what is written from now on are messages.
    pub(super) fn is_logged_in(&self) {
        let mut loan = self.lock();
        loan.written = Position::default();
        loan.unanswered = 0;
    }

    /// Whether the server owes no answer.
    pub(super) fn is_idle(&self) -> bool {
        let loan = self.lock();
        loan.unanswered == 0 && loan.written.is_between_messages()
    }

    /// Takes the stream, while the server owes no answer; the driver waits. `None` when the
    /// connection is lost.
    pub(super) fn borrow(&self) -> Option<Stream> {
        let mut loan = self.lock();
        if !loan.read.is_between_messages() || !loan.written.is_between_messages() {
            // The server says something of its own accord: that it ends the session.
            return None;
        }
        match std::mem::replace(&mut loan.place, Where::Taken) {
            Where::Lent(stream) => Some(stream),
            other => {
                loan.place = other;
                None
            }
        }
    }

    /// Gives the stream back, in the state in which it was taken; `None`: it is closed.
    pub(super) fn give_back(&self, stream: Option<Stream>) {
        let mut loan = self.lock();
        loan.place = stream.map_or(Where::Lost, Where::Lent);
        loan.unanswered = 0;
        if let Some(waiting) = loan.waiting.take() {
            waiting.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Loan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loan {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.place {
            Where::Lent(stream) => act(Pin::new(stream), cx),
            Where::Taken => {
                self.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
            Where::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut loan = self.lock();
        let before = buf.filled().len();
        let read = loan.poll(cx, |stream, cx| stream.poll_read(cx, buf));
        let mut answers = 0;
        loan.read.pass(&buf.filled()[before..], |kind| answers += i64::from(kind == READY));
        loan.unanswered -= answers;
        read
    }
}

impl AsyncWrite for Lent {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut loan = self.lock();
        let written = loan.poll(cx, |stream, cx| stream.poll_write(cx, buf));
        if let Poll::Ready(Ok(written)) = written {
            let mut questions = 0;
            let is_question = |kind| matches!(kind, QUERY | SYNC);
            loan.written.pass(&buf[..written], |kind| questions += i64::from(is_question(kind)));
            loan.unanswered += questions;
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

impl TlsStream for Lent {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.lock().place {
            Where::Lent(Stream::Tls(encrypted)) => encrypted.channel_binding(),
            _ => ChannelBinding::none(),
        }
    }
}

/// Tells the driver that the stream is as encrypted as it is going to be.
pub(super) struct AsItIs;

impl TlsConnect<Lent> for AsItIs {
    type Stream = Lent;
    type Error = io::Error;
    type Future = Ready<io::Result<Lent>>;

    fn connect(self, stream: Lent) -> Self::Future {
        ready(Ok(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn the_ends_of_messages_are_seen_wherever_the_bytes_are_cut() {
        // ReadyForQuery, a message without a body, and one of three bytes.
        let bytes = b"Z\0\0\0\x05I1\0\0\0\x04d\0\0\0\x07abc";
        let ends = [0, 6, 11, 19];
        for cut in 0..=bytes.len() {
            let mut position = Position::default();
            let mut kinds = Vec::new();
            position.pass(&bytes[..cut], |kind| kinds.push(kind));
            assert_eq!(position.is_between_messages(), ends.contains(&cut), "cut at {cut}");
            position.pass(&bytes[cut..], |kind| kinds.push(kind));
            assert!(position.is_between_messages());
            assert_eq!(kinds, b"Z1d");
        }
    }

    #[tokio::test]
    async fn the_driver_waits_while_the_stream_is_taken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lent = Lent::new(Stream::Unix(ours));
        let mut driver = lent.clone();
        let asks = tokio::spawn(async move {
            driver.write_all(b"Q\0\0\0\x04").await.unwrap();
            let mut answer = [0; 6];
            driver.read_exact(&mut answer).await.unwrap();
            (driver, answer)
        });
        let mut question = [0; 5];
        theirs.read_exact(&mut question).await.unwrap();
        assert!(!lent.is_idle());
        theirs.write_all(b"Z\0\0\0\x05I").await.unwrap();
        let (mut driver, _) = asks.await.unwrap();
        assert!(lent.is_idle());

        let stream = lent.borrow().unwrap();
        assert!(lent.borrow().is_none());
        let reads = tokio::spawn(async move {
            let mut read = [0; 5];
            driver.read_exact(&mut read).await.map(|_| read)
        });
        // The answer to somebody else's question, and then one for the driver.
        theirs.write_all(b"1").await.unwrap();
        let Stream::Unix(mut raw) = stream else { panic!("a socket file") };
        assert_eq!(raw.read_u8().await.unwrap(), b'1');
        assert!(!reads.is_finished());
        lent.give_back(Some(Stream::Unix(raw)));
        theirs.write_all(b"2\0\0\0\x04").await.unwrap();
        assert_eq!(reads.await.unwrap().unwrap()[0], b'2');
        // In the middle of a message it stays where it is.
        lent.lock().read.pass(b"Z\0", |_| {});
        assert!(lent.borrow().is_none());
    }

    #[tokio::test]
    async fn a_stream_that_does_not_come_back_is_closed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let lent = Lent::new(Stream::Unix(ours));
        let mut driver = lent.clone();
        drop(lent.borrow().unwrap());
        let reads = tokio::spawn(async move { driver.read_u8().await });
        lent.give_back(None);
        assert_eq!(reads.await.unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
    }
}
