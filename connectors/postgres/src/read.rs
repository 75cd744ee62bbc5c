//! Reading one table: the columns and their wire forms, the statement, and the COPY that turns
//! into batches.

use std::sync::Arc;

use arrow_array::{BinaryArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use highwater_core::types::{EXTENSION, NUMERIC, RECORD, with_metadata};
use highwater_core::{
    Batch, Completion, CrashPoint, Error, NullCursor, Op, Output, Result, Table, TablePlan, crash,
};
use highwater_sql::boundary::InclusiveCursor;

use crate::catalog::{Relation, UserTypes};
use crate::decode::{self, Chunk, Decoder, Unfit};
use crate::horizon::VersionRead;
use crate::session::{Session, quote};
use crate::tuples::{COUNT_BYTES, Tuple, TupleReader};
use crate::types::{COPY, Wire, wire};
use crate::wire::{CopyOut, Piece};

/// A batch ends at so many rows, or as soon as it holds so many bytes.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 4 << 20;
/// The same of rows that are forwarded, which are copied once more on their way.
const FORWARDED_BYTES: usize = 1 << 20;

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
            let planned_extension = planned.metadata().get(EXTENSION).map(String::as_str);
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

/// Whether the COPY of a column has the bytes of its own type: `numeric` without limits is read as
/// text. What else is read as text is refused where it would be written.
pub(crate) fn is_read_as_sent(field: &Field) -> bool {
    let item = match field.data_type() {
        DataType::List(item) => item,
        _ => field,
    };
    item.metadata().get(EXTENSION).map(String::as_str) != Some(NUMERIC)
}

/// The quoted name of a relation.
pub(crate) fn quoted_name(relation: &Relation) -> String {
    format!("{}.{}", quote(crate::catalog::schema_of(&relation.name)), quote(&relation.name.name))
}

/// The COPY of some columns of a relation. `hidden` expressions come before the columns.
pub(crate) fn copy_statement(
    table: &Table,
    wires: &[Wire],
    hidden: &[String],
    relation: &Relation,
    condition: Option<&str>,
) -> String {
    let columns = table.column_names().zip(wires).map(|(name, wire)| wire.select(&quote(name)));
    let selected: Vec<String> = hidden.iter().cloned().chain(columns).collect();
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
    /// New row versions. Before the columns the tuple has `xmin` and what `fields` names.
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
    /// Whether a tuple is sent, judged by the fields before the columns.
    #[inline]
    fn admits(&mut self, tuple: &Tuple<'_>) -> Result<bool> {
        let Self::Versions { read, fields, null_cursor, cursor_field, nulls_left_out } = self
        else {
            return Ok(true);
        };
        let xid = match tuple.get(0) {
            Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
            _ => return Err(Error::internal("A row version has no transaction id")),
        };
        let flag = |field: Option<usize>| field.is_some_and(|field| tuple.get(field) == Some(&[1]));
        if let Some(cursor) = fields.cursor.and_then(|field| tuple.get(field)) {
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
enum Rows {
    Decoded(Decoded),
    Forwarded(Forwarded),
}

impl Rows {
    fn decoded(table: &Arc<Table>, wires: &[Wire], hidden: usize) -> Self {
        Self::Decoded(Decoded {
            table: Arc::clone(table),
            decoders: wires.iter().map(Decoder::new).collect(),
            chunk: Chunk::default(),
            hidden,
            rows: 0,
            bytes: 0,
        })
    }

    /// How many fields a tuple of the server has.
    fn fields(&self) -> usize {
        match self {
            Self::Decoded(rows) => rows.hidden + rows.decoders.len(),
            Self::Forwarded(rows) => rows.hidden + rows.columns,
        }
    }

    #[inline]
    fn append(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        match self {
            Self::Decoded(rows) => rows.append(tuple),
            Self::Forwarded(rows) => rows.append(tuple),
        }
    }

    #[inline]
    fn is_full(&self) -> bool {
        match self {
            Self::Decoded(rows) => {
                rows.rows + rows.chunk.rows() >= BATCH_ROWS
                    || rows.bytes + rows.chunk.size() >= BATCH_BYTES
            }
            Self::Forwarded(rows) => {
                rows.ends.len() > BATCH_ROWS || rows.tuples.len() >= FORWARDED_BYTES
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Decoded(rows) => rows.rows + rows.chunk.rows() == 0,
            Self::Forwarded(rows) => rows.ends.len() <= 1,
        }
    }

    fn take(&mut self) -> Result<RecordBatch> {
        match self {
            Self::Decoded(rows) => rows.take(),
            Self::Forwarded(rows) => rows.take(),
        }
    }
}

/// Rows that become columns.
struct Decoded {
    table: Arc<Table>,
    decoders: Vec<Decoder>,
    chunk: Chunk,
    hidden: usize,
    rows: usize,
    bytes: usize,
}

impl Decoded {
    #[inline]
    fn append(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        if Chunk::is_too_small_for(tuple) {
            return self.append_large(tuple);
        }
        self.chunk.push(tuple, self.hidden);
        if self.chunk.is_full() { self.decode() } else { Ok(()) }
    }

    #[cold]
    fn append_large(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        self.decode()?;
        self.rows += 1;
        self.bytes += tuple.bytes.len();
        let fields = &tuple.fields[self.hidden..];
        let decoded = decode::decode(tuple.bytes, fields, &mut self.decoders);
        decoded.map_err(|(column, unfit)| unfit_error(unfit, &self.table, column))
    }

    fn decode(&mut self) -> Result<()> {
        self.rows += self.chunk.rows();
        self.bytes += self.chunk.size();
        let decoded = self.chunk.decode(&mut self.decoders);
        decoded.map_err(|(column, unfit)| unfit_error(unfit, &self.table, column))
    }

    fn take(&mut self) -> Result<RecordBatch> {
        self.decode()?;
        let mut arrays = Vec::with_capacity(self.decoders.len());
        for (column, decoder) in self.decoders.iter_mut().enumerate() {
            let array = decoder.finish();
            arrays.push(array.map_err(|unfit| unfit_error(unfit, &self.table, column))?);
        }
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

/// Rows that stay as the server sent them, one after the other, as a COPY takes them.
struct Forwarded {
    schema: SchemaRef,
    tuples: Vec<u8>,
    ends: Vec<i32>,
    columns: usize,
    hidden: usize,
}

impl Forwarded {
    fn new(columns: usize, hidden: usize) -> Self {
        let form = format!("line:{COPY}");
        let tuple = with_metadata(Field::new("tuple", DataType::Binary, false), RECORD, form);
        Self {
            schema: Arc::new(Schema::new(vec![tuple])),
            tuples: Vec::new(),
            ends: Vec::new(),
            columns,
            hidden,
        }
    }

    #[inline]
    fn append(&mut self, tuple: &Tuple<'_>) -> Result<()> {
        if self.ends.is_empty() {
            self.tuples.reserve(FORWARDED_BYTES + FORWARDED_BYTES / 8);
            self.ends.reserve(BATCH_ROWS + 1);
            self.ends.push(0);
        }
        if self.hidden == 0 {
            self.tuples.extend_from_slice(tuple.bytes);
        } else {
            // No table has more columns than 1,600.
            let count: [u8; COUNT_BYTES] = (self.columns as u16).to_be_bytes();
            self.tuples.extend_from_slice(&count);
            self.tuples.extend_from_slice(&tuple.bytes[tuple.start_of(self.hidden)..]);
        }
        // A batch ends long before; one tuple has less than a gigabyte.
        let end = i32::try_from(self.tuples.len())
            .map_err(|_| Error::internal("A batch holds more than Arrow can"))?;
        self.ends.push(end);
        Ok(())
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let tuples = Buffer::from_vec(std::mem::take(&mut self.tuples));
        let ends = OffsetBuffer::new(std::mem::take(&mut self.ends).into());
        let array = BinaryArray::try_new(ends, tuples, None)?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::new(array)])?)
    }
}

fn unfit_error(unfit: Unfit, table: &Table, column: usize) -> Error {
    let name = table.schema.field(column).name();
    let (message, text_helps) = unfit.explain();
    let error = Error::data(message).context("table", &table.name).context("column", name);
    if text_helps {
        error.hint(format!(
            "columns: [{{name: {name}, type: text}}]   # and the other columns to copy"
        ))
    } else {
        error.hint("repair the value at the source, or leave the column out")
    }
}

/// As [`copy_columns`], and where the plan says so the rows go out as they are ([`TablePlan::forwarded`]).
///
/// # Errors
/// As [`copy_columns`].
pub(crate) async fn copy(
    session: &Session,
    statement: &str,
    plan: &TablePlan,
    wires: &[Wire],
    hidden: usize,
    filter: &mut Filter,
    output: &Output,
) -> Result<Completion> {
    let rows = match plan.forwarded.as_deref() {
        None => Rows::decoded(&plan.source, wires, hidden),
        Some(COPY) if !matches!(filter, Filter::Contents(_)) => {
            Rows::Forwarded(Forwarded::new(wires.len(), hidden))
        }
        Some(form) => {
            return Err(Error::internal("The rows have no such form")
                .context("table", &plan.source.name)
                .context("form", form));
        }
    };
    send_all(session, statement, &plan.source, rows, filter, output).await
}

/// Runs the COPY and sends its rows as columns. The session can be used again when all of them
/// were read.
///
/// # Errors
/// `Data` for a value that cannot be carried, naming table and column; else as the server's.
pub(crate) async fn copy_columns(
    session: &Session,
    statement: &str,
    table: &Arc<Table>,
    wires: &[Wire],
    hidden: usize,
    filter: &mut Filter,
    output: &Output,
) -> Result<Completion> {
    let rows = Rows::decoded(table, wires, hidden);
    send_all(session, statement, table, rows, filter, output).await
}

async fn send_all(
    session: &Session,
    statement: &str,
    table: &Arc<Table>,
    mut rows: Rows,
    filter: &mut Filter,
    output: &Output,
) -> Result<Completion> {
    let named = |error: Error| error.context("table", &table.name);
    let mut copy = CopyOut::begin(session, "read the table", statement).await.map_err(named)?;
    let mut tuples = TupleReader::new(rows.fields());
    loop {
        match copy.next().map_err(named)? {
            Piece::Data(piece) => tuples.feed(piece, |tuple| match filter.admits(tuple) {
                Ok(true) => rows.append(tuple),
                Ok(false) => Ok(()),
                Err(error) => Err(named(error)),
            })?,
            Piece::More => {
                copy.fill().await.map_err(named)?;
                continue;
            }
            Piece::End => break,
        }
        if rows.is_full() {
            if output.is_stopping() {
                return Ok(Completion::Stopped);
            }
            send(&mut rows, table, filter, output).await?;
        }
    }
    tuples.finish()?;
    if !rows.is_empty() {
        send(&mut rows, table, filter, output).await?;
    }
    if output.is_stopping() { Ok(Completion::Stopped) } else { Ok(Completion::Complete) }
}

async fn send(
    rows: &mut Rows,
    table: &Arc<Table>,
    filter: &mut Filter,
    output: &Output,
) -> Result<()> {
    let mut batch = rows.take()?;
    if let Filter::Contents(cursor) = filter {
        batch = cursor.admit(batch)?;
    }
    output.batch(Batch { table: Arc::clone(table), op: Op::Upsert, rows: batch }).await?;
    crash::at(CrashPoint::ReadBatch);
    Ok(())
}
