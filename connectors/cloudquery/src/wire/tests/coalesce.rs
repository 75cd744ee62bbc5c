//! Small batches become large ones.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringArray, cast::AsArray, types::Int64Type,
};
use arrow_schema::{DataType, Field};
use highwater_core::{ErrorKind, Table, TableName};

use super::fixtures::stream_of;
use crate::wire::Decoder;
use crate::wire::coalesce::{Coalesced, Coalescer};

fn table(name: &str) -> Arc<Table> {
    let fields = vec![Field::new("id", DataType::Int64, true)];
    Arc::new(Table::new(TableName::new(name), fields))
}

fn rows(table: &Table, ids: std::ops::Range<i64>) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_new(Arc::clone(&table.schema), vec![ids]).unwrap()
}

fn ids(coalesced: &Coalesced) -> Vec<i64> {
    coalesced.rows.column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn rows_keep_their_order_and_come_when_there_are_enough() {
    let mut coalescer = Coalescer::new(4, usize::MAX);
    let (a, b) = (table("a"), table("b"));
    let mut out = Vec::new();
    for id in 0..10 {
        for table in [&a, &b] {
            out.extend(coalescer.push(table, rows(table, id..id + 1)).unwrap());
        }
    }
    assert_eq!(out.len(), 4);
    assert_eq!(ids(&out[0]), [0, 1, 2, 3]);
    assert_eq!(out[1].table.name.name, "b");
    assert!(coalescer.bytes() > 0);
    out.extend(coalescer.flush().unwrap());
    assert_eq!(coalescer.bytes(), 0);
    assert!(coalescer.flush().unwrap().is_empty());
    for name in ["a", "b"] {
        let of = out.iter().filter(|c| c.table.name.name == name);
        assert_eq!(of.flat_map(ids).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }
    let names: Vec<&str> = out[4..].iter().map(|c| c.table.name.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "in the order in which they first came");
}

#[test]
fn a_large_batch_passes_as_it_is_after_what_came_before_it() {
    let mut coalescer = Coalescer::new(100, usize::MAX);
    let a = table("a");
    assert!(coalescer.push(&a, rows(&a, 0..2)).unwrap().is_empty());
    let large = rows(&a, 2..200);
    let values = large.column(0).as_primitive::<Int64Type>().values().as_ptr();
    let out = coalescer.push(&a, large).unwrap();
    assert_eq!(out.len(), 2);
    assert_eq!(ids(&out[0]), [0, 1]);
    assert_eq!(out[1].rows.column(0).as_primitive::<Int64Type>().values().as_ptr(), values);
    assert!(coalescer.flush().unwrap().is_empty());
}

#[test]
fn bytes_count_too_and_only_those_of_the_rows() {
    let mut coalescer = Coalescer::new(usize::MAX, 100_000);
    let text: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..1000).map(|_| "x".repeat(1000))));
    let stream = stream_of("t", &[(Field::new("c", DataType::Utf8, true), text)], 1);
    let decoded = Decoder::new().decode(&stream).unwrap();
    let mut sizes = Vec::new();
    for row in 0..1000 {
        let one = decoded.batches[0].slice(row, 1);
        let out = coalescer.push(&decoded.table, one).unwrap();
        sizes.extend(out.iter().map(|c| c.rows.num_rows()));
    }
    assert!(!sizes.is_empty());
    assert!(sizes.iter().all(|rows| (60..=100).contains(rows)), "{sizes:?}");
}

#[test]
fn other_columns_under_the_same_name_are_an_error_until_it_is_forgotten() {
    let mut coalescer = Coalescer::default();
    let a = table("a");
    assert!(coalescer.push(&a, rows(&a, 0..1)).unwrap().is_empty());
    let fields = vec![a.schema.field(0).clone(), Field::new("new", DataType::Utf8, true)];
    let wider = Arc::new(Table::new(TableName::new("a"), fields));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![7])), Arc::new(StringArray::from(vec!["x"]))];
    let batch = RecordBatch::try_new(Arc::clone(&wider.schema), columns).unwrap();
    let error = coalescer.push(&wider, batch.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    assert_eq!(error.context_value("table"), Some("a"));
    assert_eq!(error.context_value("column"), Some("new"));

    let b = table("b");
    assert!(coalescer.push(&b, rows(&b, 5..6)).unwrap().is_empty());
    let rest = coalescer.forget(&a.name).unwrap().unwrap();
    assert_eq!(ids(&rest), [0]);
    assert!(coalescer.forget(&a.name).unwrap().is_none());
    assert!(coalescer.push(&wider, batch).unwrap().is_empty());
    let out = coalescer.flush().unwrap();
    assert_eq!(out.len(), 2);
    assert_eq!((ids(&out[0]), ids(&out[1])), (vec![5], vec![7]));
}

#[test]
fn empty_batches_vanish_and_metadata_does_not_matter() {
    let mut coalescer = Coalescer::new(2, usize::MAX);
    let a = table("a");
    assert!(coalescer.push(&a, rows(&a, 0..0)).unwrap().is_empty());
    assert!(coalescer.flush().unwrap().is_empty());
    let field = Field::new("id", DataType::Int64, false)
        .with_metadata([("cq:extension:unique".to_owned(), "true".to_owned())].into());
    let marked = Arc::new(Table::new(TableName::new("a"), vec![field]));
    assert!(coalescer.push(&a, rows(&a, 0..1)).unwrap().is_empty());
    let out = coalescer.push(&marked, rows(&marked, 1..2)).unwrap();
    assert_eq!(ids(&out[0]), [0, 1]);
    assert_eq!(out[0].rows.schema(), a.schema);
    assert_eq!(out[0].rows.column(0).null_count(), 0);
}

#[test]
fn many_tables_together_do_not_wait_for_ever() {
    let mut coalescer = Coalescer::new(usize::MAX, 10_000);
    let mut most = 0;
    let mut given = 0;
    for round in 0..200 {
        for number in 0..50 {
            let table = table(&format!("t{number}"));
            let out = coalescer.push(&table, rows(&table, round..round + 1)).unwrap();
            given += out.len();
            most = most.max(coalescer.bytes());
        }
    }
    assert!(given > 0);
    assert!(most <= 160_000, "{most}");
    let rest: usize = coalescer.flush().unwrap().iter().map(|c| c.rows.num_rows()).sum();
    assert!(rest > 0);
    assert_eq!(coalescer.bytes(), 0);
}

#[test]
fn thousands_of_single_rows_keep_their_order() {
    let mut coalescer = Coalescer::default();
    let a = table("a");
    let mut out = Vec::new();
    for id in 0..10_000 {
        out.extend(coalescer.push(&a, rows(&a, id..id + 1)).unwrap());
    }
    out.extend(coalescer.flush().unwrap());
    assert_eq!(out.iter().map(|c| c.rows.num_rows()).collect::<Vec<_>>(), [8192, 10_000 - 8192]);
    assert_eq!(out.iter().flat_map(ids).collect::<Vec<_>>(), (0..10_000).collect::<Vec<_>>());
}
