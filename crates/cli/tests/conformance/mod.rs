//! The conformance suite for destinations, over gRPC, against the real program: `highwater plugin
//! NAME serve` is a child process, and what was written is checked with the plugin's own `Read`.
//!
//! The cases are those that CloudQuery's SDK has for destinations written in Go, and some for what
//! is promised here beyond that. Each is a test of its own, for each destination; one that a
//! destination cannot pass is ignored, by name and with the reason.

mod all_types;
mod cases;
mod ipc;
mod migrations;
mod plugin;
mod sdk;
mod serving;
mod streams;
mod syncing;
mod systems;

/// Tests of these names that run the cases of the same names.
macro_rules! tests {
    ($system:expr; $($(#[$attribute:meta])* $name:ident = $case:path;)*) => {
        $(
            $(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let mut plugin = crate::conformance::plugin::Plugin::of($system).await;
                $case(&mut plugin).await;
                plugin.stop().await;
            }
        )*
    };
}

/// Every case, for a destination that can do everything.
macro_rules! every_case {
    ($system:expr) => {
        crate::conformance::tests! { $system;
            upsert_basic = crate::conformance::cases::upsert_basic;
            upsert_all = crate::conformance::cases::upsert_all;
            upsert_duplicate_keys = crate::conformance::cases::upsert_duplicate_keys;
            insert_basic = crate::conformance::cases::insert_basic;
            insert_all = crate::conformance::cases::insert_all;
            delete_stale_basic = crate::conformance::cases::delete_stale_basic;
            delete_stale_all = crate::conformance::cases::delete_stale_all;
            delete_record_basic = crate::conformance::cases::delete_record_basic;
            delete_record_delete_all = crate::conformance::cases::delete_record_delete_all;
            delete_record_with_children = crate::conformance::cases::delete_record_with_children;
            state_table = crate::conformance::cases::state_table;
            a_stream_that_ends_is_durable = crate::conformance::streams::durable;
            a_large_message = crate::conformance::streams::large;
            a_failed_write_ends_at_once = crate::conformance::streams::fails_at_once;
            a_stream_that_is_given_up_leaves_nothing = crate::conformance::streams::given_up;
            cursors_never_overtake_rows = crate::conformance::streams::cursors_wait;
            cursors_of_lost_rows_are_refused = crate::conformance::streams::cursors_of_lost_rows;
            several_streams_at_once = crate::conformance::streams::several;
            rows_of_a_table_that_was_never_sent = crate::conformance::streams::not_migrated;
            a_signal_commits_nothing = crate::conformance::streams::signal;
            migrate_add_column_safe = crate::conformance::migrations::add_column_safe;
            migrate_add_column_force = crate::conformance::migrations::add_column_force;
            migrate_add_column_not_null_safe = crate::conformance::migrations::add_column_not_null_safe;
            migrate_add_column_not_null_force = crate::conformance::migrations::add_column_not_null_force;
            migrate_remove_column_safe = crate::conformance::migrations::remove_column_safe;
            migrate_remove_column_force = crate::conformance::migrations::remove_column_force;
            migrate_remove_column_not_null_safe = crate::conformance::migrations::remove_column_not_null_safe;
            migrate_remove_column_not_null_force = crate::conformance::migrations::remove_column_not_null_force;
            migrate_change_column_safe = crate::conformance::migrations::change_column_safe;
            migrate_change_column_force = crate::conformance::migrations::change_column_force;
            migrate_remove_unique_constraint_only_safe = crate::conformance::migrations::remove_unique_safe;
            migrate_remove_unique_constraint_only_force = crate::conformance::migrations::remove_unique_force;
            migrate_move_to_cq_id_only_safe = crate::conformance::migrations::move_to_cq_id_safe;
            migrate_move_to_cq_id_only_force = crate::conformance::migrations::move_to_cq_id_force;
            migrate_move_to_cq_id_only_adding_pkc_safe = crate::conformance::migrations::move_to_cq_id_pkc_safe;
            migrate_move_to_cq_id_only_adding_pkc_force = crate::conformance::migrations::move_to_cq_id_pkc_force;
            migrate_double_migration_safe = crate::conformance::migrations::double_safe;
            migrate_double_migration_force = crate::conformance::migrations::double_force;
        }
    };
}

use {every_case, tests};

mod sqlite {
    crate::conformance::every_case!(crate::conformance::systems::System::sqlite());
}

mod postgresql {
    crate::conformance::every_case!(crate::conformance::systems::System::postgresql());
}

/// Files have no rows that could be updated or removed by a key: what needs that is ignored.
mod files {
    use super::{cases, migrations, streams, systems::System};

    super::tests! { System::files();
        #[ignore = "files cannot update rows by key: rows are added"]
        upsert_basic = cases::upsert_basic;
        #[ignore = "files cannot update rows by key: rows are added"]
        upsert_all = cases::upsert_all;
        #[ignore = "files cannot update rows by key: rows are added"]
        upsert_duplicate_keys = cases::upsert_duplicate_keys;
        insert_basic = cases::insert_basic;
        insert_all = cases::insert_all;
        #[ignore = "files cannot remove rows"]
        delete_stale_basic = cases::delete_stale_basic;
        #[ignore = "files cannot remove rows"]
        delete_stale_all = cases::delete_stale_all;
        #[ignore = "files cannot remove rows"]
        delete_record_basic = cases::delete_record_basic;
        #[ignore = "files cannot remove rows"]
        delete_record_delete_all = cases::delete_record_delete_all;
        #[ignore = "files cannot remove rows"]
        delete_record_with_children = cases::delete_record_with_children;
        state_table = cases::state_table;
        what_files_cannot_do_is_refused = cases::refused_without_keys;
        a_stream_that_ends_is_durable = streams::durable;
        a_large_message = streams::large;
        a_failed_write_ends_at_once = streams::fails_at_once;
        a_stream_that_is_given_up_leaves_nothing = streams::given_up;
        cursors_never_overtake_rows = streams::cursors_wait;
        cursors_of_lost_rows_are_refused = streams::cursors_of_lost_rows;
        several_streams_at_once = streams::several;
        rows_of_a_table_that_was_never_sent = streams::not_migrated;
        a_signal_commits_nothing = streams::signal;
        migrate_add_column_safe = migrations::add_column_safe;
        migrate_add_column_force = migrations::add_column_force;
        migrate_add_column_not_null_safe = migrations::add_column_not_null_safe;
        migrate_add_column_not_null_force = migrations::add_column_not_null_force;
        migrate_remove_column_safe = migrations::remove_column_safe;
        migrate_remove_column_force = migrations::remove_column_force;
        migrate_remove_column_not_null_safe = migrations::remove_column_not_null_safe;
        migrate_remove_column_not_null_force = migrations::remove_column_not_null_force;
        migrate_change_column_safe = migrations::change_column_safe;
        migrate_change_column_force = migrations::change_column_force;
        migrate_remove_unique_constraint_only_safe = migrations::remove_unique_safe;
        migrate_remove_unique_constraint_only_force = migrations::remove_unique_force;
        #[ignore = "files have no primary key that could move"]
        migrate_move_to_cq_id_only_safe = migrations::move_to_cq_id_safe;
        #[ignore = "files have no primary key that could move"]
        migrate_move_to_cq_id_only_force = migrations::move_to_cq_id_force;
        #[ignore = "files have no primary key that could move"]
        migrate_move_to_cq_id_only_adding_pkc_safe = migrations::move_to_cq_id_pkc_safe;
        #[ignore = "files have no primary key that could move"]
        migrate_move_to_cq_id_only_adding_pkc_force = migrations::move_to_cq_id_pkc_force;
        migrate_double_migration_safe = migrations::double_safe;
        migrate_double_migration_force = migrations::double_force;
    }
}
