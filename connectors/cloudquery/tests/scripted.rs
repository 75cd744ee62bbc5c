//! The scripted plugin as a program that can be started: `examples/scripted_plugin`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_cloudquery::host::{PluginSpec, Registry, Role};

/// The program, which cargo builds with the tests.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_scripted_plugin"))
}

/// The scripted plugin as `registry: local`, with the words of its script.
pub fn spec(script: &str) -> PluginSpec {
    let path = program().display().to_string();
    let mut spec = PluginSpec::new("scripted", Role::Source, Registry::Local, path);
    spec.environment = vec![("SCRIPT".to_owned(), script.to_owned())];
    spec
}

/// An executable file with these lines.
pub fn executable(path: &Path, lines: &str) {
    // Written by another process: while this one has it open, a child that another test starts
    // would hold it open too, and a file that is open for writing cannot be run.
    let written = std::process::Command::new("/bin/sh")
        .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", lines])
        .arg(path)
        .status();
    assert!(written.unwrap().success(), "cannot write {}", path.display());
}

/// The scripted plugin under another path: what works is remembered for each path.
pub fn other_path(folder: &Path) -> String {
    let path = folder.join("plugin");
    executable(&path, &format!("#!/bin/sh\nexec {} \"$@\"\n", program().display()));
    path.display().to_string()
}

/// Whether a process is there and not only waiting for its parent to notice its end.
pub fn is_alive(id: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", id.trim()));
    status.is_ok_and(|line| !line.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// Waits for what another process does; fails after half a minute.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
