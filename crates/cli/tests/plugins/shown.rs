//! Where the cursors of a plugin are, as `plan` and `state` say it.

use super::{destination, events, has_sdk, session, source};

fn sqlite(name: &str, file: &str) -> String {
    destination(name, "sqlite", "", &format!("    connection_string: {file}\n"))
}

#[test]
fn cursors_of_a_plugin_are_shown_where_they_are() {
    if !has_sdk("cursors_of_a_plugin_are_shown_where_they_are") {
        return;
    }
    let mut session = session(&events(1..=3));
    let apart = source("copy", "state", "") + &sqlite("copy", "copy.db");
    session.file("apart.yml", &(apart + &sqlite("state", "state.db")));
    assert_eq!(session.run("plan apart.yml"), 0);
    assert_eq!(session.run("state show apart.yml"), 0);
    assert_eq!(session.run("sync apart.yml"), 0);
    assert_eq!(session.run("state show apart.yml"), 0);
    assert_eq!(session.run("state show apart.yml --json"), 0);
    assert_eq!(session.run("state list apart.yml"), 0);
    let none = source("copy", "copy", "") + &sqlite("copy", "new.db");
    let backend = "  backend_options:
    table_name: cq_state
    connection: \"@@plugins.copy.connection\"
";
    assert!(none.contains(backend));
    session.file("none.yml", &none.replace(backend, ""));
    assert_eq!(session.run("plan none.yml"), 0);
    assert_eq!(session.run("state show none.yml"), 0);
    session.matches("plugin_cursors_shown");
}
