//! Whether a memory source's files can be used. No file is made, and none is emptied.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use super::{Finding, Plan, What};
use crate::config::MemorySettings;

/// Looks at the input if anything reads it, and at the output if anything writes there.
pub fn probe(settings: &MemorySettings, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !plan.readings.is_empty() {
        findings.push(input(settings.input.as_deref()));
    }
    if !plan.writings.is_empty() {
        findings.push(output(settings.output.as_deref()));
    }
    findings
}

fn input(path: Option<&Path>) -> Finding {
    let Some(path) = path else { return Finding::ok(What::Input, "", "standard input") };
    let name = path.display().to_string();
    let problem = |told: &str| Finding::problem(What::Input, &name, &format!("{told}: fix `input`"));
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => problem("it is a folder"),
        Ok(found) if found.is_file() => match File::open(path) {
            Ok(_) => Finding::ok(What::Input, &name, format!("readable, {} bytes", found.len())),
            Err(error) => problem(&format!("it cannot be read ({error})")),
        },
        Ok(_) => not_regular(What::Input, &name),
        Err(error) => problem(&format!("it cannot be read ({error})")),
    }
}

fn output(path: Option<&Path>) -> Finding {
    let Some(path) = path else { return Finding::ok(What::Output, "", "standard output") };
    let name = path.display().to_string();
    let problem = |told: &str| Finding::problem(What::Output, &name, &format!("{told}: fix `output`"));
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => problem("it is a folder"),
        // Appending leaves what is there as it is.
        Ok(found) if found.is_file() => match OpenOptions::new().append(true).open(path) {
            Ok(_) => {
                Finding::ok(What::Output, &name, format!("writable; a worker overwrites its {} bytes", found.len()))
            }
            Err(error) => problem(&format!("it cannot be written ({error})")),
        },
        Ok(_) => not_regular(What::Output, &name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match fs::metadata(folder) {
                Ok(found) if found.is_dir() && !found.permissions().readonly() => {
                    Finding::ok(What::Output, &name, "a worker makes it")
                }
                Ok(found) if found.is_dir() => problem("its folder is read-only"),
                _ => problem("there is no such folder"),
            }
        }
        Err(error) => problem(&format!("it cannot be written ({error})")),
    }
}

/// Opening a pipe would wait for, or wake, whoever is at its other end.
fn not_regular(what: What, name: &str) -> Finding {
    Finding::unknown(what, name, "not a regular file: it is not opened before it is used")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::probe::Verdict;

    #[test]
    fn files_are_looked_at_and_left_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines");
        fs::write(&file, "kept").unwrap();
        let missing = folder.path().join("missing");
        let verdicts = |look: fn(Option<&Path>) -> Finding| {
            let nowhere = missing.join("file");
            [None, Some(&file), Some(&missing), Some(&nowhere), Some(&folder.path().to_path_buf())]
                .map(|path| look(path.map(|path| path.as_path())).verdict)
        };
        use Verdict::{Ok, Problem};
        assert_eq!(verdicts(input), [Ok, Ok, Problem, Problem, Problem]);
        assert_eq!(verdicts(output), [Ok, Ok, Ok, Problem, Problem]);
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        assert!(!missing.exists());
        assert_eq!(output(Some(Path::new("/dev/null"))).verdict, Verdict::Unknown);
    }
}
