//! The genuine SDKs' servers as destinations.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arrow_array::RecordBatch;
use highwater_cloudquery::destination::{DestinationConfig, DestinationPlugin};
use highwater_cloudquery::host::{PluginSpec, Registry, Role};
use highwater_core::{
    Checkpoint, Cursor, Destination, ErrorKind, Message, Output, Plan, Table, TableName, WriteMode,
};
use highwater_testkit::job::{Change, Job, upsert};
use highwater_testkit::rows::assert_same;
use highwater_testkit::sdk;
use highwater_testkit::tables::{every_type, item, item_table, items};
use serde_json::{Value, json};

use crate::destination::request;

fn plugin(folder: &Path, file: &str, spec: Value) -> DestinationPlugin {
    let path = sdk::executable(folder, file).display().to_string();
    let plugin = PluginSpec::new("genuine", Role::Destination, Registry::Local, path);
    DestinationPlugin::new(DestinationConfig::new(plugin, spec, "run"))
}

fn sqlite(folder: &Path, extra: Value) -> DestinationPlugin {
    let mut spec = json!({
        "path": folder.join("rows.sqlite").display().to_string(),
        "journal": folder.join("journal").display().to_string(),
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    plugin(folder, "destination.py", spec)
}

fn journal(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("journal")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn rows(destination: &dyn Destination, table: &Table) -> Vec<RecordBatch> {
    let (output, mut messages) = Output::bounded(100, Arc::new(AtomicBool::new(false)));
    let mut found = Vec::new();
    let collect = async {
        while let Some(message) = messages.recv().await {
            if let Message::Batch(batch) = message {
                found.push(batch.rows);
            }
        }
    };
    let (read, ()) = tokio::join!(destination.read(table, output), collect);
    read.unwrap();
    found
}

/// One run by hand: the contents of a table, with a cursor.
async fn sync(destination: &dyn Destination, job: &Job, rows: &RecordBatch, at: i64) -> Plan {
    let store = destination.state_store().unwrap();
    let state = store.open(&job.sync, &request(false)).await.unwrap();
    let fence = state.fence.unwrap();
    let plan = job.plan(destination).await.unwrap();
    let run_batch = shaped(&plan, rows);
    let partition = highwater_core::Partition::whole(&job.table.name);
    let mut writer = destination.writer(&plan, &partition, &fence).await.unwrap();
    writer.write(run_batch).await.unwrap();
    let key = highwater_core::CursorKey::Table(job.table.name.clone());
    writer.commit(&Checkpoint::of(key, json!(at))).await.unwrap();
    let table = &plan.tables[&job.table.name];
    destination.finish(&plan, table, &fence).await.unwrap();
    store.release(&fence).await.unwrap();
    plan
}

/// The rows with the stamps of the plan.
fn shaped(plan: &Plan, rows: &RecordBatch) -> highwater_core::Batch {
    let table = plan.tables.values().next().unwrap();
    let count = rows.num_rows();
    let columns = table.target.schema.fields().iter().map(|field| match field.name().as_str() {
        "_cq_sync_time" => {
            let stamps =
                arrow_array::TimestampMicrosecondArray::from_value(plan.started_at.0, count);
            Arc::new(stamps.with_timezone("UTC")) as arrow_array::ArrayRef
        }
        "_cq_source_name" => {
            Arc::new(arrow_array::StringArray::from(vec![plan.sync.clone(); count]))
        }
        name => Arc::clone(rows.column_by_name(name).unwrap()),
    });
    let rows = RecordBatch::try_new(Arc::clone(&table.target.schema), columns.collect()).unwrap();
    highwater_core::Batch { table: Arc::clone(&table.source), op: highwater_core::Op::Upsert, rows }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_destination_replaces_rows_deletes_stale_ones_and_keeps_the_cursor() {
    let test = "a_python_destination_replaces_rows_deletes_stale_ones_and_keeps_the_cursor";
    let Some(_) = sdk::or_skip(test, sdk::python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::OverwriteDeleteStale);
    let first = items(&table, &[item(1, "a", 1), item(2, "b", 1), item(3, "c", 1)]);
    let second = items(&table, &[item(2, "B", 2), item(3, "c", 2), item(4, "d", 2)]);

    let destination = sqlite(folder.path(), json!({}));
    sync(&destination, &job, &first, 1).await;
    destination.close().await.unwrap();
    let destination = sqlite(folder.path(), json!({}));
    sync(&destination, &job, &second, 2).await;
    assert_same(&rows(&destination, &table).await, &[second]);
    let state = destination.state_store().unwrap().look("suite").await.unwrap();
    assert_eq!(state.table_cursor(&table.name), Some(&Cursor(json!(2))));
    destination.close().await.unwrap();
    // Not even the first look for cursors was an error to the plugin.
    assert_eq!(destination.logs().errors, 0);

    // Data, then cursor: the stream with the rows had ended before the cursor was sent.
    let journal = journal(folder.path());
    let stale = journal.iter().rfind(|l| l["message"] == "delete_stale").unwrap();
    assert_eq!(stale["rows"], 1);
    let at = |table: &str| {
        journal.iter().rposition(|l| l["message"] == "insert" && l["table"] == table).unwrap()
    };
    let stream = &journal[at("items")]["stream"];
    let end = journal.iter().rposition(|l| l["message"] == "end" && l["stream"] == *stream);
    assert!(at("items") < end.unwrap() && end.unwrap() < at("_highwater_state"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_destination_adds_rows_of_every_type_and_gives_them_back() {
    let test = "a_python_destination_adds_rows_of_every_type_and_gives_them_back";
    let Some(_) = sdk::or_skip(test, sdk::python()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let destination = sqlite(folder.path(), json!({}));
    // What the test plugin gives back as it got it: Python's dates end with the year 9999, and
    // SQLite has no NaN. (An address comes back with its mask.)
    let mut sample = every_type(50, 7);
    let known = |field: &arrow_schema::FieldRef| {
        let data_type = field.data_type();
        let plain = data_type.is_integer()
            || data_type.is_string()
            || data_type.is_binary()
            || *data_type == arrow_schema::DataType::Boolean;
        plain && field.name() != "inet"
    };
    let fields = sample.table.schema.fields().iter().enumerate();
    let columns: Vec<usize> = fields.filter(|(_, field)| known(field)).map(|(at, _)| at).collect();
    sample.rows = sample.rows.project(&columns).unwrap();
    sample.table.schema = sample.rows.schema();
    let job = Job::new(sample.table.clone(), WriteMode::Append);
    for at in [1, 2] {
        sync(&destination, &job, &sample.rows, at).await;
    }
    let counted = journal(folder.path());
    let name = &sample.table.name.name;
    let rows: u64 = counted
        .iter()
        .filter(|l| l["message"] == "insert" && l["table"] == *name)
        .map(|l| l["rows"].as_u64().unwrap())
        .sum();
    assert_eq!(rows, 2 * sample.rows.num_rows() as u64);
    let twice = [sample.rows.clone(), sample.rows.clone()];
    assert_same(&self::rows(&destination, &sample.table).await, &twice);
    assert_eq!(destination.logs().errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_destination_that_fails_or_dies_leaves_the_cursor_behind() {
    let test = "a_python_destination_that_fails_or_dies_leaves_the_cursor_behind";
    let Some(_) = sdk::or_skip(test, sdk::python()) else { return };
    let table = item_table("items");
    let Change(_, batch) = upsert(&items(&table, &[item(1, "a", 1), item(2, "b", 2)]));
    for (spec, words) in [
        (json!({"fail_table": "items"}), "the disk of items is full"),
        (json!({"die_after_rows": 1, "die_table": "items"}), "exit code 137"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let destination = sqlite(folder.path(), spec);
        let job = Job::new(table.clone(), WriteMode::Overwrite);
        let store = destination.state_store().unwrap();
        let fence = store.open("suite", &request(false)).await.unwrap().fence.unwrap();
        let plan = job.plan(&destination).await.unwrap();
        let partition = highwater_core::Partition::whole(&table.name);
        let mut writer = destination.writer(&plan, &partition, &fence).await.unwrap();
        writer.write(shaped(&plan, &batch)).await.unwrap();
        let key = highwater_core::CursorKey::Table(table.name.clone());
        let error = writer.commit(&Checkpoint::of(key, json!(2))).await.unwrap_err();
        assert!(error.message().contains(words), "{error}");
        destination.close().await.unwrap();
        let again = sqlite(folder.path(), json!({}));
        let state = again.state_store().unwrap().look("suite").await.unwrap();
        assert!(state.cursors.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_javascript_destination_takes_rows_and_keeps_no_cursor() {
    let test = "a_javascript_destination_takes_rows_and_keeps_no_cursor";
    let Some(_) = sdk::or_skip(test, sdk::node()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = sdk::executable(folder.path(), "memdb.mjs").display().to_string();
    let plugin = PluginSpec::new("genuine", Role::Destination, Registry::Local, path);
    let mut config = DestinationConfig::new(plugin, Value::Null, "run");
    // It never answers.
    config.read_patience = Duration::from_secs(2);
    let destination = DestinationPlugin::new(config);
    let table = item_table("items");
    let job = Job::new(table.clone(), WriteMode::Overwrite);
    let store = destination.state_store().unwrap();
    let fence = store.open("suite", &request(false)).await.unwrap().fence.unwrap();
    let plan = job.plan(&destination).await.unwrap();
    let partition = highwater_core::Partition::whole(&TableName::new("items"));
    let mut writer = destination.writer(&plan, &partition, &fence).await.unwrap();
    let batch = items(&table, &[item(1, "a", 1), item(2, "b", 2)]);
    writer.write(shaped(&plan, &batch)).await.unwrap();
    let committed = writer.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(committed[&table.name].written, 2);
    let key = highwater_core::CursorKey::Table(table.name.clone());
    let error = writer.commit(&Checkpoint::of(key, json!(2))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("backend_options"));
    destination.close().await.unwrap();
}
