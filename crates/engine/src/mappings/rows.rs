//! Mappings, done to rows.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, FieldRef, Schema};
use arrow_select::filter::FilterBuilder;
use highwater_core::mapping::Condition;
use highwater_core::text::TextColumn;
use highwater_core::types::record_part;
use highwater_core::{Batch, Deletion, Error, Mapping, Op, Result, Table};

use super::condition::Test;
use super::hiding::{Cipher, Hiding};
use super::{Fate, fate, faults};

/// The mappings of a table, ready for its rows.
pub(crate) struct Mapper {
    steps: Vec<Step>,
    /// The columns of the source that no mapping drops or hides.
    shown: Vec<String>,
}

enum Step {
    Rename { column: String, to: String },
    Drop { column: String },
    Filter(Condition),
    Hide { column: String, to: String, hiding: Hiding },
}

/// What has become of a batch.
pub(crate) struct Mapped {
    /// The rows to write.
    pub(crate) batch: Batch,
    /// How many were left out by a filter.
    pub(crate) filtered: u64,
    /// Rows for which a mapping failed.
    pub(crate) refusals: Vec<Refusal>,
}

/// A row for which a mapping failed.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its place in the batch that came.
    pub(crate) row: usize,
    /// The column that the mapping is about.
    pub(crate) column: String,
    /// What went wrong, without the value.
    pub(crate) reason: String,
}

impl Mapper {
    /// # Errors
    /// `Config` for a key that cannot be used.
    pub(crate) fn new(mappings: &[Mapping], table: &Table) -> Result<Self> {
        let steps = mappings.iter().map(|mapping| {
            Ok(match mapping.clone() {
                Mapping::Rename { column, to } => Step::Rename { column, to },
                Mapping::Drop { column } => Step::Drop { column },
                Mapping::Filter(condition) => Step::Filter(condition),
                Mapping::Hash { column, to, method } => {
                    Step::Hide { column, to, hiding: Hiding::Hash(method) }
                }
                Mapping::Encrypt { column, to, key } => {
                    Step::Hide { column, to, hiding: Hiding::Encrypt(Cipher::new(&key)?) }
                }
            })
        });
        let fields = table.schema.fields().iter().filter(|field| record_part(field).is_none());
        let shown = fields.map(|field| field.name().clone());
        let shown = shown.filter(|name| fate(mappings, name) == Fate::Kept).collect();
        Ok(Self { steps: steps.collect::<Result<_>>()?, shown })
    }

    /// The columns of the source that may be shown.
    pub(crate) fn shown(&self) -> &[String] {
        &self.shown
    }

    /// Does all steps, in order. A deletion goes through every filter: the row may be there from
    /// before there was one.
    ///
    /// # Errors
    /// `Internal` when the batch lacks a column. What concerns a row is in the result.
    pub(crate) fn apply(&self, batch: &Batch) -> Result<Mapped> {
        let mut work = Work::new(&batch.rows);
        for step in &self.steps {
            match step {
                Step::Filter(_) if batch.op == Op::Delete => {}
                Step::Filter(condition) => work.filter(condition)?,
                Step::Hide { column, to, hiding } => work.hide(column, to, hiding)?,
                Step::Drop { column } => drop(work.columns.remove(work.index(column)?)),
                Step::Rename { column, to } => work.rename(column, to)?,
            }
        }
        if batch.op == Op::Delete {
            work.refusals
                .iter_mut()
                .for_each(|refusal| refusal.reason.push_str(" (of a deletion)"));
        }
        let rows = work.finish()?;
        let filtered = (batch.rows.num_rows() - rows.num_rows() - work.refusals.len()) as u64;
        let batch = Batch { table: Arc::clone(&batch.table), op: batch.op, rows };
        Ok(Mapped { batch, filtered, refusals: work.refusals })
    }

    /// The deletion as it reads after the mappings: it finds the rows that it found before.
    ///
    /// # Errors
    /// `Unsupported` where it is about a column that is not there any more, or is encrypted.
    pub(crate) fn deletion(&self, deletion: &Deletion) -> Result<Deletion> {
        let mut mapped = deletion.clone();
        for equal in mapped.groups.iter_mut().flat_map(|group| &mut group.equal) {
            for step in &self.steps {
                match step {
                    Step::Rename { column, to } if *column == equal.column => {
                        equal.column.clone_from(to);
                    }
                    Step::Hide { column, to, hiding: hiding @ Hiding::Hash(_) }
                        if *column == equal.column =>
                    {
                        let field = Arc::new(equal.field.clone());
                        let (field, value) = hide_one(&field, &equal.value, hiding)?;
                        (equal.field, equal.value) = (field.as_ref().clone(), value);
                        equal.column.clone_from(to);
                    }
                    Step::Hide { column, .. } | Step::Drop { column }
                        if *column == equal.column =>
                    {
                        return Err(Error::unsupported(
                            "Rows are to be deleted by a column that a mapping drops or encrypts",
                        )
                        .context("table", &deletion.table)
                        .context("column", column)
                        .hint("hash the column instead"));
                    }
                    _ => {}
                }
            }
        }
        Ok(mapped)
    }
}

fn hide_one(field: &FieldRef, value: &ArrayRef, hiding: &Hiding) -> Result<(FieldRef, ArrayRef)> {
    let column = TextColumn::new(field, value.as_ref())?;
    let mut builder = StringBuilder::new();
    for row in 0..value.len() {
        if column.is_null(row) {
            builder.append_null();
            continue;
        }
        let (mut text, mut hidden) = (String::new(), String::new());
        column.write(row, &mut text);
        hiding.hide(&text, &mut hidden)?;
        builder.append_value(hidden);
    }
    Ok((hidden_field(field, field.name()), Arc::new(builder.finish())))
}

fn hidden_field(field: &FieldRef, to: &str) -> FieldRef {
    Arc::new(arrow_schema::Field::new(to, DataType::Utf8, field.is_nullable()))
}

/// A batch on its way through the steps. Columns keep all rows until the end; a row that is out is
/// looked at no more.
struct Work {
    columns: Vec<(FieldRef, ArrayRef)>,
    kept: Vec<bool>,
    refusals: Vec<Refusal>,
}

impl Work {
    fn new(rows: &RecordBatch) -> Self {
        let fields = rows.schema_ref().fields().iter().cloned();
        Self {
            columns: fields.zip(rows.columns().iter().cloned()).collect(),
            kept: vec![true; rows.num_rows()],
            refusals: Vec::new(),
        }
    }

    fn index(&self, column: &str) -> Result<usize> {
        let found = self.columns.iter().position(|(field, _)| field.name() == column);
        found.ok_or_else(|| {
            Error::internal("Rows came without a column that a mapping is about")
                .context("column", column)
        })
    }

    fn rename(&mut self, column: &str, to: &str) -> Result<()> {
        let at = self.index(column)?;
        let field = &mut self.columns[at].0;
        *field = Arc::new(field.as_ref().clone().with_name(to));
        Ok(())
    }

    fn filter(&mut self, condition: &Condition) -> Result<()> {
        let column = |name: &str| {
            let (field, values) = &self.columns[self.index(name)?];
            TextColumn::new(field, values.as_ref())
        };
        let test = Test::new(condition, &column)?;
        let mut text = String::new();
        let kept = self.kept.iter().enumerate();
        self.kept = kept.map(|(row, kept)| *kept && test.holds(row, &mut text)).collect();
        Ok(())
    }

    fn hide(&mut self, column: &str, to: &str, hiding: &Hiding) -> Result<()> {
        let at = self.index(column)?;
        let (field, values) = &self.columns[at];
        let source = TextColumn::new(field, values.as_ref())?;
        let mut builder = StringBuilder::new();
        let (mut text, mut hidden) = (String::new(), String::new());
        for (row, kept) in self.kept.iter_mut().enumerate() {
            if !*kept || source.is_null(row) {
                builder.append_null();
                continue;
            }
            text.clear();
            hidden.clear();
            source.write(row, &mut text);
            match faults::at(column).and_then(|()| hiding.hide(&text, &mut hidden)) {
                Ok(()) => builder.append_value(&hidden),
                Err(error) => {
                    // Nothing of it goes on.
                    builder.append_null();
                    *kept = false;
                    let (column, reason) = (column.to_owned(), error.full_message());
                    self.refusals.push(Refusal { row, column, reason });
                }
            }
        }
        self.columns[at] = (hidden_field(field, to), Arc::new(builder.finish()));
        Ok(())
    }

    /// The rows that are left.
    fn finish(&mut self) -> Result<RecordBatch> {
        let (fields, mut columns): (Vec<_>, Vec<_>) = self.columns.drain(..).unzip();
        let count = self.kept.iter().filter(|kept| **kept).count();
        if count < self.kept.len() {
            let mask = BooleanArray::from(std::mem::take(&mut self.kept));
            let filter = FilterBuilder::new(&mask).build();
            for column in &mut columns {
                *column = filter.filter(column)?;
            }
        }
        // A row that is out has no values where there have to be some; it is gone by now.
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::Field;
    use highwater_core::deletion::{Equal, Group};
    use highwater_core::mapping::HashMethod;
    use highwater_core::{Secret, TableName};

    use super::*;

    fn hash(column: &str, to: &str) -> Mapping {
        Mapping::Hash { column: column.into(), to: to.into(), method: HashMethod::Md5 }
    }

    fn mapper(mappings: &[Mapping]) -> Mapper {
        let fields = ["id", "name"].map(|name| Field::new(name, DataType::Int64, true));
        Mapper::new(mappings, &Table::new(TableName::new("t"), fields.to_vec())).unwrap()
    }

    #[test]
    fn a_deletion_finds_the_rows_by_what_became_of_their_columns() {
        let equal = |column: &str| Equal {
            column: column.into(),
            field: Field::new(column, DataType::Int64, true),
            value: Arc::new(Int64Array::from(vec![5])),
        };
        let deletion = Deletion {
            table: TableName::new("t"),
            groups: vec![Group { any: false, equal: vec![equal("id"), equal("name")] }],
            relations: vec![],
        };
        let rename = Mapping::Rename { column: "id".into(), to: "n".into() };
        let mapped = mapper(&[rename, hash("n", "h")]).deletion(&deletion).unwrap();
        let [id, name] = &mapped.groups[0].equal[..] else { panic!("two columns") };
        assert_eq!((id.column.as_str(), name.column.as_str()), ("h", "name"));
        // `printf 5 | md5sum`
        let hash_of_5 = StringArray::from(vec!["e4da3b7fbbce2345d7772b0674a318d5"]);
        assert_eq!(id.value.as_ref(), &hash_of_5 as &dyn arrow_array::Array);
        assert_eq!(name.value.as_ref(), equal("name").value.as_ref());
        let key = Secret::new("00112233445566778899aabbccddeeff");
        for mapping in [
            Mapping::Drop { column: "name".into() },
            Mapping::Encrypt { column: "name".into(), to: "name".into(), key },
        ] {
            assert!(mapper(&[mapping]).deletion(&deletion).is_err());
        }
    }

    #[test]
    fn equal_values_have_equal_hashes_whatever_their_width() {
        let hashed = |values: ArrayRef| {
            let fields = vec![Field::new("c", values.data_type().clone(), true)];
            let table = Arc::new(Table::new(TableName::new("t"), fields));
            let mapper = Mapper::new(&[hash("c", "c")], &table).unwrap();
            let rows = RecordBatch::try_new(Arc::clone(&table.schema), vec![values]).unwrap();
            let mapped = mapper.apply(&Batch { table, op: Op::Upsert, rows }).unwrap();
            Arc::clone(mapped.batch.rows.column(0))
        };
        let wide = hashed(Arc::new(Int64Array::from(vec![Some(5), None])));
        assert_eq!(&wide, &hashed(Arc::new(arrow_array::UInt8Array::from(vec![Some(5), None]))));
        assert_eq!(&wide, &hashed(Arc::new(StringArray::from(vec![Some("5"), None]))));
    }

    #[test]
    fn a_table_of_which_every_column_is_dropped_still_has_its_rows() {
        let drops = ["id", "name"].map(|column| Mapping::Drop { column: column.into() });
        let fields = ["id", "name"].map(|name| Field::new(name, DataType::Int64, true));
        let table = Arc::new(Table::new(TableName::new("t"), fields.to_vec()));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows =
            RecordBatch::try_new(Arc::clone(&table.schema), vec![Arc::clone(&ids), ids]).unwrap();
        let mapped = mapper(&drops).apply(&Batch { table, op: Op::Upsert, rows }).unwrap();
        assert_eq!((mapped.batch.rows.num_rows(), mapped.batch.rows.num_columns()), (3, 0));
    }
}
