//! Lengths and precisions in types: whether a column takes every value of another one unchanged.
//!
//! PostgreSQL rounds a time to the precision of its column and says nothing, so this is found out
//! before a row is sent.

use arrow_schema::Field;

use crate::dialect::declared;

/// The digits of a second that a time type has where none are named.
const MICROSECONDS: u32 = 6;

/// Whether every value of the type of `wanted` is a value of that of `present`. Types that this
/// cannot compare are left to the server, which refuses what does not fit.
pub(crate) fn holds(wanted: &Field, present: &Field) -> bool {
    match (declared(wanted), declared(present)) {
        (Some(wanted), Some(present)) => type_holds(wanted, present),
        _ => true,
    }
}

fn type_holds(wanted: &str, present: &str) -> bool {
    if wanted == present {
        return true;
    }
    let ((from, from_length), (to, to_length)) = (parts(wanted), parts(present));
    match (kind(&from), kind(&to)) {
        (Kind::Time, Kind::Time) if from == to => {
            from_length.unwrap_or(MICROSECONDS) <= to_length.unwrap_or(MICROSECONDS)
        }
        (Kind::Text, Kind::Text) => match to_length {
            None => true,
            Some(to) => from_length.is_some_and(|from| from <= to),
        },
        // A value of another length is padded; one of the same type is so on both sides.
        (Kind::Padded, Kind::Padded | Kind::Text) => {
            to_length.is_none_or(|to| from_length.unwrap_or(1) <= to)
        }
        (Kind::Text, Kind::Padded) => false,
        (Kind::Bits, Kind::Bits) if to == "bit varying" => {
            to_length.is_none_or(|to| from_length.is_some_and(|from| from <= to))
        }
        (Kind::Bits, Kind::Bits) => from == to && from_length == to_length,
        _ => true,
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    Time,
    Text,
    Padded,
    Bits,
    Other,
}

fn kind(name: &str) -> Kind {
    match name {
        "text" | "character varying" => Kind::Text,
        "character" => Kind::Padded,
        "bit" | "bit varying" => Kind::Bits,
        _ if name.starts_with("time") || name == "interval" => Kind::Time,
        _ => Kind::Other,
    }
}

/// `timestamp(0) without time zone` is `timestamp without time zone` and 0.
fn parts(declared: &str) -> (String, Option<u32>) {
    let declared = declared.trim_end_matches("[]");
    let Some((before, rest)) = declared.split_once('(') else { return (declared.to_owned(), None) };
    let (length, after) = rest.split_once(')').unwrap_or((rest, ""));
    (format!("{}{after}", before.trim_end()), length.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_holds_what_is_not_longer_and_not_finer() {
        for (wanted, present) in [
            ("timestamp(0) without time zone", "timestamp without time zone"),
            ("timestamp(3) with time zone", "timestamp(6) with time zone"),
            ("character varying(3)", "text"),
            ("character varying(3)", "character varying(9)"),
            ("character(3)", "character(9)"),
            ("character(3)", "character varying(3)"),
            ("bit(3)", "bit varying"),
            ("interval(0)", "interval"),
            ("time(0) without time zone[]", "time without time zone[]"),
            ("inet", "text"),
        ] {
            assert!(type_holds(wanted, present), "{wanted} in {present}");
        }
        for (wanted, present) in [
            ("timestamp without time zone", "timestamp(0) without time zone"),
            ("timestamp with time zone", "timestamp(3) with time zone"),
            ("interval", "interval(0)"),
            ("text", "character varying(9)"),
            ("text", "character(9)"),
            ("character varying(9)", "character varying(3)"),
            ("bit varying", "bit(3)"),
            ("bit(3)", "bit(4)"),
        ] {
            assert!(!type_holds(wanted, present), "{wanted} in {present}");
        }
    }
}
