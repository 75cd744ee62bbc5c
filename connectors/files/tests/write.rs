//! Writing: what the files hold, and that every value comes back.

use std::sync::Arc;

use arrow_array::builder::*;
use arrow_array::types::*;
use arrow_array::*;
use arrow_schema::{DataType, Field, IntervalUnit, Schema, TimeUnit};
use highwater_core::types::{JSON, NUMERIC, UUID, extension_field};
use highwater_core::*;
use highwater_testkit::job::total;
use serde_json::{Value, json};

use crate::support::*;

/// A table with a column of every kind, NULLs and extremes.
fn every_type() -> RecordBatch {
    let columns = values().into_iter().chain(times());
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

fn values() -> Vec<(Field, ArrayRef)> {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
    ]);
    let decimal = decimals();
    vec![
        (
            Field::new("b", DataType::Boolean, true),
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        ),
        (
            Field::new("i", DataType::Int64, true),
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)])),
        ),
        (
            Field::new("u", DataType::UInt64, true),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)])),
        ),
        (
            Field::new("f", DataType::Float64, true),
            Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(f64::MAX)])),
        ),
        (Field::new("d", DataType::Decimal256(76, 2), true), decimal),
        (
            extension_field("n", DataType::Utf8, NUMERIC),
            Arc::new(StringArray::from(vec![Some("1.50"), None, Some("NaN")])),
        ),
        (
            Field::new("t", DataType::Utf8, true),
            Arc::new(StringArray::from(vec![Some(""), None, Some("a,\"b\"\n\u{feff}é")])),
        ),
        (
            extension_field("j", DataType::Utf8, JSON),
            Arc::new(StringArray::from(vec![Some("{\"a\": 1.0}"), None, Some("null")])),
        ),
        (extension_field("id", DataType::FixedSizeBinary(16), UUID), uuids()),
        (
            Field::new("bin", DataType::Binary, true),
            Arc::new(BinaryArray::from(vec![Some(&b""[..]), None, Some(&[0, 255])])),
        ),
        (Field::new("l", list.data_type().clone(), true), Arc::new(list)),
        (Field::new("nul", DataType::Null, true), Arc::new(NullArray::new(3))),
    ]
}

fn times() -> Vec<(Field, ArrayRef)> {
    let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    vec![
        (
            Field::new("day", DataType::Date32, true),
            Arc::new(Date32Array::from(vec![Some(i32::MIN), None, Some(-719_162)])),
        ),
        (
            Field::new("time", DataType::Time64(TimeUnit::Microsecond), true),
            Arc::new(Time64MicrosecondArray::from(vec![Some(86_400_000_000), None, Some(1)])),
        ),
        (
            Field::new("ts", DataType::Timestamp(TimeUnit::Second, None), true),
            Arc::new(TimestampSecondArray::from(vec![Some(i64::MAX), None, Some(-1)])),
        ),
        (
            Field::new("tz", utc(TimeUnit::Nanosecond), true),
            Arc::new(
                TimestampNanosecondArray::from(vec![Some(1), None, Some(-1)]).with_timezone("UTC"),
            ),
        ),
        (
            Field::new("dur", DataType::Duration(TimeUnit::Millisecond), true),
            Arc::new(DurationMillisecondArray::from(vec![Some(1), None, Some(-1)])),
        ),
        (
            Field::new("iv", DataType::Interval(IntervalUnit::MonthDayNano), true),
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                Some(arrow_buffer::IntervalMonthDayNano::new(1, -2, 3)),
                None,
                None,
            ])),
        ),
    ]
}

fn decimals() -> ArrayRef {
    let most = arrow_buffer::i256::from_string(&"9".repeat(76)).unwrap();
    let values = vec![Some(most), None, Some(arrow_buffer::i256::from_i128(-5))];
    Arc::new(Decimal256Array::from(values).with_precision_and_scale(76, 2).unwrap())
}

fn uuids() -> ArrayRef {
    let mut builder = FixedSizeBinaryBuilder::new(16);
    builder.append_value([0xab; 16]).unwrap();
    builder.append_null();
    builder.append_value([0; 16]).unwrap();
    Arc::new(builder.finish())
}

/// Writes batches of one table in one commit each, and finishes it.
async fn write(
    to: Value,
    table: &Table,
    mode: WriteMode,
    batches: &[RecordBatch],
) -> Result<Committed> {
    let destination = destination(to).await;
    let plan = plan(vec![table.clone()], ReadMode::FullRefresh, mode);
    let store = destination.state_store().unwrap();
    let fence = store.open("s", &request()).await?.fence.unwrap();
    let partition =
        Partition { tables: vec![table.name.clone()], id: String::new(), bounds: Value::Null };
    let mut writer = destination.writer(&plan, &partition, &fence).await?;
    let mut done = Committed::default();
    for rows in batches {
        let batch = Batch { table: Arc::new(table.clone()), op: Op::Upsert, rows: rows.clone() };
        writer.write(batch).await?;
        done += total(&writer.commit(&Checkpoint::default()).await?);
    }
    done += destination.finish(&plan, &plan.tables[&table.name], &fence).await?;
    store.release(&fence).await?;
    Ok(done)
}

fn table(rows: &RecordBatch) -> Table {
    let fields = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    Table::new(TableName::new("t"), fields)
}

fn words(rows: &RecordBatch) -> serde_json::Map<String, Value> {
    let word = |f: &Arc<Field>| {
        let word = match LogicalType::of(f).unwrap() {
            LogicalType::Boolean => "boolean",
            LogicalType::Integer { signed: true, .. } => "int64",
            LogicalType::Integer { .. } => "uint64",
            LogicalType::Float { .. } => "float64",
            LogicalType::Decimal { .. } => "decimal(76,2)",
            LogicalType::Numeric => "numeric",
            LogicalType::Json => "json",
            LogicalType::Uuid => "uuid",
            LogicalType::Binary => "binary",
            LogicalType::Date => "date",
            LogicalType::Time(_) => "time",
            LogicalType::Timestamp { utc: false, .. } => "timestamp(s)",
            LogicalType::Timestamp { .. } => "timestamptz(ns)",
            LogicalType::Duration(_) => "duration(ms)",
            LogicalType::Interval => "interval",
            _ => "text",
        };
        (f.name().clone(), json!(word))
    };
    rows.schema().fields().iter().map(word).collect()
}

#[tokio::test]
async fn every_type_comes_back_from_every_format() {
    let rows = every_type();
    let mut expected = None;
    for format in ["parquet", "csv", "json", "jsonl"] {
        for compression in ["", "gzip"] {
            if format == "parquet" && compression == "gzip" {
                continue;
            }
            let out = Folder::new();
            let to = json!({"path": out.path(""), "format": format, "compression": compression});
            let done = write(to, &table(&rows), WriteMode::Append, std::slice::from_ref(&rows))
                .await
                .unwrap();
            assert_eq!(done.written, 3);
            let mut spec = out.spec();
            if format != "parquet" {
                spec["columns"] = Value::Object(words(&rows));
            }
            let mut found = read_one(spec).await;
            assert_eq!(found.len(), 3);
            if format == "parquet" {
                as_seconds(&mut found, &rows);
            }
            assert_eq!(&found, expected.get_or_insert(found.clone()), "{format} {compression}");
        }
    }
    let expected = expected.unwrap();
    assert_eq!(expected[0][1].as_deref(), Some("-9223372036854775808"));
    assert_eq!(expected[0][6].as_deref(), Some(""));
    assert_eq!(expected[2][6].as_deref(), Some("a,\"b\"\n\u{feff}é"));
    assert_eq!(expected[0][14].as_deref(), Some("infinity"));
    assert!(expected[1].iter().all(Option::is_none));
}

/// Parquet has seconds as milliseconds: takes the zeros away.
fn as_seconds(found: &mut Rows, rows: &RecordBatch) {
    for (at, field) in rows.schema().fields().iter().enumerate() {
        let is_seconds = matches!(
            field.data_type(),
            DataType::Timestamp(TimeUnit::Second, _) | DataType::Time32(TimeUnit::Second)
        );
        for row in found.iter_mut().filter(|_| is_seconds) {
            row[at] = row[at].take().map(|text| text.replace(".000", ""));
        }
    }
}

#[tokio::test]
async fn parquet_keeps_the_types() {
    let rows = every_type();
    let out = Folder::new();
    write(out.spec(), &table(&rows), WriteMode::Append, std::slice::from_ref(&rows)).await.unwrap();
    let found = source(out.spec()).await.discover(None).await.unwrap().remove(0);
    for field in rows.schema().fields() {
        let there = found.field(field.name()).unwrap();
        match field.data_type() {
            DataType::Interval(_) | DataType::Null => {
                assert_eq!(there.data_type(), &DataType::Utf8);
            }
            DataType::Timestamp(TimeUnit::Second, zone) => {
                let millis = DataType::Timestamp(TimeUnit::Millisecond, zone.clone());
                assert_eq!(there.data_type(), &millis);
            }
            DataType::Time32(TimeUnit::Second) => {
                assert_eq!(there.data_type(), &DataType::Time32(TimeUnit::Millisecond));
            }
            _ => {
                assert_eq!(there.data_type(), field.data_type());
                assert_eq!(LogicalType::of(there).unwrap(), LogicalType::of(field).unwrap());
            }
        }
    }
}

#[tokio::test]
async fn null_and_empty_text_are_told_apart_in_a_single_column() {
    let rows = RecordBatch::try_from_iter([(
        "c",
        Arc::new(StringArray::from(vec![Some(""), None, Some("x"), None])) as ArrayRef,
    )])
    .unwrap();
    let out = Folder::new();
    let to = json!({"path": out.path("{{TABLE}}.csv"), "no_rotate": true});
    write(to, &table(&rows), WriteMode::Append, &[rows]).await.unwrap();
    assert_eq!(std::fs::read_to_string(out.path("t.csv")).unwrap(), "c\n\"\"\n\nx\n\n");
    let expected: Rows = [Some(""), None, Some("x"), None].iter().map(|v| row(&[*v])).collect();
    assert_eq!(read_one(out.spec()).await, expected);
}

fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    let array: ArrayRef = Arc::new(range.collect::<Int64Array>());
    RecordBatch::try_from_iter([("id", array)]).unwrap()
}

#[tokio::test]
async fn files_end_where_the_spec_says() {
    let out = Folder::new();
    let to = json!({"path": out.path("{{TABLE}}/{{YEAR}}/{{UUID}}.{{FORMAT}}"), "format": "csv", "compression": "gzip", "batch_size": 10});
    let rows = numbers(0..25);
    write(to, &table(&rows), WriteMode::Append, &[rows]).await.unwrap();
    let files = visible(out.0.path());
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|f| f.starts_with("t/2") && f.ends_with(".csv.gz")));
    assert_eq!(read_one(out.spec()).await.len(), 25);
}

#[tokio::test]
async fn replace_leaves_exactly_the_rows_of_the_last_read() {
    for path in ["{{TABLE}}/{{UUID}}.parquet", "{{TABLE}}.parquet"] {
        let out = Folder::new();
        let to = json!({"path": out.path(path)});
        let (first, second) = (numbers(0..5), numbers(100..102));
        let split = [first.slice(0, 3), first.slice(3, 2)];
        let done = write(to.clone(), &table(&first), WriteMode::Replace, &split).await.unwrap();
        assert_eq!((done.written, done.deleted), (5, 0));
        let spec = json!({"path": out.path(""), "table_name": "t"});
        assert_eq!(read_one(spec.clone()).await.len(), 5);
        let done = write(to.clone(), &table(&second), WriteMode::Replace, &[second]).await.unwrap();
        assert_eq!((done.written, done.deleted), (2, 5));
        assert_eq!(read_one(spec).await, [row(&[Some("100")]), row(&[Some("101")])]);
        assert_eq!(visible(out.0.path()).len(), 1);
        let done = write(to, &table(&first), WriteMode::Replace, &[]).await.unwrap();
        assert_eq!(done.deleted, 2);
        assert_eq!(visible(out.0.path()).len(), 1, "a file with columns and no rows");
        assert!(read_one(json!({"path": out.path(""), "table_name": "t"})).await.is_empty());
    }
}

#[tokio::test]
async fn a_new_column_appears_in_new_files() {
    let out = Folder::new();
    let one = numbers(0..1);
    write(out.spec(), &table(&one), WriteMode::Append, std::slice::from_ref(&one)).await.unwrap();
    let name: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let two = RecordBatch::try_from_iter([("id", one.column(0).clone()), ("name", name)]).unwrap();
    write(out.spec(), &table(&two), WriteMode::Append, std::slice::from_ref(&two)).await.unwrap();
    let mut rows = read_one(out.spec()).await;
    rows.sort();
    assert_eq!(rows, [row(&[Some("0"), None]), row(&[Some("0"), Some("x")])]);
    let described =
        destination(out.spec()).await.describe(&[TableName::new("t")]).await.unwrap().remove(0);
    let columns: Vec<_> =
        described.as_ref().unwrap().table.column_names().map(str::to_owned).collect();
    assert_eq!(columns, ["id", "name"]);
}

#[tokio::test]
async fn parquet_files_of_different_types_are_read_as_the_wider_one_or_refused() {
    let out = Folder::new();
    let narrow =
        RecordBatch::try_from_iter([("id", Arc::new(Int32Array::from(vec![1])) as ArrayRef)])
            .unwrap();
    let wide = numbers(5_000_000_000..5_000_000_001);
    for rows in [&narrow, &wide] {
        write(out.spec(), &table(rows), WriteMode::Append, std::slice::from_ref(rows))
            .await
            .unwrap();
    }
    let mut rows = read_one(out.spec()).await;
    rows.sort();
    assert_eq!(rows, [row(&[Some("1")]), row(&[Some("5000000000")])]);
    let text =
        RecordBatch::try_from_iter([("id", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)])
            .unwrap();
    write(out.spec(), &table(&text), WriteMode::Append, std::slice::from_ref(&text)).await.unwrap();
    let error = try_read_all(out.spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert!(error.context_value("file").is_some() && error.context_value("other file").is_some());
}

#[tokio::test]
async fn a_read_only_folder_is_a_config_error() {
    let out = Folder::new();
    out.put("file", "x");
    let error =
        destination(json!({"path": out.path("file/below")})).await.check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    destination(json!({"path": out.path("new/below")})).await.check().await.unwrap();
    assert!(!out.0.path().join("new").exists(), "a check leaves nothing behind");
}

#[tokio::test]
async fn what_is_described_is_what_is_stored() {
    let rows = every_type();
    for format in ["parquet", "csv", "jsonl"] {
        let out = Folder::new();
        let to = json!({"path": out.path(""), "format": format});
        write(to.clone(), &table(&rows), WriteMode::Append, std::slice::from_ref(&rows))
            .await
            .unwrap();
        let destination = destination(to).await;
        let there = destination.describe(&[TableName::new("t")]).await.unwrap().remove(0).unwrap();
        for field in rows.schema().fields() {
            let stored = destination.stored_field(field).unwrap();
            assert_eq!(there.table.field(field.name()), Some(&stored), "{format}");
        }
    }
}

#[tokio::test]
async fn a_path_that_names_a_file_is_that_file() {
    let out = Folder::new();
    let to = json!({"path": out.path("sub/out.csv")});
    let rows = numbers(0..2);
    write(to.clone(), &table(&rows), WriteMode::Append, std::slice::from_ref(&rows)).await.unwrap();
    assert_eq!(std::fs::read_to_string(out.path("sub/out.csv")).unwrap(), "id\n0\n1\n");
    write(to.clone(), &table(&rows), WriteMode::Append, std::slice::from_ref(&rows)).await.unwrap();
    let files = visible(out.0.path());
    assert_eq!(files.len(), 2, "a file is never opened again: {files:?}");
    assert!(files.iter().any(|f| f.starts_with("sub/out-") && f.ends_with(".csv")));
    write(to.clone(), &table(&rows), WriteMode::Replace, std::slice::from_ref(&rows))
        .await
        .unwrap();
    assert_eq!(visible(out.0.path()), ["sub/out.csv"]);

    let other = Table { name: TableName::new("u"), ..table(&rows) };
    let plan = plan(vec![table(&rows), other], ReadMode::FullRefresh, WriteMode::Append);
    let destination = destination(to).await;
    let fence =
        destination.state_store().unwrap().open("s", &request()).await.unwrap().fence.unwrap();
    let partition =
        Partition { tables: vec![TableName::new("u")], id: String::new(), bounds: Value::Null };
    let refused = destination.writer(&plan, &partition, &fence).await.err().unwrap();
    assert_eq!((refused.kind(), refused.context_value("key")), (ErrorKind::Config, Some("path")));
}

#[tokio::test]
async fn structs_of_different_fields_are_different_types() {
    let out = Folder::new();
    for name in ["a", "b"] {
        let field = Arc::new(Field::new(name, DataType::Int64, true));
        let value: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let array: ArrayRef = Arc::new(StructArray::from(vec![(field, value)]));
        let rows = RecordBatch::try_from_iter([("s", array)]).unwrap();
        write(out.spec(), &table(&rows), WriteMode::Append, std::slice::from_ref(&rows))
            .await
            .unwrap();
    }
    assert_eq!(try_read_all(out.spec()).await.unwrap_err().kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn a_parquet_file_that_differs_from_what_was_looked_at_is_refused() {
    let out = Folder::new();
    let one = numbers(0..1);
    write(out.spec(), &table(&one), WriteMode::Append, std::slice::from_ref(&one)).await.unwrap();
    let source = source(out.spec()).await;
    let plan = plan(source.discover(None).await.unwrap(), ReadMode::FullRefresh, WriteMode::Append);
    let name: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let two = RecordBatch::try_from_iter([("id", one.column(0).clone()), ("name", name)]).unwrap();
    write(out.spec(), &table(&two), WriteMode::Append, std::slice::from_ref(&two)).await.unwrap();
    let error = read(source.as_ref(), &plan, &State::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Schema, Some("name")));
}

#[tokio::test]
async fn other_readers_of_parquet_see_uuid_and_json() {
    use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
    let rows = every_type();
    let out = Folder::new();
    write(out.spec(), &table(&rows), WriteMode::Append, std::slice::from_ref(&rows)).await.unwrap();
    let file = std::fs::File::open(out.path(&visible(out.0.path())[0])).unwrap();
    // Without Arrow's own schema there is only what Parquet says.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).unwrap();
    for (name, logical) in [("id", LogicalType::Uuid), ("j", LogicalType::Json)] {
        let field = reader.schema().field_with_name(name).unwrap();
        assert_eq!(LogicalType::of(field).unwrap(), logical);
    }
}
