//! Finding and loading the shared library of a driver at run time.
//!
//! DuckDB's library is one file that is a driver too. It is looked for in this order: the key
//! `library` and the variable [`DUCKDB_LIB`] (a file, or the folder that holds it); drivers that
//! were installed for ADBC (a manifest or a library in `$ADBC_DRIVER_PATH`,
//! `$XDG_CONFIG_HOME/adbc/drivers` or `~/.config/adbc/drivers`, `/etc/adbc/drivers`); the folders in
//! which the system keeps libraries; packages of npm. Where a path is named, no other is tried.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use adbc_core::options::AdbcVersion;
use adbc_core::{LOAD_FLAG_SEARCH_ENV, LOAD_FLAG_SEARCH_SYSTEM, LOAD_FLAG_SEARCH_USER};
use adbc_driver_manager::ManagedDriver;
use highwater_core::{Error, Result};

/// The variable that names DuckDB's library.
pub(crate) const DUCKDB_LIB: &str = "HIGHWATER_DUCKDB_LIB";
/// What makes DuckDB's library a driver.
const DUCKDB_ENTRY_POINT: &[u8] = b"duckdb_adbc_init";

/// The file name of DuckDB's library on this system.
const DUCKDB_FILE: &str = if cfg!(target_os = "macos") {
    "libduckdb.dylib"
} else if cfg!(windows) {
    "duckdb.dll"
} else {
    "libduckdb.so"
};

/// Folders in which systems and package managers keep libraries.
const FOLDERS: [&str; 9] = [
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/homebrew/lib",
    "/opt/homebrew/opt/duckdb/lib",
    "/usr/local/opt/duckdb/lib",
    "/home/linuxbrew/.linuxbrew/lib",
];

/// Folders below which npm puts packages.
const NODE_MODULES: [&str; 4] = [
    "node_modules",
    "/usr/local/lib/node_modules",
    "/usr/lib/node_modules",
    "/opt/homebrew/lib/node_modules",
];

/// Who named the path of DuckDB's library.
#[derive(Debug, Clone, Copy)]
enum NamedBy {
    Key,
    Variable,
}

impl NamedBy {
    fn words(self) -> String {
        match self {
            Self::Key => "the key `library`".to_owned(),
            Self::Variable => format!("the variable {DUCKDB_LIB}"),
        }
    }

    /// The setting with a path that would do.
    fn example(self) -> String {
        match self {
            Self::Key => format!("library: /path/of/{DUCKDB_FILE}"),
            Self::Variable => format!("export {DUCKDB_LIB}=/path/of/{DUCKDB_FILE}"),
        }
    }
}

/// Libraries stay loaded as long as the process lives.
static LOADED: Mutex<BTreeMap<String, ManagedDriver>> = Mutex::new(BTreeMap::new());

/// Loads DuckDB: the library (or the one in the folder) that is named, else the one that is found.
///
/// # Errors
/// `Config` when there is no library, or it is none of DuckDB.
pub(crate) fn duckdb(library: Option<&Path>) -> Result<ManagedDriver> {
    let variable = || env::var_os(DUCKDB_LIB).filter(|path| !path.is_empty()).map(PathBuf::from);
    let key = library.map(|path| (path.to_owned(), NamedBy::Key));
    let named = key.or_else(|| variable().map(|path| (path, NamedBy::Variable)));
    let name = named.as_ref().map_or_else(|| "duckdb".to_owned(), |(p, _)| p.display().to_string());
    once(&name, || match named {
        Some((path, by)) => load_named(&path, by),
        None => search(),
    })
}

/// Loads the driver of any system, by the name of its manifest or the path of its library.
///
/// # Errors
/// `Config` when there is none, with what the driver manager says.
pub(crate) fn named(name: &str, entry_point: Option<&str>) -> Result<ManagedDriver> {
    once(&format!("{name}\n{}", entry_point.unwrap_or_default()), || {
        let found = ManagedDriver::load_from_name(
            name,
            entry_point.map(str::as_bytes),
            AdbcVersion::V110,
            adbc_core::LOAD_FLAG_DEFAULT,
            None,
        );
        found.map_err(|error| {
            Error::config("The ADBC driver cannot be loaded")
                .context("driver", name)
                .hint(
                    "driver: /path/of/the/driver.so, or the name of a driver that `dbc install` \
                     has put into ~/.config/adbc/drivers",
                )
                .caused_by(error)
        })
    })
}

fn once(name: &str, load: impl FnOnce() -> Result<ManagedDriver>) -> Result<ManagedDriver> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = loaded.get(name) {
        return Ok(driver.clone());
    }
    let driver = load()?;
    loaded.insert(name.to_owned(), driver.clone());
    Ok(driver)
}

/// Loads the library that the user names. Another one that is installed is not taken in its place.
fn load_named(path: &Path, by: NamedBy) -> Result<ManagedDriver> {
    let file = if path.is_dir() { path.join(DUCKDB_FILE) } else { path.to_owned() };
    if !file.is_file() {
        return Err(not_there(path, by));
    }
    open(&file).map_err(|error| error.context("named by", by.words()).hint(by.example()))
}

fn not_there(path: &Path, by: NamedBy) -> Error {
    let what = match path.is_dir() {
        true => format!("The folder that {} names does not hold DuckDB's library", by.words()),
        false => {
            format!("There is no file at the path that {} names for DuckDB's library", by.words())
        }
    };
    Error::config(what).context("path", path.display()).hint(format!(
        "{}, the file or the folder that holds it; or leave it out and install the library: {}",
        by.example(),
        ways()
    ))
}

fn open(file: &Path) -> Result<ManagedDriver> {
    let loaded = ManagedDriver::load_dynamic_from_filename(
        file,
        Some(DUCKDB_ENTRY_POINT),
        AdbcVersion::V110,
    );
    let driver = loaded.map_err(|error| {
        Error::config("The library is not one of DuckDB for this system")
            .context("file", file.display())
            .hint(format!("export {DUCKDB_LIB}=/path/of/{DUCKDB_FILE}"))
            .caused_by(error)
    })?;
    tracing::debug!(library = %file.display(), "DuckDB's library is loaded");
    Ok(driver)
}

fn search() -> Result<ManagedDriver> {
    let installed = ManagedDriver::load_from_name(
        "duckdb",
        Some(DUCKDB_ENTRY_POINT),
        AdbcVersion::V110,
        LOAD_FLAG_SEARCH_ENV | LOAD_FLAG_SEARCH_USER | LOAD_FLAG_SEARCH_SYSTEM,
        None,
    );
    let not_installed = match installed {
        Ok(driver) => {
            tracing::debug!("DuckDB's library is loaded as an installed ADBC driver");
            return Ok(driver);
        }
        Err(error) => error,
    };
    let mut broken = None;
    for file in candidates().into_iter().filter(|file| file.is_file()) {
        match open(&file) {
            Ok(driver) => return Ok(driver),
            Err(error) => broken = Some(broken.unwrap_or(error)),
        }
    }
    Err(broken.unwrap_or_else(|| missing().caused_by(not_installed)))
}

/// Where the library may be, beside where drivers are installed.
fn candidates() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for variable in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        let folders = env::var_os(variable).unwrap_or_default();
        files.extend(env::split_paths(&folders).map(|folder| folder.join(DUCKDB_FILE)));
    }
    files.extend(FOLDERS.iter().map(|folder| Path::new(folder).join(DUCKDB_FILE)));
    let system = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let package = format!("@duckdb/node-bindings-{system}-{machine}");
    let modules = NODE_MODULES.iter().map(PathBuf::from);
    files.extend(modules.map(|folder| folder.join(&package).join(DUCKDB_FILE)));
    files
}

fn missing() -> Error {
    Error::config("DuckDB's library is not installed: it is loaded at run time")
        .hint(format!("{}; anywhere else: `export {DUCKDB_LIB}=/path/of/{DUCKDB_FILE}`", ways()))
}

/// How to get the library to where it is found.
fn ways() -> String {
    let system = if cfg!(target_os = "macos") { "darwin-arm64" } else { "linux-x64" };
    format!(
        "pip: `pip install dbc && dbc install duckdb`; npm: `npm install \
         @duckdb/node-bindings-{system}`; brew: `brew install duckdb`; Debian: unpack {DUCKDB_FILE} \
         of DuckDB's release into /usr/local/lib"
    )
}

#[cfg(test)]
mod tests {
    use highwater_core::ErrorKind;

    use super::*;

    #[test]
    fn a_missing_library_says_how_to_get_it() {
        let error = missing();
        assert_eq!(error.kind(), ErrorKind::Config);
        let hint = error.hint_text().unwrap();
        for way in ["pip install", "npm install", "brew install", "Debian", DUCKDB_LIB] {
            assert!(hint.contains(way), "{hint}");
        }
    }

    /// Whoever names a wrong path has to hear of the path: the library may well be installed.
    #[test]
    fn a_path_without_the_library_is_named_with_who_named_it() {
        let folder = tempfile::tempdir().unwrap();
        for path in [Path::new("/no/such/file"), folder.path()] {
            for (by, name) in [(NamedBy::Key, "`library`"), (NamedBy::Variable, DUCKDB_LIB)] {
                let error = load_named(path, by).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(error.message().contains(name), "{}", error.message());
                assert!(!error.message().contains("not installed"), "{}", error.message());
                assert_eq!(error.context_value("path"), path.to_str());
                assert!(error.hint_text().unwrap().contains(name.trim_matches('`')));
            }
        }
        let by_key = duckdb(Some(Path::new("/no/such/file"))).unwrap_err();
        assert!(by_key.message().contains("`library`"), "{}", by_key.message());
    }

    #[test]
    fn a_file_that_is_no_library_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(DUCKDB_FILE), "not a library").unwrap();
        let error = load_named(folder.path(), NamedBy::Key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.context_value("file").unwrap().ends_with(DUCKDB_FILE));
        assert_eq!(error.context_value("named by"), Some("the key `library`"));
    }
}
