//! The digests of keys, computed inside a database: the statement of
//! [`highwater_core::key_digests`], spelled by each system's [`KeySpelling`].

use highwater_core::key_digests::{Chosen, KeyForm};
use highwater_core::plan::SOURCE_NAME;
use highwater_core::{Error, KeyTable};

use crate::dialect::Dialect;

/// How one system writes down and hashes a key.
pub trait KeySpelling {
    /// The text of a value in its form; NULL for NULL.
    fn text(&self, column: &str, form: KeyForm) -> String;

    /// How many bytes a text has in UTF-8.
    fn bytes(&self, text: &str) -> String;

    /// The first 60 bits of the MD5 of a text in UTF-8, as an integer of 64 bits.
    fn hash(&self, text: &str) -> String;
}

/// The expression for the hash of a row's key.
pub fn hash(dialect: &dyn Dialect, spelling: &dyn KeySpelling, keys: &KeyTable) -> String {
    let last = keys.columns.len().saturating_sub(1);
    let parts = keys.columns.iter().enumerate().map(|(at, column)| {
        let name = dialect.quote(column.field.name());
        let text = spelling.text(&name, column.form);
        let written = match at == last {
            true => format!("'v' || {text}"),
            false => format!("'v' || {} || ':' || {text}", spelling.bytes(&text)),
        };
        // What is put together with NULL is NULL.
        format!("coalesce({written}, 'n')")
    });
    spelling.hash(&parts.collect::<Vec<_>>().join(" || "))
}

/// The condition that a row is one of those whose keys are wanted.
pub fn condition(dialect: &dyn Dialect, keys: &KeyTable) -> Option<String> {
    let sync = keys.of_sync.as_ref()?.replace('\'', "''");
    Some(format!("{} = '{sync}'", dialect.quote(SOURCE_NAME)))
}

/// The statement for the digests of a table `from`: bucket, keys, sum of the upper and of the lower
/// halves of the hashes, a row for each bucket that has keys. `hash` and `condition` are those of
/// this module; `buckets` is a power of two.
pub fn digests(from: &str, hash: &str, condition: Option<&str>, buckets: u32) -> String {
    let condition = condition.map(|c| format!(" WHERE {c}")).unwrap_or_default();
    let mask = buckets.saturating_sub(1);
    // The offset keeps the hash from being computed for each of its uses.
    format!(
        "SELECT CAST(h & {mask} AS integer), count(*), \
         CAST(sum(CAST(h >> 30 AS integer)) AS bigint), \
         CAST(sum(CAST(h & 1073741823 AS integer)) AS bigint) \
         FROM (SELECT {hash} AS h FROM {from}{condition} OFFSET 0) AS hashed GROUP BY 1"
    )
}

/// The condition that a key is in one of the buckets; `None`: all are.
pub fn chosen(hash: &str, chosen: &Chosen, list: impl Fn(&[String]) -> String) -> Option<String> {
    if chosen.buckets.len() >= chosen.of as usize {
        return None;
    }
    let buckets: Vec<_> = chosen.buckets.iter().map(u32::to_string).collect();
    Some(format!("CAST({hash} & {} AS integer){}", chosen.of - 1, list(&buckets)))
}

/// The error of a table whose system takes different keys for the same one.
pub fn blind(keys: &KeyTable) -> Error {
    Error::unsupported("Keys that differ are the same for the collation of the key")
        .context("destination table", &keys.name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_buckets_need_no_condition() {
        let list = |buckets: &[String]| format!(" IN ({})", buckets.join(", "));
        let some = Chosen { of: 4, buckets: BTreeSet::from([1, 3]) };
        assert_eq!(chosen("h", &some, list).unwrap(), "CAST(h & 3 AS integer) IN (1, 3)");
        let all = Chosen { of: 4, buckets: (0..4).collect() };
        assert_eq!(chosen("h", &all, list), None);
    }
}
