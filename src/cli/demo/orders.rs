//! The orders of the demo: a fixed mix, computed from the number of an order alone, so that what is read back from
//! the topics can be checked without remembering what was sent.

use std::fmt::Write;

/// The prefix of an order's id, before its number.
const ID_PREFIX: &str = "order-";
const CUSTOMERS: u64 = 97;
/// Goods with their prices in cents.
const GOODS: [(&str, u64); 6] =
    [("tea", 175), ("kettle", 3999), ("cup", 725), ("saucer", 340), ("spoon", 199), ("honey", 880)];

/// What kind of message an order is, and with it what must become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fires the trigger; its total is computed.
    Placed,
    /// Placed, but for nothing: the rule asks for an amount above zero.
    Gift,
    /// Only looked at: the rule asks for placed orders.
    Viewed,
    /// Fires the trigger and has a price below zero, at which the function throws.
    Poison,
}

impl Kind {
    /// In the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Placed, Self::Gift, Self::Viewed, Self::Poison];
}

/// In which proportion the kinds come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    poison_every: u64,
}

/// One message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub kind: Kind,
    /// The customer: the orders of one customer stay in order.
    pub key: String,
    /// JSON.
    pub value: String,
}

impl Mix {
    /// About one poison order a second, and at most one in a hundred: each is tried several times, and what comes
    /// after it in its partition waits meanwhile.
    pub fn of_rate(rate: u32) -> Self {
        Self { poison_every: u64::from(rate).max(100) }
    }

    /// The kind of the order with this number. Of a hundred, 20 are views and 2 are gifts.
    pub fn kind(self, number: u64) -> Kind {
        if number % self.poison_every == self.poison_every / 2 {
            return Kind::Poison;
        }
        match number % 100 {
            33 | 83 => Kind::Gift,
            place if place % 5 == 1 => Kind::Viewed,
            _ => Kind::Placed,
        }
    }

    /// The order with this number: always the same.
    pub fn order(self, number: u64) -> Order {
        let kind = self.kind(number);
        let spread = spread(number);
        let mut items = String::new();
        let mut cents_in_all = 0;
        for place in 0..=spread % 3 {
            let (sku, cents) = GOODS[((spread >> 8) + place) as usize % GOODS.len()];
            let cents = if kind == Kind::Gift { 0 } else { cents };
            let quantity = 1 + (spread >> (16 + place)) % 3;
            cents_in_all += cents * quantity;
            let price = Euros(cents);
            // Only the first price of a poison order is wrong.
            let sign = if kind == Kind::Poison && place == 0 { "-" } else { "" };
            let comma = if place == 0 { "" } else { "," };
            let written = write!(items, r#"{comma}{{"sku":"{sku}","price":{sign}{price},"quantity":{quantity}}}"#);
            written.expect("writing to a string cannot fail");
        }
        let event = if kind == Kind::Viewed { "order.viewed" } else { "order.placed" };
        let key = format!("customer-{}", spread % CUSTOMERS);
        let amount = Euros(cents_in_all);
        let value = format!(
            r#"{{"id":"{ID_PREFIX}{number}","type":"{event}","customer":"{key}","amount":{amount},"items":[{items}]}}"#
        );
        Order { kind, key, value }
    }
}

/// Cents, printed as a JSON number of euros.
struct Euros(u64);

impl std::fmt::Display for Euros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// The number of the order that a record is about: its `id`, which results and dead letters keep.
pub fn number_of(value: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Named {
        id: String,
    }
    let named: Named = serde_json::from_slice(value).ok()?;
    named.id.strip_prefix(ID_PREFIX)?.parse().ok()
}

/// Numbers that follow each other become numbers that do not look like it (the finisher of SplitMix64).
fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(mix: Mix, numbers: std::ops::Range<u64>, kind: Kind) -> usize {
        numbers.filter(|number| mix.kind(*number) == kind).count()
    }

    #[test]
    fn the_mix_has_its_proportions_in_every_hundred() {
        let mix = Mix::of_rate(10);
        for start in [0, 1, 57, 12_345] {
            let counts = Kind::ALL.map(|kind| count(mix, start..start + 100, kind));
            assert_eq!(counts, [77, 2, 20, 1], "from {start}");
        }
    }

    #[test]
    fn poison_comes_once_a_second_at_high_rates() {
        assert_eq!(count(Mix::of_rate(200), 0..200 * 20, Kind::Poison), 20);
        assert_eq!(count(Mix::of_rate(5_000), 0..5_000 * 20, Kind::Poison), 20);
    }

    #[test]
    fn the_same_number_is_the_same_order() {
        let mix = Mix::of_rate(200);
        assert_eq!(mix.order(7), mix.order(7));
        assert_ne!(mix.order(7).value, mix.order(8).value);
        assert_eq!(number_of(mix.order(7).value.as_bytes()), Some(7));
    }

    #[test]
    fn orders_are_what_their_kind_says() {
        let mix = Mix::of_rate(1);
        for number in 0..500 {
            let Order { kind, value, .. } = mix.order(number);
            let order: serde_json::Value = serde_json::from_str(&value).unwrap();
            let items = order["items"].as_array().unwrap();
            let lowest = items.iter().map(|item| item["price"].as_f64().unwrap()).fold(f64::MAX, f64::min);
            assert_eq!(order["type"] == "order.placed", kind != Kind::Viewed, "{value}");
            assert_eq!(order["amount"].as_f64().unwrap() > 0.0, kind != Kind::Gift, "{value}");
            assert_eq!(lowest < 0.0, kind == Kind::Poison, "{value}");
        }
    }

    #[test]
    fn a_record_of_somebody_else_has_no_number() {
        for value in ["", "null", "{}", r#"{"id":7}"#, r#"{"id":"order-"}"#, r#"{"id":"basket-7"}"#] {
            assert_eq!(number_of(value.as_bytes()), None, "{value}");
        }
    }
}
