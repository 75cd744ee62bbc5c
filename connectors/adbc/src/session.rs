//! A connection through ADBC. Every call blocks: it belongs on a thread that may.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use adbc_core::error::{Error as AdbcError, Status};
use adbc_core::options::{IngestMode, OptionStatement, OptionValue};
use adbc_core::{Connection, Database, Optionable, Statement};
use adbc_driver_manager::{ManagedConnection, ManagedDatabase, ManagedStatement};
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, Int64Array, RecordBatch, RecordBatchIterator, RecordBatchReader, StringArray,
};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use highwater_core::{Error, Result};

use crate::errors;

/// What a session is connected to: it decides what the errors of the driver mean.
#[derive(Debug, Clone)]
pub(crate) enum System {
    /// A database file of DuckDB.
    DuckDb(PathBuf),
    /// Another system, by the name of its driver.
    Other(String),
}

/// A connection.
pub(crate) struct Session {
    connection: ManagedConnection,
    system: System,
    /// What has to outlive the connection: it goes last.
    kept: Kept,
}

type Kept = Option<Arc<dyn Any + Send + Sync>>;

/// Where rows are loaded to.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) table: &'a str,
    /// A table that only this session sees.
    pub(crate) temporary: bool,
}

/// A parameter of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Parameter(pub(crate) ArrayRef);

impl From<&str> for Parameter {
    fn from(text: &str) -> Self {
        Self(Arc::new(StringArray::from(vec![text])))
    }
}

impl From<&String> for Parameter {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Parameter {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Option<&str>> for Parameter {
    fn from(text: Option<&str>) -> Self {
        Self(Arc::new(StringArray::from(vec![text])))
    }
}

impl From<i64> for Parameter {
    fn from(number: i64) -> Self {
        Self(Arc::new(Int64Array::from(vec![number])))
    }
}

impl From<Option<i64>> for Parameter {
    fn from(number: Option<i64>) -> Self {
        Self(Arc::new(Int64Array::from(vec![number])))
    }
}

/// The parameters of a statement, in order: `parameters![sync, 1_i64]`.
macro_rules! parameters {
    ($($value:expr),* $(,)?) => {
        &[$($crate::session::Parameter::from($value)),*]
    };
}
pub(crate) use parameters;

/// The rows of a query, batch by batch. The statement lives as long as they are read.
pub(crate) struct Rows {
    reader: Box<dyn RecordBatchReader + Send>,
    _statement: ManagedStatement,
    system: System,
    _kept: Kept,
}

impl Rows {
    /// The columns as the driver calls them.
    pub(crate) fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }

    /// The next rows; `None` at the end.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        let next = self.reader.next().transpose();
        next.map_err(|error| errors::explain_arrow(&self.system, error))
    }
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn connect(database: &ManagedDatabase, system: System) -> Result<Self> {
        let connection = database.new_connection();
        let connection = connection.map_err(|error| errors::explain(&system, error))?;
        Ok(Self::over(connection, system))
    }

    /// A session over a connection that is there.
    pub(crate) fn over(connection: ManagedConnection, system: System) -> Self {
        Self { connection, system, kept: None }
    }

    /// The same session, which keeps something alive as long as it or rows of it live.
    pub(crate) fn keeping(self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        Self { kept: Some(kept), ..self }
    }

    /// An error of the driver as one of ours.
    pub(crate) fn failed(&self, error: AdbcError) -> Error {
        errors::explain(&self.system, error)
    }

    /// The connection itself, for what the standard has beside statements.
    pub(crate) fn connection(&mut self) -> &mut ManagedConnection {
        &mut self.connection
    }

    fn statement(&mut self, sql: &str, parameters: &[Parameter]) -> Result<ManagedStatement> {
        let prepared = (|| {
            let mut statement = self.connection.new_statement()?;
            statement.set_sql_query(sql)?;
            if !parameters.is_empty() {
                statement.bind(one_row(parameters)?)?;
            }
            Ok(statement)
        })();
        prepared.map_err(|error| self.failed(error))
    }

    /// Runs a query.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn query(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Rows> {
        let mut statement = self.statement(sql, parameters)?;
        let reader = statement.execute().map_err(|error| self.failed(error))?;
        Ok(Rows {
            reader,
            _statement: statement,
            system: self.system.clone(),
            _kept: self.kept.clone(),
        })
    }

    /// Runs a query of which the rows are few.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn fetch(&mut self, sql: &str, parameters: &[Parameter]) -> Result<RecordBatch> {
        let mut rows = self.query(sql, parameters)?;
        let schema = rows.schema();
        let mut batches = Vec::new();
        while let Some(batch) = rows.next()? {
            batches.push(batch);
        }
        Ok(arrow_select::concat::concat_batches(&schema, &batches)?)
    }

    /// Runs a statement; returns how many rows it changed, where the system says so.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64> {
        let mut rows = self.query(sql, parameters)?;
        let mut changed = 0;
        while let Some(batch) = rows.next()? {
            let count = batch.columns().first().and_then(|c| c.as_primitive_opt::<Int64Type>());
            if let (Some(count), 1) = (count, batch.num_columns()) {
                changed += count.iter().flatten().map(i64::unsigned_abs).sum::<u64>();
            }
        }
        Ok(changed)
    }

    /// Runs a statement of which the result does not matter.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn run(&mut self, sql: &str) -> Result<()> {
        self.change(sql, &[]).map(drop)
    }

    /// Whether a statement names only what is there. An open transaction stays open.
    pub(crate) fn prepares(&mut self, sql: &str) -> bool {
        self.statement(sql, &[]).is_ok_and(|mut statement| statement.prepare().is_ok())
    }

    /// Adds rows to a table that is there and has exactly these columns, in this order: DuckDB goes
    /// by their place.
    ///
    /// # Errors
    /// What the driver says.
    pub(crate) fn ingest(
        &mut self,
        target: &Target<'_>,
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
    ) -> Result<()> {
        let loaded = (|| {
            let mut statement = self.connection.new_statement()?;
            statement.set_option(OptionStatement::TargetTable, target.table.into())?;
            if let Some(namespace) = target.namespace {
                statement.set_option(OptionStatement::TargetDbSchema, namespace.into())?;
            }
            statement.set_option(OptionStatement::IngestMode, IngestMode::Append.into())?;
            if target.temporary {
                let yes = OptionValue::String("true".to_owned());
                statement.set_option(OptionStatement::Temporary, yes)?;
            }
            let reader = RecordBatchIterator::new(batches.into_iter().map(Ok), schema);
            statement.bind_stream(Box::new(reader))?;
            statement.execute_update()
        })();
        loaded.map(drop).map_err(|error| self.failed(error))
    }
}

/// The parameters as the one row that is bound.
fn one_row(parameters: &[Parameter]) -> Result<RecordBatch, AdbcError> {
    let fields = parameters
        .iter()
        .enumerate()
        .map(|(at, value)| Field::new(format!("{}", at + 1), value.0.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = parameters.iter().map(|value| Arc::clone(&value.0)).collect();
    RecordBatch::try_new(schema, columns).map_err(|error: ArrowError| {
        AdbcError::with_message_and_status(error.to_string(), Status::Internal)
    })
}
