//! CloudQuery's own plugin SDKs, as `scripts/install-sdks` puts them below the target folder, and
//! the plugins in `connectors/cloudquery/tests/plugins` that run on them.
//!
//! They come from the package registries, so they can be missing where the tests run. A test that
//! needs one says so by name and ends:
//!
//! ```no_run
//! use highwater_testkit::sdk;
//!
//! let folder = tempfile::tempdir().unwrap();
//! let Some(_python) = sdk::or_skip("a_source_that_flushes_early", sdk::python()) else {
//!     return;
//! };
//! let plugin = sdk::executable(folder.path(), "incremental.py");
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The Python interpreter that has CloudQuery's SDK, or why there is none.
pub fn python() -> Result<PathBuf, String> {
    let folder = installed("python", "requirements.txt")?;
    let interpreter = folder.join("bin/python");
    if runs(&interpreter) {
        Ok(interpreter)
    } else {
        Err(format!("{} does not run", interpreter.display()))
    }
}

/// The folder whose `node_modules` has CloudQuery's JavaScript SDK, or why there is none. `node`
/// itself is on the PATH.
pub fn node() -> Result<PathBuf, String> {
    if !runs(Path::new("node")) {
        return Err("node is not installed".to_owned());
    }
    installed("node", "package.json")
}

/// DuckDB's shared library, or why there is none.
pub fn duckdb() -> Result<PathBuf, String> {
    let folder = target().join("sdk/duckdb");
    let wanted = fs::read(workspace().join("connectors/adbc/tests/package.json")).unwrap();
    if fs::read(folder.join("installed")).is_ok_and(|found| found == wanted) {
        let packages = fs::read_dir(folder.join("node_modules/@duckdb")).unwrap();
        let mut packages = packages.map(|package| package.unwrap().path());
        let library = |folder: PathBuf| {
            let files = ["libduckdb.so", "libduckdb.dylib"].map(|file| folder.join(file));
            files.into_iter().find(|file| file.is_file())
        };
        if let Some(file) = packages.find_map(library) {
            return Ok(file);
        }
    }
    Err(format!("{} does not hold DuckDB's library: run scripts/install-sdks", folder.display()))
}

/// The shared library of an ADBC driver from the Python packages (`sqlite`, `postgresql`), or why
/// there is none.
pub fn adbc_driver(name: &str) -> Result<PathBuf, String> {
    let folder = target().join("sdk/adbc");
    let wanted = fs::read(workspace().join("connectors/adbc/tests/requirements.txt")).unwrap();
    if fs::read(folder.join("installed")).is_ok_and(|found| found == wanted) {
        let packages = format!("site-packages/adbc_driver_{name}");
        let pythons = fs::read_dir(folder.join("lib")).unwrap();
        let mut pythons = pythons.map(|python| python.unwrap().path().join(&packages));
        let library = |folder: PathBuf| {
            // Its name is the same on every system.
            let file = folder.join(format!("libadbc_driver_{name}.so"));
            file.is_file().then_some(file)
        };
        if let Some(file) = pythons.find_map(library) {
            return Ok(file);
        }
    }
    Err(format!("{} does not hold ADBC drivers: run scripts/install-sdks", folder.display()))
}

/// What was found, or nothing and a line `skipped: TEST: REASON` on the real stderr, which the
/// test harness does not catch.
pub fn or_skip<T>(test: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            skip(test, &reason);
            None
        }
    }
}

/// Says that a test was skipped, and why, so that it is seen although the test passes.
pub fn skip(test: &str, reason: &str) {
    // One write: the lines of other tests stay whole. The harness catches what `eprintln!`
    // prints, not what is written to the handle.
    let line = format!("skipped: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A test plugin as one executable file in `folder`, as `registry: local` wants it; `plugin` is the
/// name of a file in [`plugins`]: `incremental.py`, `memdb.mjs`. The process that it starts is the
/// plugin itself. Ask [`python`] or [`node`] first: without the SDK this is a failure.
pub fn executable(folder: &Path, plugin: &str) -> PathBuf {
    let file = plugins().join(plugin);
    assert!(file.is_file(), "there is no test plugin {}", file.display());
    let start = if plugin.ends_with(".py") {
        format!("exec {}", quoted(&python().unwrap()))
    } else {
        let folder = quoted(&node().unwrap());
        format!("HIGHWATER_SDK_NODE={folder} exec node")
    };
    let wrapper = folder.join(Path::new(plugin).with_extension(""));
    let script = format!("#!/bin/sh\n{start} {} \"$@\"\n", quoted(&file));
    // Written by another process: while this one has it open, a child that another test starts
    // would hold it open too, and a file that is open for writing cannot be run ("text file busy").
    let written = Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", "sh", &script])
        .arg(&wrapper)
        .status();
    assert!(written.unwrap().success(), "cannot write {}", wrapper.display());
    wrapper
}

/// The folder of the test plugins.
pub fn plugins() -> PathBuf {
    workspace().join("connectors/cloudquery/tests/plugins")
}

/// What the genuine code reads in an Arrow stream: `table`, `columns`, `batches`, `rows`, as
/// `arrow_check.py` describes them; or what it says where it cannot read it. Needs [`python`].
pub fn read_arrow(stream: &[u8]) -> Result<Value, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("message.arrow");
    fs::write(&file, stream).unwrap();
    let printed = arrow_check("read", &file)?;
    Ok(serde_json::from_slice(&printed).unwrap())
}

/// A record of two rows, the second all NULL, with a column of each type that the genuine code
/// can make: table `sample`. Needs [`python`].
pub fn sample_arrow() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sample.arrow");
    arrow_check("sample", &file).unwrap();
    fs::read(&file).unwrap()
}

/// The rows of an Arrow stream as the genuine code writes them, in a form that `arrow_check.py`
/// knows (`single`, `each`, `lz4`, `zstd`, `dictionary`, `slice`); or what it says where it cannot
/// read them. Needs [`python`].
pub fn rewrite_arrow(form: &str, stream: &[u8]) -> Result<Vec<u8>, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("message.arrow");
    fs::write(&file, stream).unwrap();
    arrow_check(form, &file)?;
    Ok(fs::read(&file).unwrap())
}

fn arrow_check(verb: &str, file: &Path) -> Result<Vec<u8>, String> {
    let output = Command::new(python()?)
        .arg(plugins().join("arrow_check.py"))
        .arg(verb)
        .arg(file)
        .output()
        .unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The folder of an SDK, if all that the list of its plugins asks for is in it.
fn installed(name: &str, list: &str) -> Result<PathBuf, String> {
    let wanted = fs::read(plugins().join(list)).unwrap();
    let folder = target().join("sdk").join(name);
    match fs::read(folder.join("installed")) {
        Ok(found) if found == wanted => Ok(folder),
        _ => Err(format!(
            "{} does not hold CloudQuery's SDK: run scripts/install-sdks",
            folder.display()
        )),
    }
}

/// The target folder, as `scripts/install-sdks` finds it.
fn target() -> PathBuf {
    // Joining an absolute path gives that path.
    workspace().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap().to_path_buf()
}

fn runs(program: &Path) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_str().unwrap().replace('\'', r"'\''"))
}
