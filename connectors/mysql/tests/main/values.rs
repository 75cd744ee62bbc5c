//! Every type arrives with its value, and what does not fit says so.

use highwater_core::{Connector, ErrorKind};
use highwater_mysql::MysqlConnector;
use serde_json::json;

use crate::server::{Reader, database, source_as};

#[tokio::test]
async fn every_type_arrives_with_its_value() {
    let (name, mut other) = database().await;
    other
        .run(
            "CREATE TABLE t (
               id bigint unsigned PRIMARY KEY, a tinyint, b smallint unsigned, c mediumint, d int,
               e bigint, f decimal(65,30), g decimal(10,2), h float, i double, j date,
               k datetime(6), l timestamp(3) NULL, m time(2), n year, o char(3), p varchar(10),
               q text, r enum('x','y'), s set('x','y'), u binary(2), v blob, w bit(9), x bool)",
        )
        .await;
    other
        .run(
            "SET time_zone = '+00:00';
             INSERT INTO t VALUES (18446744073709551615, -128, 65535, -8388608, -2147483648,
               -9223372036854775808, 12345678901234567890123456789012345.678901234567890123456789012345,
               -0.10, 0.1, 1e308, '2024-02-29', '9999-12-31 23:59:59.999999',
               '2024-03-31 02:30:00.123', '-838:59:58.99', 2155, 'a', 'é😀', '', 'y', 'x,y',
               X'00ff', X'', b'100000001', 2)",
        )
        .await;
    other.run("INSERT INTO t (id) VALUES (1)").await;
    let mut reader = Reader::new(&name, "t", None).await;
    let rows = reader.sync().await;
    let nulls = ["NULL"; 23].join("|");
    assert_eq!(rows[1], format!("1|{nulls}"));
    let expected = "18446744073709551615|-128|65535|-8388608|-2147483648|-9223372036854775808\
                    |12345678901234567890123456789012345.678901234567890123456789012345|-0.10|0.1\
                    |1e308|2024-02-29|9999-12-31 23:59:59.999999|2024-03-31 02:30:00.123000Z\
                    |-838:59:58.99|2155|a|é😀||y|x,y|AP8=||AQE=|2";
    assert_eq!(rows[0].replace("e+308", "e308"), expected);
    let table = reader.table().source.clone();
    assert_eq!(table.primary_key, ["id"]);
    assert!(!table.field("id").unwrap().is_nullable());
}

#[tokio::test]
async fn a_date_that_is_none_is_refused_and_text_helps() {
    let (name, mut other) = database().await;
    other.run("SET sql_mode = ''; CREATE TABLE t (id int PRIMARY KEY, d date)").await;
    other.run("INSERT INTO t VALUES (1, '0000-00-00')").await;
    let mut reader = Reader::new(&name, "t", None).await;
    let error = reader.try_sync().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data);
    assert_eq!(error.context_value("table"), Some("t"));
    assert_eq!(error.context_value("column"), Some("d"));
    assert!(error.message().contains("zero date"), "{}", error.message());
    // A list of columns leaves out those that it does not name.
    let hint = error.hint_text().unwrap();
    assert_eq!(hint, "columns: [{name: d, type: text}]   # and the other columns to copy");
    assert!(!error.full_message().contains("0000-00-00"), "no value in an error");
    let table = reader.table();
    let mut source = (*table.source).clone();
    let text = arrow_schema::Field::new("d", arrow_schema::DataType::Utf8, true);
    let id = source.schema.field(0).clone();
    source.schema = std::sync::Arc::new(arrow_schema::Schema::new(vec![id, text]));
    table.source = std::sync::Arc::new(source);
    assert_eq!(reader.sync().await, ["1|0000-00-00"]);
}

#[tokio::test]
async fn large_tables_names_and_views_are_read() {
    let (name, mut other) = database().await;
    other.run("CREATE TABLE `sélect \"x\"` (`or``der` int)").await;
    other.run("INSERT INTO `sélect \"x\"` SELECT seq FROM seq_1_to_20000").await;
    other.run("CREATE VIEW v AS SELECT * FROM `sélect \"x\"` WHERE `or``der` < 3").await;
    other.run("CREATE TABLE m (id int) ENGINE = MyISAM").await;
    let mut reader = Reader::new(&name, "sélect \"x\"", None).await;
    assert_eq!(reader.sync().await.len(), 20_000);
    assert!(reader.notes().await.is_empty());
    assert_eq!(Reader::new(&name, "v", None).await.sync().await, ["1", "2"]);
    let notes = Reader::new(&name, "m", None).await.notes().await;
    assert!(notes[0].contains("MyISAM"), "{notes:?}");
}

#[tokio::test]
async fn a_read_that_is_given_up_ends_at_the_server() {
    let (name, mut other) = database().await;
    other.run("CREATE VIEW endless AS SELECT seq FROM seq_1_to_1000000000000").await;
    let reader = Reader::new(&name, "endless", None).await;
    for is_asked in [true, false] {
        reader.give_up(is_asked).await;
        assert!(other.is_alone().await, "asked to stop: {is_asked}");
    }
}

#[tokio::test]
async fn what_changed_since_the_plan_stops_the_read() {
    let (name, mut other) = database().await;
    other.run("CREATE TABLE t (id int, v int)").await;
    let mut reader = Reader::new(&name, "t", None).await;
    other.run("ALTER TABLE t MODIFY v bigint").await;
    assert_eq!(reader.try_sync().await.unwrap_err().kind(), ErrorKind::Schema);
    other.run("ALTER TABLE t DROP COLUMN v").await;
    assert_eq!(reader.try_sync().await.unwrap_err().kind(), ErrorKind::Schema);
    other.run("DROP TABLE t").await;
    assert_eq!(reader.try_sync().await.unwrap_err().kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn errors_of_connecting_say_where_and_never_the_password() {
    let (name, mut other) = database().await;
    other.run("CREATE USER IF NOT EXISTS guarded IDENTIFIED BY 's3cret'").await;
    let refused = source_as("guarded:wr0ng", &name).await.check().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config, "{}", refused.full_message());
    assert!(!refused.full_message().contains("wr0ng"));
    let refused = source_as("root", "nowhere").await.check().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    let spec = json!({"connection_string": "mysql://me:s3cret@127.0.0.1:1/shop"});
    let unreachable = MysqlConnector.source(spec).await.unwrap().check().await.unwrap_err();
    assert_eq!(unreachable.kind(), ErrorKind::Transient);
    assert!(unreachable.full_message().contains("127.0.0.1:1"));
    assert!(!unreachable.full_message().contains("s3cret"));
}
