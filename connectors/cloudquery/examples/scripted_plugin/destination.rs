//! It is a destination: `destination=FOLDER`. Rows are kept in the folder as they came, and so they
//! are read: all of them, in order, as by a plugin that only adds rows.
//!
//! `FOLDER/journal` gets a line of JSON for each call and each message.
//!
//! | word | what |
//! |---|---|
//! | `die-after=N` | the process ends with code 137 once N rows are stored |
//! | `refuse=TABLE` | an insert into the table ends the call with an error |
//! | `swallow=TABLE` | rows of the table are dropped, an error is logged, the answer is OK |
//! | `failed=TABLE` | the answer is OK and names the table if rows of it came |
//! | `hasty=TABLE` | `Write` is answered after the first insert into the table |
//! | `no-read`, `hanging-read`, `broken-read` | `Read` is unimplemented, never answers, always fails |
//! | `bad-close` | `Close` answers with an error, as the SDKs' default does |
//! | `no-test`, `bad-test` | `TestConnection` is unimplemented, says no |

use std::fs::File;
use std::future::pending;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use highwater_cloudquery::proto::plugin::write::request::Message;
use highwater_cloudquery::proto::plugin::{init, read, test_connection, write};
use highwater_cloudquery::wire::types::{UNIQUE, is_marked};
use highwater_cloudquery::wire::{Decoder, decode_table};
use serde_json::{Value, json};
use tonic::{Status, Streaming};

use crate::script::Script;

pub struct Destination {
    script: Script,
    folder: PathBuf,
    initialised: AtomicBool,
    streams: AtomicU64,
    rows: AtomicI32,
}

impl Destination {
    /// `None` where the script does not ask for one.
    pub fn new(script: &Script) -> Option<Self> {
        Some(Self {
            folder: script.value("destination")?.into(),
            script: script.clone(),
            initialised: AtomicBool::new(false),
            streams: AtomicU64::new(0),
            rows: AtomicI32::new(0),
        })
    }

    fn append(&self, file: &str, line: &str) {
        let path = self.folder.join(file);
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn note(&self, what: Value) {
        self.append("journal", &what.to_string());
    }

    fn ready(&self) -> Result<(), Status> {
        if self.initialised.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Status::unknown("Init was not called"))
    }

    pub fn init(&self, request: &init::Request) {
        self.initialised.store(true, Ordering::SeqCst);
        let spec: Value = serde_json::from_slice(&request.spec).unwrap();
        self.note(json!({"call": "init", "spec": spec, "invocation": request.invocation_id}));
    }

    pub fn test(&self, _: &test_connection::Request) -> Result<test_connection::Response, Status> {
        if self.script.has("no-test") {
            return Err(Status::unimplemented("no test"));
        }
        let success = !self.script.has("bad-test");
        Ok(test_connection::Response {
            success,
            failure_code: if success { "" } else { "UNREACHABLE" }.to_owned(),
            failure_description: if success {
                ""
            } else {
                "no way to postgres://me:hunter2@host/db"
            }
            .to_owned(),
        })
    }

    pub async fn write(
        &self,
        mut messages: Streaming<write::Request>,
    ) -> Result<write::Response, Status> {
        self.ready()?;
        let stream = self.streams.fetch_add(1, Ordering::SeqCst) + 1;
        let mut failed_tables = Vec::new();
        while let Some(request) = messages.message().await? {
            match request.message.unwrap() {
                Message::MigrateTable(m) => self.migrate(stream, &m),
                Message::Insert(m) => {
                    let table = self.insert(stream, &m.record)?;
                    if self.script.value("failed") == Some(&table) {
                        failed_tables.push(table.clone());
                    }
                    if self.script.value("hasty") == Some(&table) {
                        break;
                    }
                }
                Message::Delete(m) => {
                    let time = m.sync_time.unwrap();
                    let micros = time.seconds * 1_000_000 + i64::from(time.nanos) / 1000;
                    self.note(json!({"stream": stream, "message": "delete_stale",
                        "table": m.table_name, "source": m.source_name, "time": micros}));
                }
                Message::DeleteRecord(m) => {
                    let groups = m.where_clause.iter().map(|group| {
                        let columns = group.predicates.iter().map(|p| &p.column);
                        json!([group.grouping_type, columns.collect::<Vec<_>>()])
                    });
                    let relations =
                        m.table_relations.iter().map(|r| json!([r.table_name, r.parent_table]));
                    self.note(json!({"stream": stream, "message": "delete_record",
                        "table": m.table_name, "groups": groups.collect::<Vec<_>>(),
                        "relations": relations.collect::<Vec<_>>()}));
                }
                Message::Flush(_) => return Err(Status::unknown("unknown message")),
            }
        }
        self.note(json!({"stream": stream, "message": "end"}));
        Ok(write::Response { failed_tables, ..write::Response::default() })
    }

    fn migrate(&self, stream: u64, message: &write::MessageMigrateTable) {
        let table = decode_table(&message.table).unwrap();
        let fields = table.schema.fields().iter();
        let unique: Vec<_> = fields.filter(|f| is_marked(f, UNIQUE)).map(|f| f.name()).collect();
        self.note(json!({"stream": stream, "message": "migrate", "table": table.name.name,
            "columns": table.column_names().collect::<Vec<_>>(), "key": table.primary_key,
            "unique": unique, "parent": table.parent.map(|p| p.name),
            "force": message.migrate_force}));
    }

    fn insert(&self, stream: u64, record: &Bytes) -> Result<String, Status> {
        let decoded = Decoder::new().decode(record).unwrap();
        let table = &decoded.table.name.name;
        let rows: usize = decoded.batches.iter().map(|b| b.num_rows()).sum();
        self.note(json!({"stream": stream, "message": "insert", "table": table, "rows": rows,
            "key": decoded.table.primary_key, "bytes": record.len()}));
        if self.script.value("refuse") == Some(table) {
            return Err(Status::unknown(format!("the disk of {table} is full")));
        }
        if self.script.value("swallow") == Some(table) {
            println!(r#"{{"level":"error","message":"failed to write batch","table":"{table}"}}"#);
            return Ok(table.clone());
        }
        self.append("rows", &format!("{table} {}", BASE64_STANDARD.encode(record)));
        let rows = i32::try_from(rows).unwrap();
        let stored = self.rows.fetch_add(rows, Ordering::SeqCst) + rows;
        if self.script.number("die-after").is_some_and(|limit| stored >= limit) {
            std::process::exit(137);
        }
        Ok(table.clone())
    }

    pub async fn read(&self, request: &read::Request) -> Result<Vec<read::Response>, Status> {
        self.ready()?;
        let table = decode_table(&request.table).unwrap();
        self.note(json!({"call": "read", "table": table.name.name,
            "columns": table.column_names().collect::<Vec<_>>()}));
        if self.script.has("no-read") {
            return Err(Status::unimplemented("no Read"));
        }
        if self.script.has("broken-read") {
            return Err(Status::unknown("not implemented here"));
        }
        if self.script.has("hanging-read") {
            pending::<()>().await;
        }
        let rows = std::fs::read_to_string(self.folder.join("rows")).unwrap_or_default();
        let records = rows.lines().map(|line| line.split_once(' ').unwrap());
        let records = records.filter(|(name, _)| *name == table.name.name);
        Ok(records
            .map(|(_, text)| read::Response {
                record: BASE64_STANDARD.decode(text).unwrap().into(),
            })
            .collect())
    }

    pub fn close(&self) -> Result<(), Status> {
        self.note(json!({"call": "close"}));
        self.initialised.store(false, Ordering::SeqCst);
        if self.script.has("bad-close") {
            return Err(Status::unknown("Exception calling application: "));
        }
        Ok(())
    }
}
