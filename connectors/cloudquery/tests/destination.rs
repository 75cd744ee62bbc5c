//! Rows into a destination plugin: what it is sent, in which order, and whose word counts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use highwater_cloudquery::destination::{DestinationConfig, DestinationPlugin};
use highwater_cloudquery::wire::Decoder;
use highwater_cloudquery::wire::types::{UNIQUE, marked};
use highwater_core::deletion::{Equal, Group, Relation};
use highwater_core::{
    Batch, Checkpoint, Deletion, Destination, ErrorKind, LeaseRequest, Op, Owner, Partition, Plan,
    SchemaChange, Source, Table, TableName, WriteMode,
};
use highwater_testkit::harness::Harness;
use highwater_testkit::job::{Change, Job, Run, delete, upsert};
use highwater_testkit::tables::{item, item_table, items};
use serde_json::{Value, json};

use crate::scripted::spec;

/// The scripted plugin as a destination; what it was told stays in a folder.
pub struct Told {
    folder: tempfile::TempDir,
    words: String,
    pub read_patience: Duration,
}

impl Told {
    pub fn new(words: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            words: words.to_owned(),
            read_patience: Duration::from_secs(30),
        }
    }

    pub fn plugin(&self) -> DestinationPlugin {
        let script = format!("destination={} {}", self.folder.path().display(), self.words);
        let config = DestinationConfig::new(spec(&script), json!({"a": 1}), "this-run");
        DestinationPlugin::new(DestinationConfig { read_patience: self.read_patience, ..config })
    }

    /// Everything that it was told, in order.
    pub fn journal(&self) -> Vec<Value> {
        lines(&self.folder.path().join("journal"))
    }

    /// What was sent in `Write` streams, without the plugin's own state.
    pub fn sent(&self) -> Vec<Value> {
        let journal = self.journal();
        let state: Vec<Value> =
            journal.iter().filter(|l| is_state(l)).map(|l| l["stream"].clone()).collect();
        let data = |line: &Value| !line["stream"].is_null() && !state.contains(&line["stream"]);
        journal.into_iter().filter(data).collect()
    }

    pub async fn open(&self, job: &Job) -> Run {
        Run::open(self, job).await
    }
}

pub fn is_state(line: &Value) -> bool {
    line["table"] == "_highwater_state"
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The messages as `migrate t`, `insert t 2`, `end`.
fn words(sent: &[Value]) -> Vec<String> {
    let word = |line: &Value| {
        let of = |key: &str| match &line[key] {
            Value::Null => String::new(),
            Value::String(text) => format!(" {text}"),
            other => format!(" {other}"),
        };
        format!("{}{}{}", line["message"].as_str().unwrap(), of("table"), of("rows"))
    };
    sent.iter().map(word).collect()
}

#[async_trait]
impl Harness for Told {
    async fn source(&self) -> Box<dyn Source> {
        panic!("it is a destination")
    }

    async fn destination(&self) -> Box<dyn Destination> {
        Box::new(self.plugin())
    }

    /// Everything that it has kept, as it came.
    async fn rows(&self, table: &TableName) -> Option<Vec<RecordBatch>> {
        let kept = std::fs::read_to_string(self.folder.path().join("rows")).ok()?;
        let records = kept.lines().map(|line| line.split_once(' ').unwrap());
        let records = records.filter(|(name, _)| *name == table.name);
        let decoded = records.flat_map(|(_, text)| {
            let record = BASE64_STANDARD.decode(text).unwrap().into();
            Decoder::new().decode(&record).unwrap().batches
        });
        Some(decoded.collect())
    }

    async fn drop_table(&self, _: &TableName) {
        panic!("it keeps everything")
    }
}

pub fn two_items() -> (Table, Change) {
    let table = item_table("items");
    let rows = items(&table, &[item(1, "a", 1), item(2, "b", 2)]);
    (table, upsert(&rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_one_stream_with_the_rows_and_then_one_with_the_cursor() {
    let told = Told::new("");
    let (table, rows) = two_items();
    let run = told.open(&Job::new(table, WriteMode::Overwrite)).await;
    let committed = run.commit(&[rows.clone(), rows.clone()], 7).await;
    assert_eq!(committed.written, 4);
    run.commit(&[rows], 8).await;
    let sent = told.sent();
    assert_eq!(
        words(&sent),
        ["migrate items", "insert items 2", "insert items 2", "end", "insert items 2", "end"]
    );
    assert_eq!(sent[0]["key"], json!(["id"]));
    assert_eq!(sent[1]["key"], json!(["id"]));
    assert_eq!(sent[0]["force"], false);
    let journal = told.journal();
    assert_eq!(journal[0], json!({"call": "init", "spec": {"a": 1}, "invocation": "this-run"}));
    let ends = |stream: &Value| {
        journal.iter().position(|l| l["message"] == "end" && l["stream"] == *stream).unwrap()
    };
    let cursor = journal.iter().rposition(is_state).unwrap();
    assert!(ends(&sent[0]["stream"]) < ends(&sent[4]["stream"]));
    assert!(ends(&sent[4]["stream"]) < cursor, "the cursor came before its rows: {journal:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_added_have_no_key_and_nothing_unique() {
    let told = Told::new("");
    let fields = vec![
        marked(Field::new("id", DataType::Int64, false), UNIQUE),
        Field::new("v", DataType::Utf8, true),
    ];
    let table = Table::new(TableName::in_namespace("shop", "t"), fields).with_primary_key(["id"]);
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1])), Arc::new(StringArray::from(vec!["x"]))];
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap();
    for (mode, keys) in [(WriteMode::Append, json!([])), (WriteMode::Overwrite, json!(["id"]))] {
        let told = Told::new("");
        told.open(&Job::new(table.clone(), mode)).await.commit(&[upsert(&rows)], 1).await;
        let sent = told.sent();
        assert_eq!(words(&sent), ["migrate shop_t", "insert shop_t 1", "end"]);
        assert_eq!((&sent[0]["key"], &sent[0]["unique"], &sent[1]["key"]), (&keys, &keys, &keys));
    }
    assert!(told.journal().is_empty(), "a plugin that nobody needs is not started");
}

/// The plan of a job with further tables.
async fn plan(told: &Told, jobs: &[Job]) -> (DestinationPlugin, Plan, Partition) {
    let plugin = told.plugin();
    let mut plan = jobs[0].plan(&plugin).await.unwrap();
    for job in &jobs[1..] {
        plan.tables.extend(job.plan(&plugin).await.unwrap().tables);
    }
    // The cursors are somebody else's.
    plan.state_with_data = false;
    let tables = jobs.iter().map(|job| job.table.name.clone()).collect();
    (plugin, plan, Partition { tables, id: "all".into(), bounds: Value::Null })
}

fn fence() -> highwater_core::Fence {
    highwater_core::Fence { sync: "suite".into(), epoch: 1 }
}

fn batch_of(plan: &Plan, name: &str, rows: &RecordBatch) -> Batch {
    let table = Arc::clone(&plan.tables[&TableName::new(name)].source);
    Batch { table, op: Op::Upsert, rows: rows.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_state_table_follow_when_the_rows_they_cover_are_written() {
    let told = Told::new("");
    let jobs = ["items", "cursors"].map(|name| Job::new(item_table(name), WriteMode::Overwrite));
    let (plugin, mut plan, partition) = plan(&told, &jobs).await;
    plan.tables.get_mut(&TableName::new("cursors")).unwrap().is_state = true;
    let mut writer = plugin.writer(&plan, &partition, &fence()).await.unwrap();
    let Change(_, rows) = two_items().1;
    for _ in 0..2 {
        writer.write(batch_of(&plan, "cursors", &rows)).await.unwrap();
        writer.write(batch_of(&plan, "items", &rows)).await.unwrap();
        writer.commit(&Checkpoint::default()).await.unwrap();
    }
    let sent = told.sent();
    assert_eq!(
        words(&sent),
        [
            "migrate items",
            "insert items 2",
            "end",
            "migrate cursors",
            "insert cursors 2",
            "end",
            "insert items 2",
            "end",
            "insert cursors 2",
            "end"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_stay_behind_when_their_rows_were_not_written() {
    for words in ["refuse=items", "swallow=items", "failed=items"] {
        let told = Told::new(words);
        let jobs =
            ["items", "cursors"].map(|name| Job::new(item_table(name), WriteMode::Overwrite));
        let (plugin, mut plan, partition) = plan(&told, &jobs).await;
        plan.tables.get_mut(&TableName::new("cursors")).unwrap().is_state = true;
        let mut writer = plugin.writer(&plan, &partition, &fence()).await.unwrap();
        let Change(_, rows) = two_items().1;
        writer.write(batch_of(&plan, "cursors", &rows)).await.unwrap();
        let written = writer.write(batch_of(&plan, "items", &rows)).await;
        let result = match written {
            Ok(()) => writer.commit(&Checkpoint::default()).await.map(|_| ()),
            refused => refused,
        };
        result.unwrap_err();
        drop(writer);
        plugin.close().await.unwrap();
        assert!(told.journal().iter().all(|l| l["table"] != "cursors"), "{words}");
    }
}

/// What a commit of two rows says.
async fn failure(words: &str) -> (Told, highwater_core::Error) {
    let told = Told::new(words);
    let (table, rows) = two_items();
    let run = told.open(&Job::new(table, WriteMode::Overwrite)).await;
    let error = run.try_commit(&[rows], 1).await.unwrap_err();
    (told, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_failed_write_is_the_plugins_answer() {
    let (_, error) = failure("refuse=items").await;
    assert_eq!(error.message(), "The plugin says: the disk of items is full");

    let (_, error) = failure("failed=items").await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("tables"), Some("items"));

    let (_, error) = failure("die-after=2").await;
    assert!(error.message().contains("exit code 137"), "{error}");
    assert!(error.message().contains("out of memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_logs_an_error_and_answers_ok_is_not_believed() {
    let (told, error) = failure("swallow=items").await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(
        error.message(),
        "The plugin answered that all is written, but logged an error meanwhile: \
         failed to write batch"
    );
    // The plugin did say that all is well.
    assert_eq!(words(&told.sent()), ["migrate items", "insert items 2", "end"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_is_not_believed() {
    let told = Told::new("hasty=items");
    let (table, rows) = two_items();
    let run = told.open(&Job::new(table, WriteMode::Overwrite)).await;
    let mut writer = run.writer().await;
    let Change(op, rows) = rows;
    // Its answer is on its way while we send.
    let until_refused = async {
        loop {
            if let Err(error) = writer.write(run.batch(op, &rows)).await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(30), until_refused).await.unwrap();
    assert_eq!(
        error.message(),
        "The plugin answered that all is written before it had taken all rows"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_died_stays_dead_until_the_next_run() {
    let told = Told::new("die-after=2 no-read");
    let (table, rows) = two_items();
    let run = told.open(&Job::new(table, WriteMode::Overwrite)).await;
    run.try_commit(std::slice::from_ref(&rows), 1).await.unwrap_err();
    let again = run.try_commit(&[rows], 1).await.unwrap_err();
    assert!(again.message().contains("exit code 137"), "{again}");
    // It died long ago; that is no news at the end of the run.
    run.destination.close().await.unwrap();
    assert_eq!(told.journal().iter().filter(|l| l["call"] == "init").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_rows_go_after_a_full_refresh_only() {
    let told = Told::new("");
    let (table, rows) = two_items();
    let job = Job::new(table, WriteMode::OverwriteDeleteStale);
    let run = told.open(&job).await;
    run.commit(std::slice::from_ref(&rows), 1).await;
    run.finish().await;
    let sent = told.sent();
    assert_eq!(words(&sent)[2..], ["end", "delete_stale items", "end"]);
    assert_eq!(sent[3]["source"], "suite");
    assert_eq!(sent[3]["time"], run.plan.started_at.0);
    run.release().await;

    for job in
        [job.clone().by_cursor("updated_at"), Job { write_mode: WriteMode::Overwrite, ..job }]
    {
        let told = Told::new("");
        let run = told.open(&job).await;
        run.commit(std::slice::from_ref(&rows), 1).await;
        run.finish().await;
        assert_eq!(words(&told.sent()), ["migrate items", "insert items 2", "end"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_rows_is_made_and_its_stale_rows_go() {
    let told = Told::new("");
    let job = Job::new(item_table("items"), WriteMode::OverwriteDeleteStale);
    told.open(&job).await.commit(&[], 1).await;
    told.open(&job).await.finish().await;
    assert_eq!(
        words(&told.sent()),
        ["migrate items", "end", "migrate items", "delete_stale items", "end"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_deleted_by_key_and_by_condition_in_the_order_of_the_source() {
    let told = Told::new("");
    let (table, rows) = two_items();
    let run = told.open(&Job::new(table.clone(), WriteMode::Overwrite)).await;
    let mut writer = run.writer().await;
    let Change(_, items) = &rows;
    writer.write(run.batch(Op::Upsert, items)).await.unwrap();
    let value: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let equal =
        Equal { column: "value".into(), field: Field::new("value", DataType::Utf8, true), value };
    let name = table.name.clone();
    let elsewhere = Relation { table: TableName::new("not_synced"), parent: name.clone() };
    let deletion = Deletion {
        table: name,
        groups: vec![Group { any: false, equal: vec![equal] }],
        relations: vec![elsewhere],
    };
    writer.delete(&deletion).await.unwrap();
    let Change(op, gone) = delete(items);
    writer.write(run.batch(op, &gone)).await.unwrap();
    let committed = writer.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(committed[&table.name].deleted, 2);
    let sent = told.sent();
    assert_eq!(
        words(&sent)[1..],
        ["insert items 2", "delete_record items", "delete_record items", "end"]
    );
    assert_eq!((&sent[2]["groups"], &sent[2]["relations"]), (&json!([[0, ["value"]]]), &json!([])));
    assert_eq!(sent[3]["groups"], json!([[1, ["id", "id"]]]));

    let run = told.open(&Job::new(table, WriteMode::Append)).await;
    let error = run.try_commit(&[delete(items)], 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_batches_are_cut_below_what_any_server_takes() {
    let told = Told::new("no-read");
    let table = item_table("items");
    let value: &'static str = Box::leak("x".repeat(100_000).into_boxed_str());
    let rows: Vec<_> = (0..100).map(|id| item(id, value, id)).collect();
    let run = told.open(&Job::new(table.clone(), WriteMode::Overwrite)).await;
    let mut writer = run.writer().await;
    writer.write(run.batch(Op::Upsert, &items(&table, &rows))).await.unwrap();
    writer.commit(&Checkpoint::default()).await.unwrap();
    let sent = told.sent();
    let inserts: Vec<_> = sent.iter().filter(|l| l["message"] == "insert").collect();
    assert!(inserts.len() >= 3);
    assert!(inserts.iter().all(|l| l["bytes"].as_u64().unwrap() < 3_700_000), "{inserts:?}");
    assert_eq!(inserts.iter().map(|l| l["rows"].as_u64().unwrap()).sum::<u64>(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_made_parents_first_and_by_force_where_that_was_allowed() {
    let told = Told::new("");
    let mut child = item_table("a_child");
    child.parent = Some(TableName::in_namespace("shop", "z_parent"));
    let mut parent = item_table("z_parent");
    parent.name.namespace = Some("shop".into());
    let jobs = [child, parent].map(|table| Job::new(table, WriteMode::Overwrite));
    let (plugin, mut both, partition) = plan(&told, &jobs).await;
    let ddl = plugin.migrate(&both).await.unwrap();
    assert_eq!(ddl.len(), 2);
    assert!(ddl[0].starts_with("MigrateTable shop_z_parent (id Int64 PRIMARY KEY, "), "{ddl:?}");
    let sent = told.sent();
    assert_eq!(words(&sent), ["migrate shop_z_parent", "migrate a_child", "end"]);
    assert_eq!(sent[1]["parent"], "shop_z_parent");
    // They are there now.
    let mut writer = plugin.writer(&both, &partition, &fence()).await.unwrap();
    writer.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(told.sent().len(), 3);

    // `--no-migrate`: nothing is made, and rows are sent all the same.
    let fresh = told.plugin();
    both.tables.values_mut().for_each(|table| table.changes.clear());
    assert!(fresh.migrate(&both).await.unwrap().is_empty());
    let mut writer = fresh.writer(&both, &partition, &fence()).await.unwrap();
    let Change(_, rows) = two_items().1;
    writer.write(batch_of(&both, "a_child", &rows)).await.unwrap();
    writer.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(words(&told.sent()[3..]), ["insert a_child 2", "end"]);

    let forced = told.plugin();
    let table = both.tables.values_mut().next().unwrap();
    table.changes = vec![SchemaChange::Recreate];
    let ddl = forced.migrate(&both).await.unwrap();
    assert!(ddl[0].ends_with(") WITH migrate_force"), "{ddl:?}");
    assert_eq!(told.sent()[5]["force"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_of_the_connection_says_what_the_plugin_says() {
    Told::new("").plugin().check().await.unwrap();
    let missing = Told::new("no-test").plugin().check().await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unsupported);
    let refused = Told::new("bad-test").plugin().check().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert_eq!(refused.context_value("code"), Some("UNREACHABLE"));
    assert!(refused.message().contains("postgres://me:***@host/db"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_run_closes_the_plugin_and_a_bad_answer_to_that_is_no_failure() {
    let told = Told::new("bad-close");
    let plugin = told.plugin();
    plugin.close().await.unwrap();
    assert!(told.journal().is_empty());
    let job = Job::new(item_table("items"), WriteMode::Overwrite);
    for _ in 0..2 {
        let (_, plan, partition) = plan(&told, std::slice::from_ref(&job)).await;
        let mut writer = plugin.writer(&plan, &partition, &fence()).await.unwrap();
        writer.commit(&Checkpoint::default()).await.unwrap();
        plugin.close().await.unwrap();
        plugin.close().await.unwrap();
    }
    let calls: Vec<_> =
        told.journal().iter().filter_map(|l| l["call"].as_str().map(str::to_owned)).collect();
    assert_eq!(calls, ["init", "close", "init", "close"]);
    // What the first process was told the second one does not know.
    assert_eq!(words(&told.sent()), ["migrate items", "end", "migrate items", "end"]);
    assert_eq!(plugin.logs().errors, 0);

    let told = Told::new("end=3");
    let plugin = told.plugin();
    plugin.migrate(&job.plan(&plugin).await.unwrap()).await.unwrap();
    let error = plugin.close().await.unwrap_err();
    assert!(error.message().contains("exit code 3"), "{error}");
}

pub fn request(take_over: bool) -> LeaseRequest {
    LeaseRequest { owner: Owner::this_process(), take_over }
}
