//! It is a source: `source=FILE`, a JSON file with its tables and what it sends, in order.
//!
//! ```json
//! {"tables": [{"name": "a", "columns": {"id": "int", "name": "text"}, "key": ["id"],
//!              "incremental": true, "parent": null}],
//!  "steps": [{"migrate": "a"}, {"rows": "a", "from": 1, "count": 3, "per_message": 1}],
//!  "journal": "/path"}
//! ```
//!
//! A table in a step is a name or a description as above. Types are `int`, `text`, `json`, `bytes`;
//! the values come from the number of the row, a text from `text` if that is given. `journal` gets
//! a line of JSON for `Init`, `GetTables`, `Sync` and what the steps read.
//!
//! | step | what |
//! |---|---|
//! | `migrate`: table | `MigrateTable` |
//! | `rows`: table, `from`, `count`, `per_message` (1), `batches` (1) | inserts |
//! | `empty`: table | an insert without rows |
//! | `large`: table, `bytes` | one row whose `bytes` are so many |
//! | `garbage` | an insert that is no Arrow stream |
//! | `error`: table, `text` | `Error` |
//! | `delete`: table, `column`, `value`, `relations`: [[child, parent]] | `DeleteRecord` |
//! | `flush`: {key: value}, `version` (none) | the state is written to the backend |
//! | `read`: [columns] | the state is read from the backend, into the journal |
//! | `checkpoint`: {key: value} | the state is sent on the stream |
//! | `note`: text | into the journal: everything before was sent |
//! | `wait`: path | goes on when the file is there |
//! | `die`: code, `hang`, `status`: text | the process ends; nothing more comes; the call fails |

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use highwater_cloudquery::proto::discovery::v1;
use highwater_cloudquery::proto::plugin::plugin_client::PluginClient;
use highwater_cloudquery::proto::plugin::predicate::Operator;
use highwater_cloudquery::proto::plugin::sync::response::Message;
use highwater_cloudquery::proto::plugin::{
    Predicate, PredicatesGroup, TableRelation, get_tables, init, read, sync, write,
};
use highwater_cloudquery::wire::frames::{Frames, parse_schema};
use highwater_cloudquery::wire::{Decoder, encode_table};
use highwater_core::types::{EXTENSION, JSON};
use highwater_core::{Table, TableName};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::script::Script;

#[derive(Clone)]
pub struct Source {
    script: Arc<Value>,
}

type Sender = mpsc::Sender<Result<sync::Response, Status>>;

impl Source {
    /// `None` where the script does not ask for one.
    pub fn new(script: &Script) -> Option<Self> {
        let text = std::fs::read_to_string(script.value("source")?).unwrap();
        Some(Self { script: Arc::new(serde_json::from_str(&text).unwrap()) })
    }

    fn note(&self, what: &Value) {
        let Some(path) = self.script["journal"].as_str() else { return };
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{what}\n").as_bytes()).unwrap();
    }

    pub fn init(&self, request: &init::Request) {
        let spec: Value = serde_json::from_slice(&request.spec).unwrap();
        self.note(&json!({"call": "init", "spec": spec, "invocation": request.invocation_id,
            "no_connection": request.no_connection}));
    }

    pub fn tables(&self, request: &get_tables::Request) -> Result<get_tables::Response, Status> {
        self.note(&json!({"call": "get_tables", "tables": request.tables,
            "skip": request.skip_tables, "skip_dependent": request.skip_dependent_tables}));
        let all: Vec<Table> =
            self.script["tables"].as_array().unwrap().iter().map(|t| self.table(t)).collect();
        for pattern in &request.tables {
            if pattern != "*" && !all.iter().any(|t| t.name.name == *pattern) {
                let words = format!("tables include a pattern {pattern} with no matches");
                return Err(Status::unknown(words));
            }
        }
        let wanted = |table: &&Table| {
            request.tables.iter().any(|pattern| pattern == "*" || *pattern == table.name.name)
        };
        let tables = all.iter().filter(wanted).map(|table| encode_table(table).unwrap());
        Ok(get_tables::Response { tables: tables.collect() })
    }

    /// A description, or the name of one of the plugin's tables.
    fn table(&self, of: &Value) -> Table {
        if let Some(name) = of.as_str() {
            let all = self.script["tables"].as_array().unwrap();
            return self.table(all.iter().find(|t| t["name"] == name).expect(name));
        }
        let fields = of["columns"].as_object().unwrap().iter().map(|(name, kind)| {
            let field = |data_type| Field::new(name, data_type, true);
            match kind.as_str().unwrap() {
                "int" => field(DataType::Int64),
                "text" => field(DataType::Utf8),
                "bytes" => field(DataType::Binary),
                "json" => field(DataType::Utf8)
                    .with_metadata([(EXTENSION.to_owned(), JSON.to_owned())].into()),
                other => panic!("no type {other}"),
            }
        });
        let name = TableName::new(of["name"].as_str().unwrap());
        let mut table = Table::new(name, fields.collect());
        let key = of["key"].as_array().into_iter().flatten();
        table.primary_key = key.map(|name| name.as_str().unwrap().to_owned()).collect();
        table.source_defined_cursor = of["incremental"] == true;
        table.parent = of["parent"].as_str().map(TableName::new);
        table
    }

    pub fn sync(self, request: sync::Request) -> mpsc::Receiver<Result<sync::Response, Status>> {
        self.note(&json!({"call": "sync", "tables": request.tables, "skip": request.skip_tables,
            "skip_dependent": request.skip_dependent_tables,
            "deterministic": request.deterministic_cq_id,
            "backend": request.backend.as_ref().map(|b| &b.table_name),
            "connection": request.backend.as_ref().map(|b| &b.connection),
            "shard": request.shard.map(|s| (s.num, s.total)),
            "errors": request.with_error_messages, "checkpoints": request.supports_checkpoints}));
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            for step in self.script["steps"].as_array().unwrap() {
                if self.step(step, &request, &sender).await.is_none() {
                    break;
                }
            }
        });
        receiver
    }

    /// `None` where nothing more is to come.
    async fn step(&self, step: &Value, request: &sync::Request, to: &Sender) -> Option<()> {
        let number = |key: &str| step[key].as_u64();
        let (name, of) = step.as_object().unwrap().iter().next().unwrap();
        match name.as_str() {
            "migrate" => {
                let table = encode_table(&self.table(of)).unwrap();
                send(to, Message::MigrateTable(sync::MessageMigrateTable { table })).await
            }
            "rows" => {
                let (mut at, count) = (number("from").unwrap(), number("count").unwrap());
                let (part, batches) = (number("per_message").unwrap_or(1), number("batches"));
                let table = self.table(of);
                let end = at + count;
                while at < end {
                    let upto = (at + part).min(end);
                    let each = (upto - at).div_ceil(batches.unwrap_or(1));
                    let starts = (at..upto).step_by(usize::try_from(each).unwrap());
                    let ranges = starts.map(|start| start..(start + each).min(upto));
                    insert(to, stream(&table, ranges.map(|r| rows(&table, r, step)))).await?;
                    at = upto;
                }
                Some(())
            }
            "empty" => {
                let table = self.table(of);
                insert(to, stream(&table, [rows(&table, 0..0, step)])).await
            }
            "large" => {
                let table = self.table(of);
                insert(to, stream(&table, [rows(&table, 1..2, step)])).await
            }
            "garbage" => insert(to, Bytes::from_static(b"this is no stream")).await,
            "error" => {
                let table_name = of.as_str().unwrap().to_owned();
                let error = step["text"].as_str().unwrap_or("the API answered 500").to_owned();
                send(to, Message::Error(sync::MessageError { table_name, error })).await
            }
            "delete" => send(to, deletion(of, step)).await,
            "flush" => {
                let flushed = flush(request, &state_rows(of, number("version"))).await;
                self.note(&json!({"flushed": flushed.is_ok()}));
                match flushed {
                    Ok(()) => Some(()),
                    Err(status) => to.send(Err(status)).await.ok(),
                }
            }
            "read" => {
                let answer = read_state(request, of).await;
                self.note(&json!({"read": answer.unwrap_or_else(|e| json!(e.message()))}));
                Some(())
            }
            "checkpoint" => {
                let record = state_rows(of, None);
                send(to, Message::Checkpoint(sync::MessageCheckpoint { record })).await
            }
            "note" => {
                self.note(&json!({"note": of}));
                Some(())
            }
            "wait" => {
                while !Path::new(of.as_str().unwrap()).exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Some(())
            }
            "die" => std::process::exit(of.as_i64().unwrap().try_into().unwrap()),
            "hang" => std::future::pending().await,
            "status" => {
                let _ = to.send(Err(Status::unknown(of.as_str().unwrap()))).await;
                None
            }
            other => panic!("no step {other}"),
        }
    }
}

async fn send(to: &Sender, message: Message) -> Option<()> {
    to.send(Ok(sync::Response { message: Some(message) })).await.ok()
}

async fn insert(to: &Sender, record: Bytes) -> Option<()> {
    send(to, Message::Insert(sync::MessageInsert { record })).await
}

fn wire_schema(table: &Table) -> Arc<Schema> {
    let mut frames = Frames::new(&encode_table(table).unwrap());
    Arc::new(parse_schema(&frames.schema().unwrap()).unwrap())
}

fn stream(table: &Table, batches: impl IntoIterator<Item = RecordBatch>) -> Bytes {
    let mut writer = StreamWriter::try_new(Vec::new(), &wire_schema(table)).unwrap();
    for batch in batches {
        writer.write(&batch).unwrap();
    }
    writer.into_inner().unwrap().into()
}

fn rows(table: &Table, numbers: std::ops::Range<u64>, step: &Value) -> RecordBatch {
    let schema = wire_schema(table);
    let signed = || numbers.clone().map(|n| i64::try_from(n).unwrap());
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.data_type() {
            DataType::Int64 => Arc::new(Int64Array::from_iter_values(signed())),
            DataType::Utf8 => Arc::new(StringArray::from_iter_values(numbers.clone().map(|n| {
                match step["text"].as_str() {
                    Some(text) => text.to_owned(),
                    None => format!("{}-{n}", field.name()),
                }
            }))),
            DataType::Binary if field.metadata().contains_key(EXTENSION) => Arc::new(
                BinaryArray::from_iter_values(numbers.clone().map(|n| format!("{{\"n\": {n}}}"))),
            ),
            _ => {
                let size = usize::try_from(step["bytes"].as_u64().unwrap_or(1)).unwrap();
                Arc::new(BinaryArray::from_iter_values(numbers.clone().map(|_| vec![7_u8; size])))
            }
        }
    });
    RecordBatch::try_new(Arc::clone(&schema), columns.collect()).unwrap()
}

fn deletion(table: &Value, step: &Value) -> Message {
    let groups = step["column"].as_str().map(|column| {
        let field = Field::new(column, DataType::Int64, true);
        let one = Table::new(TableName::new("condition"), vec![field]);
        let value = Arc::new(Int64Array::from(vec![step["value"].as_i64().unwrap()]));
        let batch = RecordBatch::try_new(wire_schema(&one), vec![value]).unwrap();
        let predicate = Predicate {
            operator: Operator::Eq.into(),
            column: column.to_owned(),
            record: stream(&one, [batch]),
        };
        PredicatesGroup { grouping_type: 0, predicates: vec![predicate] }
    });
    let relations = step["relations"].as_array().into_iter().flatten();
    Message::DeleteRecord(sync::MessageDeleteRecord {
        table_name: table.as_str().unwrap().to_owned(),
        where_clause: groups.into_iter().collect(),
        table_relations: relations
            .map(|pair| TableRelation {
                table_name: pair[0].as_str().unwrap().to_owned(),
                parent_table: pair[1].as_str().unwrap().to_owned(),
            })
            .collect(),
    })
}

/// The state table: as Python's SDK has it, or as Go's with versions.
fn state_table(with_version: bool) -> Table {
    let mut fields =
        vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
    if with_version {
        fields.push(Field::new("version", DataType::UInt64, true));
    }
    Table::new(TableName::new("cq_state"), fields).with_primary_key(["key"])
}

fn state_rows(pairs: &Value, version: Option<u64>) -> Bytes {
    let table = state_table(version.is_some());
    let pairs = pairs.as_object().unwrap();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(pairs.keys())),
        Arc::new(StringArray::from_iter_values(pairs.values().map(|v| v.as_str().unwrap()))),
    ];
    if let Some(version) = version {
        columns.push(Arc::new(UInt64Array::from_iter_values(pairs.keys().map(|_| version))));
    }
    stream(&table, [RecordBatch::try_new(wire_schema(&table), columns).unwrap()])
}

async fn backend(request: &sync::Request) -> Result<Channel, Status> {
    let backend = request.backend.as_ref().expect("a backend");
    let address = match backend.connection.starts_with("unix:") {
        true => backend.connection.clone(),
        false => format!("http://{}", backend.connection),
    };
    let endpoint = Endpoint::from_shared(address).unwrap();
    let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut discovery = v1::discovery_client::DiscoveryClient::new(channel.clone());
    let versions = discovery.get_versions(v1::get_versions::Request {}).await?;
    assert_eq!(versions.into_inner().versions, [3]);
    Ok(channel)
}

/// As the SDKs' state clients: the table first, then the rows, and an answer that is waited for.
async fn flush(request: &sync::Request, record: &Bytes) -> Result<(), Status> {
    use write::request::Message;
    let mut client = PluginClient::new(backend(request).await?);
    let table = encode_table(&state_table(true)).unwrap();
    let migrate = write::MessageMigrateTable { table, migrate_force: false };
    let insert = write::MessageInsert { record: record.clone() };
    for message in [Message::MigrateTable(migrate), Message::Insert(insert)] {
        let one = tokio_stream::iter([write::Request { message: Some(message) }]);
        client.write(one).await?;
    }
    Ok(())
}

async fn read_state(request: &sync::Request, columns: &Value) -> Result<Value, Status> {
    let columns: Vec<&str> =
        columns.as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let mut table = state_table(true);
    let fields = columns.iter().map(|name| table.field(name).expect("a column").clone());
    table.schema = Schema::new(fields.collect::<Vec<_>>()).into();
    let mut client = PluginClient::new(backend(request).await?);
    let request = read::Request { table: encode_table(&table).unwrap() };
    let mut answers = client.read(request).await?.into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await? {
        for batch in Decoder::new().decode(&answer.record).unwrap().batches {
            let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
            assert_eq!(names, columns);
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter();
                let text = |array: &ArrayRef| {
                    arrow_cast::display::array_value_to_string(array, row).unwrap()
                };
                found.push(values.map(text).collect::<Vec<_>>().join("="));
            }
        }
    }
    Ok(json!(found))
}
