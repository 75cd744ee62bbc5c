//! Whether a stream of messages has ended or was given up by its caller.
//!
//! The library shows both alike, as an end. They are not: a stream that was given up must not be
//! committed. So the body of each request remembers how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::Request;

/// Set when the caller has given the call up.
#[derive(Debug, Clone, Default)]
pub(super) struct GivenUp(Arc<AtomicBool>);

impl GivenUp {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The request, whose extensions say when its body has broken off.
pub(super) fn watched(mut request: Request<Body>) -> Request<Body> {
    let given_up = GivenUp::default();
    request.extensions_mut().insert(given_up.clone());
    request.map(|body| Body::new(Watched { body, given_up }))
}

struct Watched {
    body: Body,
    given_up: GivenUp,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if matches!(frame, Some(Err(_))) {
            self.given_up.0.store(true, Ordering::SeqCst);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
