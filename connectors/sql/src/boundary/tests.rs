//! What an inclusive cursor promises, over several syncs of a table held in memory.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_schema::Schema;
use highwater_core::{ErrorKind, ReadMode, Table, WriteMode};

use super::*;

/// `(id, cursor, name)`.
type Row = (i64, Option<i64>, &'static str);

const NOW: Instant = Instant(1_000_000_000);

fn plan(cursor: DataType, columns: &[&str]) -> TablePlan {
    let fields = columns.iter().map(|name| {
        let data_type = match *name {
            "id" => DataType::Int64,
            "c" => cursor.clone(),
            _ => DataType::Utf8,
        };
        Field::new(*name, data_type, true)
    });
    let table = Arc::new(Table::new(TableName::new("t"), fields.collect()));
    TablePlan {
        cursor_field: Some("c".into()),
        order_by: Some("c".into()),
        ..TablePlan::new(table.clone(), table, ReadMode::Incremental, WriteMode::Append)
    }
}

fn integers() -> TablePlan {
    plan(DataType::Int64, &["id", "c", "name"])
}

fn batch(plan: &TablePlan, rows: &[Row]) -> RecordBatch {
    let schema: &Schema = &plan.source.schema;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match (field.name().as_str(), field.data_type()) {
            ("id", _) => Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>()),
            ("c", DataType::Int64) => Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
            ("c", _) => Arc::new(rows.iter().map(|r| r.1).collect::<TimestampMicrosecondArray>()),
            _ => Arc::new(rows.iter().map(|r| Some(r.2)).collect::<StringArray>()),
        }
    });
    RecordBatch::try_new(plan.source.schema.clone(), columns.collect()).unwrap()
}

/// One sync, in batches of two rows: the ids sent, and the cursor to save.
fn sync(plan: &TablePlan, saved: Option<&Cursor>, rows: &[Row]) -> (Vec<i64>, Cursor) {
    try_sync(plan, saved, rows).unwrap()
}

fn try_sync(plan: &TablePlan, saved: Option<&Cursor>, rows: &[Row]) -> Result<(Vec<i64>, Cursor)> {
    let mut cursor = InclusiveCursor::new(plan, saved, NOW)?;
    let mut sent = Vec::new();
    for rows in rows.chunks(2) {
        let admitted = cursor.admit(batch(plan, rows))?;
        let ids = admitted.column(0).as_primitive::<arrow_array::types::Int64Type>();
        sent.extend(ids.values().iter().copied());
    }
    Ok((sent, Cursor(cursor.finish()?)))
}

#[test]
fn a_second_read_of_an_unchanged_table_sends_nothing_and_moves_nothing() {
    let rows = [(1, Some(5), "a"), (2, Some(9), "b"), (3, Some(9), "c"), (4, None, "d")];
    let (sent, first) = sync(&integers(), None, &rows);
    assert_eq!(sent, [1, 2, 3, 4]);
    let (sent, second) = sync(&integers(), Some(&first), &rows);
    assert_eq!(sent, [0; 0]);
    assert_eq!(first, second);
    assert_eq!(first.0["max"], "9");
}

#[test]
fn a_tie_that_appears_later_is_sent_and_the_known_ones_are_not() {
    let (_, saved) = sync(&integers(), None, &[(1, Some(9), "a"), (2, Some(9), "b")]);
    let rows = [(1, Some(9), "a"), (3, Some(9), "c"), (2, Some(9), "b"), (4, Some(10), "d")];
    let (sent, saved) = sync(&integers(), Some(&saved), &rows);
    assert_eq!(sent, [3, 4]);
    // What is at the boundary and changes is a new version.
    let (sent, _) = sync(&integers(), Some(&saved), &[(4, Some(10), "d2"), (3, Some(9), "c")]);
    assert_eq!(sent, [4]);
}

#[test]
fn equal_rows_are_counted() {
    let twin = (1, Some(9), "a");
    let (_, saved) = sync(&integers(), None, &[twin, twin]);
    let (sent, saved) = sync(&integers(), Some(&saved), &[twin, twin, twin]);
    assert_eq!(sent, [1]);
    let (sent, _) = sync(&integers(), Some(&saved), &[twin, twin, twin]);
    assert_eq!(sent, [0; 0]);
}

#[test]
fn rows_without_a_cursor_are_sent_when_they_appear_or_change() {
    let (_, saved) = sync(&integers(), None, &[(1, Some(9), "a"), (2, None, "b")]);
    let rows = [(1, Some(9), "a"), (2, None, "b2"), (3, None, "c")];
    let (sent, saved) = sync(&integers(), Some(&saved), &rows);
    assert_eq!(sent, [2, 3]);
    let excluding = TablePlan { null_cursor: NullCursor::Exclude, ..integers() };
    let (sent, saved) = sync(&excluding, Some(&saved), &rows);
    assert_eq!(sent, [0; 0]);
    let (sent, saved) = sync(&integers(), Some(&saved), &rows);
    assert_eq!(sent, [0; 0], "what was delivered stays known while it is excluded");
    let failing = TablePlan { null_cursor: NullCursor::Fail, ..integers() };
    let error = try_sync(&failing, Some(&saved), &rows).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
}

#[test]
fn a_row_from_the_future_hides_nothing() {
    let at = plan(DataType::Timestamp(TimeUnit::Microsecond, None), &["id", "c", "name"]);
    let (past, future) = (Some(NOW.0 - 60), Some(NOW.0 * 1_000_000));
    let (sent, saved) = sync(&at, None, &[(1, past, "a"), (2, future, "b")]);
    assert_eq!(sent, [1, 2]);
    assert_eq!(saved.0["max"], "1970-01-01 00:16:39.999940");
    let rows = [(1, past, "a"), (2, future, "b"), (3, Some(NOW.0 - 30), "c")];
    let (sent, saved) = sync(&at, Some(&saved), &rows);
    assert_eq!(sent, [3]);
    let (sent, _) = sync(&at, Some(&saved), &[(2, future, "b"), (2, future, "b2")]);
    assert_eq!(sent, [2], "a changed row from the future is sent again");
    // Nothing but the future.
    let (_, saved) = sync(&at, None, &[(2, future, "b")]);
    assert_eq!(saved.0["max"], Value::Null);
    let (sent, _) = sync(&at, Some(&saved), &[(2, future, "b"), (4, past, "d")]);
    assert_eq!(sent, [4]);
}

#[test]
fn a_new_column_neither_loses_nor_doubles_a_row() {
    let narrow = plan(DataType::Int64, &["id", "c"]);
    let rows = [(1, Some(5), "x"), (2, Some(9), "x"), (3, None, "x")];
    let (_, saved) = sync(&narrow, None, &rows);
    let more = [rows[0], rows[1], rows[2], (4, Some(9), "new"), (5, None, "new")];
    let (sent, saved) = sync(&integers(), Some(&saved), &more);
    assert_eq!(sent, [4, 5]);
    // From now on the new column counts.
    let changed = [rows[0], (2, Some(9), "changed"), more[3], more[2], more[4]];
    let (sent, saved) = sync(&integers(), Some(&saved), &changed);
    assert_eq!(sent, [2]);
    // Another order of the columns is no change.
    let turned = plan(DataType::Int64, &["id", "name", "c"]);
    let (sent, _) = sync(&turned, Some(&saved), &changed);
    assert_eq!(sent, [0; 0]);
}

#[test]
fn a_lost_column_neither_loses_nor_doubles_a_row() {
    let rows = [(1, Some(5), "x"), (2, Some(9), "y"), (3, None, "z"), (2, Some(9), "y2")];
    let (_, saved) = sync(&integers(), None, &rows);
    let narrow = plan(DataType::Int64, &["id", "c"]);
    let more = [rows[0], rows[1], rows[2], rows[3], (2, Some(9), "y3"), (4, Some(9), "")];
    let (sent, saved) = sync(&narrow, Some(&saved), &more);
    assert_eq!(sent, [2, 4], "two of three rows that look the same now were delivered");
    let (sent, _) = sync(&narrow, Some(&saved), &more);
    assert_eq!(sent, [0; 0]);
    // Of a large boundary only whole rows are known: doubled rather than lost.
    let many: Vec<Row> = (0..10_000).map(|id| (id, Some(9), "x")).collect();
    let (_, saved) = sync(&integers(), None, &many);
    assert_eq!(sync(&integers(), Some(&saved), &many).0, [0; 0]);
    assert_eq!(sync(&narrow, Some(&saved), &many).0.len(), many.len());
}

#[test]
fn lookback_finds_late_rows_and_a_longer_one_doubles_nothing() {
    let back = |lookback| TablePlan { lookback, ..integers() };
    let rows = [(1, Some(1), "a"), (2, Some(5), "b"), (3, Some(10), "c")];
    let (_, saved) = sync(&back(3), None, &rows);
    assert_eq!(saved.0["from"], "7");
    let late = [rows[0], rows[1], rows[2], (4, Some(8), "late"), (5, Some(6), "too late")];
    let (sent, saved) = sync(&back(100), Some(&saved), &late);
    assert_eq!(sent, [4]);
    let (sent, saved) = sync(&back(100), Some(&saved), &late);
    assert_eq!(sent, [0; 0]);
    let (sent, _) = sync(&back(0), Some(&saved), &[late[2], late[3], (6, Some(10), "d")]);
    assert_eq!(sent, [6]);
}

#[test]
fn deleted_rows_do_not_move_the_cursor_back() {
    let (_, saved) = sync(&integers(), None, &[(1, Some(5), "a"), (2, Some(9), "b")]);
    let (sent, saved) = sync(&integers(), Some(&saved), &[(1, Some(5), "a")]);
    assert_eq!((sent, &saved.0["max"]), (vec![], &Value::from("9")));
}

#[test]
fn a_cursor_that_does_not_belong_here_is_refused() {
    let (_, saved) = sync(&integers(), None, &[(1, Some(5), "a")]);
    let other = TablePlan { cursor_field: Some("id".into()), ..integers() };
    assert_eq!(try_sync(&other, Some(&saved), &[]).unwrap_err().kind(), ErrorKind::Config);
    for wrong in [
        serde_json::json!({"v": 2, "field": "c"}),
        serde_json::json!({"v": 1, "field": "c", "max": "yesterday"}),
        serde_json::json!({"v": 1, "field": "c", "max": "1", "boundary": "AAAA"}),
        serde_json::json!("5"),
    ] {
        let error = try_sync(&integers(), Some(&Cursor(wrong)), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint_text().unwrap().contains("state reset"));
    }
    let by_hand = Cursor(serde_json::json!({"v": 1, "field": "c", "max": "5"}));
    let (sent, _) = sync(&integers(), Some(&by_hand), &[(1, Some(4), "a"), (2, Some(5), "b")]);
    assert_eq!(sent, [2]);
    let text = TablePlan { cursor_field: Some("name".into()), lookback: 1, ..integers() };
    let error = try_sync(&text, None, &[(1, None, "a")]).unwrap_err();
    assert!(error.message().contains("lookback"));
}

#[test]
fn a_boundary_without_bound_is_refused() {
    let mut cursor = InclusiveCursor::new(&integers(), None, NOW).unwrap();
    let rows: Vec<Row> = (0..250_001).map(|id| (id, Some(7), "same")).collect();
    let same = batch(&integers(), &rows);
    for _ in 0..3 {
        cursor.admit(same.clone()).unwrap();
    }
    let error = cursor.admit(same).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint_text().unwrap().contains("more distinct values"));
    // Many rows with few ties are no problem.
    let mut cursor = InclusiveCursor::new(&integers(), None, NOW).unwrap();
    for part in 0..12 {
        let rows: Vec<Row> = (0..100_000).map(|id| (id, Some(part * 100_000 + id), "a")).collect();
        cursor.admit(batch(&integers(), &rows)).unwrap();
    }
    assert_eq!(cursor.finish().unwrap()["max"], "1199999");
}
