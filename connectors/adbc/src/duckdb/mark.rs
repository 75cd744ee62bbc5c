//! What the comment of a table says that highwater has made: what tells it from a later table of
//! the same name, and its key.

use highwater_core::TableName;
use highwater_sql::Dialect;
use serde::{Deserialize, Serialize};

use super::dialect::{DuckDbDialect, literal};
use super::types::MARK;

/// What a comment says, as JSON behind [`MARK`]; a user's own words before it are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The token of the run that has made the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<String>,
    /// The columns of the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) key: Vec<String>,
}

impl Mark {
    /// What a comment says; nothing where it is none of ours.
    pub(crate) fn parse(comment: Option<&str>) -> Self {
        let json = comment.and_then(|comment| Some(comment.rsplit_once(MARK)?.1));
        json.and_then(|json| serde_json::from_str(json.trim()).ok()).unwrap_or_default()
    }

    /// The statement that makes the mark, behind the words of `before` that are not ours.
    pub(crate) fn statement(&self, table: &TableName, before: Option<&str>) -> String {
        let words = before.map_or("", |comment| comment.split(MARK).next().unwrap_or_default());
        let json = serde_json::to_string(self).unwrap_or_default();
        let comment = literal(&format!("{words}{MARK} {json}"));
        format!("COMMENT ON TABLE {} IS {comment}", DuckDbDialect.table(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_leaves_a_users_words() {
        let mark = Mark { identity: Some("7f-run".into()), key: vec!["it's".into(), "b".into()] };
        let sql = mark.statement(&TableName::new("t"), Some("Orders. highwater: {\"key\":[]}"));
        let comment = sql.strip_prefix("COMMENT ON TABLE \"t\" IS '").unwrap();
        let comment = comment.strip_suffix('\'').unwrap().replace("''", "'");
        assert!(comment.starts_with("Orders. "));
        assert_eq!(Mark::parse(Some(&comment)), mark);
        assert_eq!(Mark::parse(Some("somebody's")), Mark::default());
        assert_eq!(Mark::parse(None), Mark::default());
    }
}
