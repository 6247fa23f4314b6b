//! What was published against what is found in the topics: every message has one fate, or the demo has failed.

use std::fmt::{self, Write};

use super::orders::{Kind, Mix};

/// Numbers above this are not those of orders: they would only make the set below huge.
const NUMBER_MAX: u64 = 1 << 32;

/// Which orders a topic holds records of: a bit for each number, since a demo may run for days.
#[derive(Debug, Default)]
pub struct Seen {
    words: Vec<u64>,
    distinct: u64,
    /// Records of orders seen before: at least once may mean twice.
    repeated: u64,
    /// Records that are of no order, or of one that does not belong here.
    strange: u64,
}

impl Seen {
    /// Notes a record about the order `number`; `None` where it names none that belongs into the topic.
    pub fn note(&mut self, number: Option<u64>) {
        let Some(number) = number.filter(|number| *number < NUMBER_MAX) else {
            self.strange += 1;
            return;
        };
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.distinct += 1;
        } else {
            self.repeated += 1;
        }
    }
}

/// What has been read back from the topics.
#[derive(Debug, Default)]
pub struct Audit {
    pub results: Seen,
    pub dead_letters: Seen,
    /// Records that the broker had dropped before they could be read.
    pub dropped: u64,
}

impl Audit {
    /// Notes a record of the results' topic.
    pub fn note_result(&mut self, number: Option<u64>, mix: Mix) {
        self.results.note(number.filter(|number| mix.kind(*number) == Kind::Placed));
    }

    /// Notes a record of the dead-letter topic.
    pub fn note_dead_letter(&mut self, number: Option<u64>, mix: Mix) {
        self.dead_letters.note(number.filter(|number| mix.kind(*number) == Kind::Poison));
    }
}

/// How many orders the broker has acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Published {
    pub placed: u64,
    pub gifts: u64,
    pub viewed: u64,
    pub poison: u64,
    /// Orders that the broker did not take.
    pub refused: u64,
}

impl Published {
    pub fn acknowledged(self) -> u64 {
        self.placed + self.gifts + self.viewed + self.poison
    }
}

/// Everything that must add up.
#[derive(Debug)]
pub struct Account {
    pub published: Published,
    /// Messages that no trigger matched, as the worker counted them.
    pub not_matched: u64,
    pub audit: Audit,
    /// Messages that the worker read and did not settle.
    pub abandoned: u64,
}

impl Account {
    /// What does not add up, in words; empty when all does.
    pub fn complaints(&self) -> Vec<String> {
        let Self { published, audit, .. } = self;
        let mut complaints = Vec::new();
        let mut expect = |what: &str, expected: u64, found: u64| {
            if expected != found {
                complaints.push(format!("{what}: expected {expected}, found {found}"));
            }
        };
        expect("messages not matched", published.gifts + published.viewed, self.not_matched);
        expect("orders with a result", published.placed, audit.results.distinct);
        expect("orders with a dead letter", published.poison, audit.dead_letters.distinct);
        expect("results that are of no good order", 0, audit.results.strange);
        expect("dead letters that are of no poison order", 0, audit.dead_letters.strange);
        expect("records that the broker dropped before they were read", 0, audit.dropped);
        expect("orders that the broker refused", 0, published.refused);
        expect("messages abandoned by the worker", 0, self.abandoned);
        complaints
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, audit, not_matched, .. } = self;
        let (all, done, dead) = (published.acknowledged(), audit.results.distinct, audit.dead_letters.distinct);
        writeln!(f, "  published      {all:>9}  acknowledged by the broker")?;
        let (viewed, gifts) = (published.viewed, published.gifts);
        writeln!(f, "  not matched    {not_matched:>9}  the rule passes over {viewed} views and {gifts} gifts")?;
        writeln!(f, "  done           {done:>9}  orders with a result{}", repeats(&audit.results))?;
        writeln!(f, "  dead-lettered  {dead:>9}  poison orders{}", repeats(&audit.dead_letters))?;
        let sum = not_matched + done + dead;
        let sign = if all == sum { "=" } else { "is not" };
        write!(f, "  {all} {sign} {not_matched} + {done} + {dead}")
    }
}

fn repeats(seen: &Seen) -> String {
    let mut text = String::new();
    if seen.repeated > 0 {
        write!(text, " ({} came more than once)", seen.repeated).expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIX_RATE: u32 = 100;

    /// The account of `messages` orders that all went the right way.
    fn account(messages: u64) -> Account {
        let mix = Mix::of_rate(MIX_RATE);
        let mut account =
            Account { published: Published::default(), not_matched: 0, audit: Audit::default(), abandoned: 0 };
        for number in 0..messages {
            let published = &mut account.published;
            match mix.kind(number) {
                Kind::Placed => {
                    published.placed += 1;
                    account.audit.note_result(Some(number), mix);
                }
                Kind::Poison => {
                    published.poison += 1;
                    account.audit.note_dead_letter(Some(number), mix);
                }
                Kind::Gift => {
                    published.gifts += 1;
                    account.not_matched += 1;
                }
                Kind::Viewed => {
                    published.viewed += 1;
                    account.not_matched += 1;
                }
            }
        }
        account
    }

    #[test]
    fn an_account_of_which_all_is_found_adds_up() {
        let account = account(1000);
        assert_eq!(account.complaints(), Vec::<String>::new());
        assert!(account.to_string().ends_with("1000 = 220 + 770 + 10"), "{account}");
    }

    #[test]
    fn a_repeat_is_told_and_allowed() {
        let mut account = account(1000);
        account.audit.note_result(Some(0), Mix::of_rate(MIX_RATE));
        assert!(account.complaints().is_empty());
        assert!(account.to_string().contains("(1 came more than once)"), "{account}");
    }

    #[test]
    fn a_lost_result_does_not_add_up() {
        let mut account = account(1000);
        account.published.placed += 1;
        assert_eq!(account.complaints(), ["orders with a result: expected 771, found 770"]);
        assert!(account.to_string().ends_with("1001 is not 220 + 770 + 10"), "{account}");
    }

    #[test]
    fn a_record_in_the_wrong_topic_does_not_add_up() {
        let mix = Mix::of_rate(MIX_RATE);
        let poison = (0..100).find(|number| mix.kind(*number) == Kind::Poison);
        let mut account = account(1000);
        account.audit.note_result(poison, mix);
        account.audit.note_dead_letter(None, mix);
        account.audit.note_result(Some(u64::MAX), mix);
        assert_eq!(account.complaints().len(), 2);
    }

    #[test]
    fn what_went_wrong_elsewhere_is_told_too() {
        let mut account = account(10);
        account.not_matched += 1;
        account.abandoned = 2;
        account.published.refused = 3;
        account.audit.dropped = 4;
        assert_eq!(account.complaints().len(), 4);
    }
}
