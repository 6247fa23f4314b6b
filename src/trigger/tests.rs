use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::*;
use crate::event::Header;

fn message(value: Option<&[u8]>) -> MessageRef<'_> {
    MessageRef {
        topic: "orders",
        partition: 3,
        offset: 9_007_199_254_740_993,
        timestamp: Some(1_700_000_000_000),
        key: Some(b"k-1"),
        value,
        headers: vec![
            Header { name: "region", value: Some(b"eu") },
            Header { name: "region", value: Some(b"us") },
            Header { name: "none", value: None },
            Header { name: "raw", value: Some(b"ab\xff") },
        ],
        properties: None,
    }
}

fn fires(pattern: &Value, message: &MessageRef<'_>) -> bool {
    let rule = Rule::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    let reads_body = rule.reads_body();
    let triggers = Triggers::new("shop", vec![TriggerEntry { topics: vec![], rule: Some(rule) }]);
    let mut matched = Vec::new();
    let scanned = triggers.matching(message, &mut matched);
    assert!(reads_body || scanned == 0);
    matched == [0]
}

fn check_bodies(pattern: Value, cases: &[(&str, bool)]) {
    for (body, expected) in cases {
        assert_eq!(fires(&pattern, &message(Some(body.as_bytes()))), *expected, "{pattern} on {body}");
    }
}

fn check_field(tests: Value, cases: &[(&str, bool)]) {
    for (value, expected) in cases {
        let body = format!(r#"{{"skipped": [{{"a": 1}}, "x"], "a": {value}, "z": {{}}}}"#);
        check_bodies(json!({"data": {"a": tests}}), &[(&body, *expected)]);
    }
}

#[test]
fn exact_values_match_by_value_and_kind() {
    check_field(
        json!(["x\"\u{e9}\u{1f600}"]),
        &[
            (r#""x\"é😀""#, true),
            (r#""\u0078\u0022\u00E9\uD83D\uDE00""#, true),
            (r#""x""#, false),
            (r#""x\"é\uD83D""#, false),
            ("1", false),
        ],
    );
    check_field(json!(["\u{fffd}"]), &[(r#""\ud800""#, false), (r#""\ufffd""#, true)]);
    check_field(json!([""]), &[(r#""""#, true), ("null", false), ("{}", false)]);
    check_field(
        json!([1]),
        &[("1", true), ("1.0", true), ("10e-1", true), ("-1", false), (r#""1""#, false), ("true", false)],
    );
    check_field(json!([0]), &[("-0", true), ("-0.0", true)]);
    check_field(json!([9_007_199_254_740_993_u64]), &[("9007199254740993", true), ("9007199254740992", false)]);
    check_field(json!([u64::MAX]), &[("18446744073709551615", true), ("18446744073709551616", false)]);
    check_field(json!([true]), &[("true", true), ("false", false), (r#""true""#, false)]);
    check_field(json!([null]), &[("null", true), ("[]", false), ("0", false)]);
    check_field(json!(["a", 1, false]), &[(r#""a""#, true), ("1", true), ("false", true), ("null", false)]);
}

#[test]
fn prefix_suffix_and_numeric_match() {
    check_field(json!([{"prefix": "ab"}]), &[(r#""abc""#, true), (r#""ab""#, true), (r#""a""#, false), ("1", false)]);
    check_field(json!([{"suffix": "\n"}]), &[(r#""a\n""#, true), (r#""\\n""#, false)]);
    check_field(json!([{"numeric": ["=", 3.0]}]), &[("3", true), ("4", false), (r#""3""#, false)]);
    check_field(json!([{"numeric": [">", 0]}]), &[("0", false), ("1e-9", true), ("1e999", true), ("-1", false)]);
    check_field(json!([{"numeric": ["<", 0]}]), &[("-0.1", true), ("0", false)]);
    check_field(json!([{"numeric": [">=", 1, "<=", 2]}]), &[("1", true), ("2.0", true), ("2.01", false)]);
    check_field(
        json!([{"numeric": [">", 9_007_199_254_740_992_u64]}]),
        &[("9007199254740993", true), ("9007199254740992", false)],
    );
}

#[test]
fn exists_looks_at_leaves() {
    let present = [("null", true), ("0", true), ("[[1]]", true), ("{}", false), (r#"{"b":1}"#, false), ("[]", false)];
    check_field(json!([{"exists": true}]), &present);
    check_field(json!([{"exists": false}]), &present.map(|(value, exists)| (value, !exists)));
    check_bodies(
        json!({"data": {"a": {"b": [{"exists": false}]}}}),
        &[("{}", true), ("1", true), (r#"{"a":1}"#, true), (r#"{"a":{"b":0}}"#, false), ("not json", true), ("", true)],
    );
}

#[test]
fn anything_but_needs_a_leaf_of_another_value() {
    check_field(
        json!([{"anything-but": "a"}]),
        &[(r#""a""#, false), (r#""b""#, true), ("1", true), ("null", true), ("{}", false), (r#"["a","b"]"#, true)],
    );
    check_field(json!([{"anything-but": ["a", 1]}]), &[("1.0", false), (r#"["a",1]"#, false), ("2", true)]);
    check_field(json!([{"anything-but": {"prefix": "a"}}]), &[(r#""ab""#, false), (r#""b""#, true), ("1", true)]);
    check_bodies(json!({"data": {"a": [{"anything-but": 1}]}}), &[("{}", false), ("x", false)]);
}

#[test]
fn arrays_match_by_any_element_and_objects_by_all_fields() {
    check_field(json!(["x"]), &[(r#"["y", [["x"]]]"#, true), (r#"[{"x": "x"}]"#, false)]);
    let pattern = json!({"data": {"items": {"sku": ["s"], "count": [{"numeric": [">", 1]}]}}});
    check_bodies(
        pattern,
        &[
            (r#"{"items": {"count": 2, "sku": "s"}}"#, true),
            (r#"{"items": [{"sku": "s", "count": 2}]}"#, true),
            (r#"{"items": [{"sku": "s", "count": 1}, {"sku": "t", "count": 2}]}"#, false),
            (r#"{"items": [1, [{"sku": "t"}, {"sku": ["u", "s"], "count": 2}]]}"#, true),
            (r#"{"items": []}"#, false),
        ],
    );
    check_bodies(json!({"data": ["x"]}), &[(r#""x""#, true), (r#" ["x"] "#, true), ("x", false)]);
}

#[test]
fn the_last_of_repeated_names_counts() {
    check_bodies(
        json!({"data": {"a": {"b": [1]}}}),
        &[
            (r#"{"a": {"b": 1}, "a": 2}"#, false),
            (r#"{"a": {"b": 2}, "\u0061": {"b": 3, "b": 1}}"#, true),
            (r#"{"a": [{"b": 1}], "a": {}}"#, false),
        ],
    );
}

#[test]
fn a_body_that_is_not_json_has_no_data() {
    let pattern = json!({"data": {"a": [1]}});
    check_bodies(
        pattern.clone(),
        &[
            ("\u{feff}{\"a\":1}", true),
            (r#"{"a":1}x"#, false),
            (r#"{"a":1}{"a":1}"#, false),
            (r#"{"a":1,}"#, false),
            (r#"{"a":1,"b":01}"#, false),
            ("{\"a\":1,\"b\":\"\t\"}", false),
            (r#"{"a":1,"b":"\x"}"#, false),
            (r#"{"a":1,"b":"\u12g4"}"#, false),
            (r#"{"a":1"#, false),
        ],
    );
    assert!(!fires(&pattern, &message(Some(b"{\"a\":1,\"b\":\"\xff\"}"))));
    assert!(fires(&json!({"data": [null]}), &message(None)));
    assert!(!fires(&pattern, &message(None)));
}

#[test]
fn nesting_has_no_depth_that_overflows() {
    let open = "[".repeat(1_000_000);
    let whole = format!("{open}1{}", "]".repeat(1_000_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(200_000), "}".repeat(200_000));
    check_bodies(json!({"data": [1]}), &[(&open, false), (&whole, true), (&objects, false)]);
}

#[test]
fn fields_beside_the_body_match() {
    let cases = [
        (json!({"topic": ["orders"]}), true),
        (json!({"topic": [{"anything-but": "orders"}]}), false),
        (json!({"partition": [3], "source": ["shop"]}), true),
        (json!({"offset": [9_007_199_254_740_992_i64]}), false),
        (json!({"offset": [{"numeric": [">=", 9_007_199_254_740_993_i64]}]}), true),
        (json!({"timestamp": [{"numeric": ["<", 1_700_000_000_000_i64]}]}), false),
        (json!({"key": [{"prefix": "k-"}], "headers": {"region": ["us"]}}), true),
        (json!({"headers": {"Region": [{"exists": true}]}}), false),
        (json!({"headers": {"none": [null], "raw": [{"prefix": "ab"}]}}), true),
        (json!({"headers": {"raw": ["ab\u{fffd}"]}}), false),
    ];
    for (pattern, expected) in cases {
        assert_eq!(fires(&pattern, &message(None)), expected, "{pattern}");
    }
    let mut bare = message(None);
    bare.key = None;
    bare.timestamp = None;
    assert!(fires(&json!({"key": [{"exists": false}], "timestamp": [{"exists": false}]}), &bare));
}

#[test]
fn what_is_no_rule_is_refused_at_its_place() {
    let cases = [
        (json!(1), "rule: expected an object of fields, found 1"),
        (json!({}), "rule: an empty pattern; leave it out to match every message"),
        (json!({"header": {}}), "rule.header: no such field, did you mean \"headers\"?; a rule may test data"),
        (json!({"value": [1]}), "rule.value: no such field; a rule may test data, topic"),
        (json!({"$or": []}), "rule.$or: not supported yet"),
        (json!({"data": {"a": {"$or": []}}}), "rule.data.a.$or: not supported yet"),
        (json!({"data": {"a": "x"}}), "rule.data.a: expected a list of tests such as [\"x\"], found \"x\""),
        (json!({"data": {"a": {"prefix": "x"}}}), "rule.data.a.prefix: a test stands in a list: [{\"prefix\": \"x\"}]"),
        (json!({"data": {"a": []}}), "rule.data.a: an empty list never matches"),
        (json!({"data": {"a": [[1]]}}), "rule.data.a[0]: expected a test, found [1]"),
        (json!({"data": {"a": [1, {"wildcard": "*"}]}}), "rule.data.a[1].wildcard: not supported yet"),
        (json!({"data": {"a": [{"prefx": "*"}]}}), "rule.data.a[0].prefx: no such operator, did you mean \"prefix\"?"),
        (json!({"data": {"a": [{"prefix": {"equals-ignore-case": "a"}}]}}), "rule.data.a[0].prefix: expected a string"),
        (json!({"data": {"a": [{"numeric": [">"]}]}}), "rule.data.a[0].numeric: expected comparisons"),
        (json!({"data": {"a": [{"numeric": [">", 1, "!", 2]}]}}), "rule.data.a[0].numeric[2]: expected one of ="),
        (json!({"data": {"a": [{"numeric": [">", "1"]}]}}), "rule.data.a[0].numeric[1]: expected a number"),
        (json!({"data": {"a": [{"exists": 1}]}}), "rule.data.a[0].exists: expected true or false"),
        (json!({"data": {"a": [{"exists": true, "prefix": ""}]}}), "rule.data.a[0]: expected exactly one operator"),
        (json!({"data": {"a": [{"anything-but": {"suffix": "x"}}]}}), "rule.data.a[0].anything-but: not supported yet"),
        (json!({"data": {"a": [{"anything-but": []}]}}), "rule.data.a[0].anything-but: an empty list"),
        (json!({"headers": {"n": [1]}}), "rule.headers.n[0]: 1 never matches here, where values are text or null"),
        (json!({"headers": {"n": {"m": [1]}}}), "rule.headers.n: expected a list of tests, found an object"),
        (json!({"key": [{"numeric": ["=", 1]}]}), "rule.key[0].numeric: never matches here, where values are text"),
        (json!({"partition": ["1"]}), "rule.partition[0]: \"1\" never matches here, where values are numbers"),
    ];
    for (pattern, expected) in cases {
        let error = Rule::compile(&pattern).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{pattern}: {error}");
    }
    let deep = (0..70).fold(json!([1]), |inner, _| json!({"a": inner}));
    assert!(Rule::compile(&json!({"data": deep})).unwrap_err().reason.contains("nested deeper"));
}

#[test]
fn each_message_finds_its_triggers_with_one_scan_or_none() {
    let entry = |topics: &[&str], rule: Option<Value>| TriggerEntry {
        topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        rule: rule.map(|pattern| Rule::compile(&pattern).unwrap()),
    };
    let triggers = Triggers::new(
        "shop",
        vec![
            entry(&["orders"], None),
            entry(&["payments", "orders"], Some(json!({"data": {"a": [1]}}))),
            entry(&[], Some(json!({"key": ["other"], "data": {"a": [1]}}))),
            entry(&["payments"], None),
            entry(&[], Some(json!({"headers": {"region": ["eu"]}, "data": {"b": [2], "a": [{"exists": true}]}}))),
        ],
    );
    let matching = |topic: &'static str, body: &'static [u8]| {
        let mut matched = vec![7];
        let scanned = triggers.matching(&MessageRef { topic, headers: vec![], ..message(Some(body)) }, &mut matched);
        (matched, scanned)
    };
    assert_eq!(matching("orders", br#"{"a":1,"b":2}"#), (vec![7, 0, 1], 13));
    assert_eq!(matching("payments", br#"{"a":2}"#), (vec![7, 3], 7));
    assert_eq!(matching("else", br#"{"a":1}"#), (vec![7], 0));
    let mut matched = Vec::new();
    triggers.matching(&message(Some(br#"{"a":1,"b":2}"#)), &mut matched);
    assert_eq!(matched, [0, 1, 4]);
}

/// The same language over parsed values, said as plainly as can be.
mod naive {
    use serde_json::Value;

    pub fn matches(pattern: &Value, value: Option<&Value>) -> bool {
        let mut elements = Vec::new();
        flatten(value, &mut elements);
        match pattern {
            Value::Object(fields) => {
                let all = |object: Option<&Value>| {
                    fields.iter().all(|(name, pattern)| matches(pattern, object.and_then(|object| object.get(name))))
                };
                let objects: Vec<_> = elements.into_iter().filter(|element| element.is_object()).collect();
                if objects.is_empty() { all(None) } else { objects.into_iter().any(|object| all(Some(object))) }
            }
            Value::Array(tests) => {
                let leaves: Vec<_> = elements.into_iter().filter(|element| !element.is_object()).collect();
                tests.iter().any(|test| match test.get("exists") {
                    Some(wanted) => *wanted != Value::Bool(leaves.is_empty()),
                    None => leaves.iter().any(|leaf| accepts(test, leaf)),
                })
            }
            _ => unreachable!("patterns are objects and lists"),
        }
    }

    fn flatten<'v>(value: Option<&'v Value>, elements: &mut Vec<&'v Value>) {
        match value {
            Some(Value::Array(list)) => list.iter().for_each(|element| flatten(Some(element), elements)),
            other => elements.extend(other),
        }
    }

    fn accepts(test: &Value, leaf: &Value) -> bool {
        let Value::Object(operator) = test else { return equal(test, leaf) };
        let (name, operand) = operator.iter().next().unwrap();
        let affix = |name: &str, operand: &Value| match (leaf.as_str(), operand.as_str()) {
            (Some(text), Some(affix)) if name == "prefix" => text.starts_with(affix),
            (Some(text), Some(affix)) => text.ends_with(affix),
            _ => false,
        };
        match (name.as_str(), operand) {
            ("anything-but", Value::Array(list)) => !list.iter().any(|refused| equal(refused, leaf)),
            ("anything-but", Value::Object(prefix)) => !affix("prefix", &prefix["prefix"]),
            ("anything-but", refused) => !equal(refused, leaf),
            ("numeric", Value::Array(bounds)) => {
                leaf.as_f64().is_some_and(|number| bounds.chunks(2).all(|bound| holds(number, bound)))
            }
            (affix_name, operand) => affix(affix_name, operand),
        }
    }

    fn equal(one: &Value, other: &Value) -> bool {
        one == other || (one.is_number() && other.is_number() && one.as_f64() == other.as_f64())
    }

    fn holds(number: f64, bound: &[Value]) -> bool {
        let limit = bound[1].as_f64().unwrap();
        match bound[0].as_str().unwrap() {
            "=" => number == limit,
            "<" => number < limit,
            "<=" => number <= limit,
            ">" => number > limit,
            _ => number >= limit,
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("\u{e9}"), Just("\"\n")].prop_map(str::to_owned)
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        (-4i32..5).prop_map(|quarters| Value::from(f64::from(quarters) / 2.0)),
        "[ab\u{e9}\\\\\"\n]{0,2}".prop_map(Value::from),
    ]
}

fn document() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(name(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn pattern() -> impl Strategy<Value = Value> {
    let comparison = || prop_oneof![Just("="), Just("<"), Just("<="), Just(">"), Just(">=")];
    let test = prop_oneof![
        4 => leaf(),
        1 => any::<bool>().prop_map(|exists| json!({"exists": exists})),
        1 => "[ab\u{e9}\\\\]{0,1}".prop_map(|text| json!({"prefix": text})),
        1 => "[ab\u{e9}\"]{0,1}".prop_map(|text| json!({"suffix": text})),
        1 => (comparison(), -2i64..3).prop_map(|(comparison, limit)| json!({"numeric": [comparison, limit]})),
        1 => (-2i64..3, 0i64..3).prop_map(|(low, width)| json!({"numeric": [">=", low, "<", low + width]})),
        1 => leaf().prop_map(|value| json!({"anything-but": value})),
        1 => proptest::collection::vec(leaf(), 1..3).prop_map(|list| json!({"anything-but": list})),
        1 => "[ab]".prop_map(|text| json!({"anything-but": {"prefix": text}})),
    ];
    let tests = proptest::collection::vec(test, 1..3).prop_map(Value::from);
    tests.prop_recursive(3, 12, 3, |inner| {
        proptest::collection::hash_map(name(), inner, 1..3)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn verdicts_agree_with_a_naive_matcher(
        patterns in proptest::collection::vec(pattern(), 1..4), body in document(), pretty in any::<bool>(),
    ) {
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let entry = |pattern: &Value| TriggerEntry {
            topics: vec![],
            rule: Some(Rule::compile(&json!({"data": pattern})).unwrap()),
        };
        let triggers = Triggers::new("shop", patterns.iter().map(entry).collect());
        let mut matched = Vec::new();
        prop_assert_eq!(triggers.matching(&message(Some(text.as_bytes())), &mut matched), text.len());
        let expected: Vec<u32> = (0u32..).zip(&patterns)
            .filter(|(_, pattern)| naive::matches(pattern, Some(&body)))
            .map(|(index, _)| index)
            .collect();
        prop_assert_eq!(matched, expected, "{:?} on {}", patterns, text);
    }

    #[test]
    fn what_counts_as_json_is_what_a_second_parser_accepts(
        text in "([\\[\\]{},:]|\"[a\\\\\"]{0,2}\"|\"\\\\[un/x][0-9a-g]{0,5}\"|-?[01.]{1,3}([eE][+-]?[0-9]?)?|true|null|[ \t]|a|\u{1}){0,9}",
    ) {
        let body = format!("[7,{text}]");
        let accepted = serde_json::from_str::<IgnoredAny>(&body).is_ok();
        prop_assert_eq!(fires(&json!({"data": [7]}), &message(Some(body.as_bytes()))), accepted, "{}", body);
    }

    #[test]
    fn any_bytes_get_a_verdict(body in any::<Vec<u8>>(), mut json in document().prop_map(|body| body.to_string().into_bytes()), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        fires(&json!({"data": {"a": {"b": [1]}}}), &message(Some(&body)));
        let at = at.index(json.len());
        json[at] = byte;
        fires(&json!({"data": {"a": {"b": [{"prefix": "a"}]}}}), &message(Some(&json)));
    }
}
