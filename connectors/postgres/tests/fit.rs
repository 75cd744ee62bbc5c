//! Existing tables of a destination that do not fit: refused with the column and a way out, never
//! filled with values that were changed.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::Field;
use highwater_core::{Connector, Destination, Error, ErrorKind, Table, TableName, WriteMode};
use highwater_postgres::PostgresConnector;
use highwater_testkit::job::{Job, sync_at, upsert};
use highwater_testkit::postgres::{Database, Postgres};
use serde_json::json;

use crate::server::{database, error};

async fn destination(url: &str) -> Box<dyn Destination> {
    PostgresConnector.destination(json!({"connection_string": url})).await.unwrap()
}

/// Writes one row of one column into the table `t`.
async fn write(to: &Database, value: ArrayRef, write_mode: WriteMode) -> Result<(), Error> {
    let field = Field::new("c", value.data_type().clone(), true);
    let table = Table::new(TableName::new("t"), vec![field]);
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), vec![value]).unwrap();
    let job = Job::new(table, write_mode);
    sync_at(destination(to.url()).await, &job, &[upsert(&rows)]).await.map(drop)
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

#[tokio::test]
async fn a_column_that_would_round_is_refused() {
    let moment = || -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![1_500_000])) };
    for declared in ["timestamp(0)", "timestamp(5)"] {
        let to = database();
        to.execute(&format!("CREATE TABLE t (c {declared})"));
        let refused = error(write(&to, moment(), WriteMode::Append).await);
        assert_eq!(refused.kind(), ErrorKind::Schema, "{refused}");
        assert_eq!(refused.context_value("column"), Some("c"));
        assert_eq!(to.value("SELECT count(*) FROM t").as_deref(), Some("0"));
    }
    let to = database();
    to.execute("CREATE DOMAIN second AS timestamp(0); CREATE TABLE t (c second)");
    assert_eq!(error(write(&to, moment(), WriteMode::Append).await).kind(), ErrorKind::Schema);
    to.execute("DROP TABLE t; CREATE TABLE t (c timestamp(6))");
    write(&to, moment(), WriteMode::Append).await.unwrap();
    assert_eq!(to.value("SELECT c FROM t").as_deref(), Some("1970-01-01 00:00:01.5"));
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_by_its_column_and_never_cut() {
    for (declared, value) in
        [("varchar(3)", "abcdef"), ("varchar(3)", "abc  "), ("char(3)", "abc  ")]
    {
        let to = database();
        to.execute(&format!("CREATE TABLE t (c {declared})"));
        let refused = error(write(&to, text(value), WriteMode::Append).await);
        assert_eq!(refused.kind(), ErrorKind::Data, "{refused}");
        assert_eq!(refused.context_value("table"), Some("t"));
        assert_eq!(refused.context_value("column"), Some("c"));
        assert!(refused.hint_text().unwrap().contains("TYPE text"));
        assert!(!refused.full_message().contains(value), "{refused}");
        write(&to, text("abc"), WriteMode::Append).await.unwrap();
        assert_eq!(to.value("SELECT c FROM t").as_deref(), Some("abc"));
    }
}

#[tokio::test]
async fn a_rule_that_a_row_breaks_is_named_with_the_table() {
    for rule in ["CONSTRAINT rule CHECK (c <> 'a')", "CONSTRAINT rule UNIQUE"] {
        let to = database();
        to.execute(&format!("CREATE TABLE t (c text {rule}); "));
        write(&to, text("b"), WriteMode::Append).await.unwrap();
        let value = if rule.contains("CHECK") { "a" } else { "b" };
        let refused = error(write(&to, text(value), WriteMode::Append).await);
        assert_eq!(refused.kind(), ErrorKind::Data, "{refused}");
        assert_eq!(refused.context_value("constraint"), Some("rule"));
        assert_eq!(refused.context_value("table"), Some("t"));
        assert!(refused.hint_text().is_some());
    }
}

#[tokio::test]
async fn a_view_is_no_destination() {
    let to = database();
    to.execute("CREATE VIEW t AS SELECT 'a'::text AS c");
    let described = destination(to.url()).await.describe(&[TableName::new("t")]).await;
    let refused = error(described);
    assert_eq!(refused.kind(), ErrorKind::Schema);
    assert_eq!(refused.message(), "The destination is a view, not a table");
    assert!(refused.hint_text().is_some());
}

#[tokio::test]
async fn a_database_that_takes_no_connections_is_tried_again() {
    let to = database();
    Postgres::shared()
        .create_database()
        .execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", to.name()));
    let refused = error(destination(to.url()).await.check().await);
    assert_eq!(refused.kind(), ErrorKind::Transient, "{refused}");
    Postgres::shared()
        .create_database()
        .execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", to.name()));
}

#[tokio::test]
async fn a_role_needs_no_more_than_the_rights_in_schemas_that_exist() {
    let to = database();
    let role = format!("tight_{}", to.name());
    to.execute(&format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA _highwater; CREATE SCHEMA raw;
         GRANT USAGE, CREATE ON SCHEMA _highwater TO {role}"
    ));
    let url = to.url().replace("postgres@", &format!("{role}@"));
    let open = async || {
        let spec = json!({"connection_string": url, "schema": "raw"});
        PostgresConnector.destination(spec).await.unwrap()
    };
    let refused = error(open().await.check().await);
    assert_eq!(refused.message(), "The role may not create tables in the schema");
    assert!(refused.hint_text().unwrap().starts_with("GRANT USAGE, CREATE ON SCHEMA \"raw\""));
    to.execute(&format!("GRANT USAGE, CREATE ON SCHEMA raw TO {role}"));
    open().await.check().await.unwrap();
    let value = text("a");
    let field = Field::new("c", value.data_type().clone(), true);
    let table = Table::new(TableName::in_namespace("raw", "t"), vec![field]);
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), vec![value]).unwrap();
    let job = Job::new(table, WriteMode::Append);
    sync_at(open().await, &job, &[upsert(&rows)]).await.unwrap();
    assert_eq!(to.value("SELECT c FROM raw.t").as_deref(), Some("a"));
}
