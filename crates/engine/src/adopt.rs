//! Tables that CloudQuery made are taken as they are: where its destinations store a plugin's
//! column in another type that holds every value, the rows are written in that type.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::{DataType, Field, Schema};
use highwater_core::plan::SYNC_TIME;
use highwater_core::types::{CLOUDQUERY, FROM};
use highwater_core::{LogicalType, Result, Table, TablePlan, text};

/// Gives the columns of the target the types that the destination's table has for them, where
/// that changes no value: instants as wall-clock times in UTC, and what is no plain value as text.
pub(crate) fn types(draft: &mut TablePlan, existing: &Table) {
    let fields: Vec<_> = draft
        .target
        .schema
        .fields()
        .iter()
        .map(|field| {
            let there = existing.field(field.name());
            there.and_then(|there| adopted(draft, field, there)).map_or(Arc::clone(field), Arc::new)
        })
        .collect();
    if fields[..] != draft.target.schema.fields()[..] {
        let metadata = draft.target.schema.metadata().clone();
        Arc::make_mut(&mut draft.target).schema =
            Arc::new(Schema::new_with_metadata(fields, metadata));
    }
}

fn adopted(draft: &TablePlan, field: &Field, there: &Field) -> Option<Field> {
    let is_stamp = field.name() == SYNC_TIME && draft.source.field(SYNC_TIME).is_none();
    let is_plugins = field.metadata().get(FROM).is_some_and(|from| from == CLOUDQUERY);
    if !is_stamp && !is_plugins {
        return None;
    }
    let (wanted, present) = (LogicalType::of(field).ok()?, LogicalType::of(there).ok()?);
    let data_type = match (&wanted, &present) {
        (LogicalType::Timestamp { unit, utc: true }, LogicalType::Timestamp { utc: false, .. }) => {
            DataType::Timestamp(*unit, None)
        }
        (
            LogicalType::Uuid | LogicalType::Json | LogicalType::List(_) | LogicalType::Nested,
            LogicalType::Text,
        ) => DataType::Utf8,
        _ => return None,
    };
    Some(Field::new(field.name(), data_type, field.is_nullable()))
}

/// The values of a column in the type that [`types`] gave it.
///
/// # Errors
/// What stands in the way of writing them as text.
pub(crate) fn column(from: &Field, values: &ArrayRef, to: &Field) -> Result<ArrayRef> {
    match (values.data_type(), to.data_type()) {
        (DataType::Timestamp(a, Some(_)), DataType::Timestamp(b, None)) if a == b => {
            text::convert(from, values, to)
        }
        (a, DataType::Utf8) if *a != DataType::Utf8 => text::convert(from, values, to),
        // What does not fit is found where the batch is put together.
        _ => Ok(Arc::clone(values)),
    }
}
