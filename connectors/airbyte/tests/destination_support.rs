//! A destination connector that does what its settings say, and plans and rows for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use highwater_airbyte::destination::{AirbyteDestination, AirbyteDestinationConfig};
use highwater_airbyte::host::{ConnectorSpec, Role};
use highwater_core::{
    Batch, Checkpoint, CursorKey, Destination, Fence, Instant, Op, Partition, Plan, ReadMode,
    Table, TableName, TablePlan, WriteMode, Writer,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder, and the connector with its settings.
pub struct Place {
    pub folder: TempDir,
    pub config: AirbyteDestinationConfig,
}

pub fn connectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/connectors")
}

impl Place {
    /// `scripted_destination.py` with these settings.
    pub fn scripted(settings: Value) -> Self {
        Self::of(&connectors().join("scripted_destination.py"), settings)
    }

    pub fn of(program: &Path, settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = ConnectorSpec::new("dest", Role::Destination, program.display().to_string());
        spec.cache_dir = folder.path().join("cache");
        spec.config = settings;
        let file = |name: &str| json!(folder.path().join(name));
        if program.ends_with("scripted_destination.py") {
            spec.config["lines_file"] = file("lines");
            spec.config["catalog_file"] = file("catalog");
        }
        let config = AirbyteDestinationConfig { connector: spec, supports_refreshes: None };
        Self { folder, config }
    }

    pub fn destination(&self) -> AirbyteDestination {
        AirbyteDestination::new(self.config.clone()).unwrap()
    }

    pub async fn writer(&self, destination: &AirbyteDestination, plan: &Plan) -> Box<dyn Writer> {
        let tables = plan.tables.keys().cloned().collect();
        let partition = Partition { tables, id: "all".into(), bounds: Value::Null };
        let fence = Fence { sync: "s".into(), epoch: 1 };
        destination.writer(plan, &partition, &fence).await.unwrap()
    }

    /// What it was sent.
    pub fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("lines")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn messages(&self) -> Vec<Value> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn catalog(&self) -> Value {
        let text = std::fs::read_to_string(self.folder.path().join("catalog")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

pub fn name(table: &str) -> TableName {
    TableName::new(table)
}

pub fn fields() -> Vec<Field> {
    vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)]
}

pub fn table(table: &str, mode: WriteMode) -> TablePlan {
    let read_mode = match mode {
        WriteMode::Replace | WriteMode::ReplaceDedup => ReadMode::FullRefresh,
        _ => ReadMode::Incremental,
    };
    let source = Table::new(name(table), fields());
    let mut target = source.clone();
    if !matches!(mode, WriteMode::Append | WriteMode::Replace) {
        target = target.with_primary_key(["id"]);
    }
    let mut plan = TablePlan::new(Arc::new(source), Arc::new(target), read_mode, mode);
    plan.generation = 1;
    plan
}

pub fn plan(tables: Vec<TablePlan>) -> Plan {
    let tables = tables.into_iter().map(|table| (table.name().clone(), table));
    Plan {
        sync: "s".into(),
        sync_id: "1".into(),
        started_at: Instant(1_795_254_085_000_000),
        state_with_data: false,
        sync_group_id: None,
        tables: tables.collect::<BTreeMap<_, _>>(),
    }
}

/// Rows `ids`, called `row N`.
pub fn batch(plan: &Plan, table: &str, ids: std::ops::Range<i64>) -> Batch {
    let source = Arc::clone(&plan.tables[&name(table)].source);
    let names = ids.clone().map(|id| format!("row \"{id}\"\n"));
    let names = StringArray::from_iter_values(names);
    let ids = Int64Array::from_iter_values(ids);
    let schema = Arc::clone(&plan.tables[&name(table)].target.schema);
    let rows = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(names)]).unwrap();
    Batch { table: source, op: Op::Upsert, rows }
}

pub fn at(table: &str, position: i64) -> Checkpoint {
    Checkpoint::of(CursorKey::Table(name(table)), json!({"at": position}))
}

pub fn kinds(messages: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let kind = |message: &Value| match message["type"].as_str().unwrap() {
        "RECORD" => {
            format!("{} {}", text(&message["record"]["stream"]), message["record"]["data"]["id"])
        }
        "STATE" => {
            let stream = &message["state"]["stream"];
            format!(
                "state {} {}",
                text(&stream["stream_descriptor"]["name"]),
                stream["stream_state"]["at"]
            )
        }
        _ => {
            let status = &message["trace"]["stream_status"];
            format!("{} {}", text(&status["stream_descriptor"]["name"]), text(&status["status"]))
        }
    };
    messages.iter().map(kind).collect()
}
