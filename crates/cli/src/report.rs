//! What a sync did, in words and numbers.

use highwater_core::{Cursor, CursorKey, Instant, State, TableName, WriteMode};
use highwater_engine::{
    DestinationSummary, Failure as Reported, Summary, TableSummary, quarantine,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::output::{self, count};

/// The result of one source's sync, for stdout.
pub fn summary(summary: &Summary) -> String {
    let mut out = String::new();
    for destination in &summary.destinations {
        let seconds = summary.duration_ms as f64 / 1000.0;
        out.push_str(&format!("{} → {} ({seconds:.1} s)\n", summary.sync, destination.destination));
        if !destination.tables.is_empty() {
            out.push_str(&tables(&destination.tables));
        }
        if is_unchanged(destination) {
            out.push_str("Nothing changed.\n");
        }
    }
    out
}

fn tables(tables: &[TableSummary]) -> String {
    let is_complete = tables.iter().all(|t| t.complete);
    let mut titles = vec!["TABLE", "READ", "WRITTEN", "UNCHANGED", "DELETED"];
    // Most syncs have none of these rows.
    type Count = fn(&TableSummary) -> u64;
    let rare: [(&str, Count); 2] =
        [("FILTERED", |t| t.rows_filtered), ("QUARANTINED", |t| t.rows_quarantined)];
    let rare = rare.into_iter().filter(|(_, rows)| tables.iter().any(|t| rows(t) > 0));
    let rare: Vec<_> = rare.collect();
    titles.extend(rare.iter().map(|(title, _)| title));
    titles.push("GUARANTEE");
    if !is_complete {
        titles.push("STATUS");
    }
    let has_namespaces = tables.iter().any(|t| t.table.namespace.is_some());
    let rows: Vec<Vec<String>> = tables
        .iter()
        .map(|table| {
            let mut row = vec![
                shown(&table.table, has_namespaces),
                count(table.rows_read),
                count(table.rows_written),
                count(table.rows_unchanged),
                count(table.rows_deleted),
            ];
            row.extend(rare.iter().map(|(_, rows)| count(rows(table))));
            row.push(table.guarantee.to_string());
            if !is_complete {
                row.push(status(table).to_owned());
            }
            row
        })
        .collect();
    output::table(&titles, &rows)
}

/// The name of a table, so long that numbers can still be seen beside it. Where there are
/// namespaces, a dot that is none between two parts is seen by the quotes.
fn shown(table: &TableName, has_namespaces: bool) -> String {
    const LONGEST: usize = 60;
    let part = |part: &String| match has_namespaces && part.contains('.') {
        true => format!("\"{part}\""),
        false => part.clone(),
    };
    let parts: Vec<String> = table.namespace.iter().chain([&table.name]).map(part).collect();
    let name = parts.join(".");
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= LONGEST {
        return name;
    }
    // Names that begin alike often end in different ways.
    let (start, end) = (&characters[..LONGEST / 2], &characters[characters.len() - 29..]);
    start.iter().chain(&['…']).chain(end).collect()
}

fn status(table: &TableSummary) -> &'static str {
    match (&table.error, table.complete) {
        (Some(_), _) => "failed",
        (None, true) => "complete",
        (None, false) => "stopped",
    }
}

/// Whether everything was done, and nothing had to be.
fn is_unchanged(destination: &DestinationSummary) -> bool {
    destination.error.is_none()
        && !destination.tables.is_empty()
        && destination.tables.iter().all(|table| {
            // Every row read is a row of the history, also where the final table stays as it is.
            let history_grew = table.write_mode == WriteMode::AppendDedup && table.rows_read > 0;
            let is_still = table.rows_written == 0 && table.rows_quarantined == 0;
            table.complete && is_still && table.rows_deleted == 0 && !history_grew
        })
}

/// What there is to say about a sync beside its numbers.
pub struct Remark {
    /// Whether it is an error, and no note.
    pub is_error: bool,
    /// The line for stderr, with the hint below it.
    pub text: String,
    /// The same as an object of the JSON log. Errors of tables are events there already.
    pub event: Option<Value>,
}

/// Notes and errors of a sync, notes first, nothing twice.
pub fn remarks(summary: &Summary) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = notes(summary)
        .into_iter()
        .map(|(note, tables)| Remark {
            is_error: false,
            text: format!("note: {}: {note}", named(&tables)),
            event: Some(match tables.as_slice() {
                [table] => json!({ "message": note, "event": "note", "table": table }),
                _ => json!({ "message": note, "event": "note", "tables": tables }),
            }),
        })
        .collect();
    for destination in &summary.destinations {
        let name = &destination.destination;
        remarks.extend(destination.error.iter().map(|error| Remark {
            is_error: true,
            text: reported(name, error),
            event: Some(json!({
                "message": error.message, "hint": error.hint, "destination": name,
            })),
        }));
        for table in &destination.tables {
            let place = format!("{} → {name}", table.table);
            remarks.extend(table.error.iter().map(|error| Remark {
                is_error: true,
                text: reported(&place, error),
                event: None,
            }));
            remarks.extend(quarantined(table, name));
        }
    }
    remarks
}

/// Rows that are not where they belong: the sync is no success.
fn quarantined(table: &TableSummary, destination: &str) -> Option<Remark> {
    let rows = table.rows_quarantined;
    let of = if rows == 1 { "1 row: it is" } else { &format!("{} rows: they are", count(rows)) };
    let message = format!("A mapping failed for {of} in the quarantine, not in the table");
    let hint = format!("look into the table `{}` of the destination", quarantine::TABLE);
    (rows > 0).then(|| Remark {
        is_error: true,
        text: format!("error: {} → {destination}: {message}\nhint: {hint}", table.table),
        event: Some(json!({
            "message": message, "hint": hint, "event": "rows_quarantined",
            "table": table.table.to_string(), "destination": destination, "rows": rows,
        })),
    })
}

/// Every note once, in the order of its first table, with the tables that it is about. A note
/// about a table is the same at every destination.
fn notes(summary: &Summary) -> Vec<(&str, Vec<String>)> {
    let mut notes: Vec<(&str, Vec<String>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for table in summary.destinations.iter().flat_map(|d| &d.tables) {
        for note in &table.notes {
            if !seen.insert((&table.table, note)) {
                continue;
            }
            let place = *places.entry(note).or_insert_with(|| {
                notes.push((note, Vec::new()));
                notes.len() - 1
            });
            notes[place].1.push(table.table.to_string());
        }
    }
    notes
}

/// A table by its name, and several by their number and the first names.
fn named(tables: &[String]) -> String {
    const SHOWN: usize = 3;
    match tables {
        [table] => table.clone(),
        tables if tables.len() <= SHOWN => tables.join(", "),
        [first @ .., _] => {
            let more = tables.len() - SHOWN;
            format!("{} tables: {} and {more} more", tables.len(), first[..SHOWN].join(", "))
        }
        [] => String::new(),
    }
}

fn reported(place: &str, error: &Reported) -> String {
    let hint = error.hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    format!("error: {place}: {}{hint}", error.message)
}

/// A position for people: the value that a cursor field has reached, or the whole position where
/// the source has another idea of one.
pub fn cursor(cursor: &Cursor) -> String {
    let value = |key: &str| cursor.0.get(key).and_then(Value::as_str);
    if let (Some(field), Some(max)) = (value("field"), value("max")) {
        return format!("{field} = {max}");
    }
    if value("kind") == Some("row_versions") {
        return row_versions(&cursor.0);
    }
    let text = match &cursor.0 {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A position that is a snapshot of the database: from when on changes are looked for, where the
/// clock says that, and from which transaction on.
fn row_versions(position: &Value) -> String {
    let transaction = position.get("snapshot_xmin").and_then(Value::as_u64).unwrap_or_default();
    let since = position.get("lower_bound").filter(|bound| !bound.is_null());
    let since = since.and_then(|bound| Instant::deserialize(bound).ok());
    match since {
        Some(at) => format!("rows changed since {}, transaction {transaction}", at.to_rfc3339()),
        None => format!("rows changed since transaction {transaction}"),
    }
}

/// The cursors of a state, a row each: what it is the position of, and the position. The parts of
/// a table are counted, not listed, when there are many.
pub fn cursors(state: &State) -> Vec<(String, String)> {
    const PARTS_MAX: usize = 20;
    let mut parts = std::collections::BTreeMap::new();
    for key in state.cursors.keys() {
        if let CursorKey::Partition(table, _) = key {
            *parts.entry(table).or_insert(0_usize) += 1;
        }
    }
    let is_listed = |key: &CursorKey| match key {
        CursorKey::Partition(table, _) => parts.get(table).is_none_or(|n| *n <= PARTS_MAX),
        _ => true,
    };
    let listed = state.cursors.iter().filter(|(key, _)| is_listed(key));
    let counted = parts.iter().filter(|(_, n)| **n > PARTS_MAX);
    listed
        .map(|(key, position)| (key.to_string(), cursor(position)))
        .chain(counted.map(|(table, n)| (table.to_string(), format!("{n} parts"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tables_are_short_and_different() {
        let name = |namespace: &str, name: &str| TableName::in_namespace(namespace, name);
        assert_eq!(shown(&name("a", "b.c"), true), "a.\"b.c\"");
        assert_eq!(shown(&name("a.b", "c"), true), "\"a.b\".c");
        assert_eq!(shown(&name("a", "b"), true), "a.b");
        assert_eq!(shown(&TableName::new("a.b"), true), "\"a.b\"");
        assert_eq!(shown(&TableName::new("orders.csv"), false), "orders.csv");
        let long = format!("{}-{}", "a".repeat(100), "b".repeat(100));
        let long = shown(&TableName::new(&long), false);
        assert_eq!(long, format!("{}…{}", "a".repeat(30), "b".repeat(29)));
    }

    #[test]
    fn many_tables_are_named_by_the_first_ones() {
        let names: Vec<String> = (1..=600).map(|n| format!("t{n}")).collect();
        for (count, expected) in [
            (1, "t1"),
            (2, "t1, t2"),
            (3, "t1, t2, t3"),
            (4, "4 tables: t1, t2, t3 and 1 more"),
            (600, "600 tables: t1, t2, t3 and 597 more"),
        ] {
            assert_eq!(named(&names[..count]), expected);
        }
    }

    #[test]
    fn a_position_is_shown_as_its_value() {
        let inclusive =
            json!({"v": 1, "field": "updated_at", "max": "2026-11-21", "boundary": "x"});
        assert_eq!(cursor(&Cursor(inclusive)), "updated_at = 2026-11-21");
        assert_eq!(cursor(&Cursor(json!({"lsn": 5}))), "{\"lsn\":5}");
        let versions =
            json!({"v": 1, "kind": "row_versions", "lower_bound": Instant(0), "snapshot_xmin": 7});
        assert_eq!(
            cursor(&Cursor(versions)),
            format!("rows changed since {}, transaction 7", Instant(0).to_rfc3339())
        );
        let mut state = State::default();
        for i in 0..21 {
            let key = CursorKey::Partition(TableName::new("files"), format!("{i}.csv"));
            state.cursors.insert(key, Cursor(json!(1)));
        }
        assert_eq!(cursors(&state), [("files".to_owned(), "21 parts".to_owned())]);
    }
}
