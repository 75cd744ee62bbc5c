//! The genuine PyAirbyte runs our connectors.

use std::path::{Path, PathBuf};
use std::process::Command;

use highwater_testkit::sdk;
use serde_json::{Value, json};

use super::Folder;

/// PyAirbyte's interpreter, or why there is none.
fn python() -> Result<PathBuf, String> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let folder = workspace.join(target).join("sdk/pyairbyte");
    let list = "connectors/airbyte/tests/connectors/requirements-pyairbyte.txt";
    let wanted = std::fs::read(workspace.join(list)).unwrap();
    match std::fs::read(folder.join("installed")) {
        Ok(found) if found == wanted => Ok(folder.join("bin/python")),
        _ => Err(format!("{} has no PyAirbyte: run scripts/install-sdks", folder.display())),
    }
}

/// A program of this name that is the connector.
fn program(folder: &Folder, name: &str) {
    let script = format!(
        "#!/bin/sh\nexec '{}' connector airbyte {name} \"$@\"\n",
        env!("CARGO_BIN_EXE_highwater")
    );
    // Written by another process: no child of this one has it open.
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script, name])
        .current_dir(folder.path())
        .status();
    assert!(written.unwrap().success());
}

const PROGRAM: &str = r#"
import json, pathlib, sqlite3
import airbyte as ab
from airbyte.caches import DuckDBCache

here = pathlib.Path.cwd()
source_config = {"connection_string": "shop.db", "table_options": {"users": {"cursor": "at"}}}

def source():
    path = here / "source-sqlite"
    return ab.get_source("source-sqlite", config=source_config, local_executable=path, streams="*")

def destination(file):
    path = here / "destination-sqlite"
    config = {"connection_string": file, "sync_name": "py"}
    return ab.get_destination("destination-sqlite", config=config, local_executable=path)

def change(script):
    with sqlite3.connect("shop.db") as shop:
        shop.executescript(script)

found = {}
source().check()
cache = DuckDBCache(db_path=here / "cache.duckdb")
def read(name):
    result = source().read(cache=cache)
    rows = sorted((row["id"], row["name"]) for row in result["users"])
    found[name] = {"read": result.processed_records, "rows": rows}
    return result

read("first")
change("INSERT INTO users VALUES (4, 'Dee', '2026-01-04 00:00:00', '4.5');"
       "UPDATE users SET name = 'Amy', at = '2026-01-05 00:00:00' WHERE id = 1;")
result = read("second")
read("third")

copy = destination("copy.db")
copy.check()
copy.write(result)
change("UPDATE users SET name = 'Ben', at = '2026-01-06 00:00:00' WHERE id = 2;")
copy.write(read("fourth"))
destination("straight.db").write(source(), cache=False)
print("FOUND" + json.dumps(found))
"#;

#[test]
fn pyairbyte_reads_and_writes_by_our_connectors() {
    let name = "pyairbyte_reads_and_writes_by_our_connectors";
    let Some(python) = sdk::or_skip(name, python()) else { return };
    let folder = Folder::new();
    let script = "
        CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, at TIMESTAMP, price NUMERIC(10,2));
        INSERT INTO users VALUES (1, 'Ann', '2026-01-01 00:00:00', '1.5'),
            (2, 'Bob', '2026-01-02 00:00:00', '2.5'), (3, 'Cid', '2026-01-03 00:00:00', NULL);";
    folder.database("shop.db").execute_batch(script).unwrap();
    program(&folder, "source-sqlite");
    program(&folder, "destination-sqlite");
    folder.write("program.py", PROGRAM);
    let output = Command::new(python)
        .arg("program.py")
        .current_dir(folder.path())
        .env("AIRBYTE_OFFLINE_MODE", "1")
        .env("DO_NOT_TRACK", "1")
        .env("AIRBYTE_LOGGING_ROOT", folder.path().join("logs"))
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let found = stdout.lines().find_map(|line| line.split_once("FOUND"));
    let Some((_, found)) = found else {
        panic!("{stdout}\n{}", String::from_utf8_lossy(&output.stderr))
    };
    let found: Value = serde_json::from_str(found).unwrap();
    let first = json!([[1, "Ann"], [2, "Bob"], [3, "Cid"]]);
    let second = json!([[1, "Amy"], [2, "Bob"], [3, "Cid"], [4, "Dee"]]);
    assert_eq!(found["first"], json!({"read": 3, "rows": first}));
    // Only what has changed, and then nothing.
    assert_eq!(found["second"], json!({"read": 2, "rows": second}));
    assert_eq!(found["third"], json!({"read": 0, "rows": second}));
    assert_eq!(found["fourth"]["read"], 1);

    let query = "SELECT id, name, price, _airbyte_generation_id FROM users ORDER BY id";
    let rows = [
        ["1", "Amy", "1.5", "1"],
        ["2", "Ben", "2.5", "1"],
        ["3", "Cid", "NULL", "1"],
        ["4", "Dee", "4.5", "1"],
    ];
    for file in ["copy.db", "straight.db"] {
        assert_eq!(folder.query(file, query), rows, "{file}");
        let times = folder.query(file, "SELECT substr(_airbyte_extracted_at, 1, 2) FROM users");
        assert_eq!(times, [["20"]; 4], "{file}");
    }
}
