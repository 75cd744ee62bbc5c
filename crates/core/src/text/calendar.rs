//! Dates, times of day and intervals as text: arithmetic on days, no allocation per value.
//!
//! Years are astronomical (year 0 exists) and have at least four digits; fractions have as many
//! digits as the unit, so that the texts of one column sort as their values do (years 0 to 9999).

use arrow_schema::TimeUnit;

/// Days before the year 0000-03-01 in the proleptic Gregorian calendar, from 1970-01-01.
const EPOCH_SHIFT: i64 = 719_468;
const DAYS_PER_ERA: i64 = 146_097;
pub(super) const SECONDS_PER_DAY: i64 = 86_400;

/// How many of `unit` are in one second.
pub(super) const fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

const fn fraction_digits(unit: TimeUnit) -> usize {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let shifted = days + EPOCH_SHIFT;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

/// The inverse of [`civil_from_days`]; `None` for a day that is not in the calendar.
fn days_from_civil(year: i64, month: u8, day: u8) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day == 0 || day > month_length {
        return None;
    }
    let (month, day) = (i64::from(month), i64::from(day));
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * DAYS_PER_ERA + day_of_era - EPOCH_SHIFT)
}

/// Writes `value` with at least `width` digits into the tail of a fixed buffer.
fn push_digits(out: &mut String, value: u64, width: usize) {
    let mut buffer = [b'0'; 20];
    let mut at = buffer.len();
    let mut rest = value;
    while rest > 0 || buffer.len() - at < width {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.push_str(std::str::from_utf8(&buffer[at..]).unwrap_or_default());
}

fn two(buffer: &mut [u8], value: u8) {
    buffer[0] = b'0' + value / 10;
    buffer[1] = b'0' + value % 10;
}

/// `2026-11-21`, `-0044-03-15`, `200000-01-01`.
pub(super) fn push_date(out: &mut String, days: i64) {
    let (year, month, day) = civil_from_days(days);
    if year < 0 {
        out.push('-');
    }
    push_digits(out, year.unsigned_abs(), 4);
    let mut buffer = *b"-00-00";
    two(&mut buffer[1..], month);
    two(&mut buffer[4..], day);
    out.push_str(std::str::from_utf8(&buffer).unwrap_or_default());
}

/// `03:04:05.000006` from ticks since midnight; the ticks may be up to 24:00:00.
pub(super) fn push_clock(out: &mut String, ticks: i64, unit: TimeUnit) {
    if ticks < 0 {
        out.push('-');
    }
    let per_second = per_second(unit) as u64;
    let ticks = ticks.unsigned_abs();
    let seconds = ticks / per_second;
    let hours = seconds / 3_600;
    push_digits(out, hours, 2);
    let mut buffer = *b":00:00";
    two(&mut buffer[1..], (seconds / 60 % 60) as u8);
    two(&mut buffer[4..], (seconds % 60) as u8);
    out.push_str(std::str::from_utf8(&buffer).unwrap_or_default());
    if per_second > 1 {
        out.push('.');
        push_digits(out, ticks % per_second, fraction_digits(unit));
    }
}

/// `2026-11-21 03:04:05.000006`.
pub(super) fn push_timestamp(out: &mut String, ticks: i64, unit: TimeUnit) {
    let per_day = SECONDS_PER_DAY * per_second(unit);
    push_date(out, ticks.div_euclid(per_day));
    out.push(' ');
    push_clock(out, ticks.rem_euclid(per_day), unit);
}

/// Reads a text from the front.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    fn two_digits(&mut self) -> Option<u8> {
        match self.0 {
            [a @ b'0'..=b'9', b @ b'0'..=b'9', rest @ ..] => {
                self.0 = rest;
                Some((a - b'0') * 10 + (b - b'0'))
            }
            _ => None,
        }
    }

    /// A run of digits and how many there were.
    fn digits(&mut self) -> Option<(i64, usize)> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let mut value = 0i64;
        for byte in &self.0[..count] {
            value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
        }
        self.0 = &self.0[count..];
        (count > 0).then_some((value, count))
    }

    fn date(&mut self) -> Option<i64> {
        // Nearly every date has this form.
        if let [a, b, c, d, b'-', e, f, b'-', g, h, rest @ ..] = self.0
            && [a, b, c, d, e, f, g, h].into_iter().all(u8::is_ascii_digit)
        {
            self.0 = rest;
            let two = |ten: &u8, one: &u8| (ten - b'0') * 10 + (one - b'0');
            let year = i64::from(two(a, b)) * 100 + i64::from(two(c, d));
            return days_from_civil(year, two(e, f), two(g, h));
        }
        let negative = self.eat(b'-');
        if !negative {
            self.eat(b'+');
        }
        let (year, width) = self.digits()?;
        // Beyond this year no Arrow type has a value.
        if width < 4 || year > 300_000_000_000 {
            return None;
        }
        self.expect(b'-')?;
        let month = self.two_digits()?;
        self.expect(b'-')?;
        let day = self.two_digits()?;
        days_from_civil(if negative { -year } else { year }, month, day)
    }

    /// Digits after a point as ticks of `unit`; digits beyond the unit have to be zeros.
    fn fraction(&mut self, unit: TimeUnit) -> Option<i64> {
        let wanted = fraction_digits(unit);
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        if count == 0 || digits.iter().skip(wanted).any(|b| *b != b'0') {
            return None;
        }
        let mut ticks = 0;
        for place in 0..wanted {
            ticks = ticks * 10 + digits.get(place).map_or(0, |b| i64::from(b - b'0'));
        }
        Some(ticks)
    }

    /// Ticks since midnight; 24:00:00 is the end of the day.
    fn clock(&mut self, unit: TimeUnit) -> Option<i64> {
        let hours = self.two_digits()?;
        self.expect(b':')?;
        let minutes = self.two_digits()?;
        let seconds = if self.eat(b':') { self.two_digits()? } else { 0 };
        let fraction = if self.eat(b'.') { self.fraction(unit)? } else { 0 };
        let whole = i64::from(hours) * 3_600 + i64::from(minutes) * 60 + i64::from(seconds);
        let ticks = whole * per_second(unit) + fraction;
        let fits = minutes < 60 && seconds < 60 && ticks <= SECONDS_PER_DAY * per_second(unit);
        fits.then_some(ticks)
    }

    /// The seconds that a zone is ahead of UTC.
    fn zone(&mut self) -> Option<i64> {
        if self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let west = self.eat(b'-');
        if !west {
            self.expect(b'+')?;
        }
        let mut seconds = i64::from(self.two_digits()?) * 3_600;
        for weight in [60, 1] {
            let separated = self.eat(b':');
            match self.two_digits() {
                Some(part) if part < 60 => seconds += i64::from(part) * weight,
                None if !separated => break,
                _ => return None,
            }
        }
        Some(if west { -seconds } else { seconds })
    }
}

/// Whether `text` is one of the two infinities that have no date: `true` for the later one.
pub(super) fn parse_infinity(text: &str) -> Option<bool> {
    match text {
        "infinity" => Some(true),
        "-infinity" => Some(false),
        _ => None,
    }
}

/// Days since 1970-01-01.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    cursor.0.is_empty().then_some(days)
}

/// Ticks since midnight.
pub(super) fn parse_clock(text: &str, unit: TimeUnit) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let ticks = cursor.clock(unit)?;
    cursor.0.is_empty().then_some(ticks)
}

/// Ticks since the epoch. With `utc` a zone is demanded, without it one is refused.
pub(super) fn parse_timestamp(text: &str, unit: TimeUnit, utc: bool) -> Option<i64> {
    let mut cursor = Cursor(text.as_bytes());
    let days = cursor.date()?;
    if !cursor.eat(b' ') {
        cursor.expect(b'T')?;
    }
    let clock = cursor.clock(unit)?;
    let per_day = SECONDS_PER_DAY * per_second(unit);
    if clock == per_day {
        return None;
    }
    if utc {
        cursor.eat(b' ');
    }
    let ahead = if utc { cursor.zone()? } else { 0 };
    if !cursor.0.is_empty() {
        return None;
    }
    let ticks = i128::from(days) * i128::from(per_day) + i128::from(clock)
        - i128::from(ahead) * i128::from(per_second(unit));
    i64::try_from(ticks).ok()
}

/// Months, days and nanoseconds, each with its own sign.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Span {
    pub(super) months: i64,
    pub(super) days: i64,
    pub(super) nanoseconds: i128,
}

const NANOSECONDS: i128 = 1_000_000_000;

/// ISO 8601 with a sign per part, as PostgreSQL's `iso_8601` style: `P1Y2M-3DT4H5.000006S`.
///
/// Years and months are the months, days the days, hours to seconds the nanoseconds; no part is
/// ever carried into another. Nothing at all is `PT0S`.
pub(super) fn push_span(out: &mut String, span: Span) {
    out.push('P');
    let part = |value: i128, letter: char, out: &mut String| {
        if value != 0 {
            if value < 0 {
                out.push('-');
            }
            push_digits(out, value.unsigned_abs() as u64, 1);
            out.push(letter);
        }
    };
    part((span.months / 12).into(), 'Y', out);
    part((span.months % 12).into(), 'M', out);
    part(span.days.into(), 'D', out);
    if span.nanoseconds == 0 {
        if span == Span::default() {
            out.push_str("T0S");
        }
        return;
    }
    out.push('T');
    let seconds = span.nanoseconds / NANOSECONDS;
    let fraction = (span.nanoseconds % NANOSECONDS).unsigned_abs() as u64;
    part(seconds / 3_600, 'H', out);
    part(seconds / 60 % 60, 'M', out);
    let seconds = seconds % 60;
    if seconds != 0 || fraction != 0 {
        if span.nanoseconds < 0 {
            out.push('-');
        }
        push_digits(out, seconds.unsigned_abs() as u64, 1);
        if fraction != 0 {
            out.push('.');
            let end = out.len();
            push_digits(out, fraction, 9);
            out.truncate(end + out[end..].trim_end_matches('0').len());
        }
        out.push('S');
    }
}

/// Reads what [`push_span`] writes, and weeks, and one sign before the `P` for all parts.
pub(super) fn parse_span(text: &str) -> Option<Span> {
    let mut cursor = Cursor(text.as_bytes());
    let all_negative = cursor.eat(b'-');
    cursor.expect(b'P')?;
    let mut span = Span::default();
    let (mut in_time, mut parts, mut rank_before) = (false, 0, 0);
    while !cursor.0.is_empty() {
        if !in_time && cursor.eat(b'T') {
            in_time = true;
            continue;
        }
        let negative = cursor.eat(b'-') != all_negative;
        let (value, _) = cursor.digits()?;
        let fraction =
            if cursor.eat(b'.') { Some(cursor.fraction(TimeUnit::Nanosecond)?) } else { None };
        let (letter, rest) = cursor.0.split_first()?;
        cursor.0 = rest;
        let sign = if negative { -1 } else { 1 };
        let value = value.checked_mul(sign)?;
        let (rank, seconds) = match (in_time, *letter) {
            (false, b'Y') => (1, 0),
            (false, b'M') => (2, 0),
            (false, b'W') => (3, 0),
            (false, b'D') => (4, 0),
            (true, b'H') => (5, 3_600),
            (true, b'M') => (6, 60),
            (true, b'S') => (7, 1),
            _ => return None,
        };
        if rank <= rank_before || (fraction.is_some() && rank != 7) {
            return None;
        }
        rank_before = rank;
        parts += 1;
        match rank {
            1 => span.months = value.checked_mul(12)?,
            2 => span.months = span.months.checked_add(value)?,
            3 => span.days = value.checked_mul(7)?,
            4 => span.days = span.days.checked_add(value)?,
            _ => {
                span.nanoseconds += i128::from(value) * seconds * NANOSECONDS;
                span.nanoseconds += i128::from(fraction.unwrap_or(0)) * i128::from(sign);
            }
        }
    }
    (parts > 0).then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_eight_centuries_and_the_far_ends_come_back() {
        for days in (-300_000..300_000).chain([i64::from(i32::MIN) + 1, i64::from(i32::MAX) - 1]) {
            let mut text = String::new();
            push_date(&mut text, days);
            assert_eq!(parse_date(&text), Some(days), "{text}");
        }
        let mut text = String::new();
        push_date(&mut text, 0);
        assert_eq!(text, "1970-01-01");
        for wrong in ["2026-02-29", "2026-13-01", "2026-00-01", "2026-01-00", "26-01-01", ""] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
        assert!(parse_date("2000-02-29").is_some() && parse_date("1900-02-29").is_none());
        assert_eq!(parse_date("+200000-01-01"), parse_date("200000-01-01"));
    }

    #[test]
    fn a_zone_is_applied_or_refused() {
        let micro = TimeUnit::Microsecond;
        let at = parse_timestamp("2026-11-21 03:04:05.000006Z", micro, true);
        assert_eq!(at, Some(1_795_230_245_000_006));
        for same in [
            "2026-11-21T03:04:05.000006Z",
            "2026-11-21 05:04:05.000006+02",
            "2026-11-21 08:34:05.000006+05:30",
            "2026-11-20T22:04:05.0000060-0500",
        ] {
            assert_eq!(parse_timestamp(same, micro, true), at, "{same}");
        }
        assert_eq!(parse_timestamp("2026-11-21 03:04:05", micro, true), None);
        assert_eq!(parse_timestamp("2026-11-21 03:04:05Z", micro, false), None);
        assert_eq!(parse_timestamp("2026-11-21 03:04:05.0000065", micro, false), None);
        assert_eq!(parse_timestamp("2026-11-21 24:00:00", micro, false), None);
        assert_eq!(parse_timestamp("2026-11-21 23:60:00", micro, false), None);
    }

    #[test]
    fn the_parts_of_a_span_are_never_carried() {
        let cases = [
            (0, 0, 0, "PT0S"),
            (14, -3, 14_405_000_006_000, "P1Y2M-3DT4H5.000006S"),
            (-1, 0, 0, "P-1M"),
            (0, 400, -500_000_000, "P400DT-0.5S"),
            (0, 0, 86_400_000_000_000, "PT24H"),
            (-13, 1, -3_661_000_000_001, "P-1Y-1M1DT-1H-1M-1.000000001S"),
        ];
        for (months, days, nanoseconds, text) in cases {
            let span = Span { months, days, nanoseconds };
            let mut written = String::new();
            push_span(&mut written, span);
            assert_eq!(written, text);
            assert_eq!(parse_span(text), Some(span), "{text}");
        }
        assert_eq!(parse_span("-P1DT2S"), parse_span("P-1DT-2S"));
        assert_eq!(parse_span("P2W"), parse_span("P14D"));
        for wrong in ["P", "PT", "P1H", "P1D2Y", "PT1.5H", "1D", "P1", "PT1S1S", "P1Dx"] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }
}
