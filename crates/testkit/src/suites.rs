//! The suites: each promise of the contracts, tested once, run over every connector.
//!
//! # How a new connector runs them
//!
//! 1. Implement [`Harness`](crate::harness::Harness) in the connector's `tests/main.rs`: an empty
//!    system per case, as source and as destination.
//! 2. Name the suites of what the connector can do. A capability that it does not have is a suite
//!    that is not named; there is no other way to leave a case out.
//!
//! ```ignore
//! use highwater_testkit::harness::Harness;
//!
//! struct Fresh { /* a new database */ }
//! # #[async_trait::async_trait]
//! impl Harness for Fresh { /* source(), destination(), drop_table() */ }
//!
//! highwater_testkit::suites! { Fresh::new().await =>
//!     destination, append, overwrite, delete_stale, append_dedup, replace,
//!     state, schema, schema_by_key, types, types_by_key,
//!     many_tables, recreate, deletion, read_back,
//!     generation, rebuild, replace_dedup, sweep, compaction,
//!     source, cursor,
//! }
//! ```
//!
//! Every case becomes a test of its own, `SUITE::CASE`, for example
//! `append_dedup::the_worked_example_of_three_syncs`. The expression in front of the arrow is
//! evaluated once per case.
//!
//! | suite | for |
//! |---|---|
//! | [`destination`] | every destination |
//! | [`append`], [`overwrite`], [`delete_stale`], [`append_dedup`], [`replace`] | destinations with that write mode |
//! | [`state`] | destinations that keep state with the data |
//! | [`schema`], [`types`] | every destination that has a source to read it back |
//! | [`schema_by_key`], [`types_by_key`] | those with `overwrite` and `append-dedup` |
//! | [`many_tables`], [`recreate`] | every destination |
//! | [`deletion`] | those that remove rows by a condition |
//! | [`generation`] | destinations that keep state with the data |
//! | [`rebuild`], [`replace_dedup`], [`sweep`], [`compaction`] | those with every write mode |
//! | [`key_digests`] | those that tell their keys, as source and as destination |
//! | [`read_back`] | those that read their rows back |
//! | [`source`] | every source |
//! | [`cursor`] | sources with cursor fields that the user chooses |

pub mod append;
pub mod append_dedup;
pub mod compaction;
pub mod cursor;
pub mod delete_stale;
pub mod deletion;
pub mod destination;
pub mod generation;
pub mod key_digests;
pub mod many_tables;
pub mod overwrite;
pub mod read_back;
pub mod rebuild;
pub mod recreate;
pub mod replace;
pub mod replace_dedup;
pub mod schema;
pub mod schema_by_key;
pub mod source;
pub mod state;
pub mod sweep;
mod together;
pub mod types;
pub mod types_by_key;

/// Makes a test of every case of the named suites; see [`mod@crate::suites`].
#[macro_export]
macro_rules! suites {
    ($harness:expr => $($suite:ident),* $(,)?) => {
        $($crate::suites! { @suite $suite $harness })*
    };
    (@suite destination $harness:expr) => {
        $crate::suites! { @cases destination $harness;
            a_check_leaves_nothing_behind,
            tables_are_described_in_the_order_asked_for,
            nothing_is_visible_before_the_commit,
            a_dropped_writer_leaves_nothing,
            an_abandoned_run_leaves_what_it_committed,
            writers_work_side_by_side,
            a_sync_without_rows_makes_the_table,
            statements_are_shown_and_not_run,
            a_migration_makes_the_table_without_rows,
        }
    };
    (@suite append $harness:expr) => {
        $crate::suites! { @cases append $harness;
            rows_of_all_syncs_stand_side_by_side,
            equal_rows_are_all_added,
            a_writer_commits_more_than_once,
            thousands_of_rows_arrive_once_each,
            a_delete_record_is_refused,
        }
    };
    (@suite overwrite $harness:expr) => {
        $crate::suites! { @cases overwrite $harness;
            a_row_replaces_the_row_with_its_key,
            what_arrives_last_counts,
            equal_keys_in_one_commit_are_folded,
            null_replaces_a_value_and_a_value_null,
            a_composite_key_counts_as_a_whole,
            null_in_a_key_equals_null,
            without_a_key_rows_are_added,
            a_delete_record_removes_the_row,
            deletions_and_rows_in_one_commit_keep_their_order,
            key_and_not_null_are_carried,
            a_table_may_be_all_key,
        }
    };
    (@suite delete_stale $harness:expr) => {
        $crate::suites! { @cases delete_stale $harness;
            rows_that_were_not_seen_are_removed,
            rows_are_removed_when_the_table_is_finished,
            an_abandoned_run_removes_nothing,
            all_commits_of_a_run_count,
            an_incremental_read_removes_nothing,
            rows_of_another_sync_stay,
            an_empty_full_read_removes_every_row,
            a_mass_deletion_is_refused,
            an_empty_full_read_is_refused,
        }
    };
    (@suite append_dedup $harness:expr) => {
        $crate::suites! { @cases append_dedup $harness;
            the_worked_example_of_three_syncs,
            an_older_row_never_replaces_a_newer_one,
            a_tie_is_broken_by_arrival,
            three_versions_in_one_batch_leave_the_newest,
            without_an_order_the_later_arrival_counts,
            null_is_the_lowest_cursor,
            a_delete_record_removes_the_row,
            a_late_older_row_stays_deleted,
            a_row_and_its_deletion_of_one_moment,
            a_newer_row_lives_again,
            an_older_deletion_leaves_a_newer_row,
            the_newest_deletion_counts,
            a_composite_key_may_hold_null,
            a_delta_that_comes_again_changes_nothing,
            old_history_is_pruned_and_the_final_table_stays,
            a_deletion_without_a_cursor_goes_by_its_arrival,
        }
    };
    (@suite replace $harness:expr) => {
        $crate::suites! { @cases replace $harness;
            only_the_rows_of_this_read_are_left,
            readers_see_the_old_rows_until_the_end,
            an_abandoned_run_leaves_the_old_rows,
            the_rows_of_all_partitions_are_swapped_in,
            an_empty_read_leaves_an_empty_table,
            the_new_table_has_the_shape_of_this_read,
            equal_keys_are_all_kept,
            old_rows_are_counted,
        }
    };
    (@suite state $harness:expr) => {
        $crate::suites! { @cases state $harness;
            looking_changes_nothing,
            every_run_gets_the_next_fence,
            a_second_run_waits_for_the_first,
            the_lease_of_a_dead_process_is_taken,
            the_lease_is_shown,
            an_overtaken_run_can_change_nothing,
            a_run_that_wakes_up_late_is_refused,
            of_runs_that_start_at_once_one_may_commit,
            cursors_move_with_the_rows,
            every_cursor_comes_back,
            cursors_can_be_kept_apart_from_the_data,
            a_cursor_is_set_and_reset_by_hand,
            two_syncs_work_side_by_side,
            a_table_is_remembered,
            a_table_made_again_is_another_table,
            a_refused_commit_moves_nothing,
        }
    };
    (@suite schema $harness:expr) => {
        $crate::suites! { @cases schema $harness;
            a_new_column_comes_with_its_first_rows,
            an_abandoned_run_leaves_the_columns,
            not_null_is_taken_away,
            a_migration_adds_a_column,
            a_type_is_widened_where_nothing_is_lost,
        }
    };
    (@suite schema_by_key $harness:expr) => {
        $crate::suites! { @cases schema_by_key $harness;
            a_new_column_is_overwritten_like_any_other,
            the_history_gets_a_new_column_too,
            a_dropped_column_stays_and_is_null,
            a_column_of_somebody_else_is_left_alone,
            a_key_is_added,
            a_column_comes_together_with_another_mode,
            a_history_catches_up_with_the_columns,
        }
    };
    (@suite types $harness:expr) => {
        $crate::suites! { @cases types $harness;
            every_type_comes_back,
            columns_are_described_as_announced,
            hard_values_are_kept_or_refused,
            a_type_that_nothing_stores_is_refused,
        }
    };
    (@suite types_by_key $harness:expr) => {
        $crate::suites! { @cases types_by_key $harness;
            every_type_is_overwritten,
            keys_of_many_types_tell_rows_apart,
        }
    };
    (@suite many_tables $harness:expr) => {
        $crate::suites! { @cases many_tables $harness;
            interleaved_batches_are_one_commit,
            a_table_without_rows_is_made,
            commits_follow_one_another,
            a_dropped_writer_leaves_nothing_in_any_table,
            dozens_of_tables_take_turns,
        }
    };
    (@suite recreate $harness:expr) => {
        $crate::suites! { @cases recreate $harness;
            the_new_rows_take_the_place_of_the_old_ones,
            a_run_makes_the_table_anew_once,
            an_abandoned_run_keeps_the_old_table,
            an_empty_read_leaves_the_new_table,
            a_migration_makes_the_table_anew,
        }
    };
    (@suite deletion $harness:expr) => {
        $crate::suites! { @cases deletion $harness;
            every_group_has_to_hold,
            without_a_group_every_row_goes,
            null_equals_nothing,
            values_of_many_types_are_compared,
            a_deletion_between_rows_of_new_tables,
            a_value_is_brought_to_the_type_of_its_column,
            dependent_rows_go_with_their_parents,
            only_what_was_sent_before_goes,
            a_new_table_takes_conditions,
            a_dropped_writer_removes_nothing,
            modes_without_removal_refuse,
        }
    };
    (@suite read_back $harness:expr) => {
        $crate::suites! { @cases read_back $harness;
            every_type_comes_back,
            columns_come_as_they_are_asked_for,
            rows_are_counted_without_columns,
            a_missing_table_is_nothing,
            only_committed_rows_are_read,
            cursors_of_plugins_come_back,
        }
    };
    (@suite generation $harness:expr) => {
        $crate::suites! { @cases generation $harness;
            a_full_read_begins_a_generation,
            an_interrupted_read_goes_on_in_its_generation,
            an_interrupted_read_that_cannot_go_on_begins_another,
            incremental_reads_stay_in_one_generation,
            other_cursors_outlive_a_full_refresh,
            a_refresh_begins_the_next_generation,
            a_refresh_that_keeps_adds_to_the_old_rows,
            a_refresh_without_reason_or_right_changes_nothing,
        }
    };
    (@suite rebuild $harness:expr) => {
        $crate::suites! { @cases rebuild $harness;
            readers_see_the_old_rows_until_the_refresh_is_finished,
            the_next_sync_goes_on_with_the_new_table,
            an_interrupted_rebuild_goes_on,
            an_interrupted_full_refresh_goes_on,
            what_another_generation_left_is_dropped,
            rows_without_a_position_are_read_again,
            tombstones_belong_to_their_generation,
            a_column_that_came_in_between_is_there,
            null_in_a_key_equals_null_in_a_rebuild,
            a_rebuild_without_rows_leaves_an_empty_table,
            an_overtaken_run_swaps_nothing_in,
            rebuilds_of_two_syncs_do_not_meet,
        }
    };
    (@suite replace_dedup $harness:expr) => {
        $crate::suites! { @cases replace_dedup $harness;
            the_newest_row_of_each_key_is_left,
            only_the_rows_of_this_read_are_left,
            an_abandoned_run_leaves_the_old_rows,
            an_older_row_does_not_undo_a_deletion,
            the_next_read_knows_of_no_deletion,
            without_an_order_the_later_arrival_counts,
            null_in_a_key_equals_null,
            no_history_is_kept,
        }
    };
    (@suite sweep $harness:expr) => {
        $crate::suites! { @cases sweep $harness;
            rows_that_were_not_brought_are_deleted,
            a_deletion_has_a_record_and_a_tombstone,
            an_unchanged_row_adds_nothing_to_the_history,
            all_commits_of_a_sweep_count,
            an_interrupted_sweep_deletes_nothing,
            a_sweep_that_brings_nothing_empties_the_table,
            a_sweep_without_reconcile_deletes_nothing,
            null_in_a_key_is_seen,
            deletions_within_a_sweep_count,
            the_time_of_a_sweep_is_remembered,
            an_overtaken_sweep_deletes_nothing,
            sweeps_of_two_syncs_do_not_meet,
            a_sweep_refuses_a_mass_deletion,
        }
    };
    (@suite key_digests $harness:expr) => {
        $crate::suites! { @cases key_digests $harness;
            numbers_are_told,
            texts_are_told_apart,
            null_is_told,
            every_sure_type_has_the_same_text,
            a_destination_tells_the_keys_of_one_sync,
            a_source_without_the_table_tells_no_keys,
        }
    };
    (@suite compaction $harness:expr) => {
        $crate::suites! { @cases compaction $harness;
            the_latest_record_of_each_key_is_left,
            syncs_go_on_after_a_compaction,
            null_in_a_key_is_one_key,
            without_right_or_rows_nothing_goes,
            a_cleared_table_is_as_never_synced,
            what_is_beside_is_cleared_too,
        }
    };
    (@suite source $harness:expr) => {
        $crate::suites! { @cases source $harness;
            a_check_passes,
            tables_are_found_sorted_by_name,
            a_full_read_sends_every_row_once,
            the_parts_of_a_table_have_every_row_once,
            only_the_planned_columns_are_read,
            a_source_stops_when_it_is_told_to,
            a_source_without_a_reader_ends,
            an_empty_table_sends_nothing,
        }
    };
    (@suite cursor $harness:expr) => {
        $crate::suites! { @cases cursor $harness;
            the_first_read_sends_everything,
            an_unchanged_table_sends_nothing,
            new_and_changed_rows_are_sent,
            a_row_at_the_boundary_is_sent_once,
            a_changed_row_at_the_boundary_is_sent,
            equal_rows_at_the_boundary_are_counted,
            a_deleted_row_at_the_boundary_brings_nothing_back,
            rows_without_a_cursor_are_sent_when_they_change,
            a_table_of_nulls_is_read,
            the_first_row_of_an_empty_table_is_sent,
            rows_without_a_cursor_can_be_excluded,
            rows_without_a_cursor_can_be_an_error,
            late_rows_within_the_lookback_are_sent,
            a_read_is_taken_up_at_every_checkpoint,
            a_cursor_survives_its_text,
            cursors_of_many_types_work,
            an_impossible_cursor_field_is_refused,
        }
    };
    (@cases $suite:ident $harness:expr; $($case:ident,)*) => {
        mod $suite {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let harness = $harness;
                    $crate::suites::$suite::$case(&harness).await;
                }
            )*
        }
    };
}

#[cfg(test)]
mod tests {
    /// A case that the macro does not name would never run.
    #[test]
    fn every_case_is_run() {
        let this = include_str!("suites.rs");
        let files = [
            ("append", include_str!("suites/append.rs")),
            ("append_dedup", include_str!("suites/append_dedup.rs")),
            ("cursor", include_str!("suites/cursor.rs")),
            ("delete_stale", include_str!("suites/delete_stale.rs")),
            ("destination", include_str!("suites/destination.rs")),
            ("many_tables", include_str!("suites/many_tables.rs")),
            ("recreate", include_str!("suites/recreate.rs")),
            ("deletion", include_str!("suites/deletion.rs")),
            ("read_back", include_str!("suites/read_back.rs")),
            ("overwrite", include_str!("suites/overwrite.rs")),
            ("replace", include_str!("suites/replace.rs")),
            ("schema", include_str!("suites/schema.rs")),
            ("schema_by_key", include_str!("suites/schema_by_key.rs")),
            ("source", include_str!("suites/source.rs")),
            ("state", include_str!("suites/state.rs")),
            ("generation", include_str!("suites/generation.rs")),
            ("key_digests", include_str!("suites/key_digests.rs")),
            ("rebuild", include_str!("suites/rebuild.rs")),
            ("replace_dedup", include_str!("suites/replace_dedup.rs")),
            ("sweep", include_str!("suites/sweep.rs")),
            ("compaction", include_str!("suites/compaction.rs")),
            ("types", include_str!("suites/types.rs")),
            ("types_by_key", include_str!("suites/types_by_key.rs")),
        ];
        for (suite, text) in files {
            let listed = this.split_once(&format!("@cases {suite} $harness;")).unwrap().1;
            let listed = listed.split_once('}').unwrap().0;
            let listed: Vec<_> =
                listed.split(',').map(str::trim).filter(|c| !c.is_empty()).collect();
            let written: Vec<_> = text
                .lines()
                .filter_map(|line| line.strip_prefix("pub async fn ")?.split_once('('))
                .map(|(name, _)| name)
                .collect();
            assert_eq!(listed, written, "{suite}");
        }
    }
}
