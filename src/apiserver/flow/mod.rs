//! Priority and fairness: a flood of requests from one client neither starves the others nor the cluster's own parts.
//!
//! Each request belongs to the first FlowSchema that it matches, and to a flow of it (a user, or a namespace). The schema's
//! priority level has a share of the server's seats; a request that finds none waits in a queue of its flow, and the queues
//! take turns. Seats that a level does not use are lent to others at that moment, down to what it may not lend.
//!
//! Costs an idle server nothing: no timer, no task but the one that follows changes of the configuration. What never lives
//! here: the kinds' defaults and validation (`hooks::flowcontrol`).
//!
//! Source: KEP-1040; apiserver `pkg/util/flowcontrol`, `pkg/server/filters/priority-and-fairness.go`.

pub mod dangling;
mod rules;
mod seats;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use store::View;
use tokio::sync::oneshot;

pub use rules::{Class, Request, Rules, Target};
use seats::{Entry, Seats};

/// Where the two kinds are kept.
pub const STORE_PREFIX: &str = "flowcontrol.apiserver.k8s.io/";
/// Requests that are worked on at once, those of exempt levels and watches not counted. Source: upstream's two limits of 400
/// and 200 together.
const SEATS: u32 = 600;
/// The longest wait in a queue. Source: a quarter of the request timeout of 60 s.
const WAIT_SECONDS: u64 = 15;

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Its queue is full.
    QueueFull,
    /// Its level does not queue, and has no seat.
    ConcurrencyLimit,
    TimeOut,
}

impl Rejected {
    /// As the metric spells it.
    fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::TimeOut => "time-out",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SchemaLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RejectedLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

/// The rules in force and the seats.
pub struct Flow {
    rules: ArcSwap<Rules>,
    seats: Mutex<Seats<Seat>>,
    pub dispatched: Family<SchemaLabels, Counter>,
    pub rejected: Family<RejectedLabels, Counter>,
}

/// A request's leave to be worked on, until it is dropped.
pub struct Seat {
    flow: Arc<Flow>,
    level: Arc<str>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let woken = self.flow.seats.lock().leave(&self.level);
        self.flow.wake(woken);
    }
}

/// Takes a request out of its queue again when its client is gone.
struct Waiting<'a> {
    flow: &'a Arc<Flow>,
    level: Arc<str>,
    ticket: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.flow.seats.lock().forget(&self.level, self.ticket);
    }
}

impl Flow {
    pub fn new(view: &dyn View) -> Arc<Self> {
        let rules = Rules::read(view);
        let seats = Mutex::new(Seats::new(SEATS, rules.levels()));
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            seats,
            dispatched: Family::default(),
            rejected: Family::default(),
        })
    }

    /// Takes over what is configured now.
    pub fn changed(self: &Arc<Self>, view: &dyn View) {
        let rules = Rules::read(view);
        let woken = self.seats.lock().configure(SEATS, rules.levels());
        self.rules.store(Arc::new(rules));
        self.wake(woken);
    }

    /// What `/metrics` shows of the levels: the seats that each has by its shares.
    pub fn write_metrics(&self, text: &mut String) {
        text.push_str(
            "# HELP apiserver_flowcontrol_nominal_limit_seats Seats of each priority level by its shares.\n\
             # TYPE apiserver_flowcontrol_nominal_limit_seats gauge\n",
        );
        for (level, seats) in self.seats.lock().nominal() {
            let line = format!("apiserver_flowcontrol_nominal_limit_seats{{priority_level=\"{level}\"}} {seats}\n");
            text.push_str(&line);
        }
    }

    /// Which schema and level a request belongs to.
    pub fn classify(&self, request: &Request<'_>) -> Class {
        self.rules.load().classify(request)
    }

    /// Waits for a seat; `None` for an exempt level. Dropping the future gives the place in the queue up.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn enter(self: &Arc<Self>, class: &Class) -> Result<Option<Seat>, Rejected> {
        if class.exempt {
            return Ok(None);
        }
        let entry = self.seats.lock().enter(&class.level, class.flow);
        let outcome = match entry {
            Entry::Seated => Ok(Seat { flow: self.clone(), level: class.level.clone() }),
            Entry::Full => Err(Rejected::QueueFull),
            Entry::Refused => Err(Rejected::ConcurrencyLimit),
            Entry::Queued(ticket, seated) => self.wait(class, ticket, seated).await,
        };
        let (priority_level, flow_schema) = (class.level.to_string(), class.schema.to_string());
        match &outcome {
            Ok(_) => self.dispatched.get_or_create(&SchemaLabels { priority_level, flow_schema }).inc(),
            Err(why) => {
                let reason = why.reason();
                self.rejected.get_or_create(&RejectedLabels { priority_level, flow_schema, reason }).inc()
            }
        };
        outcome.map(Some)
    }

    async fn wait(
        self: &Arc<Self>,
        class: &Class,
        ticket: u64,
        seated: oneshot::Receiver<Seat>,
    ) -> Result<Seat, Rejected> {
        let _waiting = Waiting { flow: self, level: class.level.clone(), ticket };
        let outcome = tokio::time::timeout(Duration::from_secs(WAIT_SECONDS), seated).await;
        match outcome {
            Ok(Ok(seat)) => Ok(seat),
            // The level is gone.
            Ok(Err(_)) => Err(Rejected::ConcurrencyLimit),
            Err(_) => Err(Rejected::TimeOut),
        }
    }

    /// Hands out seats. One for a request that has gone away in the meantime is free again as it is dropped.
    fn wake(self: &Arc<Self>, woken: seats::Woken<Seat>) {
        for (level, waiter) in woken {
            let _ = waiter.send(Seat { flow: self.clone(), level });
        }
    }
}

#[cfg(test)]
mod tests;
