//! Which destinations can share one read of a table: those whose cursors for it agree.

use std::sync::Arc;

use highwater_core::{Plan, ReadMode, State, TableName, TablePlan, WriteMode};

/// Tables that are read once for several destinations.
pub(crate) struct Group {
    /// The seats that get the rows, by index, ascending.
    pub(crate) seats: Vec<usize>,
    /// The tables, as the first seat plans them.
    pub(crate) plan: Plan,
    /// Their state at the first seat: the same at all.
    pub(crate) state: State,
    /// Whether every seat plans every incremental table of the group.
    pub(crate) serves_all: bool,
}

/// Groups the tables of all seats: two seats share a read when they ask for the same columns in
/// the same way from the same position. One that is behind catches up in a read of its own.
pub(crate) fn by_position(seats: &[(usize, Arc<Plan>, &State)]) -> Vec<Group> {
    // For each table the seats are cut into classes; tables with the same class become one group.
    let mut groups: Vec<(Vec<usize>, Vec<TableName>)> = Vec::new();
    let mut names: Vec<&TableName> = seats.iter().flat_map(|(_, p, _)| p.tables.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let mut classes: Vec<Vec<usize>> = Vec::new();
        for (position, (_, plan, state)) in seats.iter().enumerate() {
            let Some(table) = plan.tables.get(name) else { continue };
            let same = classes.iter_mut().find(|class| {
                let (_, other, other_state) = &seats[class[0]];
                let other = other.tables.get(name);
                other.is_some_and(|other| reads_alike(other, other_state, table, state))
            });
            match same {
                Some(class) => class.push(position),
                None => classes.push(vec![position]),
            }
        }
        for class in classes {
            match groups.iter_mut().find(|(seats, _)| *seats == class) {
                Some((_, tables)) => tables.push(name.clone()),
                None => groups.push((class, vec![name.clone()])),
            }
        }
    }
    groups.into_iter().map(|(positions, tables)| group(seats, &positions, &tables)).collect()
}

/// Groups seats that ask for the same tables in the same way from the same positions, for sources
/// that read all tables of a destination together.
pub(crate) fn by_seat(seats: &[(usize, Arc<Plan>, &State)]) -> Vec<Group> {
    let mut classes: Vec<Vec<usize>> = Vec::new();
    for (position, (_, plan, state)) in seats.iter().enumerate() {
        let same = classes.iter_mut().find(|class| {
            let (_, other, other_state) = &seats[class[0]];
            plan.tables.len() == other.tables.len()
                && plan.tables.iter().all(|(name, table)| {
                    let other = other.tables.get(name);
                    other.is_some_and(|other| {
                        reads_alike(other, other_state, table, state) && written_alike(other, table)
                    })
                })
        });
        match same {
            Some(class) => class.push(position),
            None => classes.push(vec![position]),
        }
    }
    let tables = |class: &[usize]| seats[class[0]].1.tables.keys().cloned().collect::<Vec<_>>();
    let classes = classes.into_iter().filter(|class| !tables(class).is_empty());
    classes.map(|class| group(seats, &class, &tables(&class))).collect()
}

/// All seats as one group, with every table that any of them plans, for sources that can be read
/// only once.
pub(crate) fn as_one(seats: &[(usize, Arc<Plan>, &State)]) -> Vec<Group> {
    let Some((_, first, state)) = seats.first() else { return Vec::new() };
    let mut plan = first.as_ref().clone();
    for (_, other, _) in seats {
        for (name, table) in &other.tables {
            plan.tables.entry(name.clone()).or_insert_with(|| table.clone());
        }
    }
    let indices = seats.iter().map(|(index, ..)| *index).collect();
    let mut incremental =
        plan.tables.values().filter(|table| table.read_mode == ReadMode::Incremental);
    let serves_all = incremental
        .all(|table| seats.iter().all(|(_, plan, _)| plan.tables.contains_key(table.name())));
    vec![Group { seats: indices, plan, state: (*state).clone(), serves_all }]
}

/// Whether rows may be sent again for both or for neither: such a source decides by the plan what
/// it sends before its checkpoint.
fn written_alike(a: &TablePlan, b: &TablePlan) -> bool {
    a.write_mode == b.write_mode
        && a.rebuild == b.rebuild
        && a.target.primary_key.is_empty() == b.target.primary_key.is_empty()
}

/// Whether rows that come again would be there twice: a source that cannot tell what it has sent
/// (a table was rewritten) refuses to send them there, and sends them where a key makes it harmless.
fn adds(table: &TablePlan) -> bool {
    matches!(table.write_mode, WriteMode::Append | WriteMode::AppendDedup)
        || table.target.primary_key.is_empty()
}

fn reads_alike(a: &TablePlan, a_state: &State, b: &TablePlan, b_state: &State) -> bool {
    a.source == b.source
        && adds(a) == adds(b)
        && a.read_mode == b.read_mode
        && a.cursor_field == b.cursor_field
        && a.null_cursor == b.null_cursor
        && a.lookback == b.lookback
        && a.divisible == b.divisible
        && a.generation == b.generation
        && a.sweep == b.sweep
        && a_state.cursors_of(a.name()) == b_state.cursors_of(b.name())
        && a_state.cursors.get(&highwater_core::CursorKey::Global)
            == b_state.cursors.get(&highwater_core::CursorKey::Global)
}

fn group(seats: &[(usize, Arc<Plan>, &State)], positions: &[usize], tables: &[TableName]) -> Group {
    let (_, plan, state) = &seats[positions[0]];
    let mut plan = plan.as_ref().clone();
    plan.tables.retain(|name, _| tables.contains(name));
    let indices = positions.iter().map(|&p| seats[p].0).collect();
    Group { seats: indices, plan, state: (*state).clone(), serves_all: true }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow_schema::{DataType, Field};
    use highwater_core::{Cursor, CursorKey, Instant, ReadMode, Table, WriteMode};
    use serde_json::json;

    use super::*;

    fn plan(names: &[&str], write_mode: WriteMode) -> Arc<Plan> {
        let table = |name: &str| {
            let field = Field::new("id", DataType::Int64, false);
            let table = Arc::new(Table::new(TableName::new(name), vec![field]));
            let plan = TablePlan {
                cursor_field: Some("id".into()),
                order_by: Some("id".into()),
                ..TablePlan::new(Arc::clone(&table), table, ReadMode::Incremental, write_mode)
            };
            (plan.name().clone(), plan)
        };
        Arc::new(Plan {
            sync_group_id: None,
            sync: "s".into(),
            sync_id: "1".into(),
            started_at: Instant(0),
            state_with_data: true,
            tables: names.iter().map(|n| table(n)).collect::<BTreeMap<_, _>>(),
        })
    }

    fn at(positions: &[(&str, i64)]) -> State {
        let mut state = State::default();
        for (table, position) in positions {
            let key = CursorKey::Table(TableName::new(*table));
            state.cursors.insert(key, Cursor(json!(position)));
        }
        state
    }

    fn grouped(seats: &[(usize, Arc<Plan>, &State)]) -> Vec<(Vec<usize>, Vec<String>)> {
        by_position(seats)
            .into_iter()
            .map(|g| (g.seats, g.plan.tables.keys().map(ToString::to_string).collect()))
            .collect()
    }

    #[test]
    fn destinations_at_one_position_share_a_read_and_others_catch_up_alone() {
        let tables = plan(&["a", "b"], WriteMode::Append);
        let (first, second) = (at(&[("a", 5), ("b", 5)]), at(&[("a", 5), ("b", 3)]));
        // Without a key both add what comes.
        let other = plan(&["a", "b"], WriteMode::Overwrite);
        let seats = [(0, tables, &first), (2, other, &second)];
        let expected = vec![
            (vec![0, 2], vec!["a".to_owned()]),
            (vec![0], vec!["b".to_owned()]),
            (vec![2], vec!["b".to_owned()]),
        ];
        assert_eq!(grouped(&seats), expected);
    }

    #[test]
    fn rows_that_come_again_do_not_reach_a_destination_that_adds_by_way_of_one_that_replaces() {
        let state = State::default();
        let mut replaces = plan(&["a"], WriteMode::Overwrite);
        for table in Arc::make_mut(&mut replaces).tables.values_mut() {
            Arc::make_mut(&mut table.target).primary_key = vec!["id".to_owned()];
        }
        let seats = [(0, replaces, &state), (1, plan(&["a"], WriteMode::Append), &state)];
        let alone = |seat: usize| (vec![seat], vec!["a".to_owned()]);
        assert_eq!(grouped(&seats), [alone(0), alone(1)]);
    }

    #[test]
    fn a_table_that_is_planned_at_one_destination_only_is_read_for_that_one() {
        let state = State::default();
        let seats = [
            (0, plan(&["a", "b"], WriteMode::Append), &state),
            (1, plan(&["a"], WriteMode::Append), &state),
        ];
        let expected = vec![(vec![0, 1], vec!["a".to_owned()]), (vec![0], vec!["b".to_owned()])];
        assert_eq!(grouped(&seats), expected);
    }
}
