//! Reading: types, NULLs, bad input, and what a second sync reads.

use std::io::Write;

use highwater_core::*;
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_csv_file_is_a_table_with_types() {
    let folder = Folder::with(&[(
        "orders.csv",
        "\u{feff}id,zip,amount,paid,at,note\r\n1,01234,12.50,true,2026-11-21 03:04:05.000006,\"\"\r\n2,00001,,false,,\r\n",
    )]);
    let types = [
        ("id", "Int64"),
        ("zip", "Utf8"),
        ("amount", "numeric"),
        ("paid", "Boolean"),
        ("at", "Timestamp(µs)"),
        ("note", "Utf8"),
    ];
    assert_eq!(columns(folder.spec()).await, types.map(|(n, t)| (n.into(), t.into())));
    let expected = vec![
        row(&[
            Some("1"),
            Some("01234"),
            Some("12.50"),
            Some("true"),
            Some("2026-11-21 03:04:05.000006"),
            Some(""),
        ]),
        row(&[Some("2"), Some("00001"), None, Some("false"), None, None]),
    ];
    assert_eq!(read_one(folder.spec()).await, expected);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_an_error_of_its_own_table_only() {
    let folder = Folder::with(&[("good.csv", "a\n1\n"), ("bad.parquet", "no"), ("z.csv.gz", "no")]);
    let from = source(folder.spec()).await;
    let discovered = |only: &'static [&'static str]| {
        let only: Vec<String> = only.iter().map(|p| (*p).to_owned()).collect();
        let from = &from;
        async move { from.discover((!only.is_empty()).then_some(&only[..])).await }
    };
    // The others are found, and the bad ones are there to be skipped.
    for only in [&[][..], &["*"][..]] {
        let tables = discovered(only).await.unwrap();
        let names: Vec<&str> = tables.iter().map(|t| t.name.name.as_str()).collect();
        assert_eq!(names, ["bad", "good", "z"]);
        let plan = plan(tables, ReadMode::FullRefresh, WriteMode::Append);
        for table in plan.tables.values() {
            let reviewed = from.review(table).await;
            if table.name().name == "good" {
                reviewed.unwrap();
            } else {
                let error = reviewed.unwrap_err();
                assert_eq!(error.context_value("table"), Some(table.name().name.as_str()));
            }
        }
    }
    assert_eq!(discovered(&["good"]).await.unwrap().len(), 1);
    // Asked for by name, or alone, it is an error at once.
    for only in [&["bad"][..], &["good", "z"][..], &["b*"][..]] {
        assert!(discovered(only).await.is_err(), "{only:?}");
    }
}

#[tokio::test]
async fn json_lines_keep_every_digit_and_every_shape() {
    let folder = Folder::with(&[(
        "t.jsonl",
        concat!(
            "{\"id\":1,\"big\":123456789012345678901234567890.10,\"o\":{\"a\": [1, 2.50]},\"m\":1}\n",
            "\n",
            "{\"o\":null,\"id\":-9223372036854775808,\"m\":\"1\",\"late\":\"é\\n\"}\r\n",
        ),
    )]);
    let types =
        [("id", "Int64"), ("big", "numeric"), ("o", "json"), ("m", "json"), ("late", "Utf8")];
    assert_eq!(columns(folder.spec()).await, types.map(|(n, t)| (n.into(), t.into())));
    let expected = vec![
        row(&[
            Some("1"),
            Some("123456789012345678901234567890.10"),
            Some("{\"a\": [1, 2.50]}"),
            Some("1"),
            None,
        ]),
        row(&[Some("-9223372036854775808"), None, None, Some("\"1\""), Some("é\n")]),
    ];
    assert_eq!(read_one(folder.spec()).await, expected);
}

#[tokio::test]
async fn gzip_a_dialect_and_columns_without_names() {
    let folder = Folder::new();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(b"1;'a;''b'\n2;\n").unwrap();
    folder.put("t.csv.gz", gz.finish().unwrap());
    let spec = json!({
        "path": folder.path("t.csv.gz"),
        "format_spec": {"delimiter": ";", "quote": "'", "skip_header": true},
    });
    assert_eq!(columns(spec.clone()).await[1].0, "column_2");
    let expected = vec![row(&[Some("1"), Some("a;'b")]), row(&[Some("2"), None])];
    assert_eq!(read_one(spec).await, expected);
}

#[tokio::test]
async fn bad_input_names_file_line_and_column() {
    /// File name, content, words of the message, context.
    type Case =
        (&'static str, &'static [u8], &'static str, &'static [(&'static str, &'static str)]);
    let cases: &[Case] = &[
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "too many fields", &[("line", "3"), ("fields", "3")]),
        ("t.csv", b"a,b\n1\n", "too few fields", &[("line", "2")]),
        ("t.csv", b"a\n\"1\n2\"\n\xff\n", "not UTF-8", &[("line", "4")]),
        ("t.csv", b"a,a\n1,2\n", "one name", &[("line", "1"), ("column", "a")]),
        ("t.csv", b"a\n\"x\n", "no end", &[("line", "2")]),
        ("t.jsonl", b"{\"a\":1}\n{\"a\":\n", "not a JSON object", &[("line", "2")]),
        ("t.jsonl", b"[1]\n", "not a JSON object", &[("line", "1")]),
        ("t.jsonl", b"{\"a\":1,\"a\":2}\n", "twice", &[("line", "1"), ("column", "a")]),
        ("t.csv.gz", b"a,b\n", "broken", &[]),
        ("t.parquet", b"PAR1xxxxPAR1", "Parquet file cannot be read", &[]),
    ];
    for (name, bytes, words, context) in cases {
        let folder = Folder::new();
        folder.put(name, bytes);
        let error = try_read_all(folder.spec()).await.unwrap_err();
        assert!(error.message().contains(words), "{name}: {error}");
        let file = error.context_value("file").or(error.context_value("path")).unwrap();
        assert!(file.ends_with(name), "{error}");
        for (key, value) in *context {
            assert_eq!(error.context_value(key), Some(*value), "{error}");
        }
    }
}

#[tokio::test]
async fn a_later_value_of_another_type_is_refused_and_a_declared_type_helps() {
    let folder = Folder::with(&[("t.csv", "id,x\n1,1\n2,SECRET\n")]);
    let mut spec = json!({"path": folder.path("t.csv"), "sample_rows": 1});
    let error = try_read_all(spec.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("line"), Some("3"));
    assert_eq!(error.context_value("column"), Some("x"));
    assert_eq!(error.context_value("type"), Some("Int64"));
    assert!(error.hint_text().unwrap().contains("columns: {x: text}"));
    assert!(!error.full_message().contains("SECRET"));
    spec["columns"] = json!({"x": "text", "t.id": "decimal(10,2)"});
    let expected = vec![row(&[Some("1.00"), Some("1")]), row(&[Some("2.00"), Some("SECRET")])];
    assert_eq!(read_one(spec.clone()).await, expected);
    spec["columns"] = json!({"y": "text"});
    let error = try_read_all(spec).await.unwrap_err();
    assert_eq!(error.context_value("key"), Some("columns.y"));
}

#[tokio::test]
async fn json_members_that_the_sample_did_not_show_are_declared() {
    let folder = Folder::with(&[("t.jsonl", "{\"a\":1}\n{\"a\":2,\"b\":{\"c\":1}}\n")]);
    let mut spec = json!({"path": folder.path("t.jsonl"), "sample_rows": 1});
    let error = try_read_all(spec.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.context_value("column")), (ErrorKind::Schema, Some("b")));
    spec["columns"] = json!({"b": "json"});
    let expected = vec![row(&[Some("1"), None]), row(&[Some("2"), Some("{\"c\":1}")])];
    assert_eq!(read_one(spec).await, expected);
}

#[tokio::test]
async fn only_the_selected_columns_are_read() {
    for (name, text) in [
        ("t.csv", "a,b,c\n1,x,2026-11-21\n2,,\n"),
        ("t.jsonl", "{\"a\":1,\"b\":\"x\",\"c\":\"2026-11-21\"}\n{\"a\":2}\n"),
    ] {
        let folder = Folder::with(&[(name, text)]);
        let source = source(folder.spec()).await;
        let mut table = source.discover(None).await.unwrap().remove(0);
        let fields = table.schema.fields();
        table.schema = std::sync::Arc::new(arrow_schema::Schema::new(vec![
            fields[2].clone(),
            fields[0].clone(),
        ]));
        let plan = plan(vec![table], ReadMode::FullRefresh, WriteMode::Append);
        let messages = read(source.as_ref(), &plan, &State::default()).await.unwrap();
        let expected = vec![row(&[Some("2026-11-21"), Some("1")]), row(&[None, Some("2")])];
        assert_eq!(rows_of(&messages)["t"], expected, "{name}");
    }
}

#[tokio::test]
async fn rows_without_a_cursor_value_are_treated_as_asked() {
    let folder = Folder::with(&[("t.csv", "id,at\n1,2026-11-21\n2,\n")]);
    let source = source(folder.spec()).await;
    let tables = source.discover(None).await.unwrap();
    let mut plan = plan(tables, ReadMode::Incremental, WriteMode::Append);
    let table = plan.tables.values_mut().next().unwrap();
    table.cursor_field = Some("at".into());
    for (mode, rows) in
        [(NullCursor::Include, Some(2)), (NullCursor::Exclude, Some(1)), (NullCursor::Fail, None)]
    {
        plan.tables.values_mut().next().unwrap().null_cursor = mode;
        let read = read(source.as_ref(), &plan, &State::default()).await;
        assert_eq!(read.as_ref().ok().map(|m| rows_of(m)["t"].len()), rows);
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::Data);
        }
    }
}

#[tokio::test]
async fn the_user_is_told_how_types_were_found() {
    let folder = Folder::with(&[("t/a.csv", "x\n1\n2\n3\n"), ("t/b.csv", "x,y\n1,2\n")]);
    let mut spec = folder.spec();
    spec["sample_rows"] = json!(4);
    let source = source(spec).await;
    let plan = plan(source.discover(None).await.unwrap(), ReadMode::Incremental, WriteMode::Append);
    let table = plan.tables.values().next().unwrap();
    let notes = source.review(table).await.unwrap();
    assert!(notes[0].contains("3 row(s) of 2 file(s)"), "{notes:?}");
    assert!(matches!(source.delivery(table), SourceDelivery::Again(_)));
    let rows = rows_of(&read(source.as_ref(), &plan, &State::default()).await.unwrap());
    assert_eq!(rows["t"][3], row(&[Some("1"), Some("2")]));
    assert_eq!(rows["t"][0], row(&[Some("1"), None]));
}

/// Syncs twice with a change in between; returns how many rows the second sync read.
async fn second_sync(
    name: &str,
    before: &str,
    after: &str,
    spec: serde_json::Value,
) -> Result<u64> {
    let (folder, out) = (Folder::with(&[(name, before)]), Folder::new());
    let mut from = folder.spec();
    from.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let to = json!({"path": out.path("o"), "format": "csv"});
    append(from.clone(), to.clone()).await.unwrap();
    let unchanged = append(from.clone(), to.clone()).await.unwrap();
    assert_eq!(unchanged, Done::default(), "{name}");
    // The clock of the file system may tick slowly.
    std::thread::sleep(std::time::Duration::from_millis(20));
    folder.put(name, after);
    let done = append(from.clone(), to.clone()).await?;
    assert_eq!(append(from, to).await.unwrap(), Done::default(), "{name}");
    Ok(done.rows_read)
}

#[tokio::test]
async fn a_second_sync_reads_only_what_is_new() {
    let none = || json!({});
    let csv = "a,b\n1,x\n2,y\n";
    assert_eq!(second_sync("t.csv", csv, &format!("{csv}3,z\n"), none()).await.unwrap(), 1);
    assert_eq!(second_sync("t.csv", csv, csv, none()).await.unwrap(), 0);
    assert_eq!(second_sync("t.csv", csv, "a,b\n9,x\n2,y\n3,z\n", none()).await.unwrap(), 3);
    assert_eq!(second_sync("t.csv", csv, "a,b\n1,x\n", none()).await.unwrap(), 1);
    // Nothing ended the last line; what follows tells that it was whole.
    assert_eq!(second_sync("t.csv", "a,b\n1,x", "a,b\n1,x\n2,y\n", none()).await.unwrap(), 1);
    assert_eq!(second_sync("t.csv", "a,b\r\n1,x", "a,b\r\n1,x\r\n2,y", none()).await.unwrap(), 1);
    let unended = "{\"a\":1}";
    let grown = format!("{unended}\n{{\"a\":2}}\n");
    assert_eq!(second_sync("t.jsonl", unended, &grown, none()).await.unwrap(), 1);
    assert_eq!(second_sync("t.jsonl", unended, &format!("{unended}\n"), none()).await.unwrap(), 0);
    // The last line was not complete: it may have been another row.
    assert_eq!(second_sync("t.csv", "a,b\n1,x", "a,b\n1,xy\n", none()).await.unwrap(), 1);
    let json = "{\"a\":1}\n{\"a\":2}\n";
    assert_eq!(
        second_sync("t.jsonl", json, &format!("{json}{{\"a\":3}}"), none()).await.unwrap(),
        1
    );
    assert_eq!(
        second_sync(
            "t.csv",
            csv,
            &format!("{csv}3,z\n"),
            json!({"format_spec": {"skip_header": true}, "columns": {"column_1": "text"}})
        )
        .await
        .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_changed_file_can_be_refused() {
    let fail = || json!({"on_change": "fail"});
    assert_eq!(second_sync("t.csv", "a\n1\n", "a\n1\n2\n", fail()).await.unwrap(), 1);
    let error = second_sync("t.csv", "a\n1\n", "a\n2\n", fail()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.message().contains("changed"));
}

#[tokio::test]
async fn an_appended_line_of_another_type_names_its_line() {
    let folder = Folder::with(&[("t.csv", "a\n1\n2\n")]);
    let out = Folder::new();
    let from = json!({"path": folder.path("t.csv"), "sample_rows": 2});
    let to = json!({"path": out.path(""), "format": "csv"});
    append(from.clone(), to.clone()).await.unwrap();
    folder.put("t.csv", "a\n1\n2\n3\nx\n");
    let error = append(from, to).await.unwrap_err();
    assert_eq!(error.context_value("line"), Some("5"), "{error}");
    assert_eq!(visible(out.0.path()).len(), 1, "nothing of the failed read is visible");
}

#[tokio::test]
async fn a_new_file_is_read_and_the_old_ones_are_not() {
    let (folder, out) = (Folder::with(&[("t/a.csv", "x\n1\n")]), Folder::new());
    let to = json!({"path": out.path(""), "format": "jsonl"});
    append(folder.spec(), to.clone()).await.unwrap();
    folder.put("t/b.csv", "x\n2\n");
    let done = append(folder.spec(), to.clone()).await.unwrap();
    assert_eq!((done.rows_read, done.committed.written), (1, 1));
    let mut rows = read_one(out.spec()).await;
    rows.sort();
    assert_eq!(rows, [row(&[Some("1")]), row(&[Some("2")])]);
    std::fs::remove_file(folder.0.path().join("t/a.csv")).unwrap();
    assert_eq!(append(folder.spec(), to).await.unwrap(), Done::default());
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(text.as_bytes()).unwrap();
    gz.finish().unwrap()
}

#[tokio::test]
async fn a_compressed_file_is_read_again_only_if_its_bytes_changed() {
    let (folder, out) = (Folder::new(), Folder::new());
    let to = json!({"path": out.path(""), "format": "csv"});
    let mut two_members = gzip("a\n1\n");
    two_members.extend(gzip("2\n"));
    for (bytes, rows) in
        [(gzip("a\n1\n"), 1), (gzip("a\n1\n"), 0), (two_members, 2), (gzip("a\n3\n"), 1)]
    {
        std::thread::sleep(std::time::Duration::from_millis(20));
        folder.put("t.csv.gz", bytes);
        assert_eq!(append(folder.spec(), to.clone()).await.unwrap().rows_read, rows);
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_refused() {
    let text: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    let folder = Folder::with(&[("t.csv", &format!("a\n{text}"))]);
    let source = source(folder.spec()).await;
    let plan = plan(source.discover(None).await.unwrap(), ReadMode::Incremental, WriteMode::Append);
    let partition = source.partitions(&plan, &State::default()).await.unwrap().remove(0);
    let (output, mut messages) =
        Output::bounded(1, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let state = State::default();
    let slow = async {
        messages.recv().await.unwrap();
        folder.put("t.csv", "a\n1\n");
        let mut checkpoints = 0;
        while let Some(message) = messages.recv().await {
            checkpoints += u32::from(matches!(message, Message::Checkpoint(_)));
        }
        checkpoints
    };
    let (read, checkpoints) = tokio::join!(source.read(&plan, &partition, &state, output), slow);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Transient);
    assert_eq!(checkpoints, 0);
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_ends_with_a_whole_file() {
    let folder = Folder::with(&[("t/a.csv", "x\n1\n"), ("t/b.csv", "x\n2\n")]);
    let source = source(folder.spec()).await;
    let plan = plan(source.discover(None).await.unwrap(), ReadMode::Incremental, WriteMode::Append);
    let partition = source.partitions(&plan, &State::default()).await.unwrap().remove(0);
    let (output, mut messages) =
        Output::bounded(8, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let completion = source.read(&plan, &partition, &State::default(), output).await.unwrap();
    assert_eq!(completion, Completion::Stopped);
    let mut seen = Vec::new();
    while let Some(message) = messages.recv().await {
        seen.push(message);
    }
    assert_eq!(rows_of(&seen)["t"].len(), 1);
    let Some(Message::Checkpoint(checkpoint)) = seen.last() else { panic!("{seen:?}") };
    let keys: Vec<_> = checkpoint.cursors.keys().map(CursorKey::partition).collect();
    assert_eq!(keys, ["t/a.csv"]);
}

#[tokio::test]
async fn a_file_without_columns_is_no_table_yet() {
    let folder = Folder::with(&[("empty.csv", ""), ("t.csv", "a\n"), ("none.jsonl", "\n")]);
    let tables = source(folder.spec()).await.discover(None).await.unwrap();
    let names: Vec<_> = tables.iter().map(|t| t.name.name.as_str()).collect();
    assert_eq!(names, ["t"]);
}
