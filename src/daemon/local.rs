//! The in-process transport: the rooms' requests go straight to the API server's door, under an identity of their own.
//! Authentication is settled, authorization and admission are the same as over the wire.

use std::sync::Arc;

use apiserver::auth::identity::Identity;
use apiserver::http::body::Body as ServerBody;
use apiserver::{ApiServer, Peer};
use bytes::Bytes;
use client::meters::Requests;
use client::{Body, Client, Transport, TransportError};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;

/// To whom requests are sent, as `/metrics` names it: there is no host between.
const HOST: &str = "in-process";

/// What the parts of this process have sent.
static SENT: Requests = Requests::new();

/// Appends that, for `/metrics`.
pub fn write_metrics(text: &mut String) {
    SENT.write(text, HOST);
}

struct Local {
    server: ApiServer,
    identity: Arc<Identity>,
}

/// A client that speaks to `server` as `identity`.
pub fn client(server: &ApiServer, identity: Identity) -> Client {
    Client::new(Arc::new(Local { server: server.clone(), identity: Arc::new(identity) }))
}

impl Transport for Local {
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, TransportError>> {
        let (server, identity) = (self.server.clone(), Arc::clone(&self.identity));
        async move {
            let method = request.method().clone();
            let response = server.call(request.map(ServerBody::full), Peer::Local(identity)).await;
            SENT.sent(&method, Some(response.status()));
            Ok(response.map(|body| body.boxed_unsync()))
        }
        .boxed()
    }
}
