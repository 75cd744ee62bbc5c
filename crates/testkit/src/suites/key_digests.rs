//! Counts and hashes of keys: every system has to come to the same ones, on both sides, because
//! they are compared with those of other systems.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::key_digests::{BUCKETS, Chosen, Digests, KeyColumn, KeyForm, bucket, hashes};
use highwater_core::plan::SOURCE_NAME;
use highwater_core::types::{UUID, extension_field};
use highwater_core::{KeyDigests, KeyTable, Message, Output, Result, Table, TableName, WriteMode};

use crate::harness::{Harness, find_table};
use crate::job::{Job, sync, upsert};
use crate::tables::{item, item_table, items, loose_item_table};

/// The keys of a table with the fields of `described`.
fn keys_of(table: &Table, described: &Table) -> KeyTable {
    let column = |name: &String| {
        let field = described.field(name).expect("a column of the key").clone();
        let form = KeyForm::of(&field).unwrap_or_else(|| panic!("{name} has no form"));
        assert_eq!(Some(form), KeyForm::of(table.field(name).expect("a column")), "{name}");
        KeyColumn { field, form }
    };
    KeyTable {
        name: described.name.clone(),
        columns: table.primary_key.iter().map(column).collect(),
        along: None,
        of_sync: None,
    }
}

/// The columns of the key alone.
fn key_rows(table: &Table, rows: &RecordBatch) -> RecordBatch {
    let at = table.primary_key.iter().map(|name| rows.schema().index_of(name).expect("a column"));
    rows.project(&at.collect::<Vec<_>>()).expect("columns")
}

fn expected(table: &Table, rows: &RecordBatch, buckets: u32) -> Digests {
    let mut digests = Digests::new();
    for hash in hashes(&keys_of(table, table).columns, &key_rows(table, rows)).expect("hashes") {
        digests.entry(bucket(hash, buckets)).or_default().add(hash);
    }
    digests
}

/// The hashes of the keys that are sent.
async fn sent(
    keys: &KeyTable,
    digests: &mut dyn KeyDigests,
    chosen: &Chosen,
) -> Result<BTreeSet<u128>> {
    let (output, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
    let collected = async move {
        let mut all = BTreeSet::new();
        while let Some(message) = messages.recv().await {
            let Message::Batch(batch) = message else { continue };
            assert_eq!(batch.rows.num_columns(), keys.table().schema.fields().len());
            all.extend(hashes(&keys.columns, &batch.rows)?);
        }
        Ok(all)
    };
    let (sent, collected) = tokio::join!(digests.keys(chosen, output), collected);
    sent?;
    collected
}

/// Fills a table and asks both sides for its keys: they are those of the rows.
async fn check(harness: &dyn Harness, table: &Table, rows: &RecordBatch) {
    harness.fill(table, &upsert(rows)).await;
    let source = harness.source().await;
    let found = find_table(source.as_ref(), &table.name).await.expect("the table is there");
    let of_source = keys_of(table, &found);
    let destination = harness.destination().await;
    let name = destination.target_name(&table.name);
    let of_destination = KeyTable { name, ..keys_of(table, table) };
    let ends = [
        ("source", &of_source, source.key_digests(&of_source)),
        ("destination", &of_destination, destination.key_digests(&of_destination)),
    ];
    for (side, keys, digests) in ends {
        let mut digests = digests.unwrap_or_else(|| panic!("the {side} tells keys"));
        for buckets in [1, 8, BUCKETS] {
            let found = digests.digests(buckets).await;
            let found = found.unwrap_or_else(|e| panic!("{side}: {}", e.full_message()));
            assert_eq!(found, expected(table, rows, buckets), "{side}");
        }
        let all: BTreeSet<u128> = hashes(&keys_of(table, table).columns, &key_rows(table, rows))
            .expect("hashes")
            .into_iter()
            .collect();
        for buckets in [(0..8).collect(), BTreeSet::from([1, 4]), BTreeSet::from([7])] {
            let chosen = Chosen { of: 8, buckets };
            let found = sent(keys, digests.as_mut(), &chosen).await;
            let found = found.unwrap_or_else(|e| panic!("{side}: {}", e.full_message()));
            let wanted = all.iter().copied().filter(|hash| chosen.has(*hash)).collect();
            assert_eq!(found, wanted, "{side}");
        }
    }
}

/// A key of one number.
pub async fn numbers_are_told(harness: &dyn Harness) {
    let rows: Vec<_> = [0, 1, -1, i64::MAX, i64::MIN]
        .into_iter()
        .chain(100..400)
        .map(|id| item(id, "a", 1))
        .collect();
    let table = item_table("numbers");
    check(harness, &table, &items(&table, &rows)).await;
}

/// Texts that are easily taken for others: quotes, spaces at the end, what separates columns,
/// several bytes per character, nothing at all.
pub async fn texts_are_told_apart(harness: &dyn Harness) {
    let texts = [
        "", " ", "a", "A", "a ", " a", "a'b", "a\"b", "a\\b", "n", "v1:a", "nn", "1:", "é",
        "e\u{301}", "🦀", "🦀 ", "\n", "\t", "a\u{a0}", "%s", "$1", "NULL", "ß", "ss", "İ",
    ];
    let table = Table::new(
        TableName::new("texts"),
        ["a", "b"].map(|name| Field::new(name, DataType::Utf8, false)).to_vec(),
    )
    .with_primary_key(["a", "b"]);
    let pairs = || texts.iter().flat_map(|a| texts.iter().map(move |b| (*a, *b)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(pairs().map(|(a, _)| Some(a)).collect::<StringArray>()),
        Arc::new(pairs().map(|(_, b)| Some(b)).collect::<StringArray>()),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("rows");
    check(harness, &table, &rows).await;
}

/// NULL is a value of a key, and no text.
pub async fn null_is_told(harness: &dyn Harness) {
    let table = loose_item_table("loose", &["region", "id"]);
    let rows = [
        item(1, "a", 1),
        item(1, "a", 1).within("n"),
        item(1, "a", 1).within(""),
        item(1, "a", 1).within("a").without_id(),
        item(1, "a", 1).without_id(),
        item(2, "a", 1).within("v1:a"),
    ];
    check(harness, &table, &items(&table, &rows)).await;
}

/// Every type that has one sure text has it here too.
pub async fn every_sure_type_has_the_same_text(harness: &dyn Harness) {
    let micros = [
        0,
        -1,
        1,
        946_684_799_999_999,
        1_795_219_200_000_006,
        -62_135_596_800_000_000,
        253_402_300_799_999_999,
        i64::MAX,
        i64::MIN,
    ];
    let days = [0, -1, 10_957, 20_778, 2_932_896, -719_162, 100_000, i32::MAX, i32::MIN];
    let decimals = [0, 1, -1, 50, 1250, -1250, 999_999_999_999, -999_999_999_999, 100];
    let bytes: Vec<&[u8]> =
        vec![b"", b"\0", b"\xff", b"a", b"ab", b"\x00\xff\x10", b"'", b"\\", b"n"];
    let ids = (0..9_u8).map(|at| [at.wrapping_mul(29); 16]);
    let timestamp =
        |utc: bool| DataType::Timestamp(TimeUnit::Microsecond, utc.then(|| Arc::from("UTC")));
    let columns: Vec<(Field, ArrayRef)> = vec![
        (
            Field::new("at", timestamp(true), false),
            Arc::new(TimestampMicrosecondArray::from(micros.to_vec()).with_timezone("UTC")),
        ),
        (
            Field::new("local", timestamp(false), false),
            Arc::new(TimestampMicrosecondArray::from(micros.to_vec())),
        ),
        (Field::new("day", DataType::Date32, false), Arc::new(Date32Array::from(days.to_vec()))),
        (
            Field::new("amount", DataType::Decimal128(12, 2), false),
            Arc::new(
                Decimal128Array::from(decimals.to_vec())
                    .with_precision_and_scale(12, 2)
                    .expect("a scale"),
            ),
        ),
        (
            Field::new("whole", DataType::Decimal128(20, 0), false),
            Arc::new(
                Decimal128Array::from(decimals.to_vec())
                    .with_precision_and_scale(20, 0)
                    .expect("a scale"),
            ),
        ),
        (Field::new("data", DataType::Binary, false), Arc::new(BinaryArray::from(bytes))),
        (
            extension_field("uuid", DataType::FixedSizeBinary(16), UUID).with_nullable(false),
            Arc::new(FixedSizeBinaryArray::try_from_iter(ids).expect("ids")),
        ),
        (
            Field::new("yes", DataType::Boolean, false),
            Arc::new(BooleanArray::from((0..9).map(|at| at % 2 == 0).collect::<Vec<_>>())),
        ),
        (
            Field::new("number", DataType::Int64, false),
            Arc::new(Int64Array::from((0..9).collect::<Vec<_>>())),
        ),
    ];
    for (field, values) in &columns {
        // Each alone (with a number that tells the rows apart), so that a difference has a name.
        let number = Field::new("row", DataType::Int64, false);
        let fields = vec![field.clone(), number];
        let name = format!("keys_{}", field.name());
        let table = Table::new(TableName::new(name), fields)
            .with_primary_key([field.name().as_str(), "row"]);
        let numbers: ArrayRef = Arc::new(Int64Array::from((0..9).collect::<Vec<_>>()));
        let rows = vec![Arc::clone(values), numbers];
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), rows).expect("rows");
        check(harness, &table, &rows).await;
    }
}

/// Where the table says which sync a row came from, only those of one are meant; and what comes
/// along has the values of its row. A table that is not there has no keys.
pub async fn a_destination_tells_the_keys_of_one_sync(harness: &dyn Harness) {
    let table = item_table("shared");
    let job = Job::new(table.clone(), WriteMode::OverwriteDeleteStale);
    let own = [item(1, "a", 10), item(2, "b", 20)];
    sync(harness, &job, &[upsert(&items(&table, &own))]).await;
    let others = [item(7, "c", 70), item(8, "d", 80), item(9, "e", 90)];
    sync(harness, &job.of_sync("it's another"), &[upsert(&items(&table, &others))]).await;
    let destination = harness.destination().await;
    let name = destination.target_name(&table.name);
    let mut keys = KeyTable { name, ..keys_of(&table, &table) };
    assert_eq!(rows_of(destination.key_digests(&keys)).await, 5);
    for (sync, count) in [("suite", 2), ("it's another", 3), ("nobody", 0)] {
        keys.of_sync = Some(sync.to_owned());
        assert_eq!(rows_of(destination.key_digests(&keys)).await, count, "{SOURCE_NAME} {sync}");
    }
    keys.of_sync = Some("suite".to_owned());
    keys.along = table.field("updated_at").cloned();
    let mut digests = destination.key_digests(&keys).expect("keys");
    let (output, mut messages) = Output::bounded(8, Arc::new(AtomicBool::new(false)));
    digests.keys(&Chosen { of: 1, buckets: BTreeSet::from([0]) }, output).await.expect("keys");
    let mut found = Vec::new();
    while let Some(Message::Batch(batch)) = messages.recv().await {
        found.push(batch.rows);
    }
    let along =
        [Field::new("id", DataType::Int64, false), table.field("updated_at").expect("it").clone()];
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(Int64Array::from(vec![10, 20]))];
    let schema = Arc::new(arrow_schema::Schema::new(along.to_vec()));
    crate::rows::assert_same(&found, &[RecordBatch::try_new(schema, columns).expect("rows")]);
    keys.name = keys.name.renamed("is_not_there");
    assert_eq!(rows_of(destination.key_digests(&keys)).await, 0);
}

/// What a source does not have counts as deleted: a table that is gone is an error, not an empty one.
pub async fn a_source_without_the_table_tells_no_keys(harness: &dyn Harness) {
    let table = item_table("gone");
    harness.fill(&table, &upsert(&items(&table, &[item(1, "a", 10)]))).await;
    let source = harness.source().await;
    let found = find_table(source.as_ref(), &table.name).await.expect("the table is there");
    let mut keys = keys_of(&table, &found);
    assert_eq!(rows_of(source.key_digests(&keys)).await, 1);
    keys.name = keys.name.renamed("is_not_there");
    let mut digests = source.key_digests(&keys).expect("keys");
    assert!(digests.digests(BUCKETS).await.is_err());
    let mut digests = source.key_digests(&keys).expect("keys");
    assert!(sent(&keys, digests.as_mut(), &Chosen { of: 1, buckets: [0].into() }).await.is_err());
}

async fn rows_of(digests: Option<Box<dyn KeyDigests>>) -> u64 {
    let mut digests = digests.expect("the destination tells keys");
    let found = digests.digests(BUCKETS).await.unwrap_or_else(|e| panic!("{}", e.full_message()));
    found.values().map(|digest| digest.rows).sum()
}
