//! What a table's delivery is worth, computed from source, destination and mode.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::WriteMode;

/// The delivery guarantee of one table at one destination. Computed by [`guarantee`], never
/// written by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// Every row version arrives once, whatever dies when.
    ExactlyOnce,
    /// A row version may be applied again, which changes nothing in the table: rows are matched by
    /// this key. (The history of `append-dedup` may hold it twice.)
    EffectivelyOnce(Vec<String>),
    /// Nothing is lost; rows may arrive again, for the reason given.
    AtLeastOnce(String),
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExactlyOnce => f.write_str("exactly_once"),
            Self::EffectivelyOnce(key) => write!(f, "effectively_once({})", key.join(", ")),
            Self::AtLeastOnce(reason) => write!(f, "at_least_once({reason})"),
        }
    }
}

/// How often a source sends a row version, seen over syncs and restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceDelivery {
    /// Once: what a committed cursor covers is never sent again.
    Once,
    /// Sometimes again, for this reason.
    Again(String),
}

/// How a destination commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationDelivery {
    /// Rows and cursors in one atomic step, under the fence.
    Atomic,
    /// Rows first; a crash in between repeats rows.
    Separate,
}

/// Computes the guarantee of a table.
pub fn guarantee(
    source: &SourceDelivery,
    destination: DestinationDelivery,
    state_with_data: bool,
    write_mode: WriteMode,
    primary_key: &[String],
) -> Guarantee {
    // `replace` depends on no cursor: each sync is complete in itself.
    let is_replaced = matches!(write_mode, WriteMode::Replace | WriteMode::ReplaceDedup);
    if is_replaced && destination == DestinationDelivery::Atomic {
        return Guarantee::ExactlyOnce;
    }
    let doubt = if destination == DestinationDelivery::Separate {
        Some("the destination cannot commit rows and cursor together".to_owned())
    } else if !state_with_data {
        Some("the cursor is kept in another destination than the rows".to_owned())
    } else if let SourceDelivery::Again(reason) = source {
        Some(reason.clone())
    } else {
        None
    };
    let keyed =
        !matches!(write_mode, WriteMode::Append | WriteMode::Replace) && !primary_key.is_empty();
    match doubt {
        None => Guarantee::ExactlyOnce,
        Some(_) if keyed => Guarantee::EffectivelyOnce(primary_key.to_vec()),
        Some(reason) => Guarantee::AtLeastOnce(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_never_better_than_the_weakest_link() {
        use DestinationDelivery::{Atomic, Separate};
        let id = vec!["id".to_owned()];
        let once = SourceDelivery::Once;
        let again = SourceDelivery::Again("files change".into());
        let label = |s: &SourceDelivery, d, with_data, mode, key: &[String]| {
            guarantee(s, d, with_data, mode, key).to_string()
        };
        use WriteMode::{Append, AppendDedup, Overwrite, Replace, ReplaceDedup};
        assert_eq!(label(&once, Atomic, true, Append, &[]), "exactly_once");
        assert_eq!(label(&again, Atomic, true, Append, &[]), "at_least_once(files change)");
        assert_eq!(label(&again, Atomic, true, Overwrite, &id), "effectively_once(id)");
        assert_eq!(label(&again, Atomic, true, Overwrite, &[]), "at_least_once(files change)");
        assert_eq!(
            label(&once, Atomic, false, Append, &id),
            "at_least_once(the cursor is kept in another destination than the rows)"
        );
        assert_eq!(label(&once, Separate, true, AppendDedup, &id), "effectively_once(id)");
        assert_eq!(label(&again, Atomic, true, ReplaceDedup, &id), "exactly_once");
        assert_eq!(label(&again, Atomic, false, Replace, &[]), "exactly_once");
    }
}
