//! What goes wrong between those who ask and the API, decided request by request.

use std::sync::Arc;
use std::time::Duration;

use client::TransportError;
use http::Method;
use parking_lot::Mutex;
use types::status::{Reason, Status};

use crate::chance::Chance;

/// How often things go wrong: thousandths of the requests, or of the pieces of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// No connection: nothing happened.
    pub unreachable: u64,
    /// The API says no for a reason that passes: overload, an internal error, a conflict, a quota, a webhook.
    pub refused: u64,
    /// It was done, and the answer is lost.
    pub unanswered: u64,
    /// It comes late.
    pub delayed: u64,
    /// By at most so much.
    pub delay_max: Duration,
    /// A watch ends.
    pub cut: u64,
}

/// What becomes of one request.
#[derive(Debug)]
pub struct Fate {
    /// How many others come before it.
    pub yields: u64,
    pub before: Duration,
    pub after: Duration,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    Answered,
    Unanswered,
    Unreachable,
    Refused(Box<Status>),
}

/// What becomes of one piece of a watch.
pub enum Piece {
    Comes(Duration),
    /// The watch ends before it, properly or not.
    Cut(Option<TransportError>),
}

struct State {
    chance: Chance,
    rates: Rates,
    happened: u64,
}

/// Shared by everybody's connection to the API.
#[derive(Clone)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    pub fn new(chance: Chance) -> Self {
        Self(Arc::new(Mutex::new(State { chance, rates: Rates::default(), happened: 0 })))
    }

    pub fn set(&self, rates: Rates) {
        self.0.lock().rates = rates;
    }

    /// How much has gone wrong.
    pub fn happened(&self) -> u64 {
        self.0.lock().happened
    }

    pub fn fate(&self, method: &Method, path: &str) -> Fate {
        let state = &mut *self.0.lock();
        let (chance, rates) = (&mut state.chance, state.rates);
        let yields = chance.between(0, 3);
        let mut late = || match chance.permille(rates.delayed) {
            true => chance.millis(0, rates.delay_max.as_millis() as u64),
            false => chance.millis(0, 2),
        };
        let (before, after) = (late(), late());
        let outcome = if chance.permille(rates.unreachable) {
            Outcome::Unreachable
        } else if chance.permille(rates.refused) {
            Outcome::Refused(Box::new(refusal(chance, method, path)))
        } else if *method != Method::GET && chance.permille(rates.unanswered) {
            Outcome::Unanswered
        } else {
            Outcome::Answered
        };
        state.happened += u64::from(!matches!(outcome, Outcome::Answered));
        Fate { yields, before, after, outcome }
    }

    pub fn piece(&self) -> Piece {
        let state = &mut *self.0.lock();
        let (chance, rates) = (&mut state.chance, state.rates);
        if chance.permille(rates.cut) {
            state.happened += 1;
            return Piece::Cut(chance.permille(500).then(|| TransportError::Lost("the watch was cut".into())));
        }
        match chance.permille(rates.delayed) {
            true => Piece::Comes(chance.millis(0, rates.delay_max.as_millis() as u64)),
            false => Piece::Comes(Duration::ZERO),
        }
    }
}

/// What a server may say to this request although there is nothing wrong with it.
fn refusal(chance: &mut Chance, method: &Method, path: &str) -> Status {
    let busy = || Status::too_many_requests("Too many requests, please try again later.", 1);
    match *method {
        Method::POST if path.ends_with("/pods") && chance.permille(400) => match chance.permille(500) {
            true => Status::new(
                Reason::Forbidden,
                "pods \"p\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
            ),
            false => Status::internal("failed calling webhook \"w.example.com\": context deadline exceeded"),
        },
        Method::PUT | Method::PATCH if chance.permille(400) => {
            Status::new(Reason::Conflict, types::status::OBJECT_MODIFIED)
        }
        _ => match chance.between(0, 2) {
            0 => busy(),
            1 => Status::service_unavailable("the server is currently unable to handle the request"),
            _ => Status::internal("etcdserver: request timed out"),
        },
    }
}
