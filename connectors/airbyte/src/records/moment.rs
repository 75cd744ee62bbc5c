//! Dates and times as connectors write them: ISO 8601 and what comes near it.
//!
//! `T` or a space between date and time, or no time; any number of digits after the seconds; an
//! offset, `Z`, `UTC` or nothing; ` BC` at the end; dates with `-`, `/` or without a separator.
//! Year 0 exists (it is 1 BC).

const MICROS: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS;

/// A date with a time of day, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Days since 1970-01-01.
    pub(super) days: i64,
    /// The time of day.
    pub(super) clock: Clock,
}

/// A time of day, as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Clock {
    /// Microseconds since midnight; 24:00 is one day.
    pub(super) micros: i64,
    /// How far it is ahead of UTC; `None` where nothing says so.
    pub(super) ahead_seconds: Option<i64>,
    /// Whether digits beyond the microseconds were cut off.
    pub(super) cut: bool,
}

impl Moment {
    /// Microseconds since the epoch on the clock on the wall.
    pub(super) fn local(self) -> Option<i64> {
        self.days.checked_mul(MICROS_PER_DAY)?.checked_add(self.clock.micros)
    }

    /// Microseconds since the epoch; without an offset it is UTC.
    pub(super) fn utc(self) -> Option<i64> {
        self.local()?.checked_sub(self.clock.ahead_seconds.unwrap_or(0) * MICROS)
    }
}

impl Clock {
    /// Microseconds since midnight in UTC, on whichever day.
    pub(super) fn utc(self) -> i64 {
        match self.ahead_seconds {
            None | Some(0) => self.micros,
            Some(ahead) => (self.micros - ahead * MICROS).rem_euclid(MICROS_PER_DAY),
        }
    }
}

/// The value of two digits.
#[inline(always)]
fn pair(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens * 10 + ones))
}

/// Days since 1970-01-01 of a day that exists.
#[inline(always)]
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if !(1..=last).contains(&day) {
        return None;
    }
    // The year begins in March, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// `2026-11-21T03:04:05`, and whatever [`clock_end`] takes after it, without detours.
#[inline]
fn usual(text: &[u8]) -> Option<Moment> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b' ', clock @ ..] = head else {
        return None;
    };
    let [h1, h2, b':', n1, n2, b':', s1, s2] = clock else { return None };
    let (hours, minutes, seconds) = (pair(*h1, *h2)?, pair(*n1, *n2)?, pair(*s1, *s2)?);
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let year = pair(*y1, *y2)? * 100 + pair(*y3, *y4)?;
    let days = days(year, pair(*m1, *m2)?, pair(*d1, *d2)?)?;
    let micros = (hours * 3_600 + minutes * 60 + seconds) * MICROS;
    let clock = match rest {
        [] => Clock { micros, ahead_seconds: None, cut: false },
        b"Z" | b"+00:00" => Clock { micros, ahead_seconds: Some(0), cut: false },
        _ => {
            let mut reader = Reader(rest);
            let clock = reader.clock_end(micros)?;
            if !reader.0.is_empty() {
                return None;
            }
            clock
        }
    };
    Some(Moment { days, clock })
}

/// A date and time, or a date alone: its midnight.
pub(super) fn moment(text: &str) -> Option<Moment> {
    usual(text.as_bytes()).or_else(|| unusual(text))
}

#[cold]
fn unusual(text: &str) -> Option<Moment> {
    let text = text.trim();
    let (text, before_christ) = match text.strip_suffix("BC").or_else(|| text.strip_suffix("bc")) {
        Some(rest) => (rest.trim_end(), true),
        None => (text, false),
    };
    let mut reader = Reader(text.as_bytes());
    let days = reader.date(before_christ)?;
    if reader.0.is_empty() {
        return Some(Moment { days, clock: Clock::default() });
    }
    if !(reader.eat(b'T') || reader.eat(b't') || reader.eat(b' ')) {
        return None;
    }
    let clock = reader.clock()?;
    reader.0.is_empty().then_some(Moment { days, clock })
}

/// A time of day; of a date and time, the time.
pub(super) fn clock(text: &str) -> Option<Clock> {
    let mut reader = Reader(text.trim().as_bytes());
    match reader.clock() {
        Some(clock) if reader.0.is_empty() => Some(clock),
        _ => moment(text).filter(|_| text.contains(':')).map(|moment| moment.clock),
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn two(&mut self) -> Option<i64> {
        let ([tens, ones], rest) = self.0.split_first_chunk::<2>()?;
        let value = pair(*tens, *ones)?;
        self.0 = rest;
        Some(value)
    }

    fn date(&mut self, before_christ: bool) -> Option<i64> {
        let negative = self.eat(b'-');
        let signed = negative || self.eat(b'+');
        let mut year_digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if year_digits == 8 && !signed {
            year_digits = 4;
        }
        if !(4..=6).contains(&year_digits) {
            return None;
        }
        let (digits, rest) = self.0.split_at(year_digits);
        self.0 = rest;
        let mut year = digits.iter().fold(0, |year, digit| year * 10 + i64::from(digit - b'0'));
        let separator = [b'-', b'/'].into_iter().find(|byte| self.eat(*byte));
        let month = self.two()?;
        if separator.is_some_and(|byte| !self.eat(byte)) {
            return None;
        }
        let day = self.two()?;
        match (before_christ, negative) {
            (true, false) if year > 0 => year = 1 - year,
            (true, _) => return None,
            (false, true) => year = -year,
            (false, false) => {}
        }
        days(year, month, day)
    }

    fn clock(&mut self) -> Option<Clock> {
        let hours = self.two()?;
        let separated = self.eat(b':');
        let minutes = self.two()?;
        let seconds = match (separated, self.0.first()) {
            (true, Some(b':')) => {
                self.eat(b':');
                self.two()?
            }
            (false, Some(b'0'..=b'9')) => self.two()?,
            _ => 0,
        };
        // A leap second is the first second of the next minute.
        let whole = hours * 3_600 + minutes * 60 + seconds;
        if minutes > 59 || seconds > 60 || whole > 86_400 {
            return None;
        }
        let clock = self.clock_end(whole * MICROS)?;
        (clock.micros <= MICROS_PER_DAY).then_some(clock)
    }

    /// Digits after the point, and the offset.
    fn clock_end(&mut self, micros: i64) -> Option<Clock> {
        let mut clock = Clock { micros, ahead_seconds: None, cut: false };
        if self.eat(b'.') || self.eat(b',') {
            let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if count == 0 {
                return None;
            }
            let (digits, rest) = self.0.split_at(count);
            self.0 = rest;
            let mut weight = MICROS / 10;
            for digit in digits {
                clock.micros += i64::from(digit - b'0') * weight;
                clock.cut |= weight == 0 && *digit != b'0';
                weight /= 10;
            }
        }
        clock.ahead_seconds = self.offset()?;
        Some(clock)
    }

    fn offset(&mut self) -> Option<Option<i64>> {
        if self.0.is_empty() {
            return Some(None);
        }
        self.eat(b' ');
        for name in [&b"Z"[..], b"z", b"UTC", b"GMT"] {
            if self.0 == name {
                self.0 = &[];
                return Some(Some(0));
            }
        }
        let west = self.eat(b'-');
        if !west && !self.eat(b'+') {
            return None;
        }
        let mut seconds = self.two()? * 3_600;
        for weight in [60, 1] {
            if self.0.is_empty() {
                break;
            }
            self.eat(b':');
            let part = self.two()?;
            if part > 59 {
                return None;
            }
            seconds += part * weight;
        }
        (seconds < 86_400).then_some(Some(if west { -seconds } else { seconds }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn utc(text: &str) -> Option<i64> {
        moment(text)?.utc()
    }

    #[test]
    fn one_instant_in_many_spellings() {
        let at = Some(1_795_230_245_000_006);
        for same in [
            "2026-11-21T03:04:05.000006Z",
            "2026-11-21 03:04:05.000006",
            "2026-11-21 03:04:05.000006000+00:00",
            "2026-11-21 05:04:05.000006+02",
            "2026-11-21T08:34:05,000006+05:30",
            "2026-11-20T22:04:05.000006 -0500",
            "2026/11/21 03:04:05.000006 UTC",
            "20261121T030405.000006Z",
            " 2026-11-21t03:04:05.000006z ",
            "+002026-11-21T03:04:05.000006+00:00:00",
        ] {
            assert_eq!(utc(same), at, "{same}");
        }
        let local = moment("2026-11-21T05:04:05.000006+02:00").unwrap().local();
        assert_eq!(local, at.map(|at| at + 7_200 * MICROS));
    }

    #[test]
    fn ends_of_days_and_of_time() {
        assert_eq!(utc("2026-11-21T24:00:00Z"), utc("2026-11-22T00:00:00Z"));
        assert_eq!(utc("2026-11-21T24:00"), utc("2026-11-22"));
        assert_eq!(utc("2016-12-31T23:59:60Z"), utc("2017-01-01T00:00:00Z"));
        assert_eq!(utc("0001-01-01 BC"), utc("0000-01-01"));
        assert_eq!(utc("0044-03-15T12:00:00Z BC"), utc("-0043-03-15T12:00:00Z"));
        assert_eq!(utc("0000-03-01").unwrap() - utc("0000-02-28").unwrap(), 2 * MICROS_PER_DAY);
        assert_eq!(moment("9999-12-31").unwrap().days, 2_932_896);
        assert_eq!(moment("1970-01-01").unwrap().days, 0);
        assert_eq!(utc("999999-12-31"), None);
        for year in [1, 4, 100, 400, 1900, 2000, 2024, 2100] {
            let start = moment(&format!("{year:04}-01-01")).unwrap().days;
            let next = moment(&format!("{:04}-01-01", year + 1)).unwrap().days;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            assert_eq!(next - start, if leap { 366 } else { 365 }, "{year}");
        }
    }

    #[test]
    fn digits_beyond_microseconds_are_cut_and_said() {
        let cut = |text: &str| moment(text).unwrap().clock.cut;
        assert!(!cut("2026-11-21T03:04:05.123456Z") && !cut("2026-11-21T03:04:05.123456000"));
        assert!(cut("2026-11-21T03:04:05.1234561Z") && cut("2026-11-21T03:04:05.0000000001"));
        assert_eq!(utc("2026-11-21T03:04:05.1234569Z"), utc("2026-11-21T03:04:05.123456Z"));
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for wrong in [
            "",
            "x",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-11-21T",
            "2026-11-21T25:00:00",
            "2026-11-21T24:00:01",
            "2026-11-21T03:60:00",
            "2026-11-21T03:04:61",
            "26-11-21",
            "2026-11-21T03:04:05.Z",
            "2026-11-21T03:04:05+24:00",
            "2026-11-21T03:04:05X",
            "2026-11-21T03:04:05Z ",
            "2026-11-2103:04:05",
            "2026-11/21",
            "-0044-03-15 BC",
            "0000-01-01 BC",
            "2026-11-21T03:04:05+02:",
            "1795230245",
            "２026-11-21",
            "2026-11-21Z",
        ] {
            let expected = wrong.ends_with("Z ");
            assert_eq!(moment(wrong).is_some(), expected, "{wrong}");
        }
    }

    #[test]
    fn times_of_day() {
        let micros = |text: &str| clock(text).map(|clock| clock.micros);
        assert_eq!(micros("03:04:05.000006"), Some(11_045_000_006));
        assert_eq!(micros("03:04"), Some(11_040_000_000));
        assert_eq!(micros("24:00:00"), Some(MICROS_PER_DAY));
        assert_eq!(micros("2026-11-21T03:04:05Z"), Some(11_045_000_000));
        assert_eq!(clock("00:30:00+02:00").unwrap().utc(), 22 * 3_600 * MICROS + 1_800 * MICROS);
        for wrong in ["", "3:04", "25:00", "24:00:01", "2026-11-21", "03:04:05+99"] {
            assert_eq!(micros(wrong), None, "{wrong}");
        }
    }
}
