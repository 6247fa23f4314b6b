//! Where secrets come from, and that they go nowhere.

use super::*;

#[test]
fn secrets_come_from_variables_and_files() {
    let text = client("'sasl.password' = { env = 'KAFKA_PASSWORD' }, 'ssl.key.password' = { file = 'key' }");
    let folder = Folder::with(&[("lagless.toml", &text), ("key", "from file\n")]);
    let settings = folder.load(&["lagless.toml"], &[("KAFKA_PASSWORD", "from env")], &[]).unwrap();
    let SourceKind::Kafka(kafka) = &settings.sources["shop-kafka"].kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["sasl.password"], Secret::hidden("from env"));
    assert_eq!(kafka.client["ssl.key.password"], Secret::hidden("from file"));
    assert!(settings.files.contains(&folder.path().join("key")));

    check_error(
        &client("'sasl.password' = { env = 'KAFKA_PASSWORD' }"),
        "source.shop-kafka.client.\"sasl.password\": the environment variable KAFKA_PASSWORD is not set",
    );
    check_error(&client("'sasl.password' = { file = 'gone' }"), "gone cannot be read: No such file");
    check_error(&client("'sasl.password' = { enw = 'X' }"), "found a table of another form; expected a string");
}

#[test]
fn no_secret_is_ever_shown() {
    let text =
        client("'sasl.password' = { env = 'A' }, 'ssl.key.password' = 'hush open', 'ssl.ca.pem' = { file = 'key' }")
            .replace("REGION = \"eu\"", "API_TOKEN = 'hush token', OTHER = { env = 'A' }, REGION = 'eu'");
    let folder = Folder::with(&[("lagless.toml", &text), ("key", "hush file")]);
    let settings = folder.load(&["lagless.toml"], &[("A", "hush env")], &[]).unwrap();
    let shown = show(&settings);
    assert!(!shown.contains("hush"), "{shown}");
    assert!(!format!("{settings:?}").contains("hush"));
    assert!(shown.contains("REGION = \"eu\"") && shown.contains("\"sasl.password\" = \"***\""), "{shown}");

    let errors = errors_of(&text.replace("env = 'A'", "env = ['hush']"), &[], &[]);
    assert!(!errors.contains("hush"), "{errors}");
}
