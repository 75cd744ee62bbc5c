//! A genuine destination, on Airbyte's own Python SDK: what arrives, and what is swapped in.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use highwater_core::{Checkpoint, Plan, WriteMode};
use highwater_testkit::sdk;
use serde_json::{Value, json};

use super::destination_support::{Place, at, batch, connectors, name, plan, table};

/// The interpreter that has Airbyte's SDK.
fn python() -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let folder = workspace.join(target).join("sdk/airbyte");
    let wanted = std::fs::read(connectors().join("requirements.txt")).unwrap();
    match std::fs::read(folder.join("installed")) {
        Ok(found) if found == wanted => Ok(folder.join("bin/python")),
        _ => Err(format!(
            "{} does not hold Airbyte's SDK: run scripts/install-sdks",
            folder.display()
        )),
    }
}

/// `destination_sqlite.py` as a program, writing into a database of its folder.
fn sqlite(python: &Path, settings: &Value) -> Place {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("destination-sqlite");
    let script = connectors().join("destination_sqlite.py");
    let text = format!("#!/bin/sh\nexec '{}' '{}' \"$@\"\n", python.display(), script.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut settings = settings.clone();
    settings["path"] = json!(folder.path().join("data.db"));
    let mut place = Place::of(&program, settings);
    place.config.connector.cache_dir = folder.path().join("cache");
    place.folder = folder;
    place
}

/// The ids of a table, in the order of the rows.
fn ids(python: &Path, place: &Place, table: &str) -> Vec<i64> {
    let code = "import json, sqlite3, sys\nprint(json.dumps([r[0] for r in sqlite3.connect(sys.argv[1]).execute(f'SELECT id FROM {sys.argv[2]} ORDER BY rowid')]))";
    let database = place.folder.path().join("data.db");
    let printed =
        Command::new(python).args(["-c", code]).arg(database).arg(table).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    serde_json::from_slice(&printed.stdout).unwrap()
}

/// Rows of each table and a position, then the end.
async fn run(
    place: &Place,
    plan: &Plan,
    rows: &[(&str, std::ops::Range<i64>)],
    complete: &[&str],
) -> Vec<Checkpoint> {
    let destination = place.destination();
    let mut writer = place.writer(&destination, plan).await;
    for (table, ids) in rows {
        writer.write(batch(plan, table, ids.clone())).await.unwrap();
        writer.commit(&at(table, ids.end)).await.unwrap();
    }
    let complete: Vec<_> = complete.iter().map(|table| name(table)).collect();
    let ended = writer.end(&complete).await;
    let mut durable = writer.durable().await.unwrap_or_default();
    durable.extend(ended.unwrap_or_else(|e| panic!("{}", e.full_message())));
    durable
}

fn modes(generation: u64) -> Plan {
    let mut tables = vec![
        table("plain", WriteMode::Append),
        table("keyed", WriteMode::Overwrite),
        table("whole", WriteMode::Replace),
        table("other", WriteMode::Replace),
    ];
    for table in &mut tables {
        table.generation = generation;
    }
    plan(tables)
}

#[tokio::test]
async fn a_destination_of_the_sdk_does_each_write_mode() {
    let found = sdk::or_skip("a_destination_of_the_sdk_does_each_write_mode", python());
    let Some(python) = found else { return };
    let place = sqlite(&python, &json!({}));
    let all = ["plain", "keyed", "whole", "other"];
    let first: Vec<_> = all.iter().map(|table| (*table, 1..4)).collect();
    let durable = run(&place, &modes(1), &first, &all).await;
    assert_eq!(durable, all.map(|table| at(table, 4)));
    for table in all {
        assert_eq!(ids(&python, &place, table), [1, 2, 3], "{table}");
    }

    // `other` is not complete: readers keep what they had.
    let second: Vec<_> = all.iter().map(|table| (*table, 3..5)).collect();
    run(&place, &modes(2), &second, &["plain", "keyed", "whole"]).await;
    assert_eq!(ids(&python, &place, "plain"), [1, 2, 3, 3, 4]);
    let mut keyed = ids(&python, &place, "keyed");
    keyed.sort_unstable();
    assert_eq!(keyed, [1, 2, 3, 4]);
    assert_eq!(ids(&python, &place, "whole"), [3, 4]);
    assert_eq!(ids(&python, &place, "other"), [1, 2, 3]);
}

#[tokio::test]
async fn a_destination_of_the_sdk_that_fails_keeps_what_it_confirmed() {
    let found =
        sdk::or_skip("a_destination_of_the_sdk_that_fails_keeps_what_it_confirmed", python());
    let Some(python) = found else { return };
    let place = sqlite(&python, &json!({"fail_at_record": 6}));
    let destination = place.destination();
    let plan = plan(vec![table("plain", WriteMode::Append)]);
    let mut writer = place.writer(&destination, &plan).await;
    for position in 0..3 {
        writer.write(batch(&plan, "plain", position * 2..position * 2 + 2)).await.unwrap();
        writer.commit(&at("plain", position)).await.unwrap();
    }
    let error = writer.end(&[name("plain")]).await.unwrap_err();
    let durable = writer.durable().await.unwrap();
    assert_eq!(durable, [at("plain", 0), at("plain", 1)]);
    assert_eq!(ids(&python, &place, "plain"), [0, 1, 2, 3]);
    let words = error.full_message();
    assert!(words.contains("asked to fail at record 6"), "{words}");
}
