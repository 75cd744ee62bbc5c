//! The connectors that this binary has, in alphabetical order. A new one is one line here.

use highwater_core::Connector;

/// Every built-in connector.
pub static CONNECTORS: &[&dyn Connector] = &[
    &highwater_adbc::AdbcConnector,
    &highwater_adbc::DuckDbConnector,
    &highwater_files::FilesConnector,
    &highwater_mysql::MysqlConnector,
    &highwater_postgres::PostgresConnector,
    &highwater_sqlite::SqliteConnector,
];

/// The connector that a `path:` names: its kind, one of its other names, or either behind
/// `cloudquery/`.
pub fn by_path(path: &str) -> Option<&'static dyn Connector> {
    let name = path.strip_prefix("cloudquery/").unwrap_or(path);
    CONNECTORS.iter().copied().find(|c| c.kind() == name || c.aliases().contains(&name))
}

/// The connector of a URL's scheme.
pub fn by_scheme(scheme: &str) -> Option<&'static dyn Connector> {
    CONNECTORS.iter().copied().find(|c| c.url_schemes().contains(&scheme))
}

/// The names of all connectors, for messages.
pub fn kinds() -> Vec<&'static str> {
    CONNECTORS.iter().map(|c| c.kind()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_alphabetical_and_no_name_or_scheme_is_taken_twice() {
        let kinds = kinds();
        assert!(kinds.is_sorted(), "{kinds:?}");
        let mut names: Vec<_> = CONNECTORS
            .iter()
            .flat_map(|c| c.aliases().iter().copied().filter(|a| *a != c.kind()).chain([c.kind()]))
            .collect();
        let mut schemes: Vec<_> =
            CONNECTORS.iter().flat_map(|c| c.url_schemes().iter().copied()).collect();
        for list in [&mut names, &mut schemes] {
            let count = list.len();
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), count, "{list:?}");
        }
    }
}
