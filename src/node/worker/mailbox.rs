//! A worker's mailbox. Facts queue up in order; what only says "look again" is kept once, so that nothing grows while a worker
//! is busy: every queued fact answers one action.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::input::Input;

#[derive(Default)]
struct Mail {
    facts: VecDeque<Input>,
    pod: Option<Arc<Pod>>,
    objects_changed: bool,
    gone: bool,
    /// The shim's state is to be looked at again.
    look: bool,
    /// Images that were not here have come.
    images_added: bool,
}

#[derive(Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    notify: Notify,
}

/// What a worker takes out.
pub enum Taken {
    Input(Input),
    Look,
    ImagesAdded,
    Nothing,
}

impl Mailbox {
    pub fn fact(&self, input: Input) {
        self.mail.lock().facts.push_back(input);
        self.notify.notify_one();
    }

    pub fn pod(&self, pod: Arc<Pod>) {
        self.mail.lock().pod = Some(pod);
        self.notify.notify_one();
    }

    pub fn objects_changed(&self) {
        self.mail.lock().objects_changed = true;
        self.notify.notify_one();
    }

    pub fn gone(&self) {
        self.mail.lock().gone = true;
        self.notify.notify_one();
    }

    pub fn look(&self) {
        self.mail.lock().look = true;
        self.notify.notify_one();
    }

    pub fn images_added(&self) {
        self.mail.lock().images_added = true;
        self.notify.notify_one();
    }

    pub fn take(&self) -> Taken {
        let mut mail = self.mail.lock();
        if let Some(fact) = mail.facts.pop_front() {
            return Taken::Input(fact);
        }
        if std::mem::take(&mut mail.look) {
            return Taken::Look;
        }
        if std::mem::take(&mut mail.images_added) {
            return Taken::ImagesAdded;
        }
        if let Some(pod) = mail.pod.take() {
            return Taken::Input(Input::Pod(pod));
        }
        if std::mem::take(&mut mail.objects_changed) {
            return Taken::Input(Input::ObjectsChanged);
        }
        if std::mem::take(&mut mail.gone) {
            return Taken::Input(Input::Gone);
        }
        Taken::Nothing
    }

    pub async fn arrived(&self) {
        self.notify.notified().await;
    }
}
