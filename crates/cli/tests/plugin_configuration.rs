//! What a file may say of plugins, and what it may not: CloudQuery's rules.

use crate::transcript::Session;

const SOURCE: &str = "kind: source
spec:
  name: shop
  path: ./shop-plugin
  registry: local
  tables: [orders]
  destinations: [copy]
";

const DESTINATION: &str = "---
kind: destination
spec:
  name: copy
  path: sqlite
  write_mode: append
  spec:
    connection_string: copy.db
";

const TRANSFORMER: &str = "---
kind: transformer
spec:
  name: basic
  path: localhost:7777
  registry: grpc
";

/// Files that are wrong in one thing each. Reading is enough to find it: nothing is started.
fn refused(name: &str, files: &[String]) {
    let mut session = Session::new();
    std::fs::create_dir(session.path("folder")).unwrap();
    for text in files {
        session.file("sync.yml", text);
        assert_eq!(session.run("plan sync.yml"), 2, "{text}");
    }
    session.matches(name);
}

fn source(from: &str, to: &str) -> String {
    assert!(SOURCE.contains(from), "{from}");
    format!("{}{DESTINATION}", SOURCE.replace(from, to))
}

fn destination(from: &str, to: &str) -> String {
    assert!(DESTINATION.contains(from), "{from}");
    format!("{SOURCE}{}{TRANSFORMER}", DESTINATION.replace(from, to))
}

#[test]
fn the_registries_and_their_paths() {
    let registry = "path: ./shop-plugin\n  registry: local";
    refused(
        "plugin_registry",
        &[
            source(registry, "path: cloudquery/aws"),
            source(registry, "path: cloudquery/aws\n  version: 27.0.0"),
            source(registry, "path: cloudquery/aws\n  registry: cloudquery\n  version: \"\""),
            source(registry, "path: ./shop-plugin\n  version: v1.0.0"),
            source(registry, "path: localhost:7777\n  version: v1.0.0"),
            source(registry, "path: sqlite\n  registry: cloudquery\n  version: v1.0.0"),
            source(registry, "path: a/b/c\n  version: v1.0.0"),
            source(registry, "path: ./folder\n  registry: local"),
            source(registry, "path: \"\"\n  registry: grpc"),
            source(registry, "path: cloudquery/aws\n  registry: github\n  version: v1.0.0"),
            source(registry, "path: cloudquery/aws\n  registry: builtin"),
            source(registry, "path: cloudquery/aws\n  registry: hub"),
        ],
    );
}

#[test]
fn the_keys_that_must_be_there() {
    let without = |line: &str| source(line, "");
    refused(
        "plugin_missing",
        &[
            without("  name: shop\n"),
            without("  path: ./shop-plugin\n"),
            without("  tables: [orders]\n"),
            without("  destinations: [copy]\n"),
            source("[orders]", "[]"),
            source("[copy]", "[]"),
            source("name: shop", "name: \"\""),
            source("kind: source\n", ""),
            SOURCE.to_owned(),
            DESTINATION.trim_start_matches("---\n").to_owned(),
        ],
    );
}

#[test]
fn names_and_references() {
    refused(
        "plugin_references",
        &[
            format!("{SOURCE}---\n{SOURCE}{DESTINATION}"),
            format!("{SOURCE}{DESTINATION}{DESTINATION}"),
            format!("{SOURCE}{DESTINATION}{TRANSFORMER}{TRANSFORMER}"),
            destination("  spec:", "  transformers: [basics]\n  spec:"),
            format!(
                "{SOURCE}{}",
                DESTINATION.replace("  spec:", "  transformers: [basic]\n  spec:")
            ),
            format!(
                "{SOURCE}{DESTINATION}{}",
                TRANSFORMER.replace("  registry: grpc\n", "  registry: builtin\n")
            ),
            source(
                "path: ./shop-plugin\n  registry: local",
                "path: cloudquery/aws\n  version: v1.0.0",
            ) + "---\n"
                + &SOURCE.replace("name: shop", "name: other").replace(
                    "path: ./shop-plugin\n  registry: local",
                    "path: cloudquery/aws\n  version: v2.0.0",
                ),
        ],
    );
}

#[test]
fn the_backend_and_its_address() {
    let with = |lines: &str| format!("{SOURCE}{lines}{DESTINATION}");
    refused(
        "plugin_backend",
        &[
            with("  backend_options: {table_name: s}\n"),
            with("  backend_options: {connection: \"@@plugins.copy.connection\"}\n"),
            with(
                "  backend_options: {table_name: \"\", connection: \"@@plugins.copy.connection\"}\n",
            ),
            with("  backend_options: {table_name: s, connection: \"@@plugins.cpoy.connection\"}\n"),
            with("  backend_options: {table_name: s, connection: \"@@plugins.copy.path\"}\n"),
            with("  backend_options: {table_name: s, connection: \"localhost:7777\"}\n"),
            with("  spec: {state: [{at: \"@@plugins.cpoy.connection\"}]}\n"),
            with("  spec:\n    state: \"@@plugins.copy.version\"\n"),
            with("  spec:\n    state: \"@@plugins.copy.connection\"\n"),
        ],
    );
}

#[test]
fn what_a_plugin_decides_by_itself() {
    let entry = |lines: &str| source("[orders]", &format!("[{{name: orders, {lines}}}]"));
    refused(
        "plugin_tables",
        &[
            entry("cursor: updated_at"),
            entry("read_mode: full_refresh"),
            entry("lookback: 10m"),
            entry("columns: [id, {name: note, type: text}]"),
        ],
    );
}

#[test]
fn what_goes_with_what() {
    let builtin = |line: &str| {
        let source = SOURCE.replace("path: ./shop-plugin\n  registry: local", "path: sqlite");
        format!("{source}{line}  spec: {{connection_string: shop.db}}\n{DESTINATION}")
    };
    let group = "  sync_group_id: \"{{YEAR}}\"\n  spec:";
    let stale = "[{name: orders, write_mode: overwrite-delete-stale}]";
    refused(
        "plugin_combinations",
        &[
            destination("append\n  spec:", &format!("overwrite-delete-stale\n{group}")),
            destination("  spec:", group).replace("[orders]", stale),
            builtin("  deterministic_cq_id: true\n"),
            builtin("  otel_endpoint: localhost:4318\n"),
            destination("  spec:", "  migrate_mode: force\n  spec:"),
            destination("  spec:", "  pk_mode: cq_id_only\n  spec:"),
            source("  registry: local\n", "  registry: local\n  concurrency: 5\n"),
        ],
    );
}

#[test]
fn a_part_is_for_plugins() {
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY);");
    assert_eq!(session.run("sync shop.db copy.db --shard 1/2"), 2);
    assert_eq!(session.run("sync shop.db copy.db --shard 3/2"), 2);
    session.matches("plugin_shard");
}

/// CloudQuery's flags are taken before and after the command; those without a use do nothing.
#[test]
fn flags_of_cloudquery_are_accepted() {
    let mut session = Session::new();
    session.sql("shop.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY);");
    session.hidden_file("x", b"");
    let flags = "--cq-dir .cq --license x --log-level warn --log-console --no-log-file \
                 --log-file-name c.log --log-file-overwrite --telemetry-level none \
                 --invocation-id 5ca1ab1e-0000-4000-8000-000000000001";
    assert_eq!(session.run(&format!("{flags} sync shop.db copy.db --name a")), 0);
    assert_eq!(session.run(&format!("sync shop.db copy.db --name a {flags}")), 0);
    assert_eq!(session.run("sync shop.db copy.db --name a --invocation-id 5"), 2);
    assert_eq!(session.run("install shop.db --name shop"), 0);
    assert!(!session.path("c.log").exists() && !session.path(".cq").exists());
    session.matches("plugin_flags");
}
