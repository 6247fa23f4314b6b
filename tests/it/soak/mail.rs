//! Messages of every kind: small, large, empty, of bytes that mean nothing, and poison. Each knows what must become of it.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const MEGABYTE: usize = 1_000_000;
/// Deeper than any parser that calls itself for each level comes.
const DEEP: usize = 100_000;

/// A message; its number travels in the header `seq`.
#[derive(Debug, Clone)]
pub struct Letter {
    pub number: u64,
    pub kind: Kind,
    /// `None` is a tombstone.
    pub body: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Small,
    LargeJson,
    LargeText,
    Empty,
    Tombstone,
    NotUtf8,
    BrokenJson,
    DeepJson,
    /// What the function does with it. The body is small, or large.
    Poison(&'static str, Size),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
}

/// Kinds that a function can handle, beside small ones. The last exists on Kafka only.
pub const ODD: [Kind; 7] =
    [Kind::LargeJson, Kind::LargeText, Kind::Empty, Kind::NotUtf8, Kind::BrokenJson, Kind::DeepJson, Kind::Tombstone];

/// Kinds that no attempt succeeds with.
pub const POISON: [Kind; 9] = [
    Kind::Poison("throw", Size::Small),
    Kind::Poison("throw", Size::Large),
    Kind::Poison("loop", Size::Small),
    Kind::Poison("hang", Size::Small),
    Kind::Poison("exit", Size::Small),
    Kind::Poison("kill", Size::Small),
    Kind::Poison("heap", Size::Small),
    Kind::Poison("large", Size::Small),
    Kind::Poison("no-json", Size::Small),
];

impl Kind {
    fn body(self, number: u64) -> Option<Vec<u8>> {
        let pad = |length: usize| "x".repeat(length);
        match self {
            Self::Small | Self::Poison(_, Size::Small) => Some(format!(r#"{{"seq":{number}}}"#).into_bytes()),
            Self::LargeJson | Self::Poison(_, Size::Large) => {
                Some(format!(r#"{{"seq":{number},"pad":"{}"}}"#, pad(MEGABYTE)).into_bytes())
            }
            Self::LargeText => Some(pad(MEGABYTE).into_bytes()),
            Self::Empty => Some(Vec::new()),
            Self::Tombstone => None,
            Self::NotUtf8 => Some(vec![0xff, 0xfe, 0x00]),
            Self::BrokenJson => Some(br#"{"seq":"#.to_vec()),
            Self::DeepJson => Some(["[".repeat(DEEP), "]".repeat(DEEP)].concat().into_bytes()),
        }
    }

    pub fn is_poison(self) -> bool {
        matches!(self, Self::Poison(..))
    }

    /// Whether the function makes a result of it, which is too large to be written.
    pub fn is_refused_by_the_broker(self) -> bool {
        matches!(self, Self::Poison("large", _))
    }

    /// What the function says of it: type and size of the data, and whether it is null.
    pub fn expected(self) -> (Option<&'static str>, usize, bool) {
        match self {
            Self::Small | Self::DeepJson | Self::Poison(..) => (Some("application/json"), 0, false),
            Self::LargeJson => (Some("application/json"), MEGABYTE, false),
            Self::LargeText => (Some("text/plain; charset=utf-8"), MEGABYTE, false),
            Self::Empty => (Some("text/plain; charset=utf-8"), 0, false),
            Self::Tombstone => (None, 0, true),
            // In base64.
            Self::NotUtf8 => (Some("application/octet-stream"), 4, false),
            Self::BrokenJson => (Some("text/plain; charset=utf-8"), 7, false),
        }
    }
}

impl Letter {
    pub fn of(kind: Kind, number: u64) -> Self {
        Self { number, kind, body: kind.body(number) }
    }
}

/// So many letters, among them each of these kinds so often, at random places.
pub fn mixed(random: &mut StdRng, count: u64, (kinds, times): (&[Kind], usize)) -> Vec<Letter> {
    let mut kinds = kinds.repeat(times);
    kinds.resize((count as usize).max(kinds.len()), Kind::Small);
    kinds.shuffle(random);
    // What comes after a poison must be there to suffer from it.
    if let Some(small) = kinds.iter().rposition(|kind| *kind == Kind::Small) {
        let last = kinds.len() - 1;
        kinds.swap(small, last);
    }
    kinds.into_iter().zip(0..).map(|(kind, number)| Letter::of(kind, number)).collect()
}

/// A poison of any kind in the middle of small ones.
pub fn one_poison(random: &mut StdRng, count: u64) -> Vec<Letter> {
    let kind = POISON[random.random_range(0..POISON.len())];
    let letter = |number| Letter::of(if number == count / 2 { kind } else { Kind::Small }, number);
    (0..count).map(letter).collect()
}
