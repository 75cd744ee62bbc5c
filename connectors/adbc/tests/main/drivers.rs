//! Other drivers: those of SQLite and PostgreSQL, as `scripts/install-sdks` installs them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_adbc::AdbcConnector;
use highwater_core::types::{EXTENSION, NUMERIC, UUID, extension_field};
use highwater_core::{
    Batch, Checkpoint, Connector, Destination, ErrorKind, Fence, Message, Op, Output, Partition,
    Plan, Source, State, Table, TableName, TablePlan, WriteMode, Writer,
};
use highwater_testkit::postgres::{Database, Postgres};
use highwater_testkit::sdk;
use serde_json::{Value, json};

use crate::reading::{plan_of, planned, read, sync, table, texts};

/// A system, by what its driver is told.
struct System {
    spec: Value,
}

impl System {
    async fn source(&self) -> Box<dyn Source> {
        AdbcConnector.source(self.spec.clone()).await.unwrap()
    }

    async fn destination(&self) -> Box<dyn Destination> {
        AdbcConnector.destination(self.spec.clone()).await.unwrap()
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.spec[key] = value;
        self
    }
}

fn driver(name: &str) -> Option<std::path::PathBuf> {
    let thread = std::thread::current();
    sdk::or_skip(thread.name().unwrap_or("a test"), sdk::adbc_driver(name))
}

fn sqlite(folder: &Path) -> Option<System> {
    let uri = folder.join("test.db");
    Some(System { spec: json!({"driver": driver("sqlite")?, "options": {"uri": uri}}) })
}

fn postgresql() -> Option<(System, Database)> {
    let driver = driver("postgresql")?;
    let database = Postgres::shared().create_database();
    let spec = json!({"driver": driver, "schema": "public", "options": {"uri": database.url()}});
    Some((System { spec }, database))
}

/// A plan that appends to a table, with its partition and fence.
fn appended(table: Table, namespace: Option<&str>) -> (Plan, Partition, Fence) {
    let source = Arc::new(table);
    let name = TableName { namespace: namespace.map(str::to_owned), ..source.name.clone() };
    let target = Arc::new(Table { name, ..source.as_ref().clone() });
    let plan = TablePlan { target, ..planned(source.as_ref().clone(), None) };
    let partition = Partition::whole(plan.name());
    (plan_of(plan), partition, Fence { sync: "shop".into(), epoch: 1 })
}

fn batch(plan: &Plan, rows: RecordBatch) -> Batch {
    let table = plan.tables.values().next().unwrap().source.clone();
    Batch { table, op: Op::Upsert, rows }
}

async fn writer(system: &System, plan: &(Plan, Partition, Fence)) -> Box<dyn Writer> {
    let destination = system.destination().await;
    destination.writer(&plan.0, &plan.1, &plan.2).await.unwrap()
}

/// The rows of a table, sorted.
async fn rows(system: &System, name: &str) -> Vec<String> {
    let source = system.source().await;
    let plan = planned(table(source.as_ref(), name).await, None);
    let (batches, _) = read(source.as_ref(), &plan, &State::default()).await.unwrap();
    let mut rows = texts(&batches);
    rows.sort();
    rows
}

fn numbers(from: i64, to: i64) -> (Table, RecordBatch) {
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("it's \"name\"", DataType::Utf8, true),
    ];
    let table = Table::new(TableName::new("t"), fields);
    let ids: Vec<i64> = (from..to).collect();
    let names: Vec<String> = ids.iter().map(|id| format!("n{id}")).collect();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(ids)), Arc::new(StringArray::from(names))];
    let rows = RecordBatch::try_new(table.schema.clone(), columns).unwrap();
    (table, rows)
}

/// Rows are visible with the commit, and only then; a second commit adds to the first.
async fn loads_in_transactions(system: &System, namespace: Option<&str>, name: &str) {
    let (table, some) = numbers(0, 3);
    let plan = appended(table, namespace);
    let mut given_up = writer(system, &plan).await;
    given_up.write(batch(&plan.0, some.clone())).await.unwrap();
    drop(given_up);
    let mut writing = writer(system, &plan).await;
    writing.write(batch(&plan.0, some)).await.unwrap();
    writing.write(batch(&plan.0, numbers(3, 5).1)).await.unwrap();
    let done = writing.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(done[&TableName::new("t")].written, 5);
    assert_eq!(rows(system, name).await.len(), 5);
    writing.write(batch(&plan.0, numbers(5, 6).1)).await.unwrap();
    writing.commit(&Checkpoint::default()).await.unwrap();
    writing.commit(&Checkpoint::default()).await.unwrap();
    drop(writing);
    let expected = ["0|n0", "1|n1", "2|n2", "3|n3", "4|n4", "5|n5"];
    assert_eq!(rows(system, name).await, expected);
}

#[tokio::test]
async fn sqlite_rows_are_visible_with_their_commit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(system) = sqlite(folder.path()) else { return };
    loads_in_transactions(&system, None, "t").await;
}

#[tokio::test]
async fn postgresql_rows_are_visible_with_their_commit() {
    let Some((system, database)) = postgresql() else { return };
    loads_in_transactions(&system, Some("public"), "public.t").await;
    assert_eq!(database.value("SELECT count(*) FROM t").as_deref(), Some("6"));
}

#[tokio::test]
async fn a_sync_without_rows_makes_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let Some(system) = sqlite(folder.path()) else { return };
    let plan = appended(numbers(0, 0).0, None);
    writer(&system, &plan).await.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(rows(&system, "t").await, [""; 0]);
}

/// A row of what is not the same everywhere.
fn mixture() -> (Table, RecordBatch) {
    let fields = vec![
        Field::new("b", DataType::Boolean, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        extension_field("n", DataType::Utf8, NUMERIC),
        extension_field("u", DataType::FixedSizeBinary(16), UUID),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
    ];
    let table = Table::new(TableName::new("m"), fields);
    let uuid = FixedSizeBinaryArray::try_from_iter([[0xabu8; 16]].into_iter()).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BooleanArray::from(vec![true])),
        Arc::new(Decimal128Array::from(vec![150]).with_precision_and_scale(12, 2).unwrap()),
        Arc::new(StringArray::from(vec!["123456789012345678901234567890.5"])),
        Arc::new(uuid),
        Arc::new(TimestampMicrosecondArray::from(vec![6]).with_timezone("UTC")),
    ];
    let rows = RecordBatch::try_new(table.schema.clone(), columns).unwrap();
    (table, rows)
}

#[tokio::test]
async fn types_that_a_driver_does_not_take_are_written_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let Some(system) = sqlite(folder.path()) else { return };
    let (table, some) = mixture();
    let plan = appended(table.clone(), None);
    let mut writing = writer(&system, &plan).await;
    writing.write(batch(&plan.0, some.clone())).await.unwrap();
    writing.commit(&Checkpoint::default()).await.unwrap();
    let expected = "1|1.50|123456789012345678901234567890.5|\
                    abababab-abab-abab-abab-abababababab|1970-01-01 00:00:00.000006Z";
    assert_eq!(rows(&system, "m").await, [expected]);
    // And they are read back in the types that are asked for.
    let (output, mut messages) = Output::bounded(4, Arc::new(AtomicBool::new(false)));
    system.destination().await.read(&table, output).await.unwrap();
    let Some(Message::Batch(read)) = messages.recv().await else { panic!("no rows") };
    assert_eq!(texts(&[read.rows]), texts(&[some]));
}

#[tokio::test]
async fn a_type_that_is_refused_names_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let Some(system) = sqlite(folder.path()) else { return };
    let system = system.with("text_columns", json!([]));
    let (table, some) = mixture();
    let plan = appended(table, None);
    let mut writing = writer(&system, &plan).await;
    writing.write(batch(&plan.0, some)).await.unwrap();
    let error = writing.commit(&Checkpoint::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint_text().unwrap().contains("text_columns"), "{}", error.full_message());
}

#[tokio::test]
async fn a_column_that_the_table_lacks_is_named_before_a_row_is_written() {
    let Some((system, database)) = postgresql() else { return };
    database.execute("CREATE TABLE t (id bigint)");
    let (table, some) = numbers(0, 1);
    let plan = appended(table, Some("public"));
    let mut writing = writer(&system, &plan).await;
    let written = writing.write(batch(&plan.0, some)).await;
    let error = match written {
        Ok(()) => writing.commit(&Checkpoint::default()).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(
        (error.kind(), error.context_value("column")),
        (ErrorKind::Schema, Some("it's \"name\""))
    );
    assert!(error.hint_text().unwrap().contains("ALTER TABLE"));
}

#[tokio::test]
async fn only_what_the_standard_can_do_is_offered() {
    let folder = tempfile::tempdir().unwrap();
    let Some(system) = sqlite(folder.path()) else { return };
    let destination = system.destination().await;
    assert_eq!(destination.capabilities().write_modes, &[WriteMode::Append]);
    assert!(destination.state_store().is_none());
    let plan = appended(numbers(0, 1).0, None);
    assert!(destination.check_rebuild(plan.0.tables.values().next().unwrap()).is_err());
    let mut writing = writer(&system, &plan).await;
    let delete = Batch { op: Op::Delete, ..batch(&plan.0, numbers(0, 1).1) };
    assert_eq!(writing.write(delete).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn postgresql_types_come_as_its_driver_gives_them() {
    let Some((system, database)) = postgresql() else { return };
    database.execute(
        "CREATE TABLE t (id bigint PRIMARY KEY, n numeric(20,4), r numeric, t timestamptz, j jsonb,
           d date, b bytea, f boolean, a int[], v varchar(9));
         INSERT INTO t VALUES (1, 1.5, 'NaN', '2026-11-21 03:04:05.000006+02', '{\"a\": 1}',
           '2026-11-21', '\\x00ff', true, '{1,NULL}', 'Zoë');
         INSERT INTO t (id, r) VALUES (2, '-Infinity');
         CREATE TABLE i (id int, i inet); INSERT INTO i VALUES (1, '127.0.0.1');
         CREATE VIEW v AS SELECT id FROM t",
    );
    let source = system.source().await;
    let names: Vec<_> =
        source.discover(None).await.unwrap().iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["public.i", "public.t", "public.v"]);
    let found = table(source.as_ref(), "public.t").await;
    assert_eq!(found.primary_key, ["id"]);
    assert_eq!(found.field("n").unwrap().metadata()[EXTENSION], NUMERIC);
    assert_eq!(
        rows(&system, "public.t").await,
        [
            "1|1.5000|NaN|2026-11-21 01:04:05.000006Z|{\"a\": 1}|2026-11-21|AP8=|true|[1,null]|Zoë",
            "2|NULL|-Infinity|NULL|NULL|NULL|NULL|NULL|NULL|NULL",
        ]
    );
    // Nobody but the driver knows what the bytes of others mean.
    let plan = planned(table(source.as_ref(), "public.i").await, None);
    let error = source.review(&plan).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Unsupported, Some("i")));
}

#[tokio::test]
async fn a_cursor_finds_what_follows_it_where_the_order_is_sure() {
    let Some((system, database)) = postgresql() else { return };
    database.execute(
        "CREATE TABLE t (id int, n numeric, d date, at timestamptz, w timestamp, v text, f real);
         INSERT INTO t VALUES (1, 0.5, '2020-01-01', '2020-01-01 00:00:00Z', '2020-01-01', 'a', 1)",
    );
    let source = system.source().await;
    let found = table(source.as_ref(), "public.t").await;
    let mut states = Vec::new();
    for cursor in ["id", "n", "d", "at", "w"] {
        let plan = planned(found.clone(), Some(cursor));
        let notes = source.review(&plan).await.unwrap();
        assert!(notes[0].contains("committed late"), "{notes:?}");
        let mut state = State::default();
        assert_eq!(sync(source.as_ref(), &plan, &mut state).await.len(), 1, "{cursor}");
        states.push((cursor, plan, state));
    }
    database.execute(
        "INSERT INTO t VALUES
           (0, 0.4999, '2019-12-31', '2020-01-01 00:59:59+01', '2019-12-31 23:59:59', 'b', 2),
           (2, 0.5, '2020-01-01', '2020-01-01 01:00:00+01', '2020-01-01', 'c', 3),
           (3, 10, '2020-01-02', '2020-01-01 00:00:01+00', '2020-01-01 00:00:01', 'd', 4)",
    );
    for (cursor, plan, mut state) in states {
        let sent = sync(source.as_ref(), &plan, &mut state).await;
        let ids: Vec<_> = sent.iter().map(|row| row.split('|').next().unwrap()).collect();
        assert_eq!(ids, ["2", "3"], "{cursor}");
        assert_eq!(sync(source.as_ref(), &plan, &mut state).await, [""; 0], "{cursor}");
    }
    for wrong in ["v", "f"] {
        let error = source.review(&planned(found.clone(), Some(wrong))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{wrong}");
        assert!(error.hint_text().unwrap().starts_with("cursor: id"), "{wrong}");
    }
}

#[tokio::test]
async fn a_driver_that_is_not_there_says_how_to_name_one() {
    let spec = json!({"driver": "no_such_driver", "options": {"password": "hunter2"}});
    let error = AdbcConnector.source(spec).await.unwrap().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint_text().unwrap().contains("driver:"));
}

#[tokio::test]
async fn no_option_is_told() {
    let Some(driver) = driver("postgresql") else { return };
    let uri = "postgresql://me:hunter2@127.0.0.1:1/none";
    let spec = json!({"driver": driver, "options": {"uri": uri}});
    let error = AdbcConnector.source(spec).await.unwrap().check().await.unwrap_err();
    assert!(!error.full_message().contains("hunter2"), "{}", error.full_message());
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.full_message().contains("Connection refused"), "{}", error.full_message());
}

#[tokio::test]
async fn a_folder_of_a_python_package_is_a_driver() {
    let Some(library) = driver("sqlite") else { return };
    let folder = tempfile::tempdir().unwrap();
    let uri = folder.path().join("test.db");
    let spec = json!({"driver": library.parent().unwrap(), "options": {"uri": uri}});
    AdbcConnector.source(spec).await.unwrap().check().await.unwrap();
}
