//! When rows travel in the wire form of their system: source and destination speak it, and nothing
//! between them looks at a row.

use highwater_core::types::{EXTENSION, record_form};
use highwater_core::{Batch, Op, Source, TablePlan};

use crate::options::{SyncRequest, Target};

/// The form in which the rows of the table are forwarded; `None`: they travel as columns.
pub(crate) fn form(
    source: &dyn Source,
    request: &SyncRequest,
    target: &Target,
    draft: &TablePlan,
) -> Option<String> {
    // A read may be shared with a destination that does not speak the form.
    let is_alone = request.targets.len() == 1 && request.state_table.is_none();
    let is_untouched = draft.mappings.is_empty()
        && draft.untransformed.is_none()
        && draft.deletion_column.is_none()
        && target.transformers.is_empty();
    if !is_alone || !is_untouched || !has_the_same_columns(draft) {
        return None;
    }
    let form = source.wire_form(draft)?;
    target.destination.takes_wire_form(form, draft).then(|| form.to_owned())
}

/// Whether the columns that are written are those that are read: none was added, moved, left out
/// or given another type.
fn has_the_same_columns(draft: &TablePlan) -> bool {
    let (read, written) = (draft.source.schema.fields(), draft.target.schema.fields());
    read.len() == written.len()
        && read.iter().zip(written).all(|(read, written)| {
            read.name() == written.name()
                && read.data_type() == written.data_type()
                && read.metadata().get(EXTENSION) == written.metadata().get(EXTENSION)
        })
}

/// Whether the rows of a batch are in a wire form, and go to the writer as they are.
pub(crate) fn is_forwarded(batch: &Batch, table: &TablePlan) -> bool {
    let Some(form) = table.forwarded.as_deref() else { return false };
    let schema = batch.rows.schema_ref();
    batch.op == Op::Upsert
        && schema.fields().len() == 1
        && record_form(schema.field(0)) == Some(form)
}
