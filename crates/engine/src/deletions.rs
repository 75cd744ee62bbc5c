//! Records that say that their row was deleted.

use std::sync::Arc;

use arrow_array::Array;
use highwater_core::{Batch, Error, Op, Result};

/// The batch, cut where records that tell a deletion (`column` is not NULL) meet others, in the
/// order of arrival. Cheap where there is no deletion: the rows are shared.
///
/// # Errors
/// `Internal` when the batch has no such column.
pub(crate) fn split(batch: &Batch, column: &str) -> Result<Vec<Batch>> {
    let marks = batch.rows.column_by_name(column).ok_or_else(|| {
        Error::internal("Rows came without the column that tells deletions")
            .context("table", &batch.table.name)
            .context("column", column)
    })?;
    let rows = marks.len();
    if batch.op == Op::Delete || marks.null_count() == rows {
        return Ok(vec![batch.clone()]);
    }
    let mut parts = Vec::new();
    let mut start = 0;
    for at in 1..=rows {
        if at == rows || marks.is_null(at) != marks.is_null(start) {
            let op = if marks.is_null(start) { Op::Upsert } else { Op::Delete };
            let rows = batch.rows.slice(start, at - start);
            parts.push(Batch { table: Arc::clone(&batch.table), op, rows });
            start = at;
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use arrow_schema::{DataType, Field};
    use highwater_core::{Table, TableName};

    use super::*;

    #[test]
    fn deletions_stay_in_their_place_among_the_rows() {
        let fields = ["id", "gone"].map(|name| Field::new(name, DataType::Int64, true));
        let table = Arc::new(Table::new(TableName::new("t"), fields.to_vec()));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]));
        let gone: ArrayRef =
            Arc::new(Int64Array::from(vec![None, Some(1), Some(1), None, Some(1)]));
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), vec![ids, gone]).unwrap();
        let batch = Batch { table, op: Op::Upsert, rows };
        let parts = split(&batch, "gone").unwrap();
        let kinds: Vec<_> = parts.iter().map(|part| (part.op, part.rows.num_rows())).collect();
        let expected = [(Op::Upsert, 1), (Op::Delete, 2), (Op::Upsert, 1), (Op::Delete, 1)];
        assert_eq!(kinds, expected);
    }
}
