//! Local files of CSV, JSON lines and Parquet, as a source and as a destination.
//!
//! As a source each file is read once, and again when it has changed; as a destination rows and
//! cursors are committed by one entry of a log in `_highwater/` beside the data: a plain reader of
//! the data's folders sees committed rows only.

mod destination;
mod disk;
mod encode;
mod log;
mod row_groups;
mod source;
mod spec;
mod template;
mod writer;

use async_trait::async_trait;
use highwater_core::{Connector, Destination, Error, Result, Role, Source};
use serde_json::{Value, json};

use destination::FilesDestination;
use source::FilesSource;
pub use spec::{
    Compression, DestinationSpec, Format, FormatSpec, OnChange, ParquetCompression, Paths,
    SourceSpec,
};

/// Files on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct FilesConnector;

#[async_trait]
impl Connector for FilesConnector {
    fn kind(&self) -> &'static str {
        "files"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["file"]
    }

    fn defines_cursors(&self) -> bool {
        true
    }

    fn url_schemes(&self) -> &'static [&'static str] {
        &["file"]
    }

    /// `file:///folder/` or a plain path; a source may be a glob, a destination a template.
    fn spec_from_url(&self, url: &str, _role: Role) -> Result<Value> {
        let path = match url.split_once("://") {
            Some(("file", path)) => path.strip_prefix("localhost/").map_or(path, |p| {
                // Keep the slash that begins an absolute path.
                &path[path.len() - p.len() - 1..]
            }),
            Some(_) => return Err(wrong_url(url)),
            None => url.strip_prefix("file:").unwrap_or(url),
        };
        if path.is_empty() {
            return Err(wrong_url(url));
        }
        Ok(json!({ "path": path }))
    }

    fn spec_schema(&self, role: Role) -> Value {
        match role {
            Role::Source => schemars::schema_for!(SourceSpec).to_value(),
            Role::Destination => schemars::schema_for!(DestinationSpec).to_value(),
        }
    }

    async fn source(&self, spec: Value) -> Result<Box<dyn Source>> {
        let spec: SourceSpec = spec::parse(spec)?;
        spec.check()?;
        Ok(Box::new(FilesSource::new(spec)))
    }

    async fn destination(&self, spec: Value) -> Result<Box<dyn Destination>> {
        let spec: DestinationSpec = spec::parse(spec)?;
        Ok(Box::new(FilesDestination::new(spec.settings()?)?))
    }
}

fn wrong_url(url: &str) -> Error {
    Error::config("This is not a path or a `file://` URL")
        .context("url", highwater_core::secret::redact_url(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_paths_name_files() {
        let path = |url| FilesConnector.spec_from_url(url, Role::Source).unwrap()["path"].clone();
        assert_eq!(path("file:///data/in/"), "/data/in/");
        assert_eq!(path("file://localhost/data"), "/data");
        assert_eq!(path("./in/*.csv"), "./in/*.csv");
        assert_eq!(path("file:in.csv"), "in.csv");
        for wrong in ["s3://bucket/x.csv", "", "file://"] {
            assert!(FilesConnector.spec_from_url(wrong, Role::Source).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_schema_explains_the_keys_of_the_format() {
        // The reference page shows the keys of `spec` only: those below are in its text.
        let schema = schemars::schema_for!(FormatSpec).to_value();
        let text = FilesConnector.spec_schema(Role::Destination);
        let text = text["properties"]["format_spec"]["description"].to_string();
        for key in schema["properties"].as_object().unwrap().keys() {
            assert!(text.contains(&format!("`{key}")), "{key}");
        }
    }

    #[test]
    fn the_schema_names_every_key() {
        let schema = FilesConnector.spec_schema(Role::Destination);
        assert!(schema["properties"]["batch_size_bytes"]["description"].is_string());
        assert_eq!(schema["additionalProperties"], false);
        assert!(FilesConnector.spec_schema(Role::Source)["properties"]["on_change"].is_object());
    }
}
