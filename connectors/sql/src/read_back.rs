//! A destination's rows, read by the way that its system has as a source.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use highwater_core::text::convert_rows;
use highwater_core::{
    Batch, Completion, Error, Message, Op, Output, ReadMode, Result, Table, TablePlan, WriteMode,
};

/// The columns of `found` that are wanted; one of them where none is, so that rows are counted.
pub fn selected(found: &Table, wanted: &Table) -> Table {
    let fields = found.schema.fields().iter();
    let mut chosen: Vec<_> = fields
        .clone()
        .filter(|field| wanted.field(field.name()).is_some())
        .map(|field| field.as_ref().clone())
        .collect();
    if chosen.is_empty() {
        chosen.extend(fields.take(1).map(|field| field.as_ref().clone()));
    }
    Table::new(found.name.clone(), chosen)
}

/// A full read of a table.
pub fn full_read(table: Table) -> TablePlan {
    let table = Arc::new(table);
    TablePlan::new(Arc::clone(&table), table, ReadMode::FullRefresh, WriteMode::Append)
}

/// Lets `read` send rows, and sends them on in the shape of `wanted`.
///
/// # Errors
/// Those of `read`; `Data` for a value that is none of the wanted type.
pub async fn send_as<F>(
    wanted: &Table,
    output: &Output,
    read: impl FnOnce(Output) -> F,
) -> Result<()>
where
    F: Future<Output = Result<Completion>>,
{
    let (inner, mut messages) = Output::bounded(2, Arc::new(AtomicBool::new(false)));
    let table = Arc::new(wanted.clone());
    let send_on = async move {
        while let Some(message) = messages.recv().await {
            let Message::Batch(batch) = message else { continue };
            let rows = convert_rows(&batch.rows, &table)?;
            let batch = Batch { table: Arc::clone(&table), op: Op::Upsert, rows };
            output.batch(batch).await?;
        }
        Ok::<_, Error>(())
    };
    let (read, sent) = tokio::join!(read(inner), send_on);
    // Where the way out is closed, the reader stops because of that.
    sent?;
    read.map(drop)
}
