//! Reading one table: the columns and their wire forms, the statement, and the COPY that turns
//! into batches.

use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use futures::{StreamExt, pin_mut};
use highwater_core::{
    Batch, Completion, CrashPoint, Error, NullCursor, Op, Output, Result, Table, crash,
};
use highwater_sql::boundary::InclusiveCursor;

use crate::catalog::{Relation, UserTypes};
use crate::decode::{Decoder, Unfit};
use crate::horizon::VersionRead;
use crate::session::{Session, quote};
use crate::tuples::{Tuple, TupleReader};
use crate::types::{Wire, wire};

/// A batch ends at so many rows, or as soon as it holds so many bytes.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;

/// How the planned columns are read.
///
/// # Errors
/// `Schema` when a planned column is gone or has another type than planned.
pub(crate) fn wires(table: &Table, relation: &Relation, types: &UserTypes) -> Result<Vec<Wire>> {
    table
        .schema
        .fields()
        .iter()
        .map(|planned| {
            let changed = |what: &str| {
                Error::schema(format!("A column {what} since the plan was made"))
                    .context("table", &table.name)
                    .context("column", planned.name())
                    .hint("run the command again")
            };
            let column = relation
                .columns
                .iter()
                .find(|column| column.name == *planned.name())
                .ok_or_else(|| changed("was dropped"))?;
            let native = wire(column, types);
            let (data_type, extension) = native.arrow();
            let planned_extension =
                planned.metadata().get(highwater_core::types::EXTENSION).map(String::as_str);
            if *planned.data_type() == data_type && planned_extension == extension {
                return Ok(native);
            }
            // The user asked for text.
            if *planned.data_type() == arrow_schema::DataType::Utf8 && planned_extension.is_none() {
                return Ok(Wire::Cast);
            }
            Err(changed("changed its type"))
        })
        .collect()
}

/// The quoted name of a relation.
pub(crate) fn quoted_name(relation: &Relation) -> String {
    format!("{}.{}", quote(crate::catalog::schema_of(&relation.name)), quote(&relation.name.name))
}

/// The COPY of some columns of a relation. `hidden` expressions come after the columns.
pub(crate) fn copy_statement(
    table: &Table,
    wires: &[Wire],
    hidden: &[String],
    relation: &Relation,
    condition: Option<&str>,
) -> String {
    let columns = table.column_names().zip(wires).map(|(name, wire)| wire.select(&quote(name)));
    let selected: Vec<String> = columns.chain(hidden.iter().cloned()).collect();
    let condition = condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
    format!(
        "COPY (SELECT {} FROM {}{condition}) TO STDOUT (FORMAT binary)",
        selected.join(", "),
        quoted_name(relation)
    )
}

/// Where the hidden fields are, counted from the first one, which is `xmin`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct VersionFields {
    /// Whether the row is in a partition that was not there at the last read.
    pub in_new_partition: Option<usize>,
    /// Whether the cursor is NULL.
    pub is_null: Option<usize>,
    /// The cursor itself, where a clock writes it.
    pub cursor: Option<usize>,
}

/// What decides whether a row is sent.
pub(crate) enum Filter {
    /// Every row.
    All,
    /// New row versions. After the columns the tuple has `xmin` and what `fields` names.
    Versions {
        read: Box<VersionRead>,
        fields: VersionFields,
        null_cursor: NullCursor,
        cursor_field: String,
        nulls_left_out: u64,
    },
    /// Rows that were not delivered, by their content.
    Contents(Box<InclusiveCursor>),
}

impl Filter {
    /// Whether a tuple is sent, judged by the fields after the columns.
    #[inline]
    fn admits(&mut self, tuple: &Tuple<'_>, columns: usize) -> Result<bool> {
        let Self::Versions { read, fields, null_cursor, cursor_field, nulls_left_out } = self
        else {
            return Ok(true);
        };
        let xid = match tuple.get(columns) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => return Err(Error::internal("A row version has no transaction id")),
        };
        let flag = |field: Option<usize>| {
            field.is_some_and(|field| tuple.get(columns + field) == Some(&[1]))
        };
        if let Some(cursor) = fields.cursor.and_then(|field| tuple.get(columns + field)) {
            read.reach(cursor);
        }
        if !read.admit(xid, flag(fields.in_new_partition)) {
            return Ok(false);
        }
        if !flag(fields.is_null) {
            return Ok(true);
        }
        if *null_cursor == NullCursor::Fail {
            return Err(Error::data("A row has no cursor value")
                .context("column", &*cursor_field)
                .hint("null_cursor: include"));
        }
        *nulls_left_out += 1;
        Ok(false)
    }
}

/// Rows on their way into a batch.
struct Rows {
    table: Arc<Table>,
    decoders: Vec<Decoder>,
    rows: usize,
    bytes: usize,
}

impl Rows {
    fn new(table: Arc<Table>, wires: &[Wire]) -> Result<Self> {
        let decoders = wires.iter().map(Decoder::new).collect::<Result<_>>()?;
        Ok(Self { table, decoders, rows: 0, bytes: 0 })
    }

    #[inline]
    fn append(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        for (column, decoder) in self.decoders.iter_mut().enumerate() {
            if let Err(unfit) = decoder.append(tuple.get(column)) {
                return Err(unfit_error(unfit, &self.table, column));
            }
        }
        self.rows += 1;
        self.bytes += tuple.size();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let arrays = self.decoders.iter_mut().map(Decoder::finish).collect::<Result<_>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        (self.rows, self.bytes) = (0, 0);
        let schema = Arc::clone(&self.table.schema);
        RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|error| {
            // A NULL where the catalog promised none, for example.
            Error::internal("Rows do not have the planned columns")
                .context("table", &self.table.name)
                .caused_by(error)
        })
    }
}

fn unfit_error(unfit: Unfit, table: &Table, column: usize) -> Error {
    let name = table.schema.field(column).name();
    let (message, text_helps) = unfit.explain();
    let error = Error::data(message).context("table", &table.name).context("column", name);
    if text_helps {
        error.hint(format!("read it as text: `columns: [{{name: {name}, type: text}}]`"))
    } else {
        error.hint("repair the value at the source, or leave the column out")
    }
}

/// Runs the COPY and sends its rows.
///
/// # Errors
/// `Data` for a value that cannot be carried, naming table and column; else as the server's.
pub(crate) async fn copy(
    session: &Session,
    statement: &str,
    table: &Arc<Table>,
    wires: &[Wire],
    hidden: usize,
    filter: &mut Filter,
    output: &Output,
) -> Result<Completion> {
    let failed = |e| session.error("read the table", e).context("table", &table.name);
    let stream = session.copy_out(statement).await.map_err(failed)?;
    pin_mut!(stream);
    let mut reader = TupleReader::new(wires.len() + hidden);
    let mut rows = Rows::new(Arc::clone(table), wires)?;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(failed)?;
        reader.feed(&chunk, |tuple| match filter.admits(tuple, wires.len()) {
            Ok(true) => rows.append(tuple),
            Ok(false) => Ok(()),
            Err(error) => Err(error.context("table", &table.name)),
        })?;
        if rows.is_full() {
            if output.is_stopping() {
                return Ok(Completion::Stopped);
            }
            send(&mut rows, filter, output).await?;
        }
    }
    reader.finish()?;
    if rows.rows > 0 {
        send(&mut rows, filter, output).await?;
    }
    if output.is_stopping() { Ok(Completion::Stopped) } else { Ok(Completion::Complete) }
}

async fn send(rows: &mut Rows, filter: &mut Filter, output: &Output) -> Result<()> {
    let mut batch = rows.take()?;
    if let Filter::Contents(cursor) = filter {
        batch = cursor.admit(batch)?;
    }
    output.batch(Batch { table: Arc::clone(&rows.table), op: Op::Upsert, rows: batch }).await?;
    crash::at(CrashPoint::ReadBatch);
    Ok(())
}
