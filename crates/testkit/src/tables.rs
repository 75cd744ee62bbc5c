//! Sample tables as Arrow batches. The same arguments always give the same rows.

mod every_type;

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field, TimeUnit};
use highwater_core::{Table, TableName};

pub use every_type::every_type;

/// A table and rows of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The table.
    pub table: Table,
    /// Its rows.
    pub rows: RecordBatch,
}

/// A row of an [`item_table`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The key; NULL only in tables made by [`loose_item_table`].
    pub id: Option<i64>,
    /// A second part of a key.
    pub region: Option<&'static str>,
    /// What changes.
    pub value: Option<&'static str>,
    /// The cursor.
    pub updated_at: Option<i64>,
}

/// An item of no region.
pub fn item(id: i64, value: &'static str, updated_at: i64) -> Item {
    Item { id: Some(id), region: None, value: Some(value), updated_at: Some(updated_at) }
}

impl Item {
    /// The item in a region.
    #[must_use]
    pub fn within(self, region: &'static str) -> Self {
        Self { region: Some(region), ..self }
    }

    /// The item without an id.
    #[must_use]
    pub fn without_id(self) -> Self {
        Self { id: None, ..self }
    }

    /// The item without a cursor value.
    #[must_use]
    pub fn without_cursor(self) -> Self {
        Self { updated_at: None, ..self }
    }

    /// What a delete record of the item holds: key and cursor.
    #[must_use]
    pub fn deletion(self) -> Self {
        Self { value: None, ..self }
    }
}

/// A table of items with the primary key `id`, which is NOT NULL.
pub fn item_table(name: &str) -> Table {
    loose_item_table(name, &["id"]).not_null("id")
}

/// A table of items in which every column may be NULL, also those of the primary key.
pub fn loose_item_table(name: &str, primary_key: &[&str]) -> Table {
    let fields = vec![
        Field::new("id", DataType::Int64, true),
        Field::new("region", DataType::Utf8, true),
        Field::new("value", DataType::Utf8, true),
        Field::new("updated_at", DataType::Int64, true),
    ];
    Table::new(TableName::new(name), fields).with_primary_key(primary_key.iter().copied())
}

/// Changes of a table that tests need.
pub trait TableChanges {
    /// The column becomes NOT NULL.
    #[must_use]
    fn not_null(self, column: &str) -> Self;
    /// The column gets another definition; one that is not there is added at the end.
    #[must_use]
    fn with_column(self, field: Field) -> Self;
}

impl TableChanges for Table {
    fn not_null(self, column: &str) -> Self {
        let field = self.field(column).expect("the column is there").clone().with_nullable(false);
        self.with_column(field)
    }

    fn with_column(self, field: Field) -> Self {
        let mut fields: Vec<Field> =
            self.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        match fields.iter_mut().find(|f| f.name() == field.name()) {
            Some(found) => *found = field,
            None => fields.push(field),
        }
        Self { schema: Arc::new(arrow_schema::Schema::new(fields)), ..self }
    }
}

/// Rows of a table that has the columns of an [`item_table`]; further columns are NULL.
pub fn items(table: &Table, rows: &[Item]) -> RecordBatch {
    let columns: Vec<ArrayRef> = table
        .schema
        .fields()
        .iter()
        .map(|field| -> ArrayRef {
            match field.name().as_str() {
                "id" => Arc::new(rows.iter().map(|r| r.id).collect::<Int64Array>()),
                "region" => Arc::new(rows.iter().map(|r| r.region).collect::<StringArray>()),
                "value" => Arc::new(rows.iter().map(|r| r.value).collect::<StringArray>()),
                "updated_at" => Arc::new(rows.iter().map(|r| r.updated_at).collect::<Int64Array>()),
                _ => arrow_array::new_null_array(field.data_type(), rows.len()),
            }
        })
        .collect();
    RecordBatch::try_new(Arc::clone(&table.schema), columns).expect("rows fit their table")
}

/// The table of Airbyte's worked example of append + deduped: `name` is the primary key,
/// `updated_at` the cursor field.
pub fn royals_table() -> Table {
    let fields = vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("deceased", DataType::Boolean, true),
        Field::new("updated_at", DataType::Int64, true),
    ];
    Table::new(TableName::new("royals"), fields).with_primary_key(["name"])
}

/// Rows of the [`royals_table`].
pub fn royals(rows: &[(&str, bool, i64)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
        Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.1)))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2))),
    ];
    RecordBatch::try_new(royals_table().schema, columns).expect("rows fit their table")
}

/// `n` orders with ids from 1: the table that examples sync. Every tenth has no customer; ten
/// orders in a row share one `updated_at`.
pub fn orders(n: usize) -> Sample {
    const STATUS: [&str; 4] = ["new", "paid", "shipped", "returned"];
    /// 2026-01-01T00:00:00Z in microseconds.
    const NEW_YEAR: i64 = 1_767_225_600_000_000;
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("customer", DataType::Utf8, true),
        Field::new("amount", DataType::Decimal128(12, 2), true),
        Field::new("status", DataType::Utf8, true),
        Field::new(
            "updated_at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
    ];
    let table = Table::new(TableName::new("orders"), fields).with_primary_key(["id"]);
    let mut random = Random::new(n as u64);
    let numbers = 0..n as i64;
    let customers =
        numbers.clone().map(|i| (i % 10 != 9).then(|| format!("Customer {}", i * 7 % 97)));
    let amounts = numbers.clone().map(|_| i128::from(random.next() % 10_000_000));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(numbers.clone().map(|i| i + 1))),
        Arc::new(customers.collect::<StringArray>()),
        Arc::new(
            Decimal128Array::from_iter_values(amounts)
                .with_precision_and_scale(12, 2)
                .expect("the precision of the column"),
        ),
        Arc::new(StringArray::from_iter_values(numbers.clone().map(|i| STATUS[i as usize % 4]))),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(
                numbers.map(|i| NEW_YEAR + i / 10 * 1_000_001),
            )
            .with_timezone("UTC"),
        ),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns);
    Sample { table, rows: rows.expect("rows fit their table") }
}

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own per seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_the_same_every_time() {
        assert_eq!(orders(100).rows, orders(100).rows);
        assert_eq!(orders(25).rows.num_rows(), 25);
        assert_eq!(every_type(20, 1).rows, every_type(20, 1).rows);
        assert_ne!(every_type(20, 1).rows, every_type(20, 2).rows);
    }

    #[test]
    fn a_table_is_changed_by_column() {
        let table = item_table("t").with_column(Field::new("extra", DataType::Date32, true));
        assert!(!table.field("id").unwrap().is_nullable());
        assert_eq!(items(&table, &[item(1, "a", 1)]).num_columns(), 5);
    }
}
