//! Rows through a transformer plugin.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use highwater_cloudquery::transformer::{TransformerConfig, TransformerPlugin};
use highwater_core::types::{DECLARED, FROM};
use highwater_core::{ErrorKind, Result, Table, TableName, Transformer};
use serde_json::json;
use tokio::sync::mpsc;

use crate::scripted::{self, spec};

fn transformer(words: &str) -> TransformerPlugin {
    TransformerPlugin::new(TransformerConfig {
        plugin: spec(&format!("transformer {words}")),
        spec: json!({}),
        invocation_id: "this-run".to_owned(),
    })
}

fn table(name: &str) -> Arc<Table> {
    let declared = [(DECLARED.to_owned(), "postgresql:character varying(20)".to_owned())];
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true).with_metadata(declared.into()),
    ];
    Arc::new(Table::new(TableName::in_namespace("public", name), fields).with_primary_key(["id"]))
}

fn rows(table: &Table, ids: std::ops::Range<i64>) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringArray::from_iter_values(ids.map(|id| format!("name-{id}")))),
    ];
    RecordBatch::try_new(Arc::clone(&table.schema), columns).unwrap()
}

/// Sends batches in and collects what comes out: table and ids.
async fn pass(
    transformer: &TransformerPlugin,
    input: Vec<(Arc<Table>, RecordBatch)>,
) -> Result<Vec<(String, RecordBatch)>> {
    let (to, from) = mpsc::channel(2);
    let (out, mut results) = mpsc::channel(2);
    let feed = async move {
        for batch in input {
            if to.send(batch).await.is_err() {
                break;
            }
        }
    };
    let collect = async {
        let mut all = Vec::new();
        while let Some(result) = results.recv().await {
            all.push(result);
        }
        all
    };
    let (done, all, ()) = tokio::join!(transformer.transform(from, out), collect, feed);
    done.map(|()| all)
}

fn ids(passed: &[(String, RecordBatch)]) -> Vec<(String, Vec<i64>)> {
    let ids = |rows: &RecordBatch| {
        let column = rows.column_by_name("id").unwrap();
        column.as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
    };
    passed.iter().map(|(name, rows)| (name.clone(), ids(rows))).collect()
}

#[tokio::test]
async fn a_table_gets_another_name_and_other_columns() {
    let transformer = transformer("prefix=x_ rename=name:title add=more");
    let after = transformer.table(&table("a")).await.unwrap();
    assert_eq!(after.name, TableName::in_namespace("public", "x_a"));
    assert_eq!(after.column_names().collect::<Vec<_>>(), ["id", "title", "more"]);
    assert_eq!(after.primary_key, ["id"]);

    let passed = pass(&transformer, vec![(table("a"), rows(&table("a"), 0..3))]).await.unwrap();
    assert_eq!(ids(&passed), [("public.x_a".to_owned(), vec![0, 1, 2])]);
    assert_eq!(passed[0].1.schema(), after.schema);
    transformer.close().await.unwrap();
}

#[tokio::test]
async fn what_a_transformer_leaves_alone_stays_as_it_was() {
    let before = table("a");
    let after = transformer("").table(&before).await.unwrap();
    assert_eq!(after.name, before.name);
    assert_eq!(after.schema.fields(), before.schema.fields(), "with the declared types");

    // Columns that came from CloudQuery are known as such afterwards.
    let mut from = before.as_ref().clone();
    let mark = [(FROM.to_owned(), "cloudquery".to_owned())];
    let field = Field::new("name", DataType::Utf8, true).with_metadata(mark.into());
    from.schema = arrow_schema::Schema::new(vec![field]).into();
    let after = transformer("add=more").table(&from).await.unwrap();
    let marks: Vec<_> = after.schema.fields().iter().map(|f| f.metadata().get(FROM)).collect();
    assert!(marks.iter().all(Option::is_some), "{marks:?}");
}

#[tokio::test]
async fn a_namespace_is_part_of_the_name_that_a_transformer_sees() {
    let mut shop = table("a").as_ref().clone();
    shop.name = TableName::in_namespace("shop", "a");
    let after = transformer("").table(&shop).await.unwrap();
    assert_eq!(after.name, shop.name, "the same name is the same table");
    let after = transformer("prefix=x_").table(&shop).await.unwrap();
    assert_eq!(after.name, TableName::new("x_shop_a"));
}

#[tokio::test]
async fn batches_come_out_as_several_as_fewer_rows_or_not_at_all() {
    let (a, b) = (table("a"), table("b"));
    let input = || {
        vec![
            (Arc::clone(&a), rows(&a, 0..4)),
            (Arc::clone(&b), rows(&b, 4..5)),
            (Arc::clone(&a), rows(&a, 5..6)),
            (Arc::clone(&b), rows(&b, 6..6)),
        ]
    };
    let of = |list: &[(&str, &[i64])]| -> Vec<(String, Vec<i64>)> {
        list.iter().map(|(name, ids)| (format!("public.{name}"), ids.to_vec())).collect()
    };
    let all = of(&[("a", &[0, 1, 2, 3]), ("b", &[4]), ("a", &[5])]);
    assert_eq!(ids(&pass(&transformer(""), input()).await.unwrap()), all);
    assert_eq!(ids(&pass(&transformer("late"), input()).await.unwrap()), all);
    let halves = of(&[("a", &[0, 1]), ("a", &[2, 3]), ("b", &[4]), ("a", &[5])]);
    assert_eq!(ids(&pass(&transformer("halves"), input()).await.unwrap()), halves);
    let odd = of(&[("a", &[0, 2]), ("b", &[4]), ("a", &[5])]);
    assert_eq!(ids(&pass(&transformer("only-odd"), input()).await.unwrap()), odd);
    assert!(pass(&transformer(""), Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn large_batches_are_cut_and_both_sides_work_at_once() {
    // More than the windows of the connection hold: in and out have to take turns.
    let a = table("a");
    let input = (0..20).map(|n| (Arc::clone(&a), rows(&a, n * 200_000..(n + 1) * 200_000)));
    let transformer = transformer("add=more");
    let passed = pass(&transformer, input.collect()).await.unwrap();
    assert!(passed.len() > 20, "messages stay below 4 MiB");
    let all: Vec<i64> = ids(&passed).into_iter().flat_map(|(_, ids)| ids).collect();
    assert_eq!(all, (0..4_000_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_transformer_that_dies_lies_or_ends_early_is_an_error() {
    let a = table("a");
    let input = || (0..50).map(|n| (Arc::clone(&a), rows(&a, n..n + 1))).collect::<Vec<_>>();
    let error = pass(&transformer("transform-die=3"), input()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.message().contains("137"), "{error}");
    let error = pass(&transformer("transform-lie"), input()).await.unwrap_err();
    assert_eq!(error.context_value("column"), Some("name"), "{error}");
    // What the connection has buffered is gone unseen; more than that is noticed.
    let large = || (0..20).map(|n| (Arc::clone(&a), rows(&a, n * 200_000..(n + 1) * 200_000)));
    let error = pass(&transformer("early"), large().collect()).await.unwrap_err();
    assert!(error.message().contains("before its input did"), "{error}");
    let none = TransformerPlugin::new(TransformerConfig {
        plugin: spec("source=/dev/null"),
        spec: json!(null),
        invocation_id: String::new(),
    });
    assert!(none.table(&a).await.is_err());
}

#[tokio::test]
async fn two_destinations_may_send_tables_of_one_name() {
    let transformer = transformer("prefix=x_");
    let (wide, mut narrow) = (table("a"), table("a").as_ref().clone());
    narrow.schema = arrow_schema::Schema::new(vec![wide.schema.field(0).clone()]).into();
    let narrow = Arc::new(narrow);
    transformer.table(&wide).await.unwrap();
    transformer.table(&narrow).await.unwrap();
    let small = rows(&wide, 0..2).project(&[0]).unwrap();
    let (first, second) = tokio::join!(
        pass(&transformer, vec![(Arc::clone(&wide), rows(&wide, 0..2))]),
        pass(&transformer, vec![(Arc::clone(&narrow), small)]),
    );
    assert_eq!(first.unwrap()[0].1.num_columns(), 2);
    assert_eq!(second.unwrap()[0].1.num_columns(), 1);
    assert_eq!(transformer.log_counts().errors, 0);
}

#[tokio::test]
async fn a_transformer_that_is_dropped_ends() {
    let note = tempfile::NamedTempFile::new().unwrap();
    let transformer = transformer(&format!("note={}", note.path().display()));
    transformer.table(&table("a")).await.unwrap();
    let id = std::fs::read_to_string(note.path()).unwrap();
    let id = id.split(' ').next().unwrap();
    assert!(scripted::is_alive(id));
    drop(transformer);
    scripted::eventually("the plugin's end", || !scripted::is_alive(id));
}
