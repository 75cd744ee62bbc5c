//! Schema changes at the source, carried to a table whose rows are matched by key.

use highwater_core::WriteMode;

use super::schema::{wider, wider_rows};
use crate::harness::Harness;
use crate::job::{Job, sync, upsert, visible, visible_history};
use crate::rows::assert_same;
use crate::tables::{Item, item, item_table, items, loose_item_table};

fn job() -> Job {
    Job::new(item_table("items"), WriteMode::Overwrite)
}

/// In `overwrite` a new column is filled in the rows that are read again.
pub async fn a_new_column_is_overwritten_like_any_other(harness: &dyn Harness) {
    let job = job();
    let first = [item(1, "a", 1), item(2, "b", 1)];
    sync(harness, &job, &[upsert(&items(&item_table("items"), &first))]).await;
    let job = job.of_table(wider());
    let committed =
        sync(harness, &job, &[upsert(&wider_rows(&[(item(1, "a", 1), Some("x"))]))]).await;
    assert_eq!(committed.written, 1);
    let all = wider_rows(&[(item(1, "a", 1), Some("x")), (item(2, "b", 1), None)]);
    assert_same(&visible(harness, &job).await, &[all]);
}

/// In `append-dedup` history and final table get the new column together.
pub async fn the_history_gets_a_new_column_too(harness: &dyn Harness) {
    let job = Job::new(item_table("items"), WriteMode::AppendDedup);
    sync(harness, &job, &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let job = job.of_table(wider());
    sync(harness, &job, &[upsert(&wider_rows(&[(item(1, "a", 2), Some("x"))]))]).await;
    let newest = wider_rows(&[(item(1, "a", 2), Some("x"))]);
    assert_same(&visible(harness, &job).await, std::slice::from_ref(&newest));
    let both = wider_rows(&[(item(1, "a", 1), None), (item(1, "a", 2), Some("x"))]);
    assert_same(&visible_history(harness, &job).await, &[both]);
}

/// A column that the source no longer has stays; rows that come now have NULL there.
pub async fn a_dropped_column_stays_and_is_null(harness: &dyn Harness) {
    let keyed = job().of_table(wider());
    let first = [(item(1, "a", 1), Some("x")), (item(2, "b", 1), Some("y"))];
    sync(harness, &keyed, &[upsert(&wider_rows(&first))]).await;
    // The engine keeps the column in the plan, and sends NULL.
    let second = [(item(2, "b", 1), None), (item(3, "c", 2), None)];
    sync(harness, &keyed, &[upsert(&wider_rows(&second))]).await;
    let all = [first[0].clone(), second[0].clone(), second[1].clone()];
    assert_same(&visible(harness, &keyed).await, &[wider_rows(&all)]);
}

/// A column that somebody else added to the table is left alone.
pub async fn a_column_of_somebody_else_is_left_alone(harness: &dyn Harness) {
    let keyed = job();
    let first = [(item(1, "a", 1), Some("theirs")), (item(2, "b", 1), Some("theirs"))];
    sync(harness, &keyed.of_sync("other").of_table(wider()), &[upsert(&wider_rows(&first))]).await;
    let rows = items(&item_table("items"), &[item(2, "B", 2), item(3, "c", 2)]);
    sync(harness, &keyed, &[upsert(&rows)]).await;
    let all = [first[0].clone(), (item(2, "B", 2), Some("theirs")), (item(3, "c", 2), None)];
    assert_same(&visible(harness, &keyed).await, &[wider_rows(&all)]);
}

/// A table that was filled without a key gets one when a mode needs it.
pub async fn a_key_is_added(harness: &dyn Harness) {
    let rows = |items_: &[Item]| items(&loose_item_table("items", &["id"]), items_);
    let job = job().of_table(loose_item_table("items", &["id"]));
    sync(harness, &job, &[upsert(&rows(&[item(1, "a", 1), item(2, "b", 1)]))]).await;
    let keyed = Job { write_mode: WriteMode::Overwrite, ..job };
    sync(harness, &keyed, &[upsert(&rows(&[item(2, "B", 2), item(3, "c", 2)]))]).await;
    let all = [item(1, "a", 1), item(2, "B", 2), item(3, "c", 2)];
    assert_same(&visible(harness, &keyed).await, &[rows(&all)]);
}

/// Another mode and a new column come with one sync: history and tombstones are made as the rows
/// of that sync need them, and what was added without them is added when they are needed again.
pub async fn a_column_comes_together_with_another_mode(harness: &dyn Harness) {
    let keyed = job();
    sync(harness, &keyed, &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let dedup = Job { write_mode: WriteMode::AppendDedup, ..job().of_table(wider()) };
    let rows = wider_rows(&[(item(2, "b", 2), Some("x"))]);
    sync(harness, &dedup, &[upsert(&rows)]).await;
    assert_same(&visible_history(harness, &dedup).await, std::slice::from_ref(&rows));
    let both = wider_rows(&[(item(1, "a", 1), None), (item(2, "b", 2), Some("x"))]);
    assert_same(&visible(harness, &dedup).await, &[both]);
}

/// A column that came while the table was written without a history comes to the history when
/// there are records of it again.
pub async fn a_history_catches_up_with_the_columns(harness: &dyn Harness) {
    let dedup = Job { write_mode: WriteMode::AppendDedup, ..job() };
    sync(harness, &dedup, &[upsert(&items(&item_table("items"), &[item(1, "a", 1)]))]).await;
    let keyed = job().of_table(wider());
    sync(harness, &keyed, &[upsert(&wider_rows(&[(item(2, "b", 2), Some("x"))]))]).await;
    let dedup = dedup.of_table(wider());
    sync(harness, &dedup, &[upsert(&wider_rows(&[(item(1, "c", 3), Some("y"))]))]).await;
    let records = [(item(1, "a", 1), None), (item(1, "c", 3), Some("y"))];
    assert_same(&visible_history(harness, &dedup).await, &[wider_rows(&records)]);
}
