//! What the gRPC statuses of a plugin mean.

use highwater_core::{Error, ErrorKind};
use tonic::{Code, Status};

use super::said;

/// How much of a plugin's own message an error shows, in characters.
const MESSAGE_CHARACTERS: usize = 500;
/// What the library for gRPC says of a message above its limit.
const LIMIT: &str = "message length too large";

/// Whether the status was made on our side because the connection broke, or says so.
pub(super) fn is_broken_connection(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

fn too_large(words: &str) -> Error {
    Error::data(format!("A message is too large for the plugin or for us: {words}"))
        .hint("Make the batches smaller, or exclude the column that holds very large values")
}

/// What a status of plugin `name` means to highwater; `mask` hides what is known to be secret.
pub(super) fn status_error(name: &str, status: &Status, mask: impl Fn(&str) -> String) -> Error {
    let words = said(&mask(status.message()), MESSAGE_CHARACTERS);
    let error = match status.code() {
        Code::ResourceExhausted => too_large(&words),
        // Our own library says so of a message above the limit, a plugin of ours of its data.
        Code::OutOfRange if words.contains(LIMIT) => too_large(&words),
        Code::OutOfRange => Error::data(format!("The plugin says: {words}")),
        Code::Unimplemented => Error::unsupported(format!("The plugin cannot do this: {words}")),
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::PermissionDenied => Error::config(format!("The plugin says: {words}")),
        Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => {
            Error::transient(format!("The plugin says: {words}"))
        }
        _ if is_broken_connection(status) => {
            Error::transient(format!("The connection to the plugin is broken: {words}"))
        }
        _ => Error::new(ErrorKind::Internal, format!("The plugin says: {words}")),
    };
    error.context("plugin", name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_status_has_the_kind_that_its_code_means() {
        use ErrorKind::*;
        for (code, kind) in [
            (Code::Unavailable, Transient),
            (Code::DeadlineExceeded, Transient),
            (Code::ResourceExhausted, Data),
            (Code::OutOfRange, Data),
            (Code::Unimplemented, Unsupported),
            (Code::InvalidArgument, Config),
            (Code::FailedPrecondition, Config),
            (Code::Internal, Internal),
            (Code::Unknown, Internal),
        ] {
            let error = status_error("p", &Status::new(code, "no"), str::to_owned);
            assert_eq!(error.kind(), kind, "{code:?}");
            assert_eq!(error.context_value("plugin"), Some("p"));
            assert!(error.message().ends_with(": no"), "{error}");
        }
        let explained = |text: &str| status_error("p", &Status::out_of_range(text), str::to_owned);
        let limit = "Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        let large = explained(limit);
        assert!(large.message().starts_with("A message is too large"), "{large}");
        let other = explained("a number is no number");
        assert_eq!(other.message(), "The plugin says: a number is no number");
        assert!(other.hint_text().is_none(), "{other}");
        let long = status_error("p", &Status::internal("x".repeat(5000)), str::to_owned);
        assert!(long.message().chars().count() < 550);
    }
}
