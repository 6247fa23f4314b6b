//! The rooms of `src/` reach only where they may: what each knows nothing of, in the form of a test.

use std::fs;
use std::path::{Path, PathBuf};

/// A room, the rooms it may use besides itself, and the crates it must not name.
struct Room {
    name: &'static str,
    may_use: &'static [&'static str],
    must_not_name: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room { name: "event", may_use: &[], must_not_name: &["rdkafka", "lapin", "tokio", "axum", "lagless_javascript"] },
    Room {
        name: "trigger",
        may_use: &["event"],
        must_not_name: &["rdkafka", "lapin", "tokio", "axum", "lagless_javascript", "lagless_protocol"],
    },
    Room {
        name: "delivery",
        may_use: &["event"],
        must_not_name: &["rdkafka", "lapin", "tokio", "axum", "lagless_javascript", "lagless_protocol"],
    },
    Room {
        name: "source",
        may_use: &["config", "delivery", "event", "telemetry", "trigger"],
        must_not_name: &["lagless_javascript", "lagless_protocol", "axum"],
    },
    Room {
        name: "sink",
        // Connections are configured alike whether they read or write.
        may_use: &["config", "event", "source"],
        must_not_name: &["lagless_javascript", "lagless_protocol", "axum"],
    },
    Room { name: "function", may_use: &["config"], must_not_name: &["rdkafka", "lapin", "tokio", "axum"] },
    Room { name: "scale", may_use: &[], must_not_name: &["rdkafka", "lapin", "tokio", "axum"] },
    Room {
        name: "engine",
        may_use: &["config", "delivery", "event", "scale", "sink", "source", "telemetry"],
        must_not_name: &["rdkafka", "lapin", "lagless_javascript", "axum"],
    },
    Room { name: "admin", may_use: &["app", "telemetry"], must_not_name: &["rdkafka", "lapin", "lagless_javascript"] },
    Room { name: "config", may_use: &[], must_not_name: &["rdkafka", "lapin", "tokio", "axum", "lagless_javascript"] },
    Room { name: "telemetry", may_use: &[], must_not_name: &["rdkafka", "lapin", "axum", "lagless_javascript"] },
    Room {
        name: "app",
        may_use: &[
            "config",
            "delivery",
            "engine",
            "event",
            "function",
            "scale",
            "sink",
            "source",
            "telemetry",
            "trigger",
        ],
        must_not_name: &["rdkafka", "lapin", "lagless_javascript", "axum"],
    },
    Room {
        name: "cli",
        may_use: &["admin", "app", "config", "function", "source", "telemetry", "trigger"],
        must_not_name: &["lapin", "axum"],
    },
];

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "rs"))
        .flat_map(|path| rust_files(&path))
        .collect()
}

/// The files of a room: its folder, and the file beside it.
fn files_of(room: &str) -> Vec<PathBuf> {
    let places = [source_folder().join(room), source_folder().join(format!("{room}.rs"))];
    places.iter().filter(|path| path.exists()).flat_map(|path| rust_files(path)).collect()
}

fn is_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// What follows each mention of `before`; nothing where rooms are listed in braces.
fn first_parts<'a>(code: &'a str, before: &str) -> Vec<&'a str> {
    code.match_indices(before)
        .map(|(at, _)| &code[at + before.len()..])
        .map(|rest| &rest[..rest.find(|letter| !is_of_name(letter)).unwrap_or(rest.len())])
        .collect()
}

fn names(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| !code[..at].ends_with(is_of_name))
}

/// Without comments, which may speak of anything, and without tests, which may bring in what they need.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn no_room_reaches_where_it_must_not() {
    let mut breaches = Vec::new();
    for room in ROOMS {
        let files = files_of(room.name);
        assert!(!files.is_empty(), "there is no room {}", room.name);
        for file in files.iter().filter(|file| !file.ends_with("tests.rs")) {
            let code = code_of(file);
            let place = file.strip_prefix(source_folder()).unwrap().display().to_string();
            for used in first_parts(&code, "crate::") {
                if used != room.name && !room.may_use.contains(&used) {
                    breaches.push(format!("{place}: {} must not use {used}", room.name));
                }
            }
            for name in room.must_not_name.iter().filter(|name| names(&code, name)) {
                breaches.push(format!("{place}: {} must not name {name}", room.name));
            }
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    let mut found: Vec<String> = fs::read_dir(source_folder())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| !["lib", "main"].contains(&name.as_str()))
        .collect();
    found.sort();
    found.dedup();
    let mut known: Vec<&str> = ROOMS.iter().map(|room| room.name).collect();
    known.sort_unstable();
    assert_eq!(found, known);
}

#[test]
fn only_the_javascript_runner_links_v8() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("runtimes/protocol/Cargo.toml")).unwrap();
    assert!(!manifest.contains("deno_") && !manifest.contains("v8"), "{manifest}");
    for file in rust_files(&root.join("src")).iter().chain(&rust_files(&root.join("runtimes/protocol/src"))) {
        let code = code_of(file);
        for name in ["deno_core", "deno_runtime", "v8"] {
            assert!(!names(&code, name), "{} names {name}", file.display());
        }
    }
}
