//! Rows to be deleted by a condition: CloudQuery's message and our [`Deletion`].
//!
//! A value travels as an Arrow stream whose first column and first row it is. The message exists
//! twice in the protocol, with the same fields.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::Field;
use bytes::Bytes;
use highwater_core::deletion::{Deletion, Equal, Group, Relation};
use highwater_core::{Error, Result, Table, TableName};

use super::frames::{Frames, parse_schema};
use super::rows::Encoder;
use super::table::wire_name;
use super::types::Column;
use crate::proto::plugin::predicate::Operator;
use crate::proto::plugin::predicates_group::GroupingType;
use crate::proto::plugin::{Predicate, PredicatesGroup, TableRelation, sync, write};

/// What a source asks to be deleted.
///
/// # Errors
/// `Data` for a message that is not complete, `Unsupported` for an operator that CloudQuery did
/// not have when this was written, both with the table.
pub fn from_sync(message: &sync::MessageDeleteRecord) -> Result<Deletion> {
    from_parts(&message.table_name, &message.where_clause, &message.table_relations)
}

/// What a destination is asked to delete.
///
/// # Errors
/// As [`from_sync`].
pub fn from_write(message: &write::MessageDeleteRecord) -> Result<Deletion> {
    from_parts(&message.table_name, &message.where_clause, &message.table_relations)
}

/// The message of a source.
///
/// # Errors
/// `Data` and `Unsupported` for a value that CloudQuery has no type for.
pub fn to_sync(deletion: &Deletion) -> Result<sync::MessageDeleteRecord> {
    let (table_name, where_clause, table_relations) = to_parts(deletion)?;
    Ok(sync::MessageDeleteRecord { table_name, where_clause, table_relations })
}

/// The message to a destination.
///
/// # Errors
/// As [`to_sync`].
pub fn to_write(deletion: &Deletion) -> Result<write::MessageDeleteRecord> {
    let (table_name, where_clause, table_relations) = to_parts(deletion)?;
    Ok(write::MessageDeleteRecord { table_name, where_clause, table_relations })
}

fn incomplete(missing: &str) -> Error {
    Error::data("A plugin sent a deletion that is not complete").context("missing", missing)
}

fn from_parts(
    table: &str,
    groups: &[PredicatesGroup],
    relations: &[TableRelation],
) -> Result<Deletion> {
    if table.is_empty() {
        return Err(incomplete("table_name"));
    }
    let in_table = |e: Error| e.context("table", table);
    let groups = groups.iter().map(group).collect::<Result<_>>().map_err(in_table)?;
    let relations = relations.iter().map(relation).collect::<Result<_>>().map_err(in_table)?;
    Ok(Deletion { table: TableName::new(table), groups, relations })
}

fn relation(relation: &TableRelation) -> Result<Relation> {
    if relation.table_name.is_empty() || relation.parent_table.is_empty() {
        return Err(incomplete("table_relations"));
    }
    Ok(Relation {
        table: TableName::new(&relation.table_name),
        parent: TableName::new(&relation.parent_table),
    })
}

fn group(group: &PredicatesGroup) -> Result<Group> {
    let any = match GroupingType::try_from(group.grouping_type) {
        Ok(GroupingType::Or) => true,
        Ok(GroupingType::And) => false,
        Err(_) => {
            return Err(Error::unsupported("A plugin joins conditions in an unknown way")
                .context("grouping_type", group.grouping_type));
        }
    };
    Ok(Group { any, equal: group.predicates.iter().map(equal).collect::<Result<_>>()? })
}

fn equal(predicate: &Predicate) -> Result<Equal> {
    if Operator::try_from(predicate.operator) != Ok(Operator::Eq) {
        return Err(Error::unsupported("A plugin compares with an unknown operator")
            .context("column", &predicate.column)
            .context("operator", predicate.operator));
    }
    if predicate.column.is_empty() {
        return Err(incomplete("column"));
    }
    value(&predicate.record)?
        .map(|(field, value)| Equal { column: predicate.column.clone(), field, value })
        .ok_or_else(|| incomplete("record").context("column", &predicate.column))
}

/// The first value of the first column.
fn value(stream: &Bytes) -> Result<Option<(Field, ArrayRef)>> {
    let mut frames = Frames::new(stream);
    let schema = Arc::new(parse_schema(&frames.schema()?)?);
    let Some(field) = schema.fields().first() else { return Ok(None) };
    let column = Column::inward(field)?;
    let mut dictionaries = HashMap::new();
    while let Some(frame) = frames.next_frame()? {
        let batch = frame.to_batch(&schema, &mut dictionaries)?;
        if let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) {
            let value = column.convert(&batch.column(0).slice(0, 1))?;
            return Ok(Some((column.field, value)));
        }
    }
    Ok(None)
}

type Parts = (String, Vec<PredicatesGroup>, Vec<TableRelation>);

fn to_parts(deletion: &Deletion) -> Result<Parts> {
    let groups = deletion.groups.iter().map(|group| {
        let predicates = group.equal.iter().map(|equal| predicate(&deletion.table, equal));
        let grouping_type = if group.any { GroupingType::Or } else { GroupingType::And };
        Ok(PredicatesGroup {
            grouping_type: grouping_type.into(),
            predicates: predicates.collect::<Result<_>>()?,
        })
    });
    let relations = deletion.relations.iter().map(|relation| TableRelation {
        table_name: wire_name(&relation.table).into_owned(),
        parent_table: wire_name(&relation.parent).into_owned(),
    });
    let name = wire_name(&deletion.table).into_owned();
    Ok((name, groups.collect::<Result<_>>()?, relations.collect()))
}

fn predicate(table: &TableName, equal: &Equal) -> Result<Predicate> {
    // A comparison with NULL is true for no row, but it can be sent.
    let field = equal.field.clone().with_name(&equal.column).with_nullable(true);
    let one = Arc::new(Table::new(table.clone(), vec![field]));
    if equal.value.len() != 1 {
        return Err(Error::internal("A comparison does not have one value")
            .context("table", table)
            .context("column", &equal.column));
    }
    let rows = RecordBatch::try_new(Arc::clone(&one.schema), vec![Arc::clone(&equal.value)])?;
    let record = Encoder::new(&one, usize::MAX)?.encode(&rows)?.into_iter().next();
    Ok(Predicate {
        operator: Operator::Eq.into(),
        column: equal.column.clone(),
        record: record.ok_or_else(|| Error::internal("A value was not written"))?,
    })
}
