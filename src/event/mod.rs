//! Messages, and the events that functions are handed.
//!
//! A message is what a broker holds; an event is the JSON made of it in one of several shapes. This room copies bytes
//! only when told to, and knows nothing of brokers, of async or of V8.

mod message;
mod shape;

pub use message::{Header, Message, MessageRef, Properties};
pub use shape::{Envelope, Shape, Templates, Written, whole_event_json};
