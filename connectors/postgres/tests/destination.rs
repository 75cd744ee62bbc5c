//! What PostgreSQL as a destination promises beyond the suites.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use highwater_core::{Connector, Destination, ErrorKind, State, Table, TableName, WriteMode};
use highwater_postgres::PostgresConnector;
use highwater_testkit::harness;
use highwater_testkit::job::{Job, Run, sync_at, upsert};
use highwater_testkit::postgres::{Database, Options, Postgres};
use highwater_testkit::proxy::{Fault, Proxy};
use highwater_testkit::tables::{item, item_table, items};
use serde_json::json;

use crate::server::{database, error, source, table};
use crate::suites::System;

async fn destination(url: &str) -> Box<dyn Destination> {
    PostgresConnector.destination(json!({"connection_string": url})).await.unwrap()
}

/// Copies a table of one database into another.
async fn copy(from: &Database, to: &Database, name: &str, write_mode: WriteMode) {
    let source = source(from.url()).await;
    let table = table(source.as_ref(), name).await;
    let (job, state) = (Job::reading(table.clone()), State::default());
    let reading = harness::read(source.as_ref(), &job, &state).await.unwrap();
    let changes: Vec<_> = reading.upserts().iter().map(upsert).collect();
    let job = Job::new(table, write_mode);
    let synced = sync_at(destination(to.url()).await, &job, &changes).await;
    synced.unwrap_or_else(|e| panic!("{}", e.full_message()));
}

async fn open(database: &Database, url: &str, job: &Job) -> Run {
    Run::open(&System::at(database, url.to_owned()), job).await
}

fn columns(database: &Database, table: &str) -> Vec<Vec<Option<String>>> {
    database.rows(&format!(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute
         WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
    ))
}

#[tokio::test]
async fn every_type_arrives_as_itself_in_another_postgresql() {
    let (from, to) = (database(), database());
    from.execute(crate::source::TYPES);
    from.execute(
        "CREATE DOMAIN tags AS varchar(5)[]; CREATE DOMAIN address AS inet;
         ALTER TABLE kinds ADD id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, ADD tags tags,
           ADD address address, ADD moods mood[], ADD jsonbs jsonb[], ADD chars char(3)[];
         UPDATE kinds SET tags = '{ab,NULL}', address = '::1', moods = '{sad}',
           jsonbs = '{1,NULL}', chars = '{a}' WHERE b",
    );
    for write_mode in [WriteMode::Append, WriteMode::Overwrite, WriteMode::Replace] {
        to.execute("DROP TABLE IF EXISTS kinds; DROP SCHEMA IF EXISTS _highwater CASCADE");
        copy(&from, &to, "kinds", write_mode).await;
        assert_eq!(columns(&to, "kinds"), columns(&from, "kinds"), "{write_mode}");
        let rows = "SELECT k::text FROM kinds k ORDER BY id";
        assert_eq!(to.rows(rows), from.rows(rows), "{write_mode}");
    }
    let key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'kinds'::regclass AND contype = 'p'";
    assert_eq!(to.value(key).as_deref(), Some("PRIMARY KEY (id)"));
    assert!(
        to.try_execute("INSERT INTO kinds (id, pos) VALUES (9, -1)").is_err(),
        "the check of the domain"
    );
}

#[tokio::test]
async fn a_label_that_an_enum_gains_is_added() {
    let (from, to) = (database(), database());
    from.execute(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (m mood); INSERT INTO t VALUES ('ok')",
    );
    copy(&from, &to, "t", WriteMode::Append).await;
    from.execute("ALTER TYPE mood ADD VALUE 'new'");
    from.execute("INSERT INTO t VALUES ('new')");
    copy(&from, &to, "t", WriteMode::Append).await;
    assert_eq!(to.value("SELECT count(*) FROM t WHERE m = 'new'").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_lost_commit_reply_is_resolved() {
    let job = Job::new(item_table("items"), WriteMode::Append);
    let rows = |id| upsert(&items(&item_table("items"), &[item(id, "a", 1)]));
    for (fault, arrives) in
        [(Fault::LoseCommitReply { nth: 1 }, true), (Fault::LoseCommit { nth: 1 }, false)]
    {
        let database = database();
        let proxy = Proxy::start(Postgres::shared().port());
        let run = open(&database, &proxy.url(database.name()), &job).await;
        proxy.inject(fault);
        let committed = run.try_commit(&[rows(1)], 1).await;
        assert_eq!(proxy.fired(), 1);
        assert_eq!(committed.is_ok(), arrives, "{fault:?}");
        if !arrives {
            assert_eq!(committed.unwrap_err().kind(), ErrorKind::Transient);
            run.try_commit(&[rows(1)], 1).await.unwrap();
        }
        run.try_commit(&[rows(2)], 2).await.unwrap();
        assert_eq!(database.value("SELECT count(*) FROM items").as_deref(), Some("2"));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_nothing_and_can_be_tried_again() {
    let job = Job::new(item_table("items"), WriteMode::Append);
    let database = database();
    let proxy = Proxy::start(Postgres::shared().port());
    let run = open(&database, &proxy.url(database.name()), &job).await;
    proxy.inject(Fault::CutAfterClientBytes(4_000));
    let rows: Vec<_> = (0..5000).map(|id| item(id, "a value of some length", 1)).collect();
    let changes = [upsert(&items(&item_table("items"), &rows))];
    let failed = error(run.try_commit(&changes, 1).await);
    assert_eq!(failed.kind(), ErrorKind::Transient, "{failed}");
    run.try_commit(&changes, 1).await.unwrap();
    assert_eq!(database.value("SELECT count(*) FROM items").as_deref(), Some("5000"));
}

#[tokio::test]
async fn a_nul_in_a_text_is_refused_by_table_and_column() {
    let database = database();
    let table = Table::new(TableName::new("t"), vec![Field::new("c", DataType::Utf8, true)]);
    let rows = RecordBatch::try_new(
        Arc::clone(&table.schema),
        vec![Arc::new(StringArray::from(vec!["secret\0value"]))],
    );
    let job = Job::new(table, WriteMode::Append);
    let synced = sync_at(destination(database.url()).await, &job, &[upsert(&rows.unwrap())]).await;
    let refused = error(synced);
    assert_eq!(refused.kind(), ErrorKind::Data);
    assert_eq!(refused.context_value("table"), Some("t"));
    assert_eq!(refused.context_value("column"), Some("c"));
    assert!(!refused.full_message().contains("secret"));
    assert_eq!(database.value("SELECT to_regclass('t')"), None);
}

#[tokio::test]
async fn a_value_that_the_table_refuses_is_an_error_without_the_value() {
    let database = database();
    database.execute("CREATE TABLE t (c varchar(3))");
    let table = Table::new(TableName::new("t"), vec![Field::new("c", DataType::Utf8, true)]);
    let rows = RecordBatch::try_new(
        Arc::clone(&table.schema),
        vec![Arc::new(StringArray::from(vec!["a long value"]))],
    );
    let job = Job::new(table, WriteMode::Append);
    let refused =
        error(sync_at(destination(database.url()).await, &job, &[upsert(&rows.unwrap())]).await);
    assert_eq!(refused.kind(), ErrorKind::Data, "{refused}");
    assert!(!refused.full_message().contains("a long value"), "{refused}");
}

#[tokio::test]
async fn a_table_that_others_depend_on_is_replaced_in_place() {
    let database = database();
    let job = Job::new(item_table("items"), WriteMode::Replace);
    let rows = |id| [upsert(&items(&item_table("items"), &[item(id, "a", 1)]))];
    let sync =
        async |job: &Job, id| sync_at(destination(database.url()).await, job, &rows(id)).await;
    sync(&job, 1).await.unwrap();
    let before = database.value("SELECT 'items'::regclass::oid");
    sync(&job, 2).await.unwrap();
    assert_ne!(database.value("SELECT 'items'::regclass::oid"), before, "swapped");
    assert_eq!(database.value("SELECT count(*) FROM pg_class WHERE relname LIKE '\\_highwater%' AND relkind IN ('r', 'i')").as_deref(), Some("0"));
    database.execute("CREATE VIEW seen AS SELECT id FROM items");
    let before = database.value("SELECT 'items'::regclass::oid");
    sync(&job, 3).await.unwrap();
    assert_eq!(database.value("SELECT 'items'::regclass::oid"), before, "rows exchanged");
    assert_eq!(database.value("SELECT id FROM seen").as_deref(), Some("3"));
    database.execute("ALTER TABLE items DROP COLUMN value");
    let refused = error(sync(&job, 4).await);
    assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
    assert_eq!(database.value("SELECT id FROM seen").as_deref(), Some("3"));
}

#[tokio::test]
async fn rows_go_into_the_configured_schema() {
    let database = database();
    let spec = json!({"connection_string": database.url(), "schema": "raw \"data\""});
    let destination = PostgresConnector.destination(spec).await.unwrap();
    let job = Job::new(item_table("items"), WriteMode::AppendDedup);
    sync_at(destination, &job, &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))])
        .await
        .unwrap();
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'raw \"data\"'";
    assert_eq!(database.value(tables).as_deref(), Some("3"));
}

#[tokio::test]
async fn an_existing_table_with_wider_columns_takes_the_rows() {
    let database = database();
    database.execute("CREATE TABLE t (n bigint, other int DEFAULT 7)");
    let table = Table::new(TableName::new("t"), vec![Field::new("n", DataType::Int16, true)]);
    let rows = RecordBatch::try_new(
        Arc::clone(&table.schema),
        vec![Arc::new(arrow_array::Int16Array::from(vec![5]))],
    );
    let job = Job::new(table, WriteMode::Append);
    sync_at(destination(database.url()).await, &job, &[upsert(&rows.unwrap())]).await.unwrap();
    assert_eq!(database.rows("SELECT * FROM t"), [[Some("5".to_owned()), Some("7".to_owned())]]);
}

#[tokio::test]
async fn a_database_that_can_only_be_read_is_refused_by_the_check() {
    let database = database();
    let url = format!("{}?default_transaction_read_only=on", database.url());
    let refused = error(destination(&url).await.check().await);
    assert_eq!(refused.kind(), ErrorKind::Config);
    let role = format!("weak_{}", database.name());
    database.execute(&format!("CREATE ROLE {role} LOGIN"));
    let url = database.url().replace("postgres@", &format!("{role}@"));
    let refused = error(destination(&url).await.check().await);
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.hint_text().unwrap().contains("GRANT CREATE"));
}

#[tokio::test]
async fn a_server_that_is_gone_is_a_passing_error() {
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    let job = Job::new(item_table("items"), WriteMode::Append);
    let run = open(&database, database.url(), &job).await;
    let mut writer = run.writer().await;
    let rows = items(&item_table("items"), &[item(1, "a", 1)]);
    writer.write(run.batch(highwater_core::Op::Upsert, &rows)).await.unwrap();
    server.stop_immediate();
    let failed = error(writer.commit(&run.checkpoint(1)).await);
    assert_eq!(failed.kind(), ErrorKind::Transient, "{failed}");
}

#[tokio::test]
async fn tls_checks_what_sslmode_says() {
    let server = Postgres::start(&Options { tls: true, ..Options::default() });
    let database = server.create_database();
    let authority = server.authority_file();
    let connect = async |query: String| {
        let url = format!("{}?{query}", database.url());
        destination(&url).await.check().await
    };
    connect("sslmode=require".into()).await.unwrap();
    let authority = authority.display();
    for mode in ["verify-ca", "verify-full"] {
        connect(format!("sslmode={mode}&sslrootcert={authority}")).await.unwrap();
        let refused = error(connect(format!("sslmode={mode}&sslrootcert=system")).await);
        assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    }
    let plain = Postgres::shared().create_database();
    let url = format!("{}?sslmode=require", plain.url());
    assert_eq!(error(destination(&url).await.check().await).kind(), ErrorKind::Config);
    destination(&format!("{}?sslmode=prefer", plain.url())).await.check().await.unwrap();
}

#[tokio::test]
async fn a_trigger_that_leaves_rows_out_is_noticed() {
    let to = database();
    let job = Job::new(item_table("t"), WriteMode::Append);
    let rows = [item(1, "a", 1), item(2, "b", 2)];
    let change = upsert(&items(&job.table, &rows));
    let first = sync_at(destination(to.url()).await, &job, std::slice::from_ref(&change)).await;
    first.unwrap_or_else(|e| panic!("{}", e.full_message()));
    to.execute(
        "CREATE FUNCTION odd_only() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER odd_only BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION odd_only()",
    );
    let second = sync_at(destination(to.url()).await, &job, &[change]).await;
    let error = second.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(error.message().contains("another number of rows"), "{error}");
    assert_eq!(to.value("SELECT count(*) FROM t").as_deref(), Some("2"));
}

/// Many syncs at once into a schema, and with a type, that none of them has found.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_that_make_the_same_schema_at_once_do_not_meet() {
    let (from, to) = (database(), database());
    from.execute("CREATE SCHEMA kinds; CREATE TYPE kinds.mood AS ENUM ('ok');");
    for n in 0..8 {
        from.execute(&format!(
            "CREATE TABLE t{n} (id int PRIMARY KEY, m kinds.mood); INSERT INTO t{n} VALUES (1, 'ok')"
        ));
    }
    let source = source(from.url()).await;
    let mut readings = Vec::new();
    for n in 0..8 {
        let table = table(source.as_ref(), &format!("t{n}")).await;
        let (job, state) = (Job::reading(table.clone()), State::default());
        readings.push((table, harness::read(source.as_ref(), &job, &state).await.unwrap()));
    }
    for (round, write_mode) in [
        WriteMode::Append,
        WriteMode::Overwrite,
        WriteMode::Replace,
        WriteMode::Append,
        WriteMode::Overwrite,
    ]
    .into_iter()
    .enumerate()
    {
        to.execute("DROP SCHEMA IF EXISTS kinds CASCADE");
        let schema = format!("new_{round}");
        let mut writers = tokio::task::JoinSet::new();
        for (table, reading) in &readings {
            let changes: Vec<_> = reading.upserts().iter().map(upsert).collect();
            let spec = json!({"connection_string": to.url(), "schema": schema});
            let mut job = Job::new(table.clone(), write_mode);
            job.sync = format!("{round} {}", table.name);
            writers.spawn(async move {
                let destination = PostgresConnector.destination(spec).await.unwrap();
                sync_at(destination, &job, &changes).await.map(drop)
            });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap().unwrap_or_else(|e| panic!("{write_mode}: {}", e.full_message()));
        }
        for n in 0..8 {
            let rows = to.value(&format!("SELECT count(*) FROM {schema}.t{n}"));
            assert_eq!(rows.as_deref(), Some("1"), "{write_mode}");
        }
    }
}
