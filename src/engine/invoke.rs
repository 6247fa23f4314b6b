//! From a batch of deliveries to the frame that invokes it.

use lagless_protocol::frames::{Event, Invoke, ToRunner};

use crate::delivery::Delivery;
use crate::event::{Envelope, Templates};

/// What the frame needs to know besides the deliveries.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub isolate: u32,
    pub batch: u64,
    pub ordered: bool,
    pub want_results: bool,
    /// `service.trigger`.
    pub trigger: &'a str,
    pub envelope: &'a Envelope,
}

/// Encodes the frame; each payload is copied once, from its message into the frame.
pub fn frame(call: Call<'_>, deliveries: &[Delivery]) -> Vec<u8> {
    let mut templates = Templates::default();
    let mut metadata = Vec::with_capacity(deliveries.len() * 320);
    let mut ids = String::with_capacity(deliveries.len() * 32);
    let parts: Vec<_> = deliveries
        .iter()
        .map(|delivery| {
            let (metadata_start, id_start) = (metadata.len(), ids.len());
            let written = call.envelope.write(&delivery.message, attempt(delivery), &mut templates, &mut metadata);
            Envelope::id(&delivery.message, &mut ids);
            (written, metadata_start..metadata.len(), id_start..ids.len())
        })
        .collect();
    let events = deliveries.iter().zip(parts).map(|(delivery, (written, in_metadata, in_ids))| Event {
        template: written.template,
        id: &ids[in_ids],
        attempt: attempt(delivery),
        metadata: &metadata[in_metadata],
        data: written.data,
    });
    let invoke = Invoke {
        isolate: call.isolate,
        batch: call.batch,
        ordered: call.ordered,
        want_results: call.want_results,
        trigger: call.trigger,
        templates: templates.as_frames(),
        events: events.collect(),
    };
    let payloads: usize = deliveries.iter().filter_map(|delivery| delivery.message.value()).map(<[u8]>::len).sum();
    let mut frame = Vec::with_capacity(payloads + metadata.len() + ids.len() + deliveries.len() * 24 + 512);
    ToRunner::Invoke(invoke).encode(&mut frame);
    frame
}

/// The number of the attempt to come, from 1.
fn attempt(delivery: &Delivery) -> u32 {
    delivery.failed_attempts.saturating_add(1)
}
