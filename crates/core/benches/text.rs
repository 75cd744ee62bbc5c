//! What a value costs on its way to text or JSON and back, by type.
//!
//! `cargo bench -p highwater-core --bench text` prints nanoseconds per value, the best of five
//! rounds, on one core. Without `--bench` (as a test) it runs over a few values.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::Field;
use highwater_core::text::{TextBuilder, TextColumn};
use highwater_core::types::{NUMERIC, extension_field};

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (values, rounds) = if measured { (1 << 20, 5) } else { (1_000, 1) };
    println!("{:12} {:>8} {:>8} {:>8}  ns per value", "type", "write", "json", "read");
    for (name, field, array) in columns(values) {
        let column = TextColumn::new(&field, array.as_ref()).unwrap();
        let mut out = String::new();
        let write = best(rounds, values, || {
            out.clear();
            (0..values as usize).for_each(|row| column.write(row, &mut out));
            black_box(&out);
        });
        let json = best(rounds, values, || {
            out.clear();
            (0..values as usize).for_each(|row| column.write_json(row, &mut out));
            black_box(&out);
        });
        let texts: Vec<String> = (0..values as usize)
            .map(|row| {
                let mut text = String::new();
                column.write(row, &mut text);
                text
            })
            .collect();
        let mut builder = TextBuilder::new(&field).unwrap();
        let mut back = None;
        let read = best(rounds, values, || {
            texts.iter().for_each(|text| builder.append(text).unwrap());
            back = Some(builder.finish());
        });
        assert_eq!(back.unwrap().to_data(), array.to_data(), "{name}");
        println!("{name:12} {write:8.1} {json:8.1} {read:8.1}");
    }
}

/// The fewest nanoseconds per value of some rounds.
fn best(rounds: usize, values: i64, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / values as f64);
    }
    best
}

fn columns(values: i64) -> Vec<(&'static str, Field, ArrayRef)> {
    let all = || 0..values;
    let decimals = Decimal128Array::from_iter_values(all().map(|i| i128::from(i * 7919)));
    let decimals = decimals.with_precision_and_scale(15, 2).unwrap();
    let instants = all().map(|i| 1_704_067_200_000_000 + i * 1_000_001);
    let instants = TimestampMicrosecondArray::from_iter_values(instants).with_timezone("UTC");
    let texts = || all().map(|i| format!("comment {:x}", i * 7919));
    let arrays: Vec<(&str, ArrayRef)> = vec![
        ("boolean", Arc::new(BooleanArray::from_iter(all().map(|i| Some(i % 3 == 0))))),
        ("integer", Arc::new(Int64Array::from_iter_values(all().map(|i| i * 7919)))),
        ("float", Arc::new(Float64Array::from_iter_values(all().map(|i| i as f64 / 7.0)))),
        ("decimal", Arc::new(decimals)),
        ("date", Arc::new(Date32Array::from_iter_values(all().map(|i| (i % 20_000) as i32)))),
        ("timestamptz", Arc::new(instants)),
        ("text", Arc::new(StringArray::from_iter_values(texts()))),
    ];
    let field = |array: &ArrayRef| Field::new("c", array.data_type().clone(), true);
    let mut columns: Vec<_> =
        arrays.into_iter().map(|(name, array)| (name, field(&array), array)).collect();
    let digits = all().map(|i| format!("{}.{:02}", i * 7919, i % 100));
    let numeric: ArrayRef = Arc::new(StringArray::from_iter_values(digits));
    columns.push(("numeric", extension_field("c", numeric.data_type().clone(), NUMERIC), numeric));
    columns
}
