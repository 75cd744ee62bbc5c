//! Mappings on the way from a source to its destinations, and the quarantine.

use highwater_core::mapping::{Condition, HashMethod};
use highwater_core::{ErrorKind, Mapping, Secret, TableName, WriteMode};
use highwater_engine::{Outcome, TableSummary, mappings, quarantine};
use highwater_testkit::memory::{Fault, Memory, Operation};
use highwater_testkit::rows;
use highwater_testkit::scripted::Step;
use highwater_testkit::tables::{Item, item, item_table, items};

use crate::bench::Bench;

/// `printf secret | sha256sum`.
const SECRET: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn step(rows: &[Item]) -> Step {
    Step::Upsert(items(&item_table("t"), rows))
}

fn bench(write_mode: WriteMode, steps: Vec<Step>, mappings: Vec<Mapping>) -> (Bench, Memory) {
    let (mut bench, memory) = Bench::new(steps);
    bench.request.tables[0].write_mode = Some(write_mode);
    bench.request.tables[0].mappings = mappings;
    (bench, memory)
}

fn rename(column: &str, to: &str) -> Mapping {
    Mapping::Rename { column: column.into(), to: to.into() }
}

fn hash(column: &str, to: &str) -> Mapping {
    Mapping::Hash { column: column.into(), to: to.into(), method: HashMethod::Sha256 }
}

fn equal(column: &str, value: &str) -> Condition {
    Condition::Equal { column: column.into(), value: value.into() }
}

/// The rows of a table, sorted: cells joined by `|`, NULL as `-`.
fn lines(memory: &Memory, table: &str, columns: &[&str]) -> Vec<String> {
    let batches = memory.rows(&TableName::new(table)).unwrap_or_default();
    let Some(first) = batches.first() else { return Vec::new() };
    let schema = first.schema();
    let texts = rows::texts(&batches, &schema);
    let line = |row: &Vec<Option<String>>| {
        let cells = columns.iter().map(|column| row[schema.index_of(column).unwrap()].clone());
        cells.map(|cell| cell.unwrap_or_else(|| "-".into())).collect::<Vec<_>>().join("|")
    };
    let mut lines: Vec<_> = texts.iter().map(line).collect();
    lines.sort();
    lines
}

fn columns(memory: &Memory, table: &str) -> Vec<String> {
    let batches = memory.rows(&TableName::new(table)).unwrap();
    batches[0].schema().fields().iter().map(|field| field.name().clone()).collect()
}

/// Whether a text stands in any cell of these tables.
fn holds(memory: &Memory, tables: &[&str], text: &str) -> bool {
    let batches = tables.iter().flat_map(|t| memory.rows(&TableName::new(*t)).unwrap_or_default());
    let mut cells =
        batches.flat_map(|batch| rows::texts(std::slice::from_ref(&batch), &batch.schema()));
    cells.any(|row| row.iter().flatten().any(|cell| cell.contains(text)))
}

async fn sync(bench: &Bench) -> (Outcome, TableSummary) {
    let summary = bench.run().await.unwrap();
    (summary.outcome(), summary.destinations[0].tables[0].clone())
}

#[tokio::test]
async fn after_a_rename_and_a_hash_rows_still_meet_by_key_and_order() {
    let steps = vec![
        step(&[item(1, "old", 10), item(2, "secret", 10), item(1, "older", 5)]),
        Step::Checkpoint,
        Step::Delete(items(&item_table("t"), &[item(2, "", 20).deletion()])),
        step(&[item(1, "secret", 30), item(2, "late", 15)]),
        Step::Checkpoint,
    ];
    let mappings = vec![
        rename("updated_at", "changed_at"),
        hash("id", "id_hash"),
        hash("value", "value"),
        Mapping::Drop { column: "region".into() },
    ];
    let (bench, memory) = bench(WriteMode::AppendDedup, steps, mappings);
    let (outcome, table) = sync(&bench).await;
    assert_eq!(outcome, Outcome::Complete, "{:?}", table.error);
    assert_eq!(columns(&memory, "t"), ["id_hash", "value", "changed_at"]);
    let one = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
    // Row 2 was deleted at 20: neither is it there nor does its late, older version bring it back.
    let found = lines(&memory, "t", &["id_hash", "value", "changed_at"]);
    assert_eq!(found, [format!("{one}|{SECRET}|30")]);
    assert_eq!(memory.rows(&TableName::new(quarantine::TABLE)).map(|b| b.len()), Some(1));
    assert!(!holds(&memory, &["t", "t_history"], "secret"));
}

#[tokio::test]
async fn a_filter_leaves_rows_out_and_counts_them_and_lets_deletions_through() {
    let unset = Item { value: None, ..item(4, "", 4) };
    let steps = vec![
        step(&[item(1, "a", 1), item(2, "b", 2), item(3, "c", 3), unset]),
        Step::Delete(items(&item_table("t"), &[item(1, "", 5).deletion()])),
        Step::Checkpoint,
    ];
    // NULL equals nothing, so that `not` lets it through.
    let kept = Condition::And(vec![
        Condition::Not(Box::new(equal("value", "b"))),
        Condition::Or(vec![equal("id", "1"), Condition::IsNull { column: "value".into() }]),
    ]);
    let (bench, memory) = bench(WriteMode::Overwrite, steps, vec![Mapping::Filter(kept)]);
    let (outcome, table) = sync(&bench).await;
    assert_eq!(outcome, Outcome::Complete, "what the user filters is no error");
    assert_eq!((table.rows_read, table.rows_filtered, table.rows_quarantined), (5, 2, 0));
    assert_eq!(lines(&memory, "t", &["id"]), ["4"]);
}

#[tokio::test]
async fn a_row_whose_mapping_fails_is_quarantined_once_and_never_in_clear_text() {
    let steps = vec![
        step(&[item(1, "secret", 1), item(2, "hunter2", 2).within("eu")]),
        Step::Checkpoint,
        step(&[item(3, "swordfish", 3), item(4, "hunter2", 4)]),
        Step::Checkpoint,
    ];
    let mappings = vec![rename("value", "faulty_1"), hash("faulty_1", "value_hashed")];
    let (bench, memory) = bench(WriteMode::Append, steps, mappings);
    mappings::faults::inject("faulty_1", 2);
    let (outcome, table) = sync(&bench).await;
    assert_eq!(outcome, Outcome::Partial, "never a success");
    assert_eq!((table.rows_read, table.rows_written, table.rows_quarantined), (4, 2, 2));
    assert!(table.complete);
    assert_eq!(lines(&memory, "t", &["id"]), ["1", "3"]);
    let shown = ["sync", "source_table", "generation", "column", "reason", "row"];
    let expected = [
        r#"shop|t|0|faulty_1|The mapping was made to fail|{"id":"2","region":"eu","updated_at":"2"}"#,
        r#"shop|t|0|faulty_1|The mapping was made to fail|{"id":"4","region":null,"updated_at":"4"}"#,
    ];
    assert_eq!(lines(&memory, quarantine::TABLE, &shown), expected);
    for clear in ["secret", "hunter2", "swordfish"] {
        assert!(!holds(&memory, &["t", quarantine::TABLE], clear), "{clear}");
    }
    let (outcome, _) = sync(&bench).await;
    assert_eq!(outcome, Outcome::Complete);
    assert_eq!(lines(&memory, quarantine::TABLE, &shown), expected, "it is there once");
}

#[tokio::test]
async fn rows_and_quarantine_are_one_commit() {
    let steps = vec![step(&[item(1, "secret", 1), item(2, "hunter2", 2)]), Step::Checkpoint];
    let mappings = vec![rename("value", "faulty_2"), hash("faulty_2", "v")];
    let (mut bench, memory) = bench(WriteMode::Append, steps, mappings);
    mappings::faults::inject("faulty_2", 2);
    memory.fail(Operation::Commit, 1, Fault::Reject(ErrorKind::Transient));
    let (outcome, table) = sync(&bench).await;
    assert_eq!(outcome, Outcome::TryLater);
    assert!(table.error.is_some());
    assert!(lines(&memory, quarantine::TABLE, &["row"]).is_empty());
    bench.options.take_over = true;
    assert_eq!(sync(&bench).await.0, Outcome::Partial);
    assert_eq!(lines(&memory, quarantine::TABLE, &["column"]), ["faulty_2"]);
    assert_eq!(lines(&memory, "t", &["id"]), ["1"]);
}

#[tokio::test]
async fn without_a_quarantine_the_table_fails_instead() {
    let steps = vec![step(&[item(1, "secret", 1)]), Step::Checkpoint];
    let mappings = vec![rename("value", "faulty_3"), hash("faulty_3", "v")];
    let (mut bench, memory) = bench(WriteMode::Append, steps, mappings);
    // The tables are there, the quarantine is not and may not be made.
    bench.request.tables[0].mappings[1] = hash("faulty_3", "faulty_3");
    bench.run().await.unwrap();
    memory.drop_table(&TableName::new(quarantine::TABLE));
    bench.scripts[0].steps.extend([step(&[item(2, "hunter2", 2)]), Step::Checkpoint]);
    bench.request.targets[0].may_migrate = false;
    mappings::faults::inject("faulty_3", 1);
    let (outcome, table) = sync(&bench).await;
    assert_eq!(outcome, Outcome::Failed);
    let error = table.error.unwrap();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains("faulty_3") && !error.message.contains("hunter2"));
    assert_eq!(lines(&memory, "t", &["id"]), ["1"]);
}

#[tokio::test]
async fn what_is_encrypted_differs_every_time_and_no_mapping_makes_no_quarantine() {
    let steps = vec![step(&[item(1, "secret", 1), item(2, "secret", 2)]), Step::Checkpoint];
    let key = Secret::new("00112233445566778899aabbccddeeff");
    let encrypt = Mapping::Encrypt { column: "value".into(), to: "value_encrypted".into(), key };
    let (bench, memory) = bench(WriteMode::Append, steps.clone(), vec![encrypt]);
    assert_eq!(sync(&bench).await.0, Outcome::Complete);
    let found = lines(&memory, "t", &["value_encrypted"]);
    assert!(found[0] != found[1] && found.iter().all(|text| text.len() == 2 * (12 + 6 + 16)));
    let (plain, memory) = Bench::new(steps);
    plain.run().await.unwrap();
    assert!(memory.rows(&TableName::new(quarantine::TABLE)).is_none());
}

#[tokio::test]
async fn what_a_table_cannot_have_is_refused_before_anything_is_read() {
    for (write_mode, mapping, word) in [
        (WriteMode::AppendDedup, hash("updated_at", "h"), "newer"),
        (WriteMode::Append, hash("updated_at", "h"), "hides the cursor field"),
        (WriteMode::Overwrite, Mapping::Drop { column: "id".into() }, "primary key"),
        (WriteMode::Append, rename("vlaue", "v"), "no such column"),
    ] {
        let (bench, _) = bench(write_mode, vec![Step::Checkpoint], vec![mapping]);
        let error = bench.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.full_message().contains(word), "{}", error.full_message());
        assert!(!bench.journal.lines().iter().any(|line| line.starts_with("open")));
    }
}
