//! The messages: orders of five scalar fields, a small object and an array of 14 small objects, 1 KB in all.

use std::fmt::Write as _;

/// Different keys, spread evenly over the partitions.
pub const CUSTOMERS: u64 = 1_000;
const ITEMS: u64 = 14;

/// Writes the order with this number over what `out` holds.
pub fn write_order(seq: u64, out: &mut String) {
    let customer = seq % CUSTOMERS;
    let cents = 100 + seq * 7919 % 100_000;
    out.clear();
    // Writing to a `String` cannot fail.
    let _ = write!(
        out,
        r#"{{"type":"order.placed","seq":{seq},"customer":"customer-{customer}","amount":{}.{:02},"currency":"EUR","#,
        cents / 100,
        cents % 100
    );
    let _ = write!(
        out,
        r#""address":{{"street":"Alexander Platz Nord {}","city":"Springfield upon Avon","postcode":"{:05}","country":"Deutschland"}},"items":["#,
        customer % 90 + 10,
        customer * 97 % 100_000
    );
    for item in 0..ITEMS {
        let comma = if item == 0 { "" } else { "," };
        let number = (seq + item * 31) % 1_000_000;
        let _ = write!(
            out,
            r#"{comma}{{"article":"article-{number:07}","quantity":{},"price":{}.{:02}}}"#,
            number % 9 + 1,
            number % 90 + 10,
            number % 100
        );
    }
    out.push_str("]}");
}
