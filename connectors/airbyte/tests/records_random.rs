//! Our decoder beside one on `serde_json::Value`: thousands of records in random shapes, and a
//! recorded run of a real source. The seed is fixed.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::io::{BufRead, BufReader};

use arrow_array::RecordBatch;
use highwater_airbyte::records::{Decoder, Kind, Line, Wanted, parse, schema};
use serde_json::{Map, Value, json};

use crate::records::{NULLED, changes, decoder, feed, shown};

/// What a column has to hold, in the words of [`shown`], and what was changed.
type Expected = (Option<String>, Option<&'static str>);

/// What a value becomes, found out the slow way. Knows only what the generator makes.
fn expected(kind: Kind, value: Option<&Value>) -> Expected {
    let nulled = (None, Some(NULLED));
    let kept = |text: String| (Some(text), None);
    let value = match value {
        None | Some(Value::Null) => return (None, None),
        Some(value) => value,
    };
    let numeral = value.as_str().filter(|text| text.parse::<f64>().is_ok_and(f64::is_finite));
    match kind {
        Kind::Text => kept(value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        Kind::Any => kept(value.to_string()),
        Kind::Object if value.is_object() => kept(value.to_string()),
        Kind::Array if value.is_array() => kept(value.to_string()),
        Kind::Boolean => match value.to_string().trim_matches('"') {
            "true" | "1" | "on" => kept("true".to_owned()),
            "false" | "0" => kept("false".to_owned()),
            _ => nulled,
        },
        Kind::Integer => {
            let exact = |number: f64| number.fract() == 0.0 && number.abs() < 9e15;
            match (value.as_i64(), numeral) {
                (Some(number), _) => kept(number.to_string()),
                (None, Some(text)) if text.parse::<f64>().is_ok_and(exact) => {
                    kept((text.parse::<f64>().unwrap() as i64).to_string())
                }
                (None, None) if value.as_f64().is_some_and(exact) => {
                    kept((value.as_f64().unwrap() as i64).to_string())
                }
                _ => nulled,
            }
        }
        Kind::Number => match value.as_f64().or_else(|| numeral?.parse().ok()) {
            Some(number) => kept(format!("{number:?}")),
            None => nulled,
        },
        Kind::TimestampUtc | Kind::Timestamp | Kind::Date => {
            let Some(text) = value.as_str() else { return nulled };
            let zoned = chrono::DateTime::parse_from_rfc3339(text);
            let local = zoned.as_ref().map_or_else(
                |_| text.replace(' ', "T").parse::<chrono::NaiveDateTime>().ok(),
                |zoned| Some(zoned.naive_local()),
            );
            let (Some(local), utc) = (local, zoned.map(|zoned| zoned.naive_utc())) else {
                return nulled;
            };
            match kind {
                Kind::Date => {
                    let days = local.date().signed_duration_since(chrono::NaiveDate::default());
                    let midnight = local.time() == chrono::NaiveTime::MIN;
                    (Some(days.num_days().to_string()), (!midnight).then_some("TRUNCATED"))
                }
                Kind::Timestamp => kept(local.and_utc().timestamp_micros().to_string()),
                _ => kept(utc.unwrap_or(local).and_utc().timestamp_micros().to_string()),
            }
        }
        _ => nulled,
    }
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }

    fn text(&mut self) -> String {
        let signs = [
            'a', 'b', 'z', '0', ' ', '"', '\\', '/', '\n', '\t', '\u{1}', '\u{7f}', 'é', '−', '漢',
            '😀', '{', '}', '[', ']', ',', ':', '\u{ffff}', '\0',
        ];
        let length = if self.one_in(10) { self.roll(70) } else { self.roll(12) };
        (0..length).map(|_| *self.pick(&signs)).collect()
    }

    fn number(&mut self) -> Value {
        let size = self.roll(19);
        let whole = i64::try_from(self.roll(10_u64.pow(u32::try_from(size).unwrap()))).unwrap();
        let double = match self.roll(6) {
            0 => (whole % 1_000_000_000_000_000) as f64 / 8.0,
            1 => self.roll(1_000) as f64 * 1e-7,
            2 => self.roll(1_000) as f64 * 1e200,
            3 => return json!(-whole),
            _ => return json!(whole),
        };
        // serde_json is not exact with all doubles; only what it reads back can be compared.
        let exact = serde_json::from_str::<f64>(&json!(double).to_string()).unwrap() == double;
        if exact { json!(double) } else { json!(whole) }
    }

    fn moment(&mut self) -> String {
        let year = 1 + self.roll(9_998);
        let (month, day, hour) = (1 + self.roll(12), 1 + self.roll(28), self.roll(24));
        let separator = if self.one_in(4) { ' ' } else { 'T' };
        let mut text = format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}");
        write!(text, ":{:02}:{:02}", self.roll(60), self.roll(60)).unwrap();
        let places = usize::try_from(self.roll(7)).unwrap();
        if places > 0 {
            write!(text, ".{:0places$}", self.roll(10_u64.pow(places as u32))).unwrap();
        }
        let zones = ["Z", "+00:00", "", "+05:30", "-08:00", "+14:00"];
        text + *self.pick(&zones)
    }

    /// Mostly a value of the kind.
    fn value(&mut self, kind: Kind) -> Value {
        let words = ["1", "17", "-2.5", "3.0", "on", "x", "", "true", "0", "1e3"];
        let any = match kind {
            _ if self.one_in(12) => return Value::Null,
            _ if self.one_in(6) => self.roll(8),
            Kind::Boolean => 0,
            Kind::Integer | Kind::Number => 1,
            Kind::Text => 2,
            Kind::Date | Kind::Timestamp | Kind::TimestampUtc => 3,
            Kind::Object => 5,
            Kind::Array => 6,
            _ => self.roll(8),
        };
        match any {
            0 => json!(self.one_in(2)),
            1 => self.number(),
            2 => json!(self.text()),
            3 => json!(self.moment()),
            4 => json!(self.pick(&words)),
            5 => {
                let count = self.roll(4);
                let pairs = (0..count).map(|_| (self.text(), self.value(Kind::Any)));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
            6 => {
                let count = self.roll(4);
                (0..count).map(|_| self.value(Kind::Any)).collect()
            }
            _ => Value::Null,
        }
    }

    fn blank(&mut self, out: &mut String, much: bool) {
        while much && self.one_in(4) {
            out.push(*self.pick(&[' ', '\t', '\r']));
        }
    }

    /// Writes a string, some of it in escapes that need not be.
    fn string(&mut self, text: &str, out: &mut String) {
        out.push('"');
        for sign in text.chars() {
            match sign {
                _ if self.one_in(12) => {
                    for unit in sign.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").unwrap();
                    }
                }
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '/' if self.one_in(2) => out.push_str("\\/"),
                '"' | '\\' => out.extend(['\\', sign]),
                _ if sign < ' ' => write!(out, "\\u{:04X}", u32::from(sign)).unwrap(),
                _ => out.push(sign),
            }
        }
        out.push('"');
    }

    fn write(&mut self, value: &Value, much: bool, out: &mut String) {
        match value {
            Value::String(text) => self.string(text, out),
            Value::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { "," } else { "" });
                    self.blank(out, much);
                    self.write(item, much, out);
                    self.blank(out, much);
                }
                out.push(']');
            }
            Value::Object(pairs) => {
                let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                self.object(&pairs, much, out);
            }
            other => write!(out, "{other}").unwrap(),
        }
    }

    fn object(&mut self, pairs: &[(String, Value)], much: bool, out: &mut String) {
        out.push('{');
        for (at, (key, value)) in pairs.iter().enumerate() {
            out.push_str(if at > 0 { "," } else { "" });
            self.blank(out, much);
            self.string(key, out);
            self.blank(out, much);
            out.push(':');
            self.blank(out, much);
            self.write(value, much, out);
            self.blank(out, much);
        }
        out.push('}');
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, usize::try_from(self.roll(at as u64 + 1)).unwrap());
        }
    }
}

const KINDS: [(&str, Kind); 12] = [
    ("id", Kind::Integer),
    ("name", Kind::Text),
    ("näme \"quoted\"", Kind::Text),
    ("score", Kind::Number),
    ("ok", Kind::Boolean),
    ("at", Kind::TimestampUtc),
    ("local", Kind::Timestamp),
    ("day", Kind::Date),
    ("object", Kind::Object),
    ("list", Kind::Array),
    ("any", Kind::Any),
    ("emitted_at", Kind::Integer),
];

fn random_schema() -> Value {
    let at =
        |airbyte: &str| json!({"type": "string", "format": "date-time", "airbyte_type": airbyte});
    let properties = KINDS.iter().map(|(name, kind)| {
        let property = match kind {
            Kind::Integer => json!({"type": "integer"}),
            Kind::Text => json!({"type": "string"}),
            Kind::Number => json!({"type": "number"}),
            Kind::Boolean => json!({"type": "boolean"}),
            Kind::TimestampUtc => at("timestamp_with_timezone"),
            Kind::Timestamp => at("timestamp_without_timezone"),
            Kind::Date => json!({"type": "string", "format": "date"}),
            Kind::Object => json!({"type": "object"}),
            Kind::Array => json!({"type": "array"}),
            _ => json!({}),
        };
        ((*name).to_owned(), property)
    });
    json!({"type": "object", "properties": properties.collect::<Map<_, _>>()})
}

/// A line with a record, in one of very many shapes.
fn random_line(dice: &mut Dice) -> String {
    let mut data: Vec<(String, Value)> =
        KINDS.iter().map(|(name, kind)| ((*name).to_owned(), dice.value(*kind))).collect();
    if dice.one_in(3) {
        data.retain(|_| !dice.one_in(4));
    }
    while dice.one_in(5) {
        let (name, kind) = *dice.pick(&KINDS);
        let name = if dice.one_in(2) { dice.text() } else { name.to_owned() };
        data.push((name, dice.value(kind)));
    }
    if dice.one_in(3) {
        dice.shuffle(&mut data);
    }
    let much = dice.one_in(4);
    let mut object = String::new();
    dice.object(&data, much, &mut object);
    let mut members = vec![
        ("stream", "\"s\"".to_owned()),
        ("data", object),
        ("emitted_at", dice.roll(1 << 40).to_string()),
    ];
    if dice.one_in(3) {
        members.push(("namespace", "\"n\"".to_owned()));
    }
    if dice.one_in(4) {
        members.push(("meta", "{\"changes\":[],\"more\":{}}".to_owned()));
    }
    if dice.one_in(2) {
        dice.shuffle(&mut members);
    }
    let members: Vec<String> =
        members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    let mut outer =
        vec!["\"type\":\"RECORD\"".to_owned(), format!("\"record\":{{{}}}", members.join(","))];
    if dice.one_in(4) {
        dice.shuffle(&mut outer);
    }
    format!("{{{}}}", outer.join(","))
}

/// Compares a batch with what `lines` say; JSON texts by what they mean.
fn compare(lines: &[String], batch: &RecordBatch, columns: &[(&str, Kind)]) {
    for (row, line) in lines.iter().enumerate() {
        let message: Value = serde_json::from_str(line).unwrap();
        let data = &message["record"]["data"];
        let mut changed = Vec::new();
        for (name, kind) in columns {
            let (value, change) = expected(*kind, data.get(*name));
            let found = shown(batch, name, row);
            let means = |text: &Option<String>| {
                text.as_deref().map(serde_json::from_str::<Value>).map(Result::unwrap)
            };
            let as_json = matches!(kind, Kind::Any | Kind::Object | Kind::Array)
                || (*kind == Kind::Text && data[*name].is_object() | data[*name].is_array());
            if as_json {
                assert_eq!(means(&found), means(&value), "{name} of {line}");
            } else {
                assert_eq!(found, value, "{name} of {line}");
            }
            changed.extend(change.map(|change| ((*name).to_owned(), change.to_owned())));
        }
        let mut listed = changes(batch, row);
        listed.sort();
        changed.sort();
        assert_eq!(listed, changed, "{line}");
    }
}

#[test]
fn random_records_are_read_as_serde_json_reads_them() {
    let mut dice = Dice(0x5EED);
    let mut decoder = decoder(&random_schema());
    for _ in 0..60 {
        let lines: Vec<String> = (0..200).map(|_| random_line(&mut dice)).collect();
        lines.iter().for_each(|line| feed(&mut decoder, line));
        compare(&lines, &decoder.finish().unwrap(), &KINDS);
    }
    assert!(decoder.unknown().count() == 101 && decoder.changed().count() > 5);
}

/// No prefix and no changed byte of a record panics, and what is left behind does no harm.
#[test]
fn mutilated_records_are_errors_or_records() {
    let mut dice = Dice(7);
    let mut decoder = decoder(&random_schema());
    let (mut read, mut refused) = (0, 0);
    for _ in 0..3_000 {
        let mut line = random_line(&mut dice).into_bytes();
        let place = usize::try_from(dice.roll(line.len() as u64)).unwrap();
        match dice.roll(4) {
            0 => line.truncate(place),
            1 => drop(line.remove(place)),
            2 => line[place] = u8::try_from(dice.roll(256)).unwrap(),
            _ => line.insert(place, *dice.pick(b"{}[]\",:\\ x0n")),
        }
        let rows = decoder.rows();
        let outcome = parse(&line, 1).and_then(|line| match line {
            Line::Record(record) => decoder.append(&record).map(|()| true),
            Line::Other | Line::NotJson => Ok(false),
        });
        let valid = serde_json::from_slice::<Value>(&line).is_ok();
        match outcome {
            Ok(true) => {
                // A changed line may end up with a lone surrogate, which serde_json refuses.
                assert!(valid || memchr::memmem::find(&line, b"\\u").is_some());
                assert_eq!(decoder.rows(), rows + 1);
                read += 1;
            }
            Ok(false) => assert_eq!(decoder.rows(), rows),
            Err(_) => {
                let no_record = || {
                    let message: Value = serde_json::from_slice(&line).unwrap();
                    !message["record"]["data"].is_object()
                        || !message["record"]["stream"].is_string()
                };
                assert!(!valid || no_record(), "{}", String::from_utf8_lossy(&line));
                assert_eq!(decoder.rows(), rows);
                refused += 1;
            }
        }
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
    let lines: Vec<String> = (0..100).map(|_| random_line(&mut dice)).collect();
    decoder.finish().unwrap();
    lines.iter().for_each(|line| feed(&mut decoder, line));
    compare(&lines, &decoder.finish().unwrap(), &KINDS);
}

const USERS: [(&str, Kind); 17] = [
    ("id", Kind::Integer),
    ("created_at", Kind::TimestampUtc),
    ("updated_at", Kind::TimestampUtc),
    ("name", Kind::Text),
    ("title", Kind::Text),
    ("age", Kind::Integer),
    ("email", Kind::Text),
    ("telephone", Kind::Text),
    ("gender", Kind::Text),
    ("language", Kind::Text),
    ("academic_degree", Kind::Text),
    ("nationality", Kind::Text),
    ("occupation", Kind::Text),
    ("height", Kind::Text),
    ("blood_type", Kind::Text),
    ("weight", Kind::Integer),
    ("address", Kind::Object),
];

/// A hash of all values, column by column.
fn checksum(hashers: &mut [DefaultHasher], values: impl Iterator<Item = Option<String>>) {
    hashers.iter_mut().zip(values).for_each(|(hasher, value)| value.hash(hasher));
}

/// The recorded run of source-faker, if it is at hand: all rows are read, and every eighth is
/// compared, for the other decoder is slow without optimisation.
#[test]
fn a_recorded_run_has_the_same_rows_and_checksums() {
    let default =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/faker_users_100k.jsonl.gz");
    let path = std::env::var("RECORDED_LINES").unwrap_or_else(|_| default.to_owned());
    let Ok(file) = std::fs::File::open(&path) else {
        println!("skipped: a_recorded_run_has_the_same_rows_and_checksums: no recorded run there");
        return;
    };
    let wanted = USERS.map(|(name, kind)| Wanted::property(kind.field(name))).to_vec();
    let mut all = Decoder::new(wanted.clone(), []).unwrap();
    let mut some = Decoder::new(wanted, []).unwrap();
    let mut theirs = vec![DefaultHasher::new(); USERS.len()];
    let mut records = 0;
    for line in BufReader::new(flate2::read::GzDecoder::new(file)).lines() {
        let line = line.unwrap();
        let Line::Record(record) = parse(line.as_bytes(), 1).unwrap() else { continue };
        all.append(&record).unwrap();
        records += 1;
        if records % 8 == 0 {
            some.append(&record).unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&*record.stream, &record.namespace), ("users", &None));
            let emitted = message["record"]["emitted_at"].as_i64().map(|at| at * 1_000);
            assert_eq!(record.emitted_at_micros, emitted);
            let data = &message["record"]["data"];
            let values = USERS.iter().map(|(name, kind)| expected(*kind, data.get(*name)).0);
            checksum(&mut theirs, values);
        }
    }
    assert_eq!((all.unknown().count(), all.changed().count()), (0, 0));
    assert_eq!((all.finish().unwrap().num_rows(), records), (100_000, 100_000));
    let mut ours = vec![DefaultHasher::new(); USERS.len()];
    assert_eq!(sum_up(&mut ours, &some.finish().unwrap()), 12_500);
    let sums = |hashers: &[DefaultHasher]| hashers.iter().map(Hasher::finish).collect::<Vec<_>>();
    assert_eq!(sums(&ours), sums(&theirs));
}

fn sum_up(hashers: &mut [DefaultHasher], batch: &RecordBatch) -> usize {
    for row in 0..batch.num_rows() {
        checksum(hashers, USERS.iter().map(|(name, _)| shown(batch, name, row)));
    }
    batch.num_rows()
}

/// The fields that a schema gives are those that this file calls by kind.
#[test]
fn the_schema_gives_the_kinds_that_are_compared() {
    let fields = schema::fields(&random_schema());
    let kinds = fields.iter().map(|field| Kind::of_field(field).unwrap());
    assert!(kinds.eq(KINDS.iter().map(|(_, kind)| *kind)));
}
