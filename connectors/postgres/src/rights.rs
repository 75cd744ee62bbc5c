//! What to do when the server refuses a statement: the right that a role lacks, spelled as the
//! statement that grants it, and the rule of a destination table that a row breaks.

use crate::dialect::STATE_SCHEMA;
use crate::session::quote;

/// The statement that grants what the server says that the role lacks. `None` when the message is
/// of another form (servers speak other languages too) and the general hint has to do.
pub(crate) fn hint(message: &str, writes: bool, user: &str) -> Option<String> {
    let role = quote(user);
    if let Some(rest) = message.strip_prefix("must be owner of ") {
        let (kind, name) = rest.split_once(' ')?;
        return Some(format!(
            "ALTER {} {} OWNER TO {role}, or make the changes that `highwater plan` lists by hand",
            kind.to_uppercase(),
            quote(name)
        ));
    }
    let (kind, name) = message.strip_prefix("permission denied for ")?.split_once(' ')?;
    let quoted = quote(name);
    Some(match (kind, writes) {
        ("database", _) => format!("GRANT CREATE ON DATABASE {quoted} TO {role}"),
        ("schema", true) if name == STATE_SCHEMA => format!(
            "GRANT USAGE, CREATE ON SCHEMA {quoted} TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {quoted} TO {role}"
        ),
        ("schema", true) => format!("GRANT USAGE, CREATE ON SCHEMA {quoted} TO {role}"),
        ("schema", false) => format!("GRANT USAGE ON SCHEMA {quoted} TO {role}"),
        ("table", true) => {
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {quoted} TO {role}")
        }
        ("table" | "view" | "relation", _) => format!("GRANT SELECT ON TABLE {quoted} TO {role}"),
        ("type", _) => format!("GRANT USAGE ON TYPE {quoted} TO {role}"),
        ("sequence", _) => format!("GRANT USAGE ON SEQUENCE {quoted} TO {role}"),
        ("function", _) => format!("GRANT EXECUTE ON FUNCTION {quoted} TO {role}"),
        _ => return None,
    })
}

/// What to do about a row that the destination table refuses.
pub(crate) fn refused_row(code: &str) -> Option<String> {
    let hint = match code {
        "22001" | "22003" | "22026" => {
            "compare the columns with `highwater plan`; widen the destination's column or write \
             into another table"
        }
        "23502" => {
            "ALTER TABLE … ALTER COLUMN … DROP NOT NULL at the destination, or write into another \
             table"
        }
        "23503" => {
            "write the table that the foreign key refers to first, or drop the foreign key at the \
             destination"
        }
        "23505" => {
            "such a row is there already: use `write_mode: overwrite`, or drop the unique \
             constraint at the destination"
        }
        "23514" => {
            "a CHECK of the destination table refuses a row: ALTER TABLE … DROP CONSTRAINT … \
             there, or write into another table"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_that_is_missing_is_granted_for_reading_or_for_writing() {
        let of = |message, writes| hint(message, writes, "me").unwrap();
        assert_eq!(
            of("permission denied for table t", false),
            "GRANT SELECT ON TABLE \"t\" TO \"me\""
        );
        assert!(of("permission denied for table t", true).contains("INSERT, UPDATE, DELETE"));
        assert_eq!(
            of("permission denied for schema raw", true),
            "GRANT USAGE, CREATE ON SCHEMA \"raw\" TO \"me\""
        );
        assert!(of("permission denied for schema _highwater", true).contains("ALL TABLES"));
        assert!(of("permission denied for database d", true).starts_with("GRANT CREATE ON DATA"));
        assert!(of("must be owner of table t", true).starts_with("ALTER TABLE \"t\" OWNER TO"));
        assert_eq!(hint("Zugriff verweigert", true, "me"), None);
    }

    #[test]
    fn a_refused_row_has_a_way_out() {
        for code in ["22001", "22003", "23502", "23503", "23505", "23514"] {
            assert!(refused_row(code).is_some(), "{code}");
        }
        assert_eq!(refused_row("40001"), None);
    }
}
