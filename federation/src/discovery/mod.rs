//! Server discovery: from a server name to who is connected to, under which name (server-server API, "Resolving
//! server names").
//!
//! The specification's steps come apart in two. First a name is *delegated*: by `.well-known`, or not at all. What comes
//! of that is the `Host` header and, without its port, the name that the certificate must be for. Then this has
//! *addresses*, by itself: whoever was delegated to it, and whether anybody was, changes nothing about them. So
//! connections can be shared by all whom the same name serves, and DNS is asked when one is opened.

mod services;
mod steps;
mod well_known;

use std::{fmt, net::SocketAddr, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use hearth_endpoint::outgoing::{Outgoing, ResolveError, Resolver, Route, Srv};
use hearth_engine::Entropy;
use http::Uri;
use ruma::{OwnedServerName, ServerName};

use steps::Lookups;
use well_known::WellKnowns;

/// Finds servers.
#[derive(Clone)]
pub(crate) struct Discovery {
    network: Arc<Network>,
    entropy: Arc<dyn Entropy>,
}

impl Discovery {
    pub(crate) fn new(outgoing: &Outgoing, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            network: Arc::new(Network {
                well_knowns: WellKnowns::new(outgoing.clone()),
                resolver: Arc::clone(outgoing.resolver()),
            }),
            entropy,
        }
    }

    /// The name that stands for `server` on the network: in the `Host` header and, without its port, in the certificate.
    pub(crate) async fn delegate(&self, server: &ServerName) -> OwnedServerName {
        steps::delegate(&*self.network, server).await
    }
}

/// Where requests to a delegated name go.
impl Route for Discovery {
    fn addresses<'a>(&'a self, uri: &'a Uri) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        async move {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            let name = ServerName::parse(authority).map_err(|error| ResolveError::Failed {
                name: authority.to_owned(),
                reason: error.to_string(),
            })?;
            steps::addresses(&*self.network, &name, &mut |below| {
                services::random(&*self.entropy, below)
            })
            .await
        }
        .boxed()
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}

/// The real lookups.
struct Network {
    well_knowns: WellKnowns,
    resolver: Arc<Resolver>,
}

impl Lookups for Network {
    async fn well_known(&self, host: &str) -> Option<OwnedServerName> {
        self.well_knowns.of(host).await
    }

    async fn services(&self, service: &str) -> Result<Vec<Srv>, ResolveError> {
        self.resolver.services(service).await
    }

    async fn addresses(&self, host: &str) -> Result<Vec<std::net::IpAddr>, ResolveError> {
        self.resolver.addresses(host).await
    }
}
