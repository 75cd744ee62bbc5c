//! `spec`, `check` and `discover`: answers, failures, and what is kept of them.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use highwater_airbyte::host::CATALOG_LIVES;
use highwater_core::ErrorKind;

use crate::host_support::{Place, connector, eventually, is_alive, script};

/// A connector that notes each call in `connector.calls`, and how often it was asked as a name.
fn counting() -> Place {
    script(
        r#"echo $1 >> "$0.calls"
case $1 in
spec) echo '{"type":"SPEC","spec":{"connectionSpecification":{"properties":{"pin":{"airbyte_secret":true}}}}}';;
check) echo '{"type":"CONNECTION_STATUS","connectionStatus":{"status":"SUCCEEDED"}}';;
discover) echo '{"type":"CATALOG","catalog":{"streams":[{"name":"users","json_schema":{},"supported_sync_modes":["full_refresh"]}]}}';;
esac"#,
    )
}

fn calls(place: &Place) -> String {
    place.text("connector.calls").replace('\n', " ").trim().to_owned()
}

fn entries(place: &Place) -> Vec<std::path::PathBuf> {
    let mut list: Vec<_> =
        std::fs::read_dir(place.path("cache")).unwrap().map(|e| e.unwrap().path()).collect();
    list.sort();
    list
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_per_version_and_settings() {
    let mut place = counting();
    for _ in 0..2 {
        let connector = place.connector();
        assert_eq!(connector.discover().await.unwrap().streams[0].name, "users");
        connector.check().await.unwrap();
        connector.spec().await.unwrap();
    }
    assert_eq!(calls(&place), "spec discover check check");

    // Other settings: another catalog, the same spec.
    place.spec.config["host"] = "other".into();
    place.connector().discover().await.unwrap();
    assert_eq!(calls(&place), "spec discover check check discover");
    place.connector().forget_catalog();
    place.connector().discover().await.unwrap();
    assert_eq!(calls(&place), "spec discover check check discover discover");

    // Another version of the program.
    let text = place.text("connector");
    std::fs::write(place.path("connector"), format!("{text}\n# newer\n")).unwrap();
    place.connector().discover().await.unwrap();
    assert_eq!(calls(&place), "spec discover check check discover discover spec discover");

    for entry in entries(&place) {
        let mode = std::fs::metadata(&entry).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&entry).unwrap().contains("not-a-name-of-a-secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_or_broken_entry_is_as_if_it_were_not_there() {
    let place = counting();
    place.connector().discover().await.unwrap();
    let discover = |place: &Place| entries(place)[0].clone();
    assert!(discover(&place).display().to_string().contains("discover-"));

    let set_age = |age: Duration| {
        let file = std::fs::File::options().write(true).open(discover(&place)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    };
    set_age(CATALOG_LIVES - Duration::from_secs(60));
    place.connector().discover().await.unwrap();
    assert_eq!(calls(&place), "spec discover");
    set_age(CATALOG_LIVES);
    place.connector().discover().await.unwrap();
    assert_eq!(calls(&place), "spec discover discover");

    for broken in ["", "{", r#"{"form":1}"#, r#"{"form":1,"identity":{},"answer":{"streams":[]}}"#]
    {
        for entry in entries(&place) {
            std::fs::write(entry, broken).unwrap();
        }
        std::fs::remove_file(place.path("connector.calls")).unwrap();
        assert_eq!(place.connector().discover().await.unwrap().streams.len(), 1);
        assert_eq!(calls(&place), "spec discover");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_only_costs_time() {
    let mut place = counting();
    std::fs::write(place.path("file"), "").unwrap();
    place.spec.cache_dir = place.path("file").join("cache");
    place.connector().discover().await.unwrap();
    place.connector().discover().await.unwrap();
    assert_eq!(calls(&place), "spec discover spec discover");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_killed_after_the_patience() {
    let mut place = connector(r#"echo $$ > "$0.id"; echo starting; exec sleep 1000"#);
    // The spec is answered; the patience is for each question.
    place.connector().spec().await.unwrap();
    place.spec.patience = Duration::from_millis(1500);
    let error = place.connector().discover().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(error.message(), "The connector did not answer `discover` in time");
    assert_eq!(error.context_value("its last lines"), Some("starting"));
    eventually("its end", || !is_alive(&place.text("connector.id")));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_explained() {
    let place = connector("echo nothing to say");
    let error = place.connector().check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(error.message(), "The connector ended without an answer to `check`");
    assert!(error.hint_text().unwrap().ends_with("/connector check"), "{error}");

    let place = connector("echo 'ModuleNotFoundError: x' >&2; exit 1");
    let error = place.connector().discover().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("its last lines: ModuleNotFoundError: x"), "{error}");

    let place = connector(
        r#"echo '{"type":"TRACE","trace":{"type":"ERROR","error":{"message":"no such host","failure_type":"transient_error"}}}'; exit 1"#,
    );
    let error = place.connector().discover().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert_eq!(error.message(), "The connector says: no such host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_without_a_spec_works_all_the_same() {
    let place = script(
        r#"[ "$1" != spec ] || exit 2
echo '{"type":"CONNECTION_STATUS","connectionStatus":{"status":"SUCCEEDED"}}'"#,
    );
    place.connector().check().await.unwrap();
    assert!(place.connector().spec().await.is_err());
}
