//! Folders with a configuration and functions, as a user has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::worker::{Ended, Worker};

/// A folder with `lagless.toml` and what belongs to it; gone with the value.
#[derive(Debug)]
pub struct Project {
    folder: TempDir,
}

impl Project {
    pub fn new(config: &str) -> Self {
        Self { folder: tempfile::tempdir().unwrap() }.with("lagless.toml", config)
    }

    /// Adds a file, or replaces it.
    pub fn with(self, file: &str, text: &str) -> Self {
        self.write(file, text);
        self
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Changes a text in the configuration, which must be there.
    pub fn replace(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path().join("lagless.toml")).unwrap();
        assert!(config.contains(from), "{from:?} is not in\n{config}");
        self.write("lagless.toml", &config.replace(from, to));
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The program with arguments, in the folder, without settings from the environment of the test. `LAGLESS_BIN` names
    /// another build of it.
    pub fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var_os("LAGLESS_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_lagless").into());
        let mut command = Command::new(program);
        command.current_dir(self.path()).args(args);
        for (name, _) in std::env::vars_os() {
            if name == "RUST_LOG" || name.to_string_lossy().starts_with("LAGLESS__") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs the program to its end without input.
    #[track_caller]
    pub fn lagless(&self, args: &[&str]) -> Ended {
        Worker::start(self.command(args), Stdio::null()).end()
    }

    /// Runs `run --stdin` to its end with these lines.
    #[track_caller]
    pub fn run_stdin(&self, args: &[&str], lines: &str) -> Ended {
        self.write("stdin.jsonl", lines);
        let input = fs::File::open(self.path().join("stdin.jsonl")).unwrap();
        let args = [&["run", "--stdin"], args].concat();
        Worker::start(self.command(&args), input.into()).end()
    }
}

/// A file of `tests/cases`.
pub fn case_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name)
}

/// The text of a file of `tests/cases`.
pub fn case(name: &str) -> String {
    let path = case_path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
