//! A connector that misbehaves: a clear error, nothing lost, nothing committed that is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater_core::{Completion, ErrorKind, State};
use serde_json::{Value, json};

use crate::host_support::{eventually, is_alive};
use crate::source_support::*;

async fn read_a(lines: Vec<Value>) -> Heard {
    shop(&[stream("a")], lines).read(&[("a", Incremental, Append)]).await
}

#[tokio::test]
async fn it_miscounts_and_nothing_of_it_is_committed() {
    let heard = read_a(vec![
        record("a", 1),
        state("a", 1, 1),
        record("a", 2),
        record("a", 3),
        state("a", 3, 3),
    ])
    .await;
    let error = heard.error();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("sent"), Some("3"));
    assert_eq!(error.context_value("came"), Some("2"));
    assert_eq!(error.context_value("stream"), Some("a"));
    assert_eq!(heard.log(), ["a:1", "commit a=1"]);
    // The counts of all streams are added up for a state of the whole source.
    let lines = vec![record("a", 1), record("b", 1), global(1, &[("a", 1), ("b", 1)], 3)];
    let heard = shop(&[stream("a"), stream("b")], lines)
        .read(&[("a", Incremental, Append), ("b", Incremental, Append)])
        .await;
    assert_eq!(heard.error().context_value("came"), Some("2"));
    assert!(heard.log().is_empty());
}

#[tokio::test]
async fn it_mixes_types_of_states() {
    let heard = read_a(vec![record("a", 1), state("a", 1, 1), global(1, &[("a", 1)], 0)]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Data);
    assert!(heard.error().message().contains("mixes"), "{}", heard.error());
    assert_eq!(heard.log(), ["a:1", "commit a=1"]);
}

#[tokio::test]
async fn it_keeps_states_of_the_old_form() {
    let heard =
        read_a(vec![record("a", 1), json!({"type": "STATE", "state": {"data": {"a": 1}}})]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Unsupported);
    assert!(heard.error().message().contains("LEGACY") && heard.log().is_empty());
}

#[tokio::test]
async fn it_sends_a_stream_that_it_was_not_asked_for() {
    let lines = vec![
        record("a", 1),
        record("gone", 1),
        record("gone", 2),
        state("gone", 2, 2),
        state("a", 1, 1),
        status("a", "COMPLETE"),
    ];
    let heard = read_a(lines).await;
    assert!(matches!(heard.result, Ok(Completion::Complete)));
    assert_eq!(heard.failure("gone").context_value("records"), Some("2"));
    assert_eq!(heard.log(), ["a:1", "commit a=1", "failed gone", "done a"]);
}

#[tokio::test]
async fn it_sends_records_after_the_end_of_their_stream() {
    let heard =
        read_a(vec![record("a", 1), state("a", 1, 1), status("a", "COMPLETE"), record("a", 2)])
            .await;
    assert_eq!(heard.error().kind(), ErrorKind::Data);
    assert_eq!(heard.error().context_value("stream"), Some("a"));
    assert!(!heard.log().contains(&"a:2".to_owned()), "{:?}", heard.log());
}

#[tokio::test]
async fn it_dies_after_its_last_state() {
    let heard = read_a(vec![record("a", 1), state("a", 1, 1), json!({"kill": 9})]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Transient);
    // The rows are safe, the table is not complete.
    assert_eq!(heard.log(), ["a:1", "commit a=1"]);
}

#[tokio::test]
async fn it_fails_and_what_was_complete_stays_complete() {
    let lines = vec![
        record("a", 1),
        state("a", 1, 1),
        status("a", "COMPLETE"),
        status("b", "STARTED"),
        record("b", 1),
        failure(None, "config_error", "the password is wrong"),
        json!({"exit": 1}),
    ];
    let heard = shop(&[stream("a"), stream("b")], lines)
        .read(&[("a", Incremental, Append), ("b", Incremental, Append)])
        .await;
    assert_eq!(heard.error().kind(), ErrorKind::Config);
    assert!(heard.error().message().contains("the password is wrong"));
    assert_eq!(heard.log(), ["a:1", "commit a=1", "done a"]);
}

#[tokio::test]
async fn it_tells_a_failure_and_exits_with_0() {
    let heard = read_a(vec![
        record("a", 1),
        failure(None, "system_error", "out of luck"),
        status("a", "COMPLETE"),
    ])
    .await;
    assert!(heard.error().message().contains("out of luck"));
    assert!(heard.log().is_empty());
}

#[tokio::test]
async fn it_dies_in_the_middle_of_a_line() {
    // A line without its end: `printf` of a shell script, for the scripted source ends its lines.
    let place = crate::host_support::connector(
        r#"case "$1" in
discover) echo '{"type":"CATALOG","catalog":{"streams":[{"name":"a","json_schema":{"properties":{"id":{"type":"integer"}}},"supported_sync_modes":["full_refresh"]}]}}' ;;
read) echo '{"type":"RECORD","record":{"stream":"a","data":{"id":1},"emitted_at":1}}'; printf '{"type":"RECORD","record":{"stream":"a","da'; kill -9 $$ ;;
esac"#,
    );
    let cut = Shop { folder: place.folder, spec: place.spec, paths: Vec::new() };
    let heard = cut.read(&[("a", FullRefresh, Append)]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Transient, "{}", heard.error());
    assert!(heard.log().is_empty());
}

#[tokio::test]
async fn it_prints_something_that_is_no_record() {
    let heard = read_a(vec![
        json!("not json"),
        json!("{\"also\": \"not a message\"}"),
        json!({"type": "NEW", "new": 1}),
        record("a", 1),
        state("a", 1, 1),
    ])
    .await;
    assert_eq!(heard.log(), ["a:1", "commit a=1", "done a"]);
    let broken = r#"{"type":"RECORD","record":{"stream":"a","data":{"id":1,},"emitted_at":1}}"#;
    let heard = read_a(vec![json!(broken)]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Data);
    assert_eq!(heard.error().context_value("line"), Some("1"));
}

#[tokio::test]
async fn it_prints_a_hundred_megabytes_in_one_line() {
    let lines = vec![json!({"raw_bytes": 100_000_000}), record("a", 1), state("a", 1, 1)];
    let mut shop = shop(&[stream("a")], lines);
    // As long as it is below the limit it is only a long line of a log.
    let heard = shop.read(&[("a", Incremental, Append)]).await;
    assert_eq!(heard.log(), ["a:1", "commit a=1", "done a"], "{:?}", heard.result);
    shop.spec.line_bytes = 1 << 20;
    let heard = shop.read(&[("a", Incremental, Append)]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Data);
    assert_eq!(heard.error().context_value("limit_bytes"), Some("1048576"));
}

#[tokio::test]
async fn it_floods_its_output_and_its_log() {
    let noise = json!({"repeat": 2_000, "line": {"type": "LOG", "log": {"level": "DEBUG", "message": "x".repeat(200)}}});
    let err = json!({"stderr": "y".repeat(100_000)});
    let mut lines = Vec::new();
    for _ in 0..20 {
        lines.extend([records("a", 5_000), noise.clone(), err.clone()]);
    }
    let heard = read_a(lines).await;
    assert!(heard.result.is_ok(), "{:?}", heard.result);
    assert_eq!(heard.rows("a"), 100_000);
    // No state came at all: what it sent is committed at its good end.
    assert_eq!(heard.log(), ["a:100000", "commit", "done a"]);
}

#[tokio::test]
async fn it_closes_its_output_and_does_not_end() {
    let lines = vec![
        record("a", 1),
        state("a", 1, 1),
        json!({"close_stdout": true}),
        json!({"hang": true}),
    ];
    let mut shop = shop(&[stream("a")], lines);
    shop.spec.end_patience = Duration::from_millis(300);
    let heard = shop.read(&[("a", Incremental, Append)]).await;
    assert_eq!(heard.error().kind(), ErrorKind::Transient);
    assert_eq!(heard.log(), ["a:1", "commit a=1"]);
    let call = shop.calls("read").remove(0);
    assert!(!is_alive(&json_in(&call.join("argv.json"))["pid"].to_string()));
    // One that closes it and ends well has just ended.
    let heard = read_a(vec![record("a", 1), json!({"close_stdout": true})]).await;
    assert_eq!(heard.log(), ["a:1", "commit", "done a"]);
}

#[tokio::test]
async fn it_hangs_and_is_stopped() {
    for lines in [
        vec![json!({"hang": true})],
        vec![record("a", 1), state("a", 1, 1), record("a", 2), json!({"hang": true})],
    ] {
        let begins = lines.len() == 1;
        let shop = shop(&[stream("a")], lines);
        let source = shop.source();
        let plan = plan(&source, &[("a", Incremental, Append)]).await;
        let stopping = Arc::new(AtomicBool::new(false));
        let asked = async {
            while shop.calls("read").is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stopping.store(true, Ordering::Relaxed);
        };
        let nothing = State::default();
        let reading = read(&source, &plan, &nothing, Arc::clone(&stopping));
        let (heard, ()) = tokio::join!(reading, asked);
        assert!(matches!(heard.result, Ok(Completion::Stopped)), "{:?}", heard.result);
        assert!(heard.log().is_empty() || (!begins && heard.log() == ["a:1", "commit a=1"]));
        let call = shop.calls("read").remove(0);
        let pid = json_in(&call.join("argv.json"))["pid"].to_string();
        eventually("the connector ends", || !is_alive(&pid));
    }
}

#[tokio::test]
async fn its_reader_goes_away() {
    let shop = shop(&[stream("a")], vec![records("a", 50_000), json!({"hang": true})]);
    let source = shop.source();
    let plan = plan(&source, &[("a", Incremental, Append)]).await;
    let state = State::default();
    let partition = highwater_core::Source::partitions(&source, &plan, &state);
    let partition = partition.await.unwrap().remove(0);
    let (output, sent) = highwater_core::Output::bounded(4, Arc::default());
    drop(sent);
    let reading = highwater_core::Source::read(&source, &plan, &partition, &state, output);
    // It never ends by itself, and is dropped as the engine does.
    let ended = tokio::time::timeout(Duration::from_secs(5), reading).await;
    assert!(ended.is_err() || ended.unwrap().is_err());
    let call = shop.calls("read").remove(0);
    let pid = json_in(&call.join("argv.json"))["pid"].to_string();
    eventually("the connector ends", || !is_alive(&pid));
}

#[tokio::test]
async fn it_says_complete_and_then_incomplete() {
    for second in [status("a", "INCOMPLETE"), failure(Some("a"), "system_error", "out of luck")] {
        let lines = vec![record("a", 1), status("a", "COMPLETE"), second];
        let heard = shop(&[whole_stream("a")], lines).read(&[("a", FullRefresh, Append)]).await;
        assert_eq!(heard.log(), ["failed a"], "{:?}", heard.result);
    }
}

#[tokio::test]
async fn it_fails_a_stream_that_its_global_state_does_not_name() {
    let lines = vec![
        record("a", 1),
        record("b", 1),
        global(1, &[("a", 1), ("b", 1)], 2),
        record("a", 2),
        record("b", 2),
        status("b", "INCOMPLETE"),
        global(9, &[("a", 2)], 2),
        status("a", "COMPLETE"),
    ];
    let heard = shop(&[stream("a"), stream("b")], lines)
        .read(&[("a", Incremental, Append), ("b", Incremental, Append)])
        .await;
    // What `b` did not read lies before 9: the position stays where all were read.
    let commits: Vec<_> = heard.log().into_iter().filter(|l| l.starts_with("commit")).collect();
    assert_eq!(commits.len(), 1, "{:?}", heard.log());
    assert!(commits[0].contains(r#""shared_state":1"#), "{commits:?}");
    assert_eq!((heard.rows("a"), heard.rows("b")), (1, 1));
    assert!(heard.log().contains(&"failed a".to_owned()), "{:?}", heard.log());
}

#[tokio::test]
async fn its_global_state_drops_a_stream() {
    let streams = [stream("a"), stream("b")];
    let wanted = [("a", Incremental, Append), ("b", Incremental, Append)];
    let lines = vec![global(1, &[("a", 1), ("b", 1)], 0), global(2, &[("b", 2)], 0)];
    let heard = shop(&streams, lines).read(&wanted).await;
    let again = shop(&streams, Vec::new());
    again.read_from(&wanted, &heard.state()).await;
    let given = json_in(&again.calls("read")[0].join("state.json"));
    let states = json!([{"stream_descriptor": {"name": "b"}, "stream_state": 2}]);
    let only = json!([{"type": "GLOBAL", "global": {"shared_state": 2, "stream_states": states}}]);
    assert_eq!(given, only);
}

#[tokio::test]
async fn it_fails_a_stream_after_more_rows_than_wait_in_memory() {
    let data = json!({"id": "{i}", "updated_at": "x".repeat(300)});
    let record_of_a = json!({"stream": "a", "data": data, "emitted_at": 1});
    let lines = vec![
        json!({"repeat": 40_000, "line": {"type": "RECORD", "record": record_of_a}}),
        status("a", "INCOMPLETE"),
        record("b", 1),
        state("b", 1, 1),
        status("b", "COMPLETE"),
    ];
    let heard = shop(&[stream("a"), stream("b")], lines)
        .read(&[("a", Incremental, Append), ("b", Incremental, Append)])
        .await;
    assert_eq!(heard.log(), ["b:1", "commit b=1", "failed a", "done b"]);
}
