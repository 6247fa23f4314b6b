//! Deliveries: one message of a subscription on its way to exactly one fate.
//!
//! What holds here: a delivery's [`Ticket`] is settled once or, when dropped, reports itself as released, never as done;
//! a partition's [`OffsetTracker`] never lets a commit pass an open offset; deliveries of a [`Lane`](lanes) are handed
//! out one batch at a time. This room knows nothing of brokers, of V8 or of the wall clock: time comes in as `Instant`.

mod assignment;
pub mod lanes;
pub mod retry;
mod ticket;
mod tracker;

pub use assignment::{Assignment, Phase};
pub use ticket::{Delivery, Keep, Overdue, Report, Reports, Settled, Settlement, Ticket};
pub use tracker::OffsetTracker;
