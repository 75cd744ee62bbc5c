//! Style as a test: what a reader may rely on in every file of the workspace.

// A broken expectation ends the test that made it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every file below the folders that hold code, with its path relative to the root.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut waiting = vec![root.join("crates"), root.join("connectors")];
    let mut files = Vec::new();
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 50, "the walk found the code");
    files.sort();
    files
}

fn complain(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_file_says_what_it_is() {
    let offenders: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(name, _)| name)
        .collect();
    complain("begin the file with a `//!` that says what it is and why", &offenders);
}

#[test]
fn no_file_is_too_long_to_like() {
    let offenders: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .map(|(name, lines)| format!("{name}: {lines} lines"))
        .collect();
    complain("cut the file by subject, 600 lines are the limit", &offenders);
}

#[test]
fn modules_are_named_after_what_they_hold() {
    const EMPTY_NAMES: [&str; 5] = ["utils", "util", "common", "helpers", "macros"];
    let offenders: Vec<_> = sources()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            let path = Path::new(name);
            let mut parts = path.components().map(|c| c.as_os_str().to_string_lossy());
            parts.any(|part| EMPTY_NAMES.contains(&part.trim_end_matches(".rs")))
        })
        .collect();
    complain("name the module after the noun it holds", &offenders);
}

#[test]
fn nothing_is_left_open() {
    // Split, so that this file does not find itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut offenders = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|w| line.contains(w)) {
                offenders.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    complain("do it, or write down why it is not done", &offenders);
}

#[test]
fn layers_point_one_way() {
    let mut offenders = Vec::new();
    for (name, text) in sources() {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let forbidden: &[&str] = if name.starts_with("crates/core/src") {
            &["highwater_engine", "highwater_sql", "highwater_sqlite", "highwater_postgres"]
        } else if name.starts_with("crates/engine/src") {
            &["highwater_sql", "highwater_sqlite", "highwater_postgres", "highwater_files"]
        } else if name.starts_with("connectors/") && name.contains("/src/") {
            &["highwater_engine"]
        } else {
            &[]
        };
        for line in code {
            if forbidden.iter().any(|f| line.contains(f)) {
                offenders.push(format!("{name}: {}", line.trim()));
            }
        }
    }
    complain("the engine names no connector, a connector names no engine", &offenders);
}

#[test]
fn every_crash_point_is_passed_somewhere() {
    let sources = sources();
    let offenders: Vec<_> = highwater_core::CrashPoint::ALL
        .iter()
        .map(|point| format!("{point:?}"))
        .filter(|point| {
            let call = format!("CrashPoint::{point}");
            !sources.iter().any(|(name, text)| name.contains("/src/") && text.contains(&call))
        })
        .collect();
    complain("a crash point that nothing passes proves nothing", &offenders);
}

#[test]
fn the_documents_point_at_files_that_exist() {
    let root = root();
    let mut offenders = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md", "GLOSSARY.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path = ["crates/", "connectors/", "bench/", "scripts/", "examples/", "docs/"]
                .iter()
                .any(|start| quoted.starts_with(start));
            let placeholder = quoted.contains(['<', '{', '*', ' ']);
            if is_path && !placeholder && !root.join(quoted).exists() {
                offenders.push(format!("{document}: {quoted}"));
            }
        }
    }
    complain("the document names a file that is not there", &offenders);
}
