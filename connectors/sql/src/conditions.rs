//! Many conditions in one expression.

/// Whether one of the conditions holds. A chain of `OR` is as deep as it is long, and SQLite takes
/// no expression deeper than 1000: of so many columns groups are made.
pub(crate) fn any(conditions: &[String]) -> String {
    const GROUP: usize = 100;
    if conditions.len() <= GROUP {
        return conditions.join(" OR ");
    }
    let groups = conditions.chunks(GROUP).map(|group| format!("({})", group.join(" OR ")));
    groups.collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_conditions_are_joined_in_groups_and_few_as_they_are() {
        let columns = |count| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>();
        assert_eq!(any(&columns(3)), "c0 OR c1 OR c2");
        assert!(!any(&columns(100)).contains('('));
        let many = any(&columns(1600));
        let groups: Vec<_> = many.split(") OR (").collect();
        assert_eq!(groups.len(), 16);
        assert!(groups.iter().all(|group| group.matches(" OR ").count() == 99), "{many}");
    }
}
