//! Discovery, types and errors of the source.

use highwater_core::types::{DECLARED, DEFINITION};
use highwater_core::{Completion, Connector, ErrorKind};
use highwater_postgres::PostgresConnector;
use highwater_testkit::postgres::{GUARDED_PASSWORD_IN_URL, Postgres};
use serde_json::json;

use crate::server::{Reader, database, error, plan, plan_of, source, table};

/// A table with a column of every type that PostgreSQL has.
pub const TYPES: &str = "
CREATE TYPE mood AS ENUM ('sad', 'it''s ok');
CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE kinds (
  b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8,
  t text, v varchar(5), c char(4), n name, y bytea,
  d date, ti time, ts timestamp, tz timestamptz, u uuid, j json, jb jsonb,
  n10 numeric(10,2), n38 numeric(38,0), n76 numeric(76,10), nu numeric, iv interval,
  ai int[], at text[], an numeric[], aj jsonb[],
  inet inet, mood mood, pos positive DEFAULT 1, pair pair, r int4range, m int[][], x xml,
  money money, bits bit(3), ttz timetz, ts_v tsvector, o oid, l pg_lsn
);
INSERT INTO kinds (pos) VALUES (1);
INSERT INTO kinds VALUES (
  true, -32768, -2147483648, 9223372036854775807, 'NaN', '-Infinity',
  'ä€😀', 'abcde', 'ab', 'nm', '\\x00ff',
  '-infinity', '24:00', '0001-01-01 00:00:00.000001 BC', 'infinity',
  '00112233-4455-6677-8899-aabbccddeeff', '{\"b\": 1, \"a\":2}', '{\"b\": 1, \"a\":2}',
  -99999999.99, 99999999999999999999999999999999999999, 0.0000000001,
  12345678901234567890.123456789012345678901234567890, '-1 year 2 mons -3 days 00:00:00.000001',
  '{1,NULL,3}', '{a,NULL,\"\"}', '{1.50,NaN}', '{\"{\\\"a\\\": 1}\"}',
  '10.0.0.0/8', 'it''s ok', 7, '(1,\"x y\")', '[1,5)', '{{1,2},{3,4}}', '<a/>',
  '12.34', B'101', '10:00:00+02', 'fat:1 cat:2', 4294967295, '1/A'
)";

#[tokio::test]
async fn every_type_arrives_with_its_value() {
    let database = database();
    database.execute(TYPES);
    let mut reader = Reader::new(database.url(), "kinds", None).await;
    let rows = reader.sync().await;
    let values: Vec<&str> = rows[1].split('|').collect();
    let first = "true|-32768|-2147483648|9223372036854775807|NaN|-Infinity|ä€😀|abcde|ab  |nm|AP8=";
    assert_eq!(values[..11].join("|"), first);
    let times = "-infinity|24:00:00.000000|0000-01-01 00:00:00.000001|infinity";
    assert_eq!(values[11..15].join("|"), times);
    assert_eq!(values[15], "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(values[16..18], ["{\"b\": 1, \"a\":2}", "{\"a\": 2, \"b\": 1}"]);
    assert_eq!(values[18], "-99999999.99");
    assert_eq!(values[19], "99999999999999999999999999999999999999");
    assert_eq!(values[20], "0.0000000001");
    assert_eq!(values[21], "12345678901234567890.123456789012345678901234567890");
    assert_eq!(values[22], "P-10M-3DT0.000001S");
    assert_eq!(
        values[23..27],
        ["[1,null,3]", "[\"a\",null,\"\"]", "[1.50,\"NaN\"]", r#"["{\"a\": 1}"]"#]
    );
    assert_eq!(
        values[27..],
        [
            "10.0.0.0/8",
            "it's ok",
            "7",
            "(1,\"x y\")",
            "[1,5)",
            "{{1,2},{3,4}}",
            "<a/>",
            "$12.34",
            "101",
            "10:00:00+02",
            "'cat':2 'fat':1",
            "4294967295",
            "1/A"
        ]
    );
    let nulls = rows[0].split('|').filter(|value| *value == "NULL").count();
    assert_eq!(nulls, values.len() - 1, "{}", rows[0]);
}

#[tokio::test]
async fn declared_types_and_definitions_are_kept() {
    let database = database();
    database.execute(TYPES);
    let source = source(database.url()).await;
    let table = table(source.as_ref(), "kinds").await;
    let metadata =
        |column: &str, key: &str| table.field(column).unwrap().metadata().get(key).cloned();
    let declared = |column: &str| metadata(column, DECLARED).unwrap();
    assert_eq!(declared("v"), "postgresql:character varying(5)");
    assert_eq!(declared("n10"), "postgresql:numeric(10,2)");
    assert_eq!(declared("mood"), "postgresql:mood");
    assert_eq!(declared("ai"), "postgresql:integer[]");
    assert_eq!(
        metadata("mood", DEFINITION).unwrap(),
        r#"[{"kind":"enum","name":"mood","labels":["sad","it's ok"]}]"#
    );
    assert!(metadata("pos", DEFINITION).unwrap().contains("CHECK ((VALUE > 0))"));
    assert!(metadata("pair", DEFINITION).unwrap().contains("composite"));
    assert_eq!(metadata("i4", DEFINITION), None);
}

#[tokio::test]
async fn tables_views_and_keys_are_discovered_and_system_schemas_are_not() {
    let database = database();
    database.execute(
        "CREATE SCHEMA other; CREATE SCHEMA _highwater; CREATE TABLE _highwater.state (a int);
         CREATE TABLE _highwater_t_tombstones (a int);
         CREATE TABLE other.t (b int, a text NOT NULL, PRIMARY KEY (a, b));
         CREATE TABLE \"Odd \"\"name\" (\"a b\" int NOT NULL);
         CREATE VIEW v AS SELECT 1 AS one",
    );
    let source = source(database.url()).await;
    let tables = source.discover(None).await.unwrap();
    let names: Vec<String> = tables.iter().map(|t| t.name.to_string()).collect();
    assert_eq!(names, ["Odd \"name", "v", "other.t"]);
    assert_eq!(tables[2].primary_key, ["a", "b"]);
    assert!(!tables[0].schema.field(0).is_nullable());
    let mut odd = Reader::new(database.url(), "Odd \"name", None).await;
    database.execute("INSERT INTO \"Odd \"\"name\" VALUES (5)");
    assert_eq!(odd.sync().await, ["5"]);
    let spec = json!({"connection_string": database.url(), "schema": "other"});
    let other = PostgresConnector.source(spec).await.unwrap();
    assert_eq!(other.discover(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_value_that_does_not_fit_names_its_column_and_text_helps() {
    let database = database();
    database.execute("CREATE TABLE t (n numeric(5,2)); INSERT INTO t VALUES ('NaN')");
    let mut reader = Reader::new(database.url(), "t", None).await;
    let refused = error(reader.try_sync().await);
    assert_eq!(refused.kind(), ErrorKind::Data);
    assert_eq!(refused.context_value("column"), Some("n"));
    assert!(refused.hint_text().unwrap().contains("{name: n, type: text}"));
    let mut text = (*reader.table().source).clone();
    let field = text.schema.field(0).clone().with_data_type(arrow_schema::DataType::Utf8);
    text.schema = std::sync::Arc::new(arrow_schema::Schema::new(vec![field]));
    reader.plan = plan(vec![plan_of(text, None)]);
    assert_eq!(reader.sync().await, ["NaN"]);
    for (make, value) in [
        ("int[]", "'[0:1]={1,2}'"),
        ("int[]", "'{{1},{2}}'"),
        ("timestamptz", "'294276-12-31 23:59:59Z'"),
        ("interval", "'2000000 hours'::interval * 200"),
    ] {
        database.execute(&format!(
            "DROP TABLE t; CREATE TABLE t (c {make}); INSERT INTO t VALUES ({value})"
        ));
        let mut reader = Reader::new(database.url(), "t", None).await;
        let refused = error(reader.try_sync().await);
        assert_eq!(refused.kind(), ErrorKind::Data, "{make} {value}");
    }
}

#[tokio::test]
async fn a_text_that_is_no_utf8_names_its_column() {
    let server = Postgres::shared();
    let name = format!("{}_ascii", database().name());
    server.database("postgres").execute(&format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    ));
    let database = server.database(&name);
    database.execute("CREATE TABLE t (id int, c text); INSERT INTO t VALUES (1, E'\\xff')");
    let mut reader = Reader::new(database.url(), "t", None).await;
    let refused = error(reader.try_sync().await);
    assert_eq!((refused.kind(), refused.context_value("column")), (ErrorKind::Data, Some("c")));
}

#[tokio::test]
async fn a_column_that_changed_after_the_plan_stops_the_read() {
    let database = database();
    database.execute("CREATE TABLE t (a int, b int)");
    let mut reader = Reader::new(database.url(), "t", None).await;
    database.execute("ALTER TABLE t ALTER a TYPE bigint");
    let refused = error(reader.try_sync().await);
    assert_eq!((refused.kind(), refused.context_value("column")), (ErrorKind::Schema, Some("a")));
    database.execute("ALTER TABLE t ALTER a TYPE int, DROP b");
    assert_eq!(error(reader.try_sync().await).context_value("column"), Some("b"));
}

#[tokio::test]
async fn large_tables_come_in_batches_and_stop_when_asked() {
    let database = database();
    database.execute("CREATE TABLE t AS SELECT g AS id, repeat('x', 1000) AS pad FROM generate_series(1, 20000) g");
    let mut reader = Reader::new(database.url(), "t", None).await;
    let sent = reader.try_sync().await.unwrap();
    assert_eq!(sent.batches.iter().map(|b| b.num_rows()).sum::<usize>(), 20_000);
    assert!(sent.batches.len() >= 4 && sent.batches.iter().all(|b| b.num_rows() <= 8192));
    let stopping = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (output, mut messages) = highwater_core::Output::bounded(1, stopping);
    let partitions = reader.source.partitions(&reader.plan, &reader.state).await.unwrap();
    let read = reader.source.read(&reader.plan, &partitions[0], &reader.state, output);
    assert_eq!(read.await.unwrap(), Completion::Stopped);
    assert!(messages.recv().await.is_none());
}

#[tokio::test]
async fn a_read_that_is_dropped_ends_at_the_server() {
    let database = database();
    database.execute(
        "CREATE TABLE t AS SELECT repeat('x', 1000) AS pad FROM generate_series(1, 50000) g",
    );
    let reader = Reader::new(database.url(), "t", None).await;
    let (output, mut messages) = highwater_core::Output::bounded(1, Default::default());
    let partitions = reader.source.partitions(&reader.plan, &reader.state).await.unwrap();
    {
        let read = reader.source.read(&reader.plan, &partitions[0], &reader.state, output);
        tokio::select! {
            _ = read => panic!("the output was full"),
            _ = messages.recv() => {}
        }
    }
    for _ in 0..200 {
        let open = database.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'highwater'",
        );
        if open.as_deref() == Some("0") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    panic!("the connection is still open");
}

#[tokio::test]
async fn connection_errors_say_where_and_never_the_password() {
    let database = database();
    let check = async |url: String| {
        let source = PostgresConnector.source(json!({"connection_string": url})).await.unwrap();
        error(source.check().await)
    };
    let refused = check("postgres://me:hunter2@127.0.0.1:1/shop?sslmode=disable".into()).await;
    assert_eq!(refused.kind(), ErrorKind::Transient);
    assert_eq!(refused.context_value("port"), Some("1"));
    assert!(!format!("{refused:?} {}", refused.full_message()).contains("hunter2"));
    let server = Postgres::shared();
    let refused = check(server.guarded_url(database.name(), "wrong")).await;
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert_eq!(refused.context_value("user"), Some("guarded"));
    let source = source(&server.guarded_url(database.name(), GUARDED_PASSWORD_IN_URL)).await;
    source.check().await.unwrap();
    let refused = check(server.url("no_such_database")).await;
    assert_eq!(refused.kind(), ErrorKind::Config);
    let refused = check(format!("{}?search_pat=x", database.url())).await;
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
}

#[tokio::test]
async fn a_cursor_without_an_order_is_refused() {
    let database = database();
    database.execute("CREATE TABLE t (j json, b bool, i inet, n numeric, z text)");
    let source = source(database.url()).await;
    let table = table(source.as_ref(), "t").await;
    for column in ["j", "b", "i", "missing"] {
        let refused = error(source.review(&plan_of(table.clone(), Some(column))).await);
        assert_eq!(refused.kind(), ErrorKind::Config, "{column}");
        assert_eq!(refused.context_value("column"), Some(column));
    }
    for column in ["n", "z"] {
        source.review(&plan_of(table.clone(), Some(column))).await.unwrap();
    }
}
