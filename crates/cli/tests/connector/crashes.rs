//! A destination that dies at any point: what was given back is durable, and the rest comes again.

use std::collections::BTreeSet;

use highwater_core::CrashPoint;
use highwater_testkit::crash::CRASHED;
use serde_json::{Value, json};

use super::write::{numbers, state, status, user, users};
use super::{Folder, Said, catalog};

const POINTS: &[CrashPoint] = &[
    CrashPoint::LeaseTaken,
    CrashPoint::StageRows,
    CrashPoint::CommitFence,
    CrashPoint::CommitRows,
    CrashPoint::CommitState,
    CrashPoint::CommitDone,
    CrashPoint::Acknowledge,
    CrashPoint::Acknowledged,
    CrashPoint::FinishBegin,
    CrashPoint::FinishApplied,
    CrashPoint::FinishDone,
    CrashPoint::LeaseRelease,
];

/// Rows from `from` on, two before each state; the state is the number of the last of them.
fn input(from: i64) -> Vec<Value> {
    let mut lines = Vec::new();
    for id in from..=8 {
        lines.push(user(id, "name", 1));
        if id % 2 == 0 {
            lines.push(state("users", id));
        }
    }
    lines.push(status("users", "COMPLETE"));
    lines
}

fn write(folder: &Folder, input: &[Value], crash: Option<(CrashPoint, u64)>) -> Said {
    let words = "write --config config.json --catalog catalog.json";
    let mut command = folder.command("destination-sqlite", words);
    if let Some((point, nth)) = crash {
        command.env("HIGHWATER_CRASH", format!("{}:{nth}", point.name()));
    }
    folder.run_with(command, input)
}

/// The ids that are durable, in the table or in the one that is to replace it.
fn durable(folder: &Folder) -> BTreeSet<String> {
    let tables = "SELECT name FROM sqlite_master \
                  WHERE name = 'users' OR name GLOB '_highwater_users_*_new'";
    let tables = folder.query("copy.db", tables);
    let ids = tables.iter().flat_map(|table| {
        let query = format!("SELECT id FROM \"{}\"", table[0]);
        folder.query("copy.db", &query)
    });
    ids.map(|mut row| row.remove(0)).collect()
}

#[test]
fn whatever_was_given_back_is_durable() {
    let mut crashes = 0;
    for (mode, generation) in [("append_dedup", (1, 1)), ("append", (1, 0)), ("append", (2, 2))] {
        for &point in POINTS {
            for nth in 1..=3 {
                let folder = Folder::new();
                folder.write("config.json", json!({"connection_string": "copy.db"}));
                if generation == (2, 2) {
                    // Rows that go when the new ones are complete.
                    folder.write("catalog.json", catalog(&[users(mode, Some((1, 0)))]));
                    let old = [user(100, "old", 1), status("users", "COMPLETE")];
                    write(&folder, &old, None).expect(0);
                }
                folder.write("catalog.json", catalog(&[users(mode, Some(generation))]));
                let said = write(&folder, &input(1), Some((point, nth)));
                let what = format!("{mode} {generation:?} {}:{nth}", point.name());
                if said.status.code() != Some(CRASHED) {
                    said.expect(0);
                    continue;
                }
                crashes += 1;
                let told = numbers(&said);
                assert!(told.is_sorted(), "{what}: {told:?}");
                let last = told.last().copied().unwrap_or(0);
                let ids = durable(&folder);
                for id in 1..=last {
                    assert!(ids.contains(&id.to_string()), "{what}: {id} of {ids:?}");
                }
                // The sender goes on behind the last state that it got.
                write(&folder, &input(last + 1), None).expect(0);
                let all = folder.query("copy.db", "SELECT DISTINCT id FROM users ORDER BY id");
                let all: Vec<_> = all.iter().map(|row| row[0].parse::<i64>().unwrap()).collect();
                assert_eq!(all, (1..=8).collect::<Vec<_>>(), "{what}");
            }
        }
    }
    assert!(crashes > 60, "{crashes} crashes only");
}
