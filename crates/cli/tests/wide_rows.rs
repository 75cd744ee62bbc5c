//! A table much larger than the memory that a sync may take, of rows of a megabyte each.

use std::process::{Child, Command, Stdio};

use highwater_testkit::postgres::Postgres;
use rusqlite::Connection;
use tempfile::TempDir;

const ROWS: i64 = 300;
/// Far below the table. The program itself, which is not optimised here, takes 35 MiB of it, and the
/// page cache of SQLite 32.
const MOST_KIB: u64 = 128 << 10;

/// Waits for the end; the most memory that the child ever had, in KiB, as it said last. The figure
/// only grows, so that it does not matter when one looks, as long as one looks near the end.
fn peak(child: &mut Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let said = std::fs::read_to_string(&status).unwrap_or_default();
        let line = said.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(figure) = line.and_then(|line| line.trim().strip_suffix(" kB")) {
            peak = peak.max(figure.trim().parse().unwrap());
        }
        if child.try_wait().unwrap().is_some() {
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn rows_of_a_megabyte_take_little_memory() {
    let source = Postgres::shared().create_database();
    // What is stored is small, and what is sent is not.
    source.execute(&format!(
        "CREATE TABLE wide (id int PRIMARY KEY, body text);
         INSERT INTO wide SELECT i, repeat(md5(i::text), 32768) FROM generate_series(1, {ROWS}) i"
    ));
    let (copy, folder) = (Postgres::shared().create_database(), TempDir::new().unwrap());
    let file = folder.path().join("wide.db").display().to_string();
    for destination in [copy.url(), &file] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(["sync", source.url(), destination, "--table", "wide", "--name", "wide"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let peak = peak(&mut child);
        assert!(child.wait().unwrap().success(), "{destination}");
        assert!(peak > 0, "the figure was never seen");
        assert!(peak < MOST_KIB, "{destination}: {peak} KiB for a table of {ROWS} MiB");
    }
    let sums = "SELECT count(*), sum(length(body)) FROM wide";
    let expected = (ROWS, ROWS << 20);
    let row = copy.rows(sums).concat();
    let at = |n: usize| row[n].as_ref().unwrap().parse::<i64>().unwrap();
    assert_eq!((at(0), at(1)), expected);
    let stored = Connection::open(&file).unwrap();
    let stored = stored.query_row(sums, [], |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(stored, Ok(expected));
}
