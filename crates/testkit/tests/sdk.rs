//! The genuine SDKs: what is installed runs, and what is missing is said.

use std::process::Command;

use highwater_testkit::sdk;
use serde_json::json;

/// Run by the next test.
#[test]
#[ignore = "only there to be run by a_skipped_test_is_seen_although_it_passes"]
fn skips() {
    assert_eq!(sdk::or_skip::<()>("skips", Err("no such tool".to_owned())), None);
}

#[test]
fn a_skipped_test_is_seen_although_it_passes() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "sdk::skips"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("skipped: skips: no such tool\n"), "{said}");
}

#[test]
fn a_python_plugin_is_one_executable() {
    let test = "a_python_plugin_is_one_executable";
    if sdk::or_skip(test, sdk::python()).is_none() {
        return;
    }
    for plugin in ["incremental.py", "destination.py", "memdb.py"] {
        runs(plugin);
    }
}

#[test]
fn a_node_plugin_is_one_executable() {
    let test = "a_node_plugin_is_one_executable";
    if sdk::or_skip(test, sdk::node()).is_some() {
        runs("memdb.mjs");
    }
}

/// A folder with a blank and a quote in its name does no harm.
fn runs(plugin: &str) {
    let folder = tempfile::Builder::new().prefix("it's a ").tempdir().unwrap();
    let program = sdk::executable(folder.path(), plugin);
    let output = Command::new(program).args(["serve", "--help"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("--address"), "{plugin}: {output:?}");
}

#[test]
fn the_genuine_code_reads_its_own_sample() {
    let test = "the_genuine_code_reads_its_own_sample";
    if sdk::or_skip(test, sdk::python()).is_none() {
        return;
    }
    let found = sdk::read_arrow(&sdk::sample_arrow()).unwrap();
    assert_eq!(found["table"]["name"], "sample");
    assert_eq!(found["batches"], 1);
    assert_eq!(found["columns"][0]["type"], "uuid");
    assert_eq!(found["rows"][0][0], "00112233-4455-6677-8899-aabbccddeeff");
    assert_eq!(found["rows"][0][1], json!({"a": [1, null]}));
    assert!(found["rows"][1].as_array().unwrap().iter().all(|value| value.is_null()));
    let error = sdk::read_arrow(b"no Arrow stream").unwrap_err();
    assert!(error.contains("ArrowInvalid"), "{error}");
}
