//! The systems that are written to: each test has one of its own.

use highwater_testkit::postgres::{Database, Postgres};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A system and what a plugin is told about it.
pub struct System {
    pub name: &'static str,
    pub spec: Value,
    pub folder: TempDir,
    _database: Option<Database>,
}

impl System {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.db");
        Self { name: "sqlite", spec: json!({"connection_string": path}), folder, _database: None }
    }

    pub fn postgresql() -> Self {
        let database = Postgres::shared().create_database();
        let spec = json!({"connection_string": database.url()});
        let folder = tempfile::tempdir().unwrap();
        Self { name: "postgresql", spec, folder, _database: Some(database) }
    }

    pub fn files() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/{{TABLE}}/{{UUID}}.parquet");
        let spec = json!({"path": path, "format": "parquet"});
        Self { name: "files", spec, folder, _database: None }
    }
}
