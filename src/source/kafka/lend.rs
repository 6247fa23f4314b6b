//! The client's borrowed messages as the rest of the program sees them, without copying.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::event::{Header, MessageRef};

/// What stands for a header name that is not UTF-8.
const UNREADABLE_NAME: &str = "\u{fffd}";

/// A view of the message; nothing is copied.
pub(super) fn lend<'a>(message: &'a BorrowedMessage<'_>) -> MessageRef<'a> {
    MessageRef {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key(),
        value: message.payload(),
        headers: message.headers().map_or_else(Vec::new, headers),
        properties: None,
    }
}

/// The headers in their order. The client library panics on a name that is not UTF-8; such a header keeps its place
/// under a stand-in name, without its value.
fn headers<H: Headers>(headers: &H) -> Vec<Header<'_>> {
    (0..headers.count())
        .map(|index| match catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
            Ok(Some(header)) => Header { name: header.key, value: header.value },
            Ok(None) | Err(_) => Header { name: UNREADABLE_NAME, value: None },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header as NativeHeader, OwnedHeaders};

    use super::*;

    #[test]
    fn headers_keep_order_repeats_and_null_values() {
        let native = OwnedHeaders::new()
            .insert(NativeHeader { key: "a", value: Some(b"1".as_slice()) })
            .insert(NativeHeader { key: "b", value: None::<&[u8]> })
            .insert(NativeHeader { key: "a", value: Some(b"".as_slice()) });
        assert_eq!(
            headers(native.as_borrowed()),
            [
                Header { name: "a", value: Some(b"1".as_slice()) },
                Header { name: "b", value: None },
                Header { name: "a", value: Some(b"".as_slice()) },
            ]
        );
    }
}
