//! Files, variables and overrides over each other.

use super::*;

#[test]
fn later_layers_lie_over_earlier_ones() {
    let more = "[service.shop.function.total]\ntimeout = '3s'\nmemory = '16MiB'\nhandler = 'more'";
    let folder = Folder::with(&[("lagless.toml", SMALL), ("more.toml", more)]);
    let settings = folder
        .load(
            &["lagless.toml", "more.toml"],
            &[
                ("LAGLESS__SERVICE__SHOP__FUNCTION__TOTAL__TIMEOUT", "4s"),
                ("LAGLESS__SERVICE__SHOP__FUNCTION__TOTAL__MEMORY", "32MiB"),
            ],
            &["service.shop.function.total.timeout=5s"],
        )
        .unwrap();
    let function = &settings.services["shop"].functions["total"];
    assert_eq!(function.handler, "more");
    assert_eq!(function.memory, 32 << 20);
    assert_eq!(function.timeout, Duration::from_secs(5));
    assert_eq!(function.code, folder.path().join("functions/total.ts"));
}

#[test]
fn secrets_and_rules_are_replaced_whole() {
    let base = trigger("rule = { data = { a = [1] } }").replace("REGION = \"eu\"", "KEY = { file = \"key\" }");
    let more =
        "[service.shop]\nenv = { KEY = { env = 'X' } }\n[service.shop.trigger.placed]\nrule = { data = { b = [2] } }";
    let folder = Folder::with(&[("lagless.toml", &base), ("more.toml", more)]);
    let settings = folder.load(&["lagless.toml", "more.toml"], &[("X", "hush")], &[]).unwrap();
    let service = &settings.services["shop"];
    assert_eq!(service.env["KEY"], Secret::hidden("hush"));
    assert_eq!(service.triggers["placed"].rule, Some(serde_json::json!({ "data": { "b": [2] } })));
}

#[test]
fn variables_find_keys_and_names_whatever_their_case() {
    let settings = loaded(
        &SMALL.replace("REGION", "camelCase"),
        &[
            ("LAGLESS__ADMIN", "off"),
            ("LAGLESS__SOURCE__SHOP_KAFKA__COMMIT_INTERVAL", "100ms"),
            ("LAGLESS__SOURCE__SHOP_KAFKA__CLIENT__SASL_PASSWORD", "{ env = \"PASSWORD\" }"),
            ("LAGLESS__SOURCE__SHOP_KAFKA__CLIENT__SESSION_TIMEOUT_MS", "7000"),
            ("LAGLESS__SERVICE__SHOP__ENV__camelCase", "1.0"),
            ("LAGLESS__SERVICE__SHOP__ENV__MY__VARIABLE", "007"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__TOPICS", "[\"a\", \"b\"]"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__RULE", "{\"data\": {\"x\": [null]}}"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__BATCH__SIZE", "7"),
            ("LAGLESS__SERVICE__SHOP__TRIGGER__PLACED__GROUP", "12"),
            ("LAGLESS_HOME", "/nowhere"),
            ("JSON_LOGS", "1"),
            ("PASSWORD", "hush"),
        ],
        &[],
    );
    assert_eq!(settings.admin, None);
    let source = &settings.sources["shop-kafka"];
    assert_eq!(source.commit_interval, Duration::from_millis(100));
    let SourceKind::Kafka(kafka) = &source.kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["sasl.password"], Secret::hidden("hush"));
    assert_eq!(kafka.client["session.timeout.ms"], Secret::plain("7000"));
    let service = &settings.services["shop"];
    assert_eq!(service.env["camelCase"].reveal(), "1.0");
    assert_eq!(service.env["MY__VARIABLE"].reveal(), "007");
    let trigger = &service.triggers["placed"];
    assert_eq!(trigger.topics, ["a", "b"]);
    assert_eq!(trigger.rule, Some(serde_json::json!({ "data": { "x": [null] } })));
    assert_eq!(trigger.batch_size, 7);
    assert_eq!(trigger.group, "12");
}

#[test]
fn variables_that_name_nothing_are_refused() {
    for (name, expected) in [
        (
            "LAGLESS__SERVICE__SHOP__FUNCTON__TOTAL__TIMEOUT",
            "environment variable LAGLESS__SERVICE__SHOP__FUNCTON__TOTAL__TIMEOUT: service.shop.functon: unknown key; \
             did you mean \"function\"? Allowed: env, log, function, trigger",
        ),
        (
            "LAGLESS__SERVICE__SHOP__FUNCTION__TOTL__TIMEOUT",
            "service.shop.function.TOTL: no function of this name in the configuration files; did you mean \"total\"?",
        ),
        ("LAGLESS__ADMIN__PORT", "admin: takes a value, there are no keys below it"),
        ("LAGLESS__SERVICE__SHOP__PERMISSIONS", "service.shop.permissions: not supported yet"),
        ("LAGLESS__", "unknown key"),
    ] {
        let errors = errors_of(SMALL, &[(name, "1s")], &[]);
        assert!(errors.contains(expected), "expected: {expected}\nfound: {errors}");
    }
}

#[test]
fn a_variable_that_fits_two_names_is_refused() {
    let text = "[source.a-b]\nkind = 'memory'\n[source.A_b]\nkind = 'memory'";
    let errors = errors_of(text, &[("LAGLESS__SOURCE__A_B__FORMAT", "value")], &[]);
    assert!(errors.contains("the variable fits several names: a-b, A_b"), "{errors}");
}

#[test]
fn overrides_take_exact_keys_and_new_names() {
    let settings = loaded(
        SMALL,
        &[],
        &[
            "source.shop-kafka.client.sasl.username=me",
            "source.shop-kafka.client.\"client.id\"='me too'",
            "source.lines.kind=memory",
            "service.shop.function.total.isolates={ min = 1, max = 2 }",
        ],
    );
    let SourceKind::Kafka(kafka) = &settings.sources["shop-kafka"].kind else { panic!("expected kafka") };
    assert_eq!(kafka.client["sasl.username"].reveal(), "me");
    assert_eq!(kafka.client["client.id"].reveal(), "me too");
    assert!(settings.sources.contains_key("lines"));
    assert_eq!(settings.services["shop"].functions["total"].isolates.max, 2);

    let errors = errors_of(SMALL, &[], &["service.shop.function.total.tiemout=2s", "nonsense"]);
    assert!(errors.contains("--set service.shop.function.total.tiemout: service.shop.function.total.tiemout: unknown key; did you mean \"timeout\"?"), "{errors}");
    assert!(errors.contains("--set number 2: no \"=\" in it"), "{errors}");
}
