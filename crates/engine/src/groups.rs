//! Which destinations can share one read of a table: those whose cursors for it agree.

use std::sync::Arc;

use highwater_core::{Plan, State, TableName, TablePlan};

/// Tables that are read once for several destinations.
pub(crate) struct Group {
    /// The seats that get the rows, by index, ascending.
    pub(crate) seats: Vec<usize>,
    /// The tables, as the first seat plans them.
    pub(crate) plan: Plan,
    /// Their state at the first seat: the same at all.
    pub(crate) state: State,
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

fn reads_alike(a: &TablePlan, a_state: &State, b: &TablePlan, b_state: &State) -> bool {
    a.source == b.source
        && a.read_mode == b.read_mode
        && a.cursor_field == b.cursor_field
        && a.null_cursor == b.null_cursor
        && a.lookback == b.lookback
        && a.divisible == b.divisible
        && a_state.cursors_of(a.name()) == b_state.cursors_of(b.name())
        && a_state.cursors.get(&highwater_core::CursorKey::Global)
            == b_state.cursors.get(&highwater_core::CursorKey::Global)
}

fn group(seats: &[(usize, Arc<Plan>, &State)], positions: &[usize], tables: &[TableName]) -> Group {
    let (_, plan, state) = &seats[positions[0]];
    let mut plan = plan.as_ref().clone();
    plan.tables.retain(|name, _| tables.contains(name));
    let indices = positions.iter().map(|&p| seats[p].0).collect();
    Group { seats: indices, plan, state: (*state).clone() }
}
