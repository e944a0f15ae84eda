//! The aggregation layer: groups and versions that other servers serve, as APIService objects register them.
//!
//! ```text
//! APIService ─► keeper ─► Registered ─► request for its group and version ─► proxy ─► link ─► the other server
//!                 │  └──► attend (one task for each remote APIService): available? what does it serve? ─► status, Told
//!                 └─────► automatic: objects of the groups and versions that this server serves itself
//! Told ─► discovery and OpenAPI documents
//! ```
//!
//! A cluster without remote APIServices pays one look at an empty map a request. What never lives here: an object of an
//! aggregated kind, and a decision about one: authorization comes before, admission is the other server's.
//!
//! Source: kube-aggregator `pkg/apiserver`, `pkg/controllers`.

mod attend;
pub mod automatic;
mod check;
pub mod keeper;
mod link;
mod lost;
pub mod proxy;
mod registration;
mod told;
pub mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use store::{Store, View};

use crate::custom::Served;
use crate::http::discovery::Documents;
use crate::tls::Own;
use crate::verbs::options::place;
use link::Link;
use lost::Lost;
pub use registration::{Registration, Remote, STORE_PREFIX};
pub use told::{Definitions, Told};

pub const GROUP: &str = "apiregistration.k8s.io";

/// How this server asks others in the name of its users, and what they are told to believe it.
#[derive(Debug, Clone)]
pub struct FrontProxy {
    /// What signs the certificates of users, in PEM.
    pub client_ca_pem: String,
    /// What signs `chain_pem`.
    pub ca_pem: String,
    /// The common name of `chain_pem`.
    pub name: String,
    pub chain_pem: String,
    pub key_pem: String,
}

/// What is registered, kept in step with the store, and what the other servers have told.
pub struct Aggregator {
    registered: ArcSwap<Registered>,
    own: Option<Arc<Own>>,
    /// Grows with whatever discovery is made of besides the snapshots.
    told: AtomicU64,
    documents: ArcSwapOption<Kept>,
    lost: Lost,
}

/// The APIServices at one moment.
#[derive(Clone, Default)]
pub struct Registered {
    /// By name.
    all: imbl::OrdMap<Arc<str>, Arc<Registration>>,
    remotes: usize,
}

/// The documents of discovery, and what they were made of.
struct Kept {
    served: Arc<Served>,
    registered: Arc<Registered>,
    told: u64,
    documents: Arc<Documents>,
}

impl Aggregator {
    /// # Errors
    /// A text, for a certificate of our own that cannot be read.
    pub fn load(view: &dyn View, proxy: Option<&FrontProxy>) -> Result<Self, String> {
        let own = proxy.map(|p| Own::parse(&p.chain_pem, &p.key_pem)).transpose()?.map(Arc::new);
        let aggregator = Self {
            registered: ArcSwap::default(),
            own,
            told: AtomicU64::new(0),
            documents: ArcSwapOption::empty(),
            lost: Lost::default(),
        };
        aggregator.reload(view);
        Ok(aggregator)
    }

    pub fn registered(&self) -> Arc<Registered> {
        self.registered.load_full()
    }

    /// Who serves the group and version, when it is another server.
    pub fn remote(&self, group: &str, version: &str) -> Option<Arc<Registration>> {
        let registered = self.registered.load();
        if registered.remotes == 0 {
            return None;
        }
        registered.remote(group, version).cloned()
    }

    /// Takes over all that the view says. Only the keeper writes.
    fn reload(&self, view: &dyn View) {
        let old = self.registered();
        let mut next = Registered::default();
        for entry in view.range(STORE_PREFIX, None) {
            next.put(&old, entry, self.own.as_ref());
        }
        self.registered.store(Arc::new(next));
    }

    /// Takes over what the store now says of one of them.
    fn refresh(&self, store: &dyn Store, key: &str) {
        let old = self.registered();
        let mut next = (*old).clone();
        let name = place(key).1;
        if let Some(gone) = next.all.remove(name) {
            next.remotes -= usize::from(gone.remote.is_some());
        }
        if let Some(entry) = store.snapshot().get(key) {
            next.put(&old, &entry, self.own.as_ref());
        }
        self.registered.store(Arc::new(next));
    }

    /// Appends, for `/metrics`, what is registered and not available.
    pub fn write_metrics(&self, text: &mut String) {
        self.lost.write(text, &self.registered());
    }

    /// Another server has told something new.
    fn heard(&self) {
        self.told.fetch_add(1, Ordering::Release);
    }

    /// The documents of discovery for these kinds.
    pub fn documents(&self, served: &Arc<Served>) -> Arc<Documents> {
        let told = self.told.load(Ordering::Acquire);
        let registered = self.registered();
        if let Some(kept) = &*self.documents.load()
            && Arc::ptr_eq(&kept.served, served)
            && Arc::ptr_eq(&kept.registered, &registered)
            && kept.told == told
        {
            return kept.documents.clone();
        }
        let documents = Arc::new(Documents::new(served, &registered));
        let kept = Kept { served: served.clone(), registered, told, documents: documents.clone() };
        self.documents.store(Some(Arc::new(kept)));
        documents
    }
}

impl Registered {
    pub fn get(&self, group: &str, version: &str) -> Option<&Arc<Registration>> {
        self.all.get(&*registration::name(group, version))
    }

    /// The one that another server serves. Who is registered is never asked of another server: a registration that is wrong
    /// could not be mended then.
    pub fn remote(&self, group: &str, version: &str) -> Option<&Arc<Registration>> {
        self.get(group, version).filter(|r| r.remote.is_some() && group != GROUP)
    }

    pub fn named(&self, name: &str) -> Option<&Registration> {
        self.all.get(name).map(|r| &**r)
    }

    /// In order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Registration> {
        self.all.values().map(|r| &**r)
    }

    /// Those that other servers serve.
    pub fn remotes(&self) -> impl Iterator<Item = (&Registration, &Remote)> {
        self.iter().filter(|r| r.group != GROUP).filter_map(|r| Some((r, r.remote.as_ref()?)))
    }

    fn put(&mut self, old: &Self, entry: &store::Entry, own: Option<&Arc<Own>>) {
        let known = old.all.get(place(entry.key()).1);
        match Registration::read(entry.value(), known, own) {
            Some(registration) => {
                self.remotes += usize::from(registration.remote.is_some());
                self.all.insert(registration.name.as_str().into(), Arc::new(registration));
            }
            None => tracing::error!(key = entry.key(), "a stored APIService cannot be read"),
        }
    }
}
