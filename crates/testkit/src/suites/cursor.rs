//! Incremental reads by a cursor field that the user chooses: only what changed, nothing twice,
//! nothing left out.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, Date32Array, Decimal128Array, Float64Array, Int16Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};
use highwater_core::{
    Completion, CursorKey, ErrorKind, Message, NullCursor, State, Table, TableName,
};

use crate::harness::{Harness, Reading, find_table, read};
use crate::job::{Job, delete, upsert};
use crate::rows::{assert_same, count};
use crate::tables::{Item, TableChanges, item, item_table, items, loose_item_table, orders};

async fn put(harness: &dyn Harness, table: &Table, rows: &[Item]) {
    harness.fill(table, &upsert(&items(table, rows))).await;
}

/// The table as the source describes it, read by `updated_at`.
async fn job(harness: &dyn Harness, name: &str) -> Job {
    let source = harness.source().await;
    let found = find_table(source.as_ref(), &TableName::new(name)).await;
    Job::reading(found.unwrap_or_else(|| panic!("{name} is not found"))).by_cursor("updated_at")
}

/// Reads what changed since `state` and moves `state` on, as if all was committed.
async fn delta(harness: &dyn Harness, job: &Job, state: &mut State) -> Vec<RecordBatch> {
    let reading = reading(harness, job, state).await;
    *state = reading.state_after(state);
    reading.upserts()
}

async fn reading(harness: &dyn Harness, job: &Job, state: &State) -> Reading {
    let source = harness.source().await;
    let reading = read(source.as_ref(), job, state).await;
    reading.unwrap_or_else(|e| panic!("{}", e.full_message()))
}

/// The first read sends everything and ends with the table's cursor.
pub async fn the_first_read_sends_everything(harness: &dyn Harness) {
    let rows = [item(1, "a", 1), item(2, "b", 5), item(3, "c", 3)];
    put(harness, &item_table("items"), &rows).await;
    let job = job(harness, "items").await;
    let reading = reading(harness, &job, &State::default()).await;
    assert_same(&reading.upserts(), &[items(&item_table("items"), &rows)]);
    assert!(matches!(reading.messages.last(), Some(Message::Checkpoint(_))));
    let state = reading.state_after(&State::default());
    let keys: Vec<_> = state.cursors.keys().collect();
    assert_eq!(keys, [&CursorKey::Table(job.table.name.clone())]);
    assert!(reading.completions.iter().all(|c| *c == Completion::Complete));
}

/// Reading again without a change sends no row, again and again, and still ends with a cursor.
pub async fn an_unchanged_table_sends_nothing(harness: &dyn Harness) {
    let rows = [item(1, "a", 5), item(2, "b", 5), item(3, "c", 3)];
    put(harness, &item_table("items"), &rows).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    assert_eq!(count(&delta(harness, &job, &mut state).await), 3);
    for _ in 0..3 {
        let reading = reading(harness, &job, &state).await;
        assert_eq!(count(&reading.upserts()), 0);
        assert!(reading.checkpoints().count() >= 1);
        state = reading.state_after(&state);
    }
}

/// Rows that are new or changed since are sent, the others are not.
pub async fn new_and_changed_rows_are_sent(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[item(1, "a", 1), item(2, "b", 2), item(3, "c", 3)]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    delta(harness, &job, &mut state).await;
    let changed = [item(1, "A", 4), item(4, "d", 9)];
    put(harness, &table, &changed).await;
    assert_same(&delta(harness, &job, &mut state).await, &[items(&table, &changed)]);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// A row that appears with the cursor value already reached is sent, once; its neighbours that
/// were sent before are not.
pub async fn a_row_at_the_boundary_is_sent_once(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[item(1, "a", 7), item(2, "b", 7), item(3, "c", 1)]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    delta(harness, &job, &mut state).await;
    for id in 4..7 {
        put(harness, &table, &[item(id, "new", 7)]).await;
        let expected = items(&table, &[item(id, "new", 7)]);
        assert_same(&delta(harness, &job, &mut state).await, &[expected]);
        assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    }
}

/// A row at the boundary that changes without moving its cursor is another version: it is sent.
pub async fn a_changed_row_at_the_boundary_is_sent(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[item(1, "a", 7), item(2, "b", 7)]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    delta(harness, &job, &mut state).await;
    put(harness, &table, &[item(2, "B", 7)]).await;
    let expected = items(&table, &[item(2, "B", 7)]);
    assert_same(&delta(harness, &job, &mut state).await, &[expected]);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// Rows at the boundary that equal one another are counted: of a table without a key, one more
/// copy is one more row.
pub async fn equal_rows_at_the_boundary_are_counted(harness: &dyn Harness) {
    let table = loose_item_table("items", &[]);
    let twin = || item(1, "twin", 7);
    put(harness, &table, &[twin(), twin(), item(2, "b", 1)]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    assert_eq!(count(&delta(harness, &job, &mut state).await), 3);
    put(harness, &table, &[twin()]).await;
    assert_same(&delta(harness, &job, &mut state).await, &[items(&table, &[twin()])]);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// A row at the boundary that is deleted changes nothing for the others.
pub async fn a_deleted_row_at_the_boundary_brings_nothing_back(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[item(1, "a", 7), item(2, "b", 7), item(3, "c", 6)]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    delta(harness, &job, &mut state).await;
    for id in [1, 2] {
        let gone = items(&table, &[item(id, "", 7).deletion()]);
        harness.fill(&table, &delete(&gone)).await;
        assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    }
    put(harness, &table, &[item(4, "d", 8)]).await;
    assert_eq!(count(&delta(harness, &job, &mut state).await), 1);
}

/// Rows without a cursor value are sent when they are first seen, when they appear, and when they
/// change; not again while they do not.
pub async fn rows_without_a_cursor_are_sent_when_they_change(harness: &dyn Harness) {
    let table = item_table("items");
    let null = |id, value| item(id, value, 0).without_cursor();
    put(harness, &table, &[null(1, "a"), item(2, "b", 2), null(3, "c")]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    assert_eq!(count(&delta(harness, &job, &mut state).await), 3);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    let changed = [null(3, "C"), null(4, "d")];
    put(harness, &table, &changed).await;
    assert_same(&delta(harness, &job, &mut state).await, &[items(&table, &changed)]);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    // A row that gets a value, however low, has changed; one that loses it too.
    let changed = [item(1, "a", 5), null(2, "b")];
    put(harness, &table, &changed).await;
    assert_same(&delta(harness, &job, &mut state).await, &[items(&table, &changed)]);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// A table in which no row has a cursor value is read like any other.
pub async fn a_table_of_nulls_is_read(harness: &dyn Harness) {
    let table = item_table("items");
    let null = |id| item(id, "a", 0).without_cursor();
    put(harness, &table, &[null(1), null(2)]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    assert_eq!(count(&delta(harness, &job, &mut state).await), 2);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    put(harness, &table, &[item(3, "c", -5)]).await;
    assert_eq!(count(&delta(harness, &job, &mut state).await), 1);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// An empty table has a cursor too, and its first row is sent when it comes.
pub async fn the_first_row_of_an_empty_table_is_sent(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[]).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    put(harness, &table, &[item(1, "a", i64::MIN)]).await;
    assert_eq!(count(&delta(harness, &job, &mut state).await), 1);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// `null_cursor: exclude` leaves rows without a cursor value out.
pub async fn rows_without_a_cursor_can_be_excluded(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[item(1, "a", 0).without_cursor(), item(2, "b", 2)]).await;
    let job = Job { null_cursor: NullCursor::Exclude, ..job(harness, "items").await };
    let mut state = State::default();
    let expected = items(&table, &[item(2, "b", 2)]);
    assert_same(&delta(harness, &job, &mut state).await, &[expected]);
    put(harness, &table, &[item(3, "c", 0).without_cursor()]).await;
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// `null_cursor: fail` stops the table at one row without a cursor value, and names the column.
pub async fn rows_without_a_cursor_can_be_an_error(harness: &dyn Harness) {
    let table = item_table("items");
    put(harness, &table, &[item(1, "a", 1)]).await;
    let job = Job { null_cursor: NullCursor::Fail, ..job(harness, "items").await };
    let mut state = State::default();
    assert_eq!(count(&delta(harness, &job, &mut state).await), 1);
    put(harness, &table, &[item(2, "b", 0).without_cursor()]).await;
    let source = harness.source().await;
    let error = read(source.as_ref(), &job, &state).await.expect_err("a refusal");
    assert_eq!(error.kind(), ErrorKind::Data, "{}", error.full_message());
    assert!(error.full_message().contains("updated_at"), "{}", error.full_message());
}

/// With a lookback, rows that come late within it are sent; rows already sent are not.
pub async fn late_rows_within_the_lookback_are_sent(harness: &dyn Harness) {
    let table = item_table("items");
    let rows: Vec<_> = (1..=20).map(|n| item(n, "a", n)).collect();
    put(harness, &table, &rows).await;
    let job = Job { lookback: 5, ..job(harness, "items").await };
    let mut state = State::default();
    assert_eq!(count(&delta(harness, &job, &mut state).await), 20);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    let late = [item(21, "late", 16), item(17, "changed", 17)];
    put(harness, &table, &late).await;
    assert_same(&delta(harness, &job, &mut state).await, &[items(&table, &late)]);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    put(harness, &table, &[item(22, "new", 30)]).await;
    assert_eq!(count(&delta(harness, &job, &mut state).await), 1);
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
}

/// After every checkpoint the read can be taken up again: what was sent before it and what is
/// sent from there on are all rows, each once.
pub async fn a_read_is_taken_up_at_every_checkpoint(harness: &dyn Harness) {
    let sample = orders(6_000);
    harness.fill(&sample.table, &upsert(&sample.rows)).await;
    let job = job(harness, "orders").await;
    let whole = reading(harness, &job, &State::default()).await;
    assert_same(&whole.upserts(), std::slice::from_ref(&sample.rows));
    let (mut before, mut state) = (Vec::new(), State::default());
    for message in &whole.messages {
        match message {
            Message::Batch(batch) => before.push(batch.rows.clone()),
            Message::Checkpoint(checkpoint) => {
                let cursors = checkpoint.cursors.iter();
                state.cursors.extend(cursors.map(|(k, c)| (k.clone(), c.clone())));
                let rest = reading(harness, &job, &state).await.upserts();
                let all: Vec<_> = before.iter().chain(&rest).cloned().collect();
                assert_same(&all, std::slice::from_ref(&sample.rows));
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A cursor survives being stored as text.
pub async fn a_cursor_survives_its_text(harness: &dyn Harness) {
    let table = item_table("items");
    let rows: Vec<_> = (0..50).map(|n| item(n, "a", i64::MAX - n / 10)).collect();
    put(harness, &table, &rows).await;
    let (job, mut state) = (job(harness, "items").await, State::default());
    delta(harness, &job, &mut state).await;
    for cursor in state.cursors.values_mut() {
        let text = serde_json::to_string(&cursor.0).expect("JSON");
        cursor.0 = serde_json::from_str(&text).expect("JSON");
    }
    assert_eq!(count(&delta(harness, &job, &mut state).await), 0);
    put(harness, &table, &[item(99, "new", i64::MAX)]).await;
    assert_eq!(count(&delta(harness, &job, &mut state).await), 1);
}

/// Columns of every ordered type can be the cursor field.
pub async fn cursors_of_many_types_work(harness: &dyn Harness) {
    let decimal = Decimal128Array::from(vec![-150, 150, 150, 151]);
    let decimal = decimal.with_precision_and_scale(12, 2).expect("digits that fit");
    let times = vec![-1, 1_000_000, 1_000_000, 1_000_001];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("smallint", Arc::new(Int16Array::from(vec![-1, 5, 5, 6]))),
        ("bigint", Arc::new(Int64Array::from(vec![i64::MIN, 5, 5, i64::MAX]))),
        ("double", Arc::new(Float64Array::from(vec![-1e300, 0.1, 0.1, 0.100_000_000_000_000_02]))),
        ("decimal", Arc::new(decimal)),
        // By bytes, whatever the collation says: `Z` comes before `a`, and `é` after all.
        ("text", Arc::new(StringArray::from(vec!["Z'", "a", "a", "é"]))),
        ("date", Arc::new(Date32Array::from(vec![-1, 20_000, 20_000, 20_001]))),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(times.clone()))),
        ("timestamptz", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))),
    ];
    for (name, column) in columns {
        let fields = vec![
            Field::new("id", DataType::Int64, false),
            Field::new("at", column.data_type().clone(), true),
        ];
        let name = format!("cursor_{name}");
        let table = Table::new(TableName::new(name.clone()), fields).with_primary_key(["id"]);
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let all = RecordBatch::try_new(Arc::clone(&table.schema), vec![ids, column]);
        let all = all.expect("rows fit their table");
        let job_of = |found: Table| Job::reading(found).by_cursor("at");
        harness.fill(&table, &upsert(&all.slice(0, 2))).await;
        let job = job_of(job(harness, &name).await.table);
        let mut state = State::default();
        assert_eq!(count(&delta(harness, &job, &mut state).await), 2, "{name}");
        assert_eq!(count(&delta(harness, &job, &mut state).await), 0, "{name}");
        for row in [2, 3] {
            harness.fill(&table, &upsert(&all.slice(row, 1))).await;
            assert_same(&delta(harness, &job, &mut state).await, &[all.slice(row, 1)]);
            assert_eq!(count(&delta(harness, &job, &mut state).await), 0, "{name}");
        }
    }
}

/// A cursor field that is not there, or has no order, is refused before any row is read.
pub async fn an_impossible_cursor_field_is_refused(harness: &dyn Harness) {
    let table = item_table("items").with_column(Field::new("flag", DataType::Boolean, true));
    put(harness, &table, &[item(1, "a", 1)]).await;
    let good = job(harness, "items").await;
    let source = harness.source().await;
    for field in ["missing", "flag"] {
        let job = good.clone().by_cursor(field);
        let plan = job.source_plan(source.as_ref());
        let planned = plan.tables.values().next().expect("one table");
        let error = source.review(planned).await.expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::Config, "{}", error.full_message());
        assert!(error.full_message().contains(field), "{}", error.full_message());
    }
    let plan = good.source_plan(source.as_ref());
    let planned = plan.tables.values().next().expect("one table");
    source.review(planned).await.expect("a column with an order");
}
