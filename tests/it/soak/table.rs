//! One table of all scenarios, in the file `SOAK_OUT`: a scenario that runs again replaces its line.

use std::fmt;
use std::path::Path;

use super::flow::Plan;
use super::tally::Tally;

const HEAD: &str = "\
| broker | scenario | messages | seconds | strikes | lost | out of order | repeats | repeats per strike (most) |
|---|---|--:|--:|--:|--:|--:|--:|--:|
";

/// What came of a scenario.
#[derive(Debug, Clone)]
pub struct Row {
    broker: &'static str,
    scenario: &'static str,
    messages: u64,
    seconds: f64,
    /// How often it was killed, restarted, cut, ...
    strikes: u64,
    pub lost: u64,
    pub unknown: u64,
    /// `None` where no order is promised.
    pub out_of_order: Option<u64>,
    pub repeats: u64,
    repeats_max: u64,
}

impl Row {
    pub fn of(broker: &'static str, plan: &Plan, seconds: f64, tally: &Tally) -> Self {
        Self {
            broker,
            scenario: plan.scenario,
            messages: plan.count,
            seconds,
            strikes: tally.strikes() as u64,
            lost: tally.lost(plan.count),
            unknown: tally.unknown(),
            out_of_order: plan.is_ordered.then(|| tally.overtaken()),
            repeats: tally.repeats(),
            repeats_max: tally.repeats_max(),
        }
    }

    pub fn is_faultless(&self) -> bool {
        self.lost == 0 && self.unknown == 0 && self.out_of_order.unwrap_or(0) == 0
    }

    fn starts(&self) -> String {
        format!("| {} | {} |", self.broker, self.scenario)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, seconds, strikes, lost, repeats, repeats_max, .. } = self;
        let out_of_order = self.out_of_order.map_or_else(|| "no promise".to_owned(), |count| count.to_string());
        let each = if *strikes == 0 { 0.0 } else { *repeats as f64 / *strikes as f64 };
        let starts = self.starts();
        write!(
            f,
            "{starts} {messages} | {seconds:.1} | {strikes} | {lost} | {out_of_order} | {repeats} | {each:.0} ({repeats_max}) |"
        )
    }
}

/// Prints a line, and puts it into the table.
pub fn note(row: &Row) {
    println!("soak: {row}");
    if let Some(path) = std::env::var_os("SOAK_OUT").filter(|path| !path.is_empty()) {
        let path = Path::new(&path);
        // The first scenario finds none.
        let old = std::fs::read_to_string(path).unwrap_or_default();
        std::fs::write(path, with(&old, row)).unwrap();
    }
}

fn with(table: &str, row: &Row) -> String {
    let others = table.strip_prefix(HEAD).unwrap_or_default().lines().filter(|line| !line.starts_with(&row.starts()));
    let lines: String = others.map(|line| format!("{line}\n")).collect();
    format!("{HEAD}{lines}{row}\n")
}

#[cfg(test)]
mod tests {
    use super::super::tally::Found;
    use super::*;

    fn row(scenario: &'static str, is_ordered: bool) -> Row {
        let mut tally = Tally::default();
        tally.strike();
        for number in [0, 2, 1, 1, 9] {
            tally.take(Found { number, lane: 0, partition: 0 }, 4);
        }
        Row::of("Kafka", &Plan { scenario, count: 4, is_ordered }, 1.5, &tally)
    }

    #[test]
    fn a_line_says_all_and_is_replaced_by_the_next_run() {
        let line = "| Kafka | crashes | 4 | 1.5 | 1 | 1 | 1 | 1 | 1 (1) |\n";
        let table = with("", &row("crashes", true));
        assert_eq!(table, format!("{HEAD}{line}"));
        let table = with(&table, &row("churn", false));
        assert_eq!(with(&table, &row("crashes", true)).lines().count(), 4);
        assert!(table.contains("| 1 | no promise | 1 |") && table.contains(line), "{table}");
    }

    #[test]
    fn every_fault_is_one() {
        let good = Row { lost: 0, unknown: 0, out_of_order: Some(0), ..row("crashes", true) };
        assert!(good.is_faultless());
        assert!(!Row { lost: 1, ..good.clone() }.is_faultless());
        assert!(!Row { unknown: 1, ..good.clone() }.is_faultless());
        assert!(!Row { out_of_order: Some(1), ..good.clone() }.is_faultless());
        assert!(Row { out_of_order: None, ..good }.is_faultless());
    }
}
