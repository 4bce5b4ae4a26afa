//! From nothing to a connection in use: opened in the form that the server speaks, with the token it is for, greeted, and
//! its lists read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::task::TaskTracker;

use super::{CONNECT_LIMIT, Live, Server};
use crate::catalog::{Catalog, List, fetch};
use crate::config::{Reach, Wire};
use crate::members::Members;
use crate::oauth::Standing;
use crate::safety::metric;
use crate::safety::remembered::Remembered;
use crate::upstream::handshake::{self, Welcome};
use crate::upstream::http::HttpLink;
use crate::upstream::openapi::OpenApiLink;
use crate::upstream::site::TokenSource;
use crate::upstream::sse::SseLink;
use crate::upstream::stdio::StdioLink;
use crate::upstream::{Era, Exchange, Inbox, Link, LinkError, Unowned};

impl Server {
    /// A connection on which nothing was said yet.
    pub(crate) async fn open(
        &self,
        inbox: Inbox,
        token: Token,
    ) -> Result<Arc<dyn Link>, LinkError> {
        let (tasks, http) = (&self.around.tasks, self.around.http.clone());
        Ok(match &self.spec.reach {
            reach @ Reach::Stdio { .. } => {
                let children = &self.around.safety.children;
                children.swept().await;
                let place = children
                    .claim(&self.name, &self.spec.guard.limits)
                    .map_err(|message| LinkError::Unreachable { message })?;
                StdioLink::start(reach, &self.around.inherited, inbox, tasks, place)?
            }
            Reach::Http { url, headers, .. } if self.wire() == Wire::Sse => {
                SseLink::open(http, url, headers, token, inbox, tasks).await?
            }
            Reach::Http { url, headers, .. } => {
                HttpLink::new(http, url, headers, token, inbox, tasks)?
            }
            Reach::OpenApi { document, base_url, headers } => {
                let (base_url, limit) = (base_url.as_deref(), self.spec.timeout);
                OpenApiLink::new(http, document, base_url, headers, limit, tasks)?
            }
        })
    }

    /// Whether a request of nobody in particular may go over it: not with somebody's token.
    pub(crate) fn check_shared(&self, live: &Live) -> Result<(), LinkError> {
        match (&live.owner, &self.site) {
            (Some(_), Some(site)) => Err(LinkError::LoginNeeded { message: site.wanted() }),
            _ => Ok(()),
        }
    }

    pub(super) fn has_login(&self) -> bool {
        self.site.as_ref().is_some_and(|it| self.around.logins.has_any(it))
    }

    pub(super) async fn connect(&self, inbox: Inbox) -> Result<Arc<Live>, LinkError> {
        let client = &self.around.client;
        let (token, owner) = match &self.site {
            Some(site) => {
                let (token, owner) = self.around.logins.shared_source(site);
                (Some(token), owner)
            }
            None => (None, None),
        };
        let (link, welcome, guard) = match self.greet(inbox.clone(), token.clone()).await {
            // What servers of before streamable HTTP answer to a request that they do not know.
            Err(first @ LinkError::Status { status: 400 | 404 | 405, .. })
                if self.wire() == Wire::Either =>
            {
                self.greet_over_sse(inbox, token).await.map_err(|err| match err {
                    // It is none of those either.
                    LinkError::Status { .. } => first,
                    err => err,
                })?
            }
            greeted => greeted?,
        };
        if self.wire() == Wire::Either {
            let found = if link.is_of_before() { Wire::Sse } else { Wire::Streamable };
            self.wire.set(found).ok();
        }
        let mut catalog = Catalog::default();
        let mut ttl = None;
        for list in List::ALL {
            let listed = fetch(&*link, &welcome, client, list, CONNECT_LIMIT).await?;
            catalog.set(list, self.usable(list, listed.items, welcome.terms.era));
            ttl = ttl.into_iter().chain(listed.ttl).min();
        }
        self.n_connections.fetch_add(1, Ordering::Relaxed);
        metric::attempt(&self.name, true);
        let said = Remembered { catalog, welcome: welcome.clone(), ttl };
        let told = self.offer.take(&self.spec, said, (self.around.now)());
        self.tell(told);
        guard.keep();
        Ok(Arc::new(Live { link, welcome, owner }))
    }

    /// The connection for all, after the handshake. Until it is in use, nothing of it stays whatever happens.
    async fn greet(&self, inbox: Inbox, token: Token) -> Result<Greeted, LinkError> {
        let link = self.open(inbox, token).await?;
        self.greet_on(link).await
    }

    async fn greet_over_sse(&self, inbox: Inbox, token: Token) -> Result<Greeted, LinkError> {
        let Reach::Http { url, headers, .. } = &self.spec.reach else {
            return self.greet(inbox, token).await;
        };
        let (tasks, http) = (&self.around.tasks, self.around.http.clone());
        self.greet_on(SseLink::open(http, url, headers, token, inbox, tasks).await?).await
    }

    async fn greet_on(&self, link: Arc<dyn Link>) -> Result<Greeted, LinkError> {
        link.attribute(Unowned::Sole);
        let guard = CloseOnDrop::new(link.clone(), &self.around.tasks);
        let client = &self.around.client;
        let greeted = if link.is_of_before() {
            // It knows no other era, and some of that time answer nothing that they do not know.
            handshake::initialize(&*link, client, CONNECT_LIMIT).await
        } else {
            handshake::shake_hands(&*link, client, CONNECT_LIMIT).await
        };
        let welcome = greeted.map_err(|err| match err {
            LinkError::Closed { .. } => LinkError::Closed { reason: link.reason() },
            err => err,
        })?;
        Ok((link, welcome, guard))
    }

    /// Whether the login that a connection was made with is there yet, and the same.
    pub(super) fn is_logged_in(&self, live: &Live) -> bool {
        let (Some(owner), Some(site)) = (&live.owner, &self.site) else { return true };
        self.around.logins.standing(site, &owner.user) == Standing::In(owner.clone())
    }

    /// In the stateless era a server says only what it is asked to say.
    pub(crate) async fn listen(&self, live: &Live, uris: &[String]) -> Option<Exchange> {
        if live.welcome.terms.era != Era::Stateless {
            return None;
        }
        let mut params = Members::default();
        let mut wanted = serde_json::json!({
            "toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true
        });
        if !uris.is_empty() {
            wanted["resourceSubscriptions"] = uris.into();
        }
        params.set("notifications", &wanted);
        self.send_over(live, "subscriptions/listen", params).await.ok()
    }
}

/// What a connection sends along, and what it begins with.
pub(crate) type Token = Option<Arc<dyn TokenSource>>;
type Greeted = (Arc<dyn Link>, Welcome, CloseOnDrop);

pub(crate) struct CloseOnDrop {
    link: Option<Arc<dyn Link>>,
    tasks: TaskTracker,
}

impl CloseOnDrop {
    pub(crate) fn new(link: Arc<dyn Link>, tasks: &TaskTracker) -> CloseOnDrop {
        CloseOnDrop { link: Some(link), tasks: tasks.clone() }
    }

    pub(crate) fn keep(mut self) {
        self.link = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            self.tasks.spawn(async move { link.close().await });
        }
    }
}
