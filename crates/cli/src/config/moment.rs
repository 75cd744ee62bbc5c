//! Times and durations as CloudQuery's configuration writes them: `${time:7 days ago|2006-01-02}`,
//! `90d`, `1h30m`.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, Timelike, Utc};
use highwater_core::{Error, Instant};

/// The text of `EXPRESSION[|LAYOUT]` at time `now`. The expression is `now`, an RFC 3339 time, a
/// date, a duration (`-24h`) or words (`7 days ago`, `in 2 weeks`); the layout is Go's, RFC 3339
/// by default.
///
/// # Errors
/// `Config` when it is none of these.
pub fn expression(text: &str, now: Instant) -> Result<String, Error> {
    let (moment, layout) = match text.split_once('|') {
        Some((moment, layout)) => (moment, layout),
        None => (text, "2006-01-02T15:04:05Z07:00"),
    };
    let now = DateTime::from_timestamp_micros(now.0).unwrap_or_default();
    let moment = parse(moment, now).ok_or_else(|| {
        Error::config(format!("`{moment}` is no time"))
            .hint("`now`, `2026-01-31`, `2026-01-31T08:00:00Z`, `-24h` and `7 days ago` are")
    })?;
    Ok(format_go(moment, layout))
}

fn parse(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if text == "now" {
        return Some(now);
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(moment.with_timezone(&Utc));
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc());
    }
    let unsigned = text.trim_start_matches(['+', '-']);
    if let Some(micros) = go_duration_micros(unsigned) {
        let step = TimeDelta::microseconds(micros);
        return if text.starts_with('-') {
            now.checked_sub_signed(step)
        } else {
            now.checked_add_signed(step)
        };
    }
    words(text, now)
}

/// `3 days ago`, `1 month 2 weeks from now`, `in 10 minutes`.
fn words(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let (amounts, forward) = if let Some(amounts) = text.strip_suffix(" ago") {
        (amounts, false)
    } else if let Some(amounts) = text.strip_suffix(" from now") {
        (amounts, true)
    } else {
        (text.strip_prefix("in ")?, true)
    };
    let parts: Vec<&str> = amounts.split_whitespace().collect();
    if parts.is_empty() || !parts.len().is_multiple_of(2) {
        return None;
    }
    let mut moment = now;
    for pair in parts.chunks_exact(2) {
        let number: u32 = pair[0].parse().ok()?;
        let seconds = |n: i64| {
            let step = TimeDelta::try_seconds(i64::from(number).checked_mul(n)?)?;
            if forward { moment.checked_add_signed(step) } else { moment.checked_sub_signed(step) }
        };
        let days = |n: u64| {
            let step = Days::new(u64::from(number).checked_mul(n)?);
            if forward { moment.checked_add_days(step) } else { moment.checked_sub_days(step) }
        };
        let months = |n: u32| {
            let step = Months::new(number.checked_mul(n)?);
            if forward { moment.checked_add_months(step) } else { moment.checked_sub_months(step) }
        };
        moment = match pair[1].trim_end_matches('s') {
            "second" => seconds(1),
            "minute" => seconds(60),
            "hour" => seconds(3600),
            "day" => days(1),
            "week" => days(7),
            "month" => months(1),
            "year" => months(12),
            _ => None,
        }?;
    }
    Some(moment)
}

/// A length of time in whole seconds: a number with a unit (`30s`, `10m`, `36h`, `90d`, `2w`),
/// or several (`1h30m`).
pub fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, days) = match text.strip_suffix('d') {
        Some(number) => (number, 1),
        None => (text.strip_suffix('w').unwrap_or(text), 7),
    };
    if let (true, Ok(number)) = (number.len() < text.len(), number.trim().parse::<u64>()) {
        return number.checked_mul(days * 86_400);
    }
    let micros = go_duration_micros(text)?;
    (micros % 1_000_000 == 0).then(|| u64::try_from(micros / 1_000_000).ok())?
}

/// Go's `time.ParseDuration` without a sign, rounded down to microseconds.
fn go_duration_micros(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let micros = match &rest[..unit_len] {
            "ns" => 0.001,
            "us" | "µs" | "μs" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "m" => 6e7,
            "h" => 3.6e9,
            _ => return None,
        };
        total += number * micros;
        rest = &rest[unit_len..];
    }
    // Beyond 2^53 microseconds (285 years) a duration is a slip of the finger.
    (!text.is_empty() && total < 9e15).then_some(total as i64)
}

/// Formats with a layout of Go's `time` package.
fn format_go(moment: DateTime<Utc>, layout: &str) -> String {
    let mut out = String::new();
    let mut rest = layout;
    while !rest.is_empty() {
        match TOKENS.iter().find_map(|(token, format)| Some((rest.strip_prefix(token)?, format))) {
            Some((after, format)) => {
                out.push_str(&format(moment));
                rest = after;
            }
            None => {
                let Some(c) = rest.chars().next() else { break };
                if let Some((text, after)) = fraction(moment, rest) {
                    out.push_str(&text);
                    rest = after;
                } else {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
    }
    out
}

/// `.000` (all digits) and `.999` (without zeros at the end).
fn fraction(moment: DateTime<Utc>, layout: &str) -> Option<(String, &str)> {
    let digits = layout.strip_prefix(['.', ','])?;
    let digit = digits.chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let count = digits.len() - digits.trim_start_matches(digit).len();
    if count > 9 || digits[count..].starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut text = format!("{:09}", moment.nanosecond())[..count].to_owned();
    if digit == '9' {
        text.truncate(text.trim_end_matches('0').len());
    }
    let dot = if text.is_empty() { "" } else { &layout[..1] };
    Some((format!("{dot}{text}"), &digits[count..]))
}

type Format = fn(DateTime<Utc>) -> String;

/// The parts of Go's reference time, longer ones before those they begin with.
const TOKENS: &[(&str, Format)] = &[
    ("2006", |t| format!("{:04}", t.year())),
    ("January", |t| t.format("%B").to_string()),
    ("Jan", |t| t.format("%b").to_string()),
    ("Monday", |t| t.format("%A").to_string()),
    ("Mon", |t| t.format("%a").to_string()),
    ("MST", |_| "UTC".to_owned()),
    ("002", |t| format!("{:03}", t.ordinal())),
    ("01", |t| format!("{:02}", t.month())),
    ("02", |t| format!("{:02}", t.day())),
    ("03", |t| format!("{:02}", t.hour12().1)),
    ("04", |t| format!("{:02}", t.minute())),
    ("05", |t| format!("{:02}", t.second())),
    ("06", |t| format!("{:02}", t.year().rem_euclid(100))),
    ("15", |t| format!("{:02}", t.hour())),
    ("1", |t| t.month().to_string()),
    ("_2", |t| format!("{:2}", t.day())),
    ("2", |t| t.day().to_string()),
    ("3", |t| t.hour12().1.to_string()),
    ("4", |t| t.minute().to_string()),
    ("5", |t| t.second().to_string()),
    ("PM", |t| if t.hour12().0 { "PM" } else { "AM" }.to_owned()),
    ("pm", |t| if t.hour12().0 { "pm" } else { "am" }.to_owned()),
    ("Z07:00", |_| "Z".to_owned()),
    ("Z0700", |_| "Z".to_owned()),
    ("-07:00", |_| "+00:00".to_owned()),
    ("-0700", |_| "+0000".to_owned()),
    ("-07", |_| "+00".to_owned()),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_cloudquery_reads_them() {
        let now = Instant(1_772_538_245_250_000); // 2026-03-03T11:44:05.25Z
        for (text, result) in [
            ("now", "2026-03-03T11:44:05Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026-01-31T08:00:00+02:00", "2026-01-31T06:00:00Z"),
            ("-24h", "2026-03-02T11:44:05Z"),
            ("1h30m", "2026-03-03T13:14:05Z"),
            ("7 days ago", "2026-02-24T11:44:05Z"),
            ("1 month ago", "2026-02-03T11:44:05Z"),
            ("in 2 weeks", "2026-03-17T11:44:05Z"),
            ("1 hour from now", "2026-03-03T12:44:05Z"),
            ("now|2006-01-02", "2026-03-03"),
            ("now|Jan _2, 3:04PM '06 .000 .999", "Mar  3, 11:44AM '26 .250 .25"),
            ("now|20060102150405", "20260303114405"),
        ] {
            assert_eq!(expression(text, now).unwrap(), result, "{text}");
        }
        for text in ["", "yesterday", "7 days", "3 moons ago", "12"] {
            assert!(expression(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(seconds("90d"), Some(7_776_000));
        assert_eq!(seconds("2w"), Some(1_209_600));
        assert_eq!(seconds("10m"), Some(600));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("90"), None);
        assert_eq!(seconds("500ms"), None);
        assert_eq!(seconds("d"), None);
        assert_eq!(seconds("-1h"), None);
    }
}
