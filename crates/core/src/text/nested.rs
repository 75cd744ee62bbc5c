//! Columns of lists, structs and maps, built from JSON.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, FixedSizeListArray, LargeListArray, ListArray, MapArray, StructArray, new_null_array,
};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, FieldRef, Fields};

use super::json;
use super::parse::{Column, TextBuilder};
use super::write::no_text;
use crate::error::Result;

/// Offsets that [`end`] has checked to fit.
fn small(ends: &[i64]) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ends.iter().map(|end| *end as i32).collect())
}

/// The offset after the last value.
fn end(values: &TextBuilder, large: bool) -> Option<i64> {
    let end = values.len();
    (large || i32::try_from(end).is_ok()).then(|| i64::try_from(end).ok())?
}

/// A column whose values hold values.
pub(super) struct Nested {
    nulls: NullBufferBuilder,
    rows: usize,
    kind: Kind,
}

enum Kind {
    List {
        item: FieldRef,
        large: bool,
        ends: Vec<i64>,
        values: TextBuilder,
    },
    Fixed {
        item: FieldRef,
        length: i32,
        values: TextBuilder,
    },
    Struct {
        fields: Fields,
        columns: Vec<TextBuilder>,
        seen: Vec<bool>,
    },
    Map {
        entries: FieldRef,
        fields: Fields,
        sorted: bool,
        ends: Vec<i64>,
        columns: [TextBuilder; 2],
    },
}

impl Nested {
    pub(super) fn new(data_type: &DataType) -> Result<Self> {
        let kind = match data_type {
            DataType::List(item) | DataType::LargeList(item) => Kind::List {
                item: item.clone(),
                large: matches!(data_type, DataType::LargeList(_)),
                ends: vec![0],
                values: TextBuilder::new(item)?,
            },
            DataType::FixedSizeList(item, length) => {
                Kind::Fixed { item: item.clone(), length: *length, values: TextBuilder::new(item)? }
            }
            DataType::Struct(fields) => Kind::Struct {
                fields: fields.clone(),
                columns: fields.iter().map(|f| TextBuilder::new(f)).collect::<Result<_>>()?,
                seen: vec![false; fields.len()],
            },
            DataType::Map(entries, sorted) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    return Err(no_text(data_type));
                };
                let [key, value] = &fields[..] else { return Err(no_text(data_type)) };
                Kind::Map {
                    entries: entries.clone(),
                    fields: fields.clone(),
                    sorted: *sorted,
                    ends: vec![0],
                    columns: [TextBuilder::new(key)?, TextBuilder::new(value)?],
                }
            }
            other => return Err(no_text(other)),
        };
        Ok(Self { nulls: NullBufferBuilder::new(0), rows: 0, kind })
    }
}

/// Fills the columns of one struct; members that are missing are NULL.
fn append_struct(
    fields: &Fields,
    columns: &mut [TextBuilder],
    seen: &mut [bool],
    text: &str,
) -> Option<()> {
    seen.fill(false);
    let mut expected = 0;
    json::object(text, |key, raw| {
        // Members mostly come in the order of the fields.
        let at = match fields.get(expected) {
            Some(field) if *field.name() == key => expected,
            _ => fields.iter().position(|field| *field.name() == key)?,
        };
        expected = at + 1;
        if std::mem::replace(&mut seen[at], true) || (raw == "null" && !fields[at].is_nullable()) {
            return None;
        }
        columns[at].append_raw(raw)
    })
    .ok()??;
    for (at, seen) in seen.iter().enumerate() {
        if !seen {
            fields[at].is_nullable().then(|| columns[at].append_null())?;
        }
    }
    Some(())
}

fn append_items(item: &FieldRef, values: &mut TextBuilder, text: &str) -> Option<()> {
    json::array(text, |raw| {
        if raw == "null" && !item.is_nullable() {
            return None;
        }
        values.append_raw(raw)
    })
}

impl Column for Nested {
    fn append_null(&mut self) {
        self.rows += 1;
        self.nulls.append_null();
        match &mut self.kind {
            Kind::List { ends, .. } | Kind::Map { ends, .. } => {
                ends.push(ends.last().copied().unwrap_or(0));
            }
            Kind::Fixed { length, values, .. } => (0..*length).for_each(|_| values.append_null()),
            Kind::Struct { columns, .. } => columns.iter_mut().for_each(TextBuilder::append_null),
        }
    }

    fn append(&mut self, text: &str) -> Option<()> {
        match &mut self.kind {
            Kind::List { item, large, ends, values } => {
                append_items(item, values, text)?;
                ends.push(end(values, *large)?);
            }
            Kind::Fixed { item, length, values } => {
                append_items(item, values, text)?;
                if values.len() != (self.rows + 1) * usize::try_from(*length).ok()? {
                    return None;
                }
            }
            Kind::Struct { fields, columns, seen } => append_struct(fields, columns, seen, text)?,
            Kind::Map { fields, ends, columns: [keys, values], .. } => {
                json::object(text, |key, raw| {
                    if raw == "null" && !fields[1].is_nullable() {
                        return None;
                    }
                    keys.append(&key).ok()?;
                    values.append_raw(raw)
                })
                .ok()??;
                ends.push(end(values, false)?);
            }
        }
        self.rows += 1;
        self.nulls.append_non_null();
        Some(())
    }

    fn len(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> ArrayRef {
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.nulls.finish();
        let built: std::result::Result<ArrayRef, arrow_schema::ArrowError> = match &mut self.kind {
            Kind::List { item, large, ends, values } => {
                let ends = std::mem::replace(ends, vec![0]);
                let values = values.finish();
                if *large {
                    let ends = OffsetBuffer::new(ScalarBuffer::from(ends));
                    LargeListArray::try_new(item.clone(), ends, values, nulls)
                        .map(|a| Arc::new(a) as _)
                } else {
                    ListArray::try_new(item.clone(), small(&ends), values, nulls)
                        .map(|a| Arc::new(a) as _)
                }
            }
            Kind::Fixed { item, length, values } => {
                FixedSizeListArray::try_new(item.clone(), *length, values.finish(), nulls)
                    .map(|a| Arc::new(a) as _)
            }
            Kind::Struct { fields, columns, .. } => {
                let columns = columns.iter_mut().map(TextBuilder::finish).collect();
                StructArray::try_new_with_length(fields.clone(), columns, nulls, rows)
                    .map(|a| Arc::new(a) as _)
            }
            Kind::Map { entries, fields, sorted, ends, columns } => {
                let ends = small(&std::mem::replace(ends, vec![0]));
                let columns = columns.iter_mut().map(TextBuilder::finish).collect();
                StructArray::try_new(fields.clone(), columns, None)
                    .and_then(|s| MapArray::try_new(entries.clone(), ends, s, nulls, *sorted))
                    .map(|a| Arc::new(a) as _)
            }
        };
        // Every append has checked what Arrow checks here; should it refuse all the same, a column
        // of another type makes the record batch refuse too.
        built.unwrap_or_else(|_| new_null_array(&DataType::Null, rows))
    }
}
