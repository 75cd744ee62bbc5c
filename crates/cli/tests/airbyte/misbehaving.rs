//! Connectors that misbehave: what the user is told, how the run ends, and that the next good run
//! has everything.

use std::time::{Duration, Instant};

use highwater_testkit::crash::{Program, Running};
use serde_json::{Value, json};

use super::has_python;
use super::proof::{DEDUP, PERSON, Shop, good, people, person, record, state, status};

fn row(id: i64) -> Value {
    record("people", &person(id, "x", Some(id)))
}

fn covered(id: i64) -> Vec<Value> {
    vec![row(id), state("people", &json!(id), 1)]
}

/// One row is there, and the connector is about to misbehave.
fn shop() -> Shop {
    let mut shop = Shop::new(DEDUP, &[people()]);
    shop.syncs("people", &[person(1, "x", Some(1))], 1);
    shop
}

/// The same, where there is a Python.
fn shop_or_none(test: &str) -> Option<Shop> {
    has_python(test).then(shop)
}

/// The run ends with `code` and says what is written down, the rows `left` are there, and the next
/// run goes on from the last of them.
fn misbehaves(name: &str, lines: &[Value], code: i32, left: &[i64]) {
    if !has_python(name) {
        return;
    }
    let mut shop = shop();
    assert_eq!(shop.shown(&name.replace('_', " "), lines), code);
    has(&shop, left);
    goes_on(&mut shop, *left.last().unwrap());
    shop.session.matches(&format!("airbyte_{name}"));
}

fn has(shop: &Shop, ids: &[i64]) {
    let expected: Vec<String> = ids.iter().map(|id| format!("{id} | x | {id}")).collect();
    assert_eq!(shop.table("people", &PERSON), expected);
}

/// A good run, from the position on.
fn goes_on(shop: &mut Shop, position: i64) {
    let rest: Vec<Value> = (position + 1..=4).map(|id| person(id, "x", Some(id))).collect();
    shop.syncs("people", &rest, 4);
    assert_eq!(shop.position(), json!({ "at": position }));
    has(shop, &[1, 2, 3, 4]);
}

#[test]
fn it_dies_after_its_last_state() {
    let lines = [covered(2), covered(3), vec![json!({ "kill": 9 })]].concat();
    misbehaves("it_dies_after_its_last_state", &lines, 75, &[1, 2, 3]);
}

#[test]
fn it_fails_after_its_last_state() {
    let lines = [covered(2), vec![row(3), json!({ "exit": 3 })]].concat();
    misbehaves("it_fails_after_its_last_state", &lines, 1, &[1, 2]);
}

/// Every stream was complete, and then it failed: the rows are there, and the run is no success.
#[test]
fn it_fails_when_all_is_complete() {
    let complete = status("people", "COMPLETE");
    let lines = [covered(2), covered(3), vec![complete, json!({ "exit": 1 })]].concat();
    misbehaves("it_fails_when_all_is_complete", &lines, 3, &[1, 2, 3]);
}

/// A failure of no stream in particular is told in what it says, and not by its exit code.
#[test]
fn it_tells_a_failure_and_goes_on() {
    let failure = json!({ "type": "TRACE", "trace": { "type": "ERROR", "emitted_at": 1.5,
        "error": { "message": "page 3 cannot be read", "failure_type": "transient_error" } } });
    let end = vec![failure, status("people", "COMPLETE")];
    misbehaves("it_tells_a_failure_and_goes_on", &[covered(2), end].concat(), 3, &[1, 2]);
}

/// Its own state says less than it has sent: what came last comes again, and is there once.
#[test]
fn its_state_goes_back() {
    let lines = [covered(2), vec![row(3), state("people", &json!(1), 1)]].concat();
    let mut shop = shop_or_none("its_state_goes_back");
    let Some(shop) = &mut shop else { return };
    shop.ends(0, &lines);
    has(shop, &[1, 2, 3]);
    goes_on(shop, 1);
}

#[test]
fn it_mixes_types_of_states() {
    let part = json!({ "stream_descriptor": { "name": "people" }, "stream_state": { "at": 3 } });
    let global = json!({ "type": "STATE", "state": { "type": "GLOBAL",
        "global": { "shared_state": {}, "stream_states": [part] } } });
    let lines = [covered(2), vec![row(3), global, status("people", "COMPLETE")]].concat();
    misbehaves("it_mixes_types_of_states", &lines, 1, &[1, 2]);
}

#[test]
fn it_has_states_of_the_old_form() {
    let legacy = json!({ "type": "STATE", "state": { "data": { "people": { "at": 3 } } } });
    let lines = [covered(2), vec![row(3), legacy, status("people", "COMPLETE")]].concat();
    misbehaves("it_has_states_of_the_old_form", &lines, 1, &[1, 2]);
}

#[test]
fn it_sends_a_stream_that_nobody_asked_for() {
    let stranger = record("secrets", &json!({ "id": 1 }));
    let lines = [vec![stranger.clone()], covered(2), covered(3), vec![stranger]].concat();
    let lines = [lines, vec![status("people", "COMPLETE")]].concat();
    misbehaves("it_sends_a_stream_that_nobody_asked_for", &lines, 3, &[1, 2, 3]);
}

#[test]
fn it_sends_a_record_that_is_none() {
    let broken = "{\"type\":\"RECORD\",\"record\":{\"stream\":\"people\",\"data\":{\"id\":3,}}}";
    let lines = [covered(2), vec![json!(broken)], covered(3)].concat();
    misbehaves("it_sends_a_record_that_is_none", &lines, 1, &[1, 2]);
}

/// Lines that are no messages are lines of its log.
#[test]
fn it_prints_garbage() {
    let garbage =
        [json!("Traceback (most recent call last):"), json!("{\"half\": "), json!("\u{fffd}")];
    let odd = [json!({ "type": "NEWKIND", "new": 1 }), json!("[1, 2]"), json!(""), json!("null")];
    let lines = [garbage.as_slice(), &covered(2), &odd, &covered(3), &garbage].concat();
    let lines = [lines, vec![status("people", "COMPLETE")]].concat();
    misbehaves("it_prints_garbage", &lines, 0, &[1, 2, 3]);
}

/// One that never says anything of its streams and ends well has read them.
#[test]
fn it_says_nothing_of_its_streams() {
    misbehaves("it_says_nothing_of_its_streams", &[covered(2), covered(3)].concat(), 0, &[1, 2, 3]);
}

#[test]
fn it_begins_a_stream_and_exits_with_0() {
    let lines = [vec![status("people", "STARTED")], covered(2), vec![row(3)]].concat();
    misbehaves("it_begins_a_stream_and_exits_with_0", &lines, 1, &[1, 2]);
}

#[test]
fn it_closes_its_output_and_exits_with_0() {
    let begin = vec![status("people", "STARTED"), json!({ "sleep": 0 })];
    let lines = [begin, covered(2), vec![json!({ "close_stdout": true }), row(3)]].concat();
    misbehaves("it_closes_its_output_and_exits_with_0", &lines, 1, &[1, 2]);
}

/// More than any line of it may have: the run ends before it is in memory as a whole.
#[test]
fn it_prints_a_line_without_end() {
    let lines = [covered(2), vec![json!({ "raw_bytes": 400_000_000 })], covered(3)].concat();
    misbehaves("it_prints_a_line_without_end", &lines, 1, &[1, 2]);
}

/// As long as it may be, it is a line of a log, of which little is shown.
#[test]
fn it_prints_a_hundred_megabytes_in_one_line() {
    let lines = [covered(2), vec![json!({ "raw_bytes": 100_000_000 })], covered(3)].concat();
    let lines = [lines, vec![status("people", "COMPLETE")]].concat();
    misbehaves("it_prints_a_hundred_megabytes_in_one_line", &lines, 0, &[1, 2, 3]);
}

#[test]
fn it_floods_its_error_output() {
    if !has_python("it_floods_its_error_output") {
        return;
    }
    let mut shop = shop();
    // More than a pipe holds, many times over, with rows in between.
    let flood = json!({ "stderr": "y".repeat(1_000_000) });
    let mut lines = Vec::new();
    for id in 2..=3 {
        lines.extend(std::iter::repeat_n(flood.clone(), 15));
        lines.extend(covered(id));
    }
    lines.push(status("people", "COMPLETE"));
    let ended = shop.ends(0, &lines);
    assert!(ended.stderr.len() < 100_000, "{} bytes were passed on", ended.stderr.len());
    has(&shop, &[1, 2, 3]);
    goes_on(&mut shop, 3);
}

/// Starts a sync and waits until its second row is committed; with the process of the connector.
fn started(shop: &mut Shop, lines: &[Value]) -> (Running, String) {
    shop.script(lines);
    let program = Program::new(env!("CARGO_BIN_EXE_highwater"), shop.session.path("."));
    let running = program.start(&["sync".to_owned(), "sync.yml".to_owned()], None);
    let since = Instant::now();
    while shop.given("catalog")["streams"].is_null() || shop.table("people", &["id"]).len() < 2 {
        assert!(since.elapsed() < Duration::from_secs(60), "the connector is not called");
        std::thread::sleep(Duration::from_millis(5));
    }
    (running, last_pid(shop))
}

/// The process of the last `read`.
fn last_pid(shop: &Shop) -> String {
    let calls = (1..).map(|number| shop.session.path(&format!("args/{number}")));
    let made = calls.take_while(|call| call.exists());
    let read = made.filter(|call| call.join("catalog.json").exists()).last().unwrap();
    let call = std::fs::read_to_string(read.join("argv.json")).unwrap();
    let call: Value = serde_json::from_str(&call).unwrap();
    call["pid"].to_string()
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// One that hangs is ended with the run, at Ctrl-C and at SIGTERM; what was covered is there.
fn hangs(name: &str, ends: &[Value]) {
    if !has_python(name) {
        return;
    }
    for signal in ["INT", "TERM"] {
        let mut shop = shop();
        let lines = [covered(2), vec![row(3)], ends.to_vec()].concat();
        // What is committed is seen while it hangs: a long-lived read is no loss of what is covered.
        let (running, pid) = started(&mut shop, &lines);
        assert!(is_alive(&pid), "{name}");
        let since = Instant::now();
        running.signal(signal);
        let ended = running.wait().expect(130).unwrap();
        assert!(since.elapsed() < Duration::from_secs(20), "{name}: {:?}", since.elapsed());
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert!(!is_alive(&pid), "{name}: the connector lives on");
        has(&shop, &[1, 2]);
        goes_on(&mut shop, 2);
    }
}

#[test]
fn it_hangs() {
    hangs("it_hangs", &[json!({ "sleep": 0 }), json!({ "hang": true })]);
}

#[test]
fn it_closes_its_output_and_hangs() {
    hangs(
        "it_closes_its_output_and_hangs",
        &[json!({ "close_stdout": true }), json!({ "hang": true })],
    );
}

/// The run is killed, and cannot end the connector any more: it ends all the same.
#[test]
fn it_does_not_outlive_a_run_that_is_killed() {
    if !has_python("it_does_not_outlive_a_run_that_is_killed") {
        return;
    }
    let mut shop = shop();
    let hang = [json!({ "sleep": 0 }), json!({ "hang": true })];
    let (running, pid) = started(&mut shop, &[covered(2), vec![row(3)], hang.to_vec()].concat());
    running.signal("KILL");
    running.wait();
    let since = Instant::now();
    while is_alive(&pid) {
        assert!(since.elapsed() < Duration::from_secs(30), "the connector lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    has(&shop, &[1, 2]);
    let lines = good("people", &[person(3, "x", Some(3)), person(4, "x", Some(4))], 4);
    shop.script(&lines);
    shop.run("sync sync.yml").expect(0).unwrap();
    has(&shop, &[1, 2, 3, 4]);
}
