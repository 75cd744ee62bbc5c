//! What a sync leaves behind about itself: a line of the summary file for each destination, in
//! CloudQuery's words; the same as a row of the destination's `cloudquery_sync_summaries`; and a
//! line of the metrics file for each table.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::plan::{SOURCE_NAME, SYNC_GROUP_ID, SYNC_TIME};
use highwater_core::types::{CLOUDQUERY, DECLARED, FROM, JSON, extension_field, with_metadata};
use highwater_core::{Error, Instant, Table, TableName};
use highwater_engine::intake::Intake;
use highwater_engine::{DestinationSummary, Summary, TableSummary, Target};
use serde_json::{Map, Value, json};

use crate::config::spec::{DestinationSpec, Document, SourceSpec};
use crate::config::{Config, Section};
use crate::failure::Result;
use crate::jobs::Job;
use crate::plugins::Settings;

/// The table of the rows.
const TABLE: &str = "cloudquery_sync_summaries";

/// The files that are added to, where the user named them.
#[derive(Default)]
pub struct Files {
    summaries: Option<File>,
    metrics: Option<File>,
}

impl Files {
    /// Opens them, before anything is done that they would have to hold.
    ///
    /// # Errors
    /// `Config` when one cannot be written.
    pub fn open(summaries: Option<&Path>, metrics: Option<&Path>) -> Result<Self> {
        Ok(Self {
            summaries: summaries.map(|path| open(path, "summary")).transpose()?,
            metrics: metrics.map(|path| open(path, "metrics")).transpose()?,
        })
    }

    /// Adds what a sync did.
    ///
    /// # Errors
    /// `Internal` when a file can be written no more.
    pub fn add(&mut self, lines: &[Line<'_>]) -> Result<()> {
        if let Some(file) = &mut self.summaries {
            add(file, lines.iter().map(Line::value))?;
        }
        if let Some(file) = &mut self.metrics {
            add(file, lines.iter().flat_map(Line::metrics))?;
        }
        Ok(())
    }
}

fn open(path: &Path, what: &str) -> Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // A folder is not made: a misspelt path must not hide what was written.
    if let Some(missing) = folder.filter(|folder| !folder.is_dir()) {
        let folder = missing.display().to_string();
        return Err(Error::config(format!("The folder of the {what} file does not exist"))
            .context("file", path.display())
            .hint(format!("mkdir -p {}", crate::hints::quoted(&folder)))
            .into());
    }
    std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
        Error::config(format!("The {what} file cannot be written"))
            .context("file", path.display())
            .caused_by(error)
            .into()
    })
}

fn add(file: &mut File, values: impl Iterator<Item = Value>) -> Result<()> {
    let lines: String = values.map(|value| format!("{value}\n")).collect();
    file.write_all(lines.as_bytes()).map_err(|error| {
        Error::internal("The summary file cannot be written")
            .context("at", Instant::now().to_rfc3339())
            .caused_by(error)
            .into()
    })
}

/// What a sync did at one destination.
pub struct Line<'a> {
    settings: &'a Settings,
    source: &'a SourceSpec,
    destination: &'a DestinationSpec,
    summary: &'a Summary,
    done: &'a DestinationSummary,
    source_errors: u64,
    source_warnings: u64,
    destination_errors: u64,
    destination_warnings: u64,
}

/// A line for each destination.
pub fn lines<'a>(
    config: &'a Config,
    source: &'a Section<SourceSpec>,
    job: &Job,
    summary: &'a Summary,
    settings: &'a Settings,
) -> Vec<Line<'a>> {
    let of_source = job.plugins.source_logs();
    let reported =
        job.plugins.source_plugin().map_or(0, |plugin| plugin.table_errors().values().sum());
    let line = |done: &'a DestinationSummary| {
        let section = config.destination(&done.destination)?;
        let logged = job.plugins.destination_logs(&done.destination);
        let errors = done.tables.iter().filter_map(|table| table.error.as_ref());
        let (unread, unwritten): (Vec<_>, Vec<_>) = errors.partition(|error| error.from_source);
        let (unread, unwritten) = (unread.len() as u64, unwritten.len() as u64);
        Some(Line {
            settings,
            source: &source.spec,
            destination: &section.spec,
            summary,
            done,
            // Plugins of CloudQuery's SDKs log the errors that they report.
            source_errors: of_source.errors.max(reported).max(unread),
            source_warnings: of_source.warnings,
            destination_errors: unwritten + u64::from(done.error.is_some()) + logged.errors,
            destination_warnings: logged.warnings,
        })
    };
    summary.destinations.iter().filter_map(line).collect()
}

impl Line<'_> {
    fn tables(&self) -> Vec<&str> {
        self.source.tables.iter().map(|t| t.0.name.as_str()).collect()
    }

    fn resources(&self) -> u64 {
        self.done.tables.iter().map(committed).sum()
    }

    fn per_table(&self, value: &dyn Fn(&TableSummary) -> u64) -> Value {
        let entries = self.done.tables.iter();
        Value::Object(entries.map(|t| (t.table.to_string(), value(t).into())).collect())
    }

    fn group(&self) -> Option<String> {
        self.settings.sync_group(&self.destination.sync_group_id)
    }

    /// As CloudQuery writes it, and `run_id`, which is ours.
    fn value(&self) -> Value {
        let mut line = json!({
            "cli_version": env!("CARGO_PKG_VERSION"),
            "sync_id": self.settings.invocation_id.to_string(),
            "run_id": self.summary.sync_id,
            "sync_time": self.summary.started_at.to_rfc3339(),
            "sync_duration_ms": self.summary.duration_ms,
            "resources": self.resources(),
            "source_name": self.summary.sync,
            "source_path": self.source.path,
            "source_version": self.source.version().unwrap_or_default(),
            "source_errors": self.source_errors,
            "source_warnings": self.source_warnings,
            "source_tables": self.tables(),
            "destination_name": self.destination.name,
            "destination_path": self.destination.path,
            "destination_version": self.destination.version().unwrap_or_default(),
            "destination_errors": self.destination_errors,
            "destination_warnings": self.destination_warnings,
            "resources_per_table": self.per_table(&committed),
            "errors_per_table": self.per_table(&failed),
            "durations_per_table_ms": self.per_table(&|t| t.duration_ms),
        });
        if let Value::Object(line) = &mut line {
            self.optional(line);
        }
        line
    }

    fn optional(&self, line: &mut Map<String, Value>) {
        if let Some(group) = self.group() {
            line.insert("sync_group_id".to_owned(), group.into());
        }
        if let Some(shard) = self.settings.shard {
            line.insert("shard_num".to_owned(), shard.num.into());
            line.insert("shard_total".to_owned(), shard.total.into());
        }
    }

    /// A line for each table.
    fn metrics(&self) -> Vec<Value> {
        let line = |table: &TableSummary| {
            json!({
                "sync_id": self.settings.invocation_id.to_string(),
                "sync_time": self.summary.started_at.to_rfc3339(),
                "source_name": self.summary.sync,
                "destination_name": self.destination.name,
                "table": table.table.to_string(),
                "resources": committed(table),
                "errors": failed(table),
                "duration_ms": table.duration_ms,
                "rows_read": table.rows_read,
                "rows_written": table.rows_written,
                "rows_unchanged": table.rows_unchanged,
                "rows_deleted": table.rows_deleted,
                "rows_filtered": table.rows_filtered,
                "rows_quarantined": table.rows_quarantined,
                "complete": table.complete,
            })
        };
        self.done.tables.iter().map(line).collect()
    }

    /// Adds the row to the destination's table, if its configuration asks for that.
    ///
    /// # Errors
    /// What the destination says.
    pub async fn send(&self, target: &Target) -> Result<(), Error> {
        if !self.destination.send_sync_summary {
            return Ok(());
        }
        let sent = self.write(target).await;
        let closed = target.destination.close().await;
        sent.map_err(|e| e.context("table", TABLE).context("destination", &target.name))?;
        closed
    }

    async fn write(&self, target: &Target) -> Result<(), Error> {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = self.columns().into_iter().unzip();
        let table = Table::new(TableName::new(TABLE), fields);
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns)?;
        let mut intake = Intake::new(Target::new(&target.name, Arc::clone(&target.destination)));
        if target.may_migrate {
            intake.migrate(&table, target.may_recreate).await?;
        }
        intake.write(&table.name, rows).await?;
        intake.commit().await.map(drop)
    }

    /// The columns of the row, in CloudQuery's order, those that it adds to every table first.
    fn columns(&self) -> Vec<(Field, ArrayRef)> {
        let utc: Arc<str> = Arc::from("UTC");
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::clone(&utc)));
        let time = TimestampMicrosecondArray::from(vec![self.summary.started_at.0]);
        let mut columns: Vec<(Field, ArrayRef)> = vec![
            (Field::new(SYNC_TIME, instant, true), Arc::new(time.with_timezone(utc))),
            text(SOURCE_NAME, &self.summary.sync),
        ];
        columns.extend(self.group().map(|group| text(SYNC_GROUP_ID, &group)));
        columns.extend([
            text("cli_version", env!("CARGO_PKG_VERSION")),
            count("destination_errors", self.destination_errors),
            text("destination_name", &self.destination.name),
            text("destination_path", &self.destination.path),
            text("destination_version", self.destination.version().unwrap_or_default()),
            count("destination_warnings", self.destination_warnings),
            count("resources", self.resources()),
            count("source_errors", self.source_errors),
            text("source_name", &self.summary.sync),
            text("source_path", &self.source.path),
            text("source_version", self.source.version().unwrap_or_default()),
            count("source_warnings", self.source_warnings),
            list("source_tables", &self.tables()),
            text("sync_id", &self.settings.invocation_id.to_string()),
            number("shard_num", self.settings.shard.map(|shard| shard.num.into())),
            number("shard_total", self.settings.shard.map(|shard| shard.total.into())),
            count("sync_duration_ms", self.summary.duration_ms),
            object("resources_per_table", &self.per_table(&committed)),
            object("errors_per_table", &self.per_table(&failed)),
            object("durations_per_table_ms", &self.per_table(&|t| t.duration_ms)),
        ]);
        columns
    }
}

/// What a failed table sent and did not commit is no resource that was synced, nor is a row that
/// was left out or is in the quarantine.
fn committed(table: &TableSummary) -> u64 {
    match table.complete {
        true => table.rows_read.saturating_sub(table.rows_filtered + table.rows_quarantined),
        false => {
            table.rows_read.min(table.rows_written + table.rows_unchanged + table.rows_deleted)
        }
    }
}

fn failed(table: &TableSummary) -> u64 {
    u64::from(table.error.is_some())
}

/// A table that CloudQuery made is taken as it is.
fn field(name: &str, data_type: DataType) -> Field {
    with_metadata(Field::new(name, data_type, true), FROM, CLOUDQUERY)
}

fn text(name: &str, value: &str) -> (Field, ArrayRef) {
    (field(name, DataType::Utf8), Arc::new(StringArray::from(vec![value])))
}

fn count(name: &str, value: u64) -> (Field, ArrayRef) {
    (field(name, DataType::UInt64), Arc::new(UInt64Array::from(vec![value])))
}

fn number(name: &str, value: Option<i64>) -> (Field, ArrayRef) {
    (field(name, DataType::Int64), Arc::new(Int64Array::from(vec![value])))
}

fn list(name: &str, values: &[&str]) -> (Field, ArrayRef) {
    let mut builder = ListBuilder::new(StringBuilder::new());
    builder.append_value(values.iter().map(Some));
    let list = builder.finish();
    (field(name, arrow_array::Array::data_type(&list).clone()), Arc::new(list))
}

fn object(name: &str, value: &Value) -> (Field, ArrayRef) {
    let json = extension_field(name, DataType::Utf8, JSON);
    let json = with_metadata(json.with_nullable(true), DECLARED, "postgresql:jsonb");
    let json = with_metadata(json, FROM, CLOUDQUERY);
    (json, Arc::new(StringArray::from(vec![value.to_string()])))
}
