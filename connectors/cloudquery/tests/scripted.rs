//! The scripted plugin as a program that can be started: `examples/scripted_plugin`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highwater_cloudquery::host::{PluginSpec, Registry, Role};

/// The program of the example, which `cargo test -p highwater-cloudquery` builds.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/scripted_plugin");
    assert!(
        program.is_file(),
        "build it first: cargo build -p highwater-cloudquery --example scripted_plugin"
    );
    program
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
    std::fs::write(path, lines).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
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
