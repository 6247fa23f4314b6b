//! What is published on one channel and not confirmed yet, and which messages came back.
//!
//! The client hands over a message that came back with the confirmation of *some* message that was confirmed together
//! with it, or earlier: not always its own. So what came back is looked up by what it says, and a message counts as kept
//! only when everything that was confirmed together with it has been heard.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::BasicReturnMessage;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, PublisherConfirm};

use super::Parcel;
use super::publisher::Trouble;

/// Messages by number, in the order in which they were published.
#[derive(Default)]
pub(super) struct Unconfirmed {
    open: BTreeMap<u64, Published>,
    waits: FuturesUnordered<Wait>,
    next: u64,
}

struct Published {
    parcel: Parcel,
    routing_key: ShortString,
    /// Why it came back.
    returned: Option<ShortString>,
}

/// A message that the server has confirmed.
pub(super) struct Confirmed {
    pub parcel: Parcel,
    pub routing_key: ShortString,
    /// Why no queue has taken it.
    pub returned: Option<ShortString>,
}

/// What the server has said.
#[derive(Default)]
pub(super) struct Heard {
    pub confirmed: Vec<Confirmed>,
    /// What ends the connection. Messages that were not kept are still among those unconfirmed.
    pub trouble: Option<Trouble>,
}

/// The confirmation of one message, to come.
struct Wait {
    number: u64,
    confirm: PublisherConfirm,
}

type Answer = (u64, lapin::Result<Confirmation>);

impl Future for Wait {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let number = self.number;
        Pin::new(&mut self.confirm).poll(cx).map(|result| (number, result))
    }
}

impl Unconfirmed {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn add(&mut self, parcel: Parcel, routing_key: ShortString, confirm: PublisherConfirm) {
        self.open.insert(self.next, Published { parcel, routing_key, returned: None });
        self.waits.push(Wait { number: self.next, confirm });
        self.next += 1;
    }

    /// Waits until the server has spoken of some of them; never returns where there are none. Nothing is lost when the
    /// wait is given up.
    pub(super) async fn hear(&mut self, channel: &Channel) -> Heard {
        let Some(first) = self.waits.next().await else { return std::future::pending().await };
        let mut answers = vec![first];
        let mut known = 0;
        while known < answers.len() {
            self.take_ready(&mut answers);
            known = answers.len();
            // The client answers all that was confirmed together while it holds a lock. Asking for this takes the same
            // lock: once it is asked, the others of what we have are there too. What it would wait for is of no interest.
            let _ = channel.wait_for_confirms().now_or_never();
            self.take_ready(&mut answers);
        }
        self.judge(answers)
    }

    fn take_ready(&mut self, answers: &mut Vec<Answer>) {
        while let Some(Some(answer)) = self.waits.next().now_or_never() {
            answers.push(answer);
        }
    }

    fn judge(&mut self, answers: Vec<Answer>) -> Heard {
        let (mut acked, mut heard) = (BTreeSet::new(), Heard::default());
        for (number, answer) in answers {
            let returned = match answer {
                Ok(Confirmation::Ack(returned)) => {
                    acked.insert(number);
                    returned
                }
                Ok(Confirmation::Nack(returned)) => {
                    heard.trouble = Some("the server could not keep a message; still trying".to_owned().into());
                    returned
                }
                Ok(Confirmation::NotRequested) => {
                    heard.trouble = Some("the server does not confirm; still trying".to_owned().into());
                    None
                }
                Err(error) => {
                    heard.trouble.get_or_insert(Trouble::from(&error));
                    None
                }
            };
            if let Some(returned) = returned {
                self.note_return(&returned);
            }
        }
        let confirmed = acked.into_iter().filter_map(|number| self.open.remove(&number));
        heard.confirmed = confirmed
            .map(|Published { parcel, routing_key, returned }| Confirmed { parcel, routing_key, returned })
            .collect();
        heard
    }

    /// Of messages that do not differ, it makes no difference which one came back.
    fn note_return(&mut self, returned: &BasicReturnMessage) {
        let found = self.open.values_mut().find(|published| published.is(returned) && published.returned.is_none());
        match found {
            Some(published) => published.returned = Some(returned.reply_text.clone()),
            None => {
                let (exchange, key) = (&returned.exchange, &returned.routing_key);
                tracing::error!(%exchange, %key, "a message came back that was not published, or was confirmed before");
            }
        }
    }

    /// All that is left, in its order.
    pub(super) fn into_parcels(self) -> impl DoubleEndedIterator<Item = Parcel> {
        self.open.into_values().map(|published| published.parcel)
    }
}

impl Published {
    fn is(&self, returned: &BasicReturnMessage) -> bool {
        let record = &self.parcel.record;
        let id = record.properties.as_ref().and_then(|own| own.message_id.as_deref());
        let correlation = record.properties.as_ref().and_then(|own| own.correlation_id.as_deref());
        let text = |text: &'_ Option<ShortString>| text.as_ref().map(ToString::to_string);
        self.routing_key == returned.routing_key
            && record.value.as_deref().unwrap_or_default() == returned.data
            && text(returned.properties.message_id()).as_deref() == id
            && text(returned.properties.correlation_id()).as_deref() == correlation
    }
}
