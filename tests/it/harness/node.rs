//! A broker of a test's own, as one of the scripts in `tests/brokers` runs it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// A server in a folder of its own; ends with the value.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    /// `kafka` or `rabbitmq`: the script and the log are named so.
    name: &'static str,
}

impl Node {
    /// Starts one, with more in the script's environment, and answers where it listens.
    pub fn start(name: &'static str, environment: &[(&str, &str)]) -> (Self, String) {
        let node = Self { folder: tempfile::tempdir().unwrap(), name };
        let address = node.printed("start", node.command("start", &[]).envs(environment.iter().copied()).output());
        (node, address)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn stop(&self) {
        self.run("stop", &[]);
    }

    /// Ends it as a power cut of the server alone would.
    pub fn kill(&self) {
        self.run("stop", &["--kill"]);
    }

    pub fn start_again(&self) {
        self.run("start", &[]);
    }

    /// Runs a verb of the script, and answers what it prints.
    pub fn run(&self, verb: &str, arguments: &[&str]) -> String {
        self.printed(verb, self.command(verb, arguments).output())
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/brokers/{}.sh", self.name));
        let mut command = Command::new(script);
        command.arg(verb).arg(self.folder()).args(arguments).stdin(Stdio::null());
        command
    }

    fn printed(&self, verb: &str, done: std::io::Result<Output>) -> String {
        let done = done.unwrap();
        assert!(done.status.success(), "{}.sh {verb}: {}", self.name, String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder().join(format!("{}.log", self.name))).unwrap_or_default();
            let told: Vec<&str> = log.lines().filter(|line| !line.to_lowercase().contains("info")).collect();
            println!("the server's own log:\n{}", told.join("\n"));
        }
        // A test that has failed already says more than a server that cannot be stopped.
        let _ = self.command("stop", &["--kill"]).output();
    }
}
