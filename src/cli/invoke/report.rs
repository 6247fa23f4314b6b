//! What is printed of a run, for people and for machines.

use bytesize::ByteSize;
use lagless_protocol::frames::Failure;
use serde::Serialize;
use serde_json::value::RawValue;

use super::session::Ran;

/// The one line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    end: End<'a>,
    duration_ms: f64,
    cpu_ms: f64,
    memory_bytes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum End<'a> {
    Result(&'a RawValue),
    Error(ErrorLine<'a>),
}

#[derive(Serialize)]
struct ErrorLine<'a> {
    class: &'a str,
    name: &'a str,
    message: &'a str,
    stack: &'a str,
}

/// The line of `--json`, without its end.
pub fn line(ran: &Ran) -> serde_json::Result<String> {
    let end = match &ran.result {
        Ok(json) if json.is_empty() => End::Result(RawValue::NULL),
        Ok(json) => End::Result(serde_json::from_slice(json)?),
        Err(Failure { class, name, message, stack }) => {
            End::Error(ErrorLine { class: class.as_str(), name, message, stack })
        }
    };
    let milliseconds = |time: std::time::Duration| time.as_micros() as f64 / 1000.0;
    serde_json::to_string(&Line {
        end,
        duration_ms: milliseconds(ran.wall),
        cpu_ms: milliseconds(ran.cpu),
        memory_bytes: ran.memory_bytes,
    })
}

/// A result, indented.
pub fn pretty(json: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(json)
        .and_then(|value| serde_json::to_string_pretty(&value))
        // What is nested too deeply is shown as it came.
        .unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned())
}

/// A failure: its class, then the stack, or the message where there is none.
pub fn failure(failure: &Failure) -> String {
    let headline = format!("{}: {}", failure.name, failure.message);
    let class = failure.class.as_str();
    match failure.stack.trim_end() {
        "" => format!("failed ({class}): {headline}"),
        stack if stack.starts_with(&headline) => format!("failed ({class}): {stack}"),
        stack => format!("failed ({class}): {headline}\n{stack}"),
    }
}

/// What the run took.
pub fn figures(ran: &Ran) -> String {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let memory = ByteSize::b(ran.memory_bytes).display().iec();
    format!("duration {:.1} ms, CPU {:.1} ms, memory {memory}", milliseconds(ran.wall), milliseconds(ran.cpu))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lagless_protocol::frames::FailureClass;

    use super::*;

    fn ran(result: Result<&str, Failure>) -> Ran {
        Ran {
            result: result.map(|text| text.as_bytes().to_vec()),
            wall: Duration::from_micros(1234),
            cpu: Duration::from_micros(900),
            memory_bytes: 3 << 20,
        }
    }

    fn thrown(stack: &str) -> Failure {
        Failure { stack: stack.into(), ..Failure::new(FailureClass::Exception, "TypeError", "no \"x\"") }
    }

    fn check_line(result: Result<&str, Failure>, expected: &str) {
        let figures = r#","duration_ms":1.234,"cpu_ms":0.9,"memory_bytes":3145728}"#;
        assert_eq!(line(&ran(result)).unwrap(), format!("{expected}{figures}"));
    }

    #[test]
    fn the_json_line_holds_the_result_as_it_came_or_the_error() {
        check_line(
            Ok(r#"{"b":1e21,"a":[12345678901234567890123]}"#),
            r#"{"result":{"b":1e21,"a":[12345678901234567890123]}"#,
        );
        check_line(Ok(""), r#"{"result":null"#);
        check_line(
            Err(thrown("TypeError: no \"x\"\n    at f")),
            r#"{"error":{"class":"exception","name":"TypeError","message":"no \"x\"","stack":"TypeError: no \"x\"\n    at f"}"#,
        );
        assert!(line(&ran(Ok("not JSON"))).is_err());
    }

    #[test]
    fn a_failure_is_told_once() {
        assert_eq!(failure(&thrown("")), "failed (exception): TypeError: no \"x\"");
        let stack = "TypeError: no \"x\"\n    at f (file:///function/a.ts:1:2)";
        assert_eq!(failure(&thrown(stack)), format!("failed (exception): {stack}"));
        assert_eq!(failure(&thrown("    at f")), "failed (exception): TypeError: no \"x\"\n    at f");
    }

    #[test]
    fn a_result_is_indented_in_its_own_order() {
        assert_eq!(pretty(br#"{"b":1,"a":[]}"#), "{\n  \"b\": 1,\n  \"a\": []\n}");
        let deep = ["[".repeat(1000), "]".repeat(1000)].concat();
        assert_eq!(pretty(deep.as_bytes()), deep);
    }

    #[test]
    fn figures_have_units() {
        assert_eq!(figures(&ran(Ok("1"))), "duration 1.2 ms, CPU 0.9 ms, memory 3.0 MiB");
    }
}
