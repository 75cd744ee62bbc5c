//! What reading and writing RECORD lines costs: ours, serde_json's value tree, and arrow-json.
//!
//! `cargo bench -p highwater-airbyte --bench records` prints bytes and rows per second, the best of
//! five rounds, on one core. `RECORDED_LINES` names a recorded run (JSON lines, gzip); by default
//! it is `../shared/data/faker_users_100k.jsonl.gz` beside the workspace. Where there is no such
//! file, lines of the same shape are made. Without `--bench` (as a test) it reads a few lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write;
use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use highwater_airbyte::records::{Decoder, Encoder, Kind, Line, Origin, Wanted, parse, schema};
use serde_json::{Value, json};

const ROUNDS: usize = 5;
const BATCH_ROWS: usize = 8_192;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let text = recorded().unwrap_or_else(|| made(if measured { 100_000 } else { 1_000 }));
    let all: Vec<&[u8]> =
        text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let lines = if measured { &all[..] } else { &all[..all.len().min(1_000)] };
    let rows = lines.iter().filter(|line| line.starts_with(b"{\"type\":\"RECORD\"")).count();

    measure("front parser alone", lines, rows, || {
        lines.iter().filter(|line| matches!(parse(line, 1), Ok(Line::Record(_)))).count()
    });
    measure("all columns", lines, rows, || decoded(lines, all_columns()));
    let wanted = all_columns().into_iter().take(3).collect::<Vec<_>>();
    measure("three of the columns", lines, rows, || decoded(lines, wanted.clone()));
    let mut wanted = all_columns();
    wanted.push(Wanted { field: Kind::TimestampUtc.field("at"), origin: Origin::ExtractedAt });
    wanted.push(Wanted { field: Kind::Any.field("meta"), origin: Origin::Meta });
    measure("all columns, time and meta", lines, rows, || decoded(lines, wanted.clone()));
    let line = Wanted { field: Kind::Text.field("line"), origin: Origin::Line };
    measure("the lines as they are", lines, rows, || decoded(lines, vec![line.clone()]));
    let batches = batches(lines, all_columns());
    measure("rows written as lines", lines, rows, || encoded(&batches));
    measure("serde_json::Value", lines, rows, || {
        let is_record = |line: &&&[u8]| {
            black_box(serde_json::from_slice::<Value>(line).unwrap())["type"] == "RECORD"
        };
        lines.iter().filter(is_record).count()
    });
    let schema = nested_schema();
    measure("arrow-json, the address a struct", lines, rows, || {
        let mut decoder = arrow_json::ReaderBuilder::new(Arc::clone(&schema))
            .with_batch_size(BATCH_ROWS)
            .build_decoder()
            .unwrap();
        let mut rows = 0;
        for line in lines {
            let mut rest = *line;
            while !rest.is_empty() {
                let taken = decoder.decode(rest).unwrap();
                rest = &rest[taken..];
                if taken == 0 {
                    rows += records(&decoder.flush().unwrap().unwrap());
                }
            }
        }
        rows + decoder.flush().unwrap().as_ref().map_or(0, records)
    });
}

/// The lines of a batch that are records.
fn records(batch: &RecordBatch) -> usize {
    batch.num_rows() - black_box(batch).column_by_name("record").unwrap().null_count()
}

fn decoded(lines: &[&[u8]], wanted: Vec<Wanted>) -> usize {
    let properties = users_schema();
    let mut decoder = Decoder::new(wanted, schema::property_names(&properties)).unwrap();
    let mut rows = 0;
    for (number, line) in (1..).zip(lines) {
        if let Line::Record(record) = parse(line, number).unwrap() {
            decoder.append(&record).unwrap();
        }
        if decoder.rows() == BATCH_ROWS {
            rows += black_box(decoder.finish().unwrap()).num_rows();
        }
    }
    assert_eq!((decoder.unknown().count(), decoder.changed().count()), (0, 0));
    rows + black_box(decoder.finish().unwrap()).num_rows()
}

fn batches(lines: &[&[u8]], wanted: Vec<Wanted>) -> Vec<RecordBatch> {
    let properties = users_schema();
    let mut decoder = Decoder::new(wanted, schema::property_names(&properties)).unwrap();
    let mut batches = Vec::new();
    for (number, line) in (1..).zip(lines) {
        if let Line::Record(record) = parse(line, number).unwrap() {
            decoder.append(&record).unwrap();
        }
        if decoder.rows() == BATCH_ROWS {
            batches.push(decoder.finish().unwrap());
        }
    }
    batches.push(decoder.finish().unwrap());
    batches
}

fn encoded(batches: &[RecordBatch]) -> usize {
    let encoder = Encoder::new(None, "users", &batches[0].schema()).unwrap();
    let mut rows = 0;
    for batch in batches {
        let mut out = String::new();
        encoder.encode(batch, 1_795_254_085_847, &mut out).unwrap();
        black_box(out);
        rows += batch.num_rows();
    }
    rows
}

fn all_columns() -> Vec<Wanted> {
    schema::fields(&users_schema()).into_iter().map(Wanted::property).collect()
}

/// For arrow-json: the message around the data, and the address as a struct.
fn nested_schema() -> Arc<Schema> {
    // It knows no zone by name.
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let known = |field: Field| match field.data_type() {
        DataType::Timestamp(_, _) => field.with_data_type(at.clone()),
        _ => field,
    };
    let users: Vec<Field> = schema::fields(&users_schema()).into_iter().map(known).collect();
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let address = [
        "street_number",
        "street_name",
        "city",
        "state",
        "province",
        "postal_code",
        "country_code",
    ];
    let address = Field::new_struct("address", address.map(text).to_vec(), true);
    let plain = users.into_iter().filter(|field| field.name() != "address");
    let data = Field::new_struct("data", plain.chain([address]).collect::<Vec<_>>(), true);
    let at = Field::new("emitted_at", DataType::Int64, true);
    let record = Field::new_struct("record", vec![text("stream"), data, at], true);
    Arc::new(Schema::new(vec![text("type"), record]))
}

fn users_schema() -> Value {
    let at =
        json!({"type": "string", "format": "date-time", "airbyte_type": "timestamp_with_timezone"});
    let mut properties = serde_json::Map::new();
    properties.insert("id".to_owned(), json!({"type": "integer"}));
    properties.insert("created_at".to_owned(), at.clone());
    properties.insert("updated_at".to_owned(), at);
    for (name, kind) in [
        ("name", "string"),
        ("title", "string"),
        ("age", "integer"),
        ("email", "string"),
        ("telephone", "string"),
        ("gender", "string"),
        ("language", "string"),
        ("academic_degree", "string"),
        ("nationality", "string"),
        ("occupation", "string"),
        ("height", "string"),
        ("blood_type", "string"),
        ("weight", "integer"),
        ("address", "object"),
    ] {
        properties.insert(name.to_owned(), json!({"type": kind}));
    }
    json!({"type": "object", "properties": properties})
}

/// The best of some rounds.
fn measure(what: &str, lines: &[&[u8]], rows: usize, mut round: impl FnMut() -> usize) {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        assert_eq!(round(), rows, "{what}");
        best = best.min(start.elapsed());
    }
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    let seconds = best.as_secs_f64();
    println!(
        "{what:38} {:>8.1} MB/s {:>11.0} rows/s {:>8.3} µs/row",
        bytes as f64 / 1e6 / seconds,
        rows as f64 / seconds,
        seconds * 1e6 / rows as f64,
    );
}

fn recorded() -> Option<Vec<u8>> {
    let default =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/faker_users_100k.jsonl.gz");
    let path = std::env::var("RECORDED_LINES").unwrap_or_else(|_| default.to_owned());
    let Ok(file) = std::fs::File::open(&path) else {
        println!("there is no recorded run; lines are made");
        return None;
    };
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap();
    Some(text)
}

/// Lines as a recorded run has them.
fn made(rows: usize) -> Vec<u8> {
    let mut text = String::new();
    for row in 0..rows {
        let (day, minute, number) = (row % 28 + 1, row % 60, row % 997);
        writeln!(
            text,
            "{{\"type\":\"RECORD\",\"record\":{{\"stream\":\"users\",\"data\":{{\"id\":{row},\
             \"created_at\":\"2016-07-{day:02}T11:{minute:02}:54+00:00\",\
             \"updated_at\":\"2026-11-21T01:50:52+00:00\",\"name\":\"Babara\",\"title\":\"DPhil\",\
             \"age\":{},\"email\":\"liberty{number}+{row}@gmail.com\",\
             \"telephone\":\"(875) 364-5{number}\",\"gender\":\"Male\",\"language\":\"Croatian\",\
             \"academic_degree\":\"PhD\",\"nationality\":\"Argentinian\",\
             \"occupation\":\"Planning Officer\",\"height\":\"1.56\",\"blood_type\":\"AB−\",\
             \"weight\":54,\"address\":{{\"street_number\":\"{number}\",\"street_name\":\"Crags\",\
             \"city\":\"Kinston\",\"state\":\"Georgia\",\"province\":\"Connecticut\",\
             \"postal_code\":\"18139\",\"country_code\":\"FJ\"}}}},\"emitted_at\":1795225852701}}}}",
            row % 80 + 18,
        )
        .unwrap();
    }
    text.into_bytes()
}
