//! What a file may say of Airbyte's connectors and in Airbyte's words, and what it may not.

use super::{destination, source};
use crate::transcript::Session;

/// Files that are wrong in one thing each. Reading is enough to find it: nothing is started.
fn refused(name: &str, files: &[String]) {
    let mut session = Session::new();
    for text in files {
        session.file("sync.yml", text);
        assert_eq!(session.run("plan sync.yml"), 2, "{text}");
    }
    session.matches(name);
}

fn entry(keys: &str) -> String {
    source(&format!("[{{name: users, {keys}}}]"), "{}") + &destination("")
}

/// The same entry of a source that is built in.
fn built_in(keys: &str) -> String {
    let spec = "{connection_string: shop.db}";
    let text = source(&format!("[{{name: users, {keys}}}]"), spec) + &destination("");
    text.replace("./source-shop\n  registry: airbyte", "sqlite")
}

#[test]
fn modes_that_cannot_be() {
    refused(
        "airbyte_modes_refused",
        &[
            entry("sync_mode: incremental, destination_sync_mode: overwrite"),
            entry("sync_mode: incremental, destination_sync_mode: overwrite_dedup"),
            entry("destination_sync_mode: update"),
            entry("destination_sync_mode: soft_delete"),
            entry("destination_sync_mode: upsert"),
            entry("sync_mode: full"),
            entry("sync_mode: incremental, read_mode: incremental"),
            entry("destination_sync_mode: append, write_mode: append"),
            entry("cursor: updated_at, cursor_field: [updated_at]"),
        ],
    );
}

#[test]
fn paths_and_deletions_that_cannot_be() {
    refused(
        "airbyte_keys_refused",
        &[
            entry("cursor_field: []"),
            entry("cursor_field: metadata..updated_at"),
            entry("primary_key: id"),
            entry("deletes: maybe"),
            entry("sweep: 7"),
            entry("lookback: 10m"),
            entry("null_cursor: exclude"),
            built_in("cursor_field: [metadata, updated_at]"),
            built_in("primary_key: [[owner, id]]"),
        ],
    );
}

#[test]
fn keys_that_belong_to_a_registry() {
    let good = source("[users]", "{}") + &destination("");
    let builtin = |key: &str| {
        source("[users]", "{connection_string: shop.db}")
            .replace("./source-shop\n  registry: airbyte", &format!("sqlite\n  {key}"))
            + &destination("")
    };
    let transformer = "---
kind: transformer
spec:
  name: masked
  path: airbyte/mask
  registry: airbyte
";
    let to_airbyte = |keys: &str| {
        source("[users]", "{}")
            + &destination(keys).replace("path: sqlite", "path: ./copy\n  registry: airbyte")
    };
    refused(
        "airbyte_registry_refused",
        &[
            builtin("config_file: settings.json"),
            builtin("discover_every: 15m"),
            source("[users]", "{}") + &destination("  supports_refreshes: true\n"),
            format!("{good}{transformer}"),
            good.replace("  tables", "  deterministic_cq_id: true\n  tables"),
            good.replace("  tables", "  supports_refreshes: true\n  tables"),
            good.replace("./source-shop", "\"\""),
            good.replace("spec: {}", "spec: [a]"),
            to_airbyte("  metadata_columns: airbyte\n"),
        ],
    );
}
