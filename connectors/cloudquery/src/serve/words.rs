//! Errors as statuses: what the caller sees.

use highwater_core::{Error, ErrorKind};
use tonic::{Code, Status};

/// The text of a status travels in a header, of which most peers take 8 KiB.
const TEXT_BYTES_MAX: usize = 3000;

/// Message, context, causes, and what to do about it.
pub(super) fn text(error: &Error) -> String {
    let mut text = error.full_message();
    if let Some(hint) = error.hint_text() {
        text.push_str("; hint: ");
        text.push_str(hint);
    }
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The status that says it.
pub(super) fn status(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Config => Code::InvalidArgument,
        // Not the settings' fault: another code, which our host knows again.
        ErrorKind::Data => Code::OutOfRange,
        ErrorKind::Transient => Code::Unavailable,
        ErrorKind::Schema => Code::FailedPrecondition,
        ErrorKind::Fenced => Code::Aborted,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Interrupted => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, text(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_hint_and_stays_within_a_header() {
        let error = Error::schema("It does not fit").context("table", "t").hint("make it fit");
        let status = status(&error);
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "It does not fit (table: t); hint: make it fit");
        assert_eq!(super::status(&Error::data("no number")).code(), Code::OutOfRange);
        assert_eq!(super::status(&Error::config("no key")).code(), Code::InvalidArgument);
        let long = text(&Error::data("ä".repeat(4000)));
        assert!(long.len() < 3010 && long.ends_with('…'));
    }
}
