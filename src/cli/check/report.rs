//! Findings as a table for people or as JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::connect::Checked;
use crate::source::probe::{Finding, Verdict};

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line for each thing, for people
    Table,
    /// One line in all, for programs
    Json,
}

pub fn has_problem(checked: &[Checked]) -> bool {
    count(checked, Verdict::Problem) > 0
}

fn count(checked: &[Checked], verdict: Verdict) -> usize {
    checked.iter().flat_map(|checked| &checked.findings).filter(|finding| finding.verdict == verdict).count()
}

/// Prints all findings, or with `only_problems` those. A table without lines is not printed.
pub fn print(checked: &[Checked], format: Format, only_problems: bool) -> io::Result<()> {
    let shown: Vec<(&str, &Finding)> = checked
        .iter()
        .flat_map(|Checked { source, findings }| findings.iter().map(move |finding| (source.as_str(), finding)))
        .filter(|(_, finding)| !only_problems || finding.verdict == Verdict::Problem)
        .collect();
    let [ok, problem, unknown] =
        [Verdict::Ok, Verdict::Problem, Verdict::Unknown].map(|verdict| count(checked, verdict));
    let mut out = io::stdout().lock();
    match format {
        Format::Json => {
            let checks = shown.iter().map(|(source, finding)| Line::of(source, finding)).collect();
            writeln!(out, "{}", serde_json::to_string(&Report { ok, problem, unknown, checks })?)
        }
        Format::Table if only_problems && shown.is_empty() => Ok(()),
        Format::Table => writeln!(out, "{}\n{ok} ok, {problem} problem, {unknown} unknown", table(&shown)),
    }
}

#[derive(Serialize)]
struct Report<'a> {
    ok: usize,
    problem: usize,
    unknown: usize,
    checks: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    what: &'static str,
    name: &'a str,
    result: &'static str,
    detail: &'a str,
}

impl<'a> Line<'a> {
    fn of(source: &'a str, finding: &'a Finding) -> Self {
        let Finding { what, name, verdict, detail } = finding;
        Self { source, what: what.as_str(), name, result: verdict.as_str(), detail }
    }

    /// The last cell may be of any length.
    fn cells(&self) -> [&'a str; 5] {
        [self.source, self.what, self.name, self.result, self.detail]
    }
}

/// One line for each finding, below a line of headings; a line break in a detail does not break the table.
fn table(findings: &[(&str, &Finding)]) -> String {
    let mut rows = vec![["SOURCE", "WHAT", "NAME", "RESULT", "DETAIL"]];
    rows.extend(findings.iter().map(|(source, finding)| Line::of(source, finding).cells()));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..4).map(width).collect();
    let line = |row: &[&str; 5]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        line.push_str(&row[4].replace(['\n', '\r'], " "));
        line.trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::probe::What;

    #[test]
    fn columns_stand_in_line_and_details_run_on() {
        let ok = Finding::ok(What::Topic, "orders", "4 partitions");
        let problem = Finding::problem(What::DeadLetters, "é", "it does not exist:\ncreate it");
        let shown = table(&[("kafka", &ok), ("a", &problem)]);
        let expected = "\
SOURCE  WHAT          NAME    RESULT   DETAIL
kafka   topic         orders  ok       4 partitions
a       dead-letters  é       problem  it does not exist: create it
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_problem_anywhere_counts_and_an_unknown_does_not() {
        let checked = |finding| [Checked { source: "s".to_owned(), findings: vec![finding] }];
        assert!(!has_problem(&checked(Finding::unknown(What::Clock, "", ""))));
        assert!(has_problem(&checked(Finding::problem(What::Topic, "t", ""))));
    }
}
