//! From the headers of a request to its `Caller`, for every face that speaks HTTP.
//!
//! Refusals: a wrong credential is 401, never an anonymous call; a foreign Host or Origin is 403, so that no web page
//! reaches the server by way of its visitor's browser. `X-Forwarded-*` is not trusted and not read.

pub mod oauth;
mod sites;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, header};
use orch_core::Orch;
use orch_domain::Error;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::UserId;
use orch_domain::tool_access::ToolAccess;

pub use oauth::ResourceServer;
pub use sites::{InvalidSite, Refusal, Sites};

use crate::face::rest::problem::Problem;

/// There with `--demo` only.
pub const DEMO: &str = "user-demo-001";

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");
/// `Sec-WebSocket-Protocol: mcp-orch, bearer.TOKEN`, because a browser cannot give a WebSocket an `Authorization`.
pub const WEBSOCKET_PROTOCOL: &str = "mcp-orch";
const WEBSOCKET_BEARER: &str = "bearer.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whoever sends no credential may call only what needs none.
    Login,
    /// Every request is `user-admin-001` with all permissions, and credentials are not looked at. For loopback only,
    /// which the configuration checks.
    NoAuth,
}

/// Who may talk to this server, and as whom.
pub struct Access {
    pub orch: Arc<Orch>,
    pub mode: Mode,
    /// With it, `X-User-ID` names a user without a credential. For loopback only, which the configuration checks.
    pub demo: bool,
    pub sites: Sites,
    /// Other issuers whose tokens count at the MCP endpoint.
    pub oauth: Option<ResourceServer>,
}

impl Access {
    pub fn new(orch: Arc<Orch>, mode: Mode, sites: Sites) -> Access {
        Access { orch, mode, demo: false, sites, oauth: None }
    }

    pub fn with_demo(self, demo: bool) -> Access {
        Access { demo, ..self }
    }

    pub fn with_oauth(self, oauth: Option<ResourceServer>) -> Access {
        Access { oauth, ..self }
    }

    /// Whom the request comes from; `None` is nobody in particular. A credential that is wrong is an error.
    pub fn identify(&self, headers: &HeaderMap, channel: Channel) -> Result<Option<Caller>, Error> {
        let caller = match self.mode {
            Mode::NoAuth => {
                let named = self.named(headers, channel)?;
                Some(named.unwrap_or_else(|| self.orch.local_caller(channel)))
            }
            Mode::Login => match credential(headers)? {
                Some(it) => Some(self.bearer(it, headers, channel)?),
                None => self.named(headers, channel)?,
            },
        };
        let client = client(headers);
        Ok(caller.map(|it| Caller { client, ..it }))
    }

    /// Tokens of other issuers are for the MCP endpoint, which they name as their audience, and for nothing else here.
    fn bearer(&self, it: &str, headers: &HeaderMap, channel: Channel) -> Result<Caller, Error> {
        match &self.oauth {
            Some(oauth) if channel == Channel::Mcp && oauth.judges(it) => {
                oauth.caller(&self.orch, it, headers, channel)
            }
            _ => self.orch.authenticate(it, channel),
        }
    }

    /// Whom the request stands for by now, for a stream that outlives it: keys are revoked and tokens expire.
    pub fn look_again(&self, headers: &HeaderMap, channel: Channel) -> Result<Caller, Error> {
        let caller = self.identify(headers, channel)?.or_else(|| self.visitor(channel));
        caller.ok_or_else(|| refused("the login is not there any more; log in anew"))
    }

    /// Whom a demo shows its pages to, without any header: the demo user, who then may only look.
    fn visitor(&self, channel: Channel) -> Option<Caller> {
        let id = UserId::try_new(DEMO).ok().filter(|_| self.demo)?;
        let user = self.orch.ledger.read(|book| book.user(&id).cloned())?;
        let tools = ToolAccess::default().and(&user.tools);
        Some(Caller { tools, ..Caller::new(user.id.clone(), vec![Permission::Read], channel) })
    }

    /// The user that `X-User-ID` names, in a demo.
    fn named(&self, headers: &HeaderMap, channel: Channel) -> Result<Option<Caller>, Error> {
        let Some(id) = headers.get(X_USER_ID).filter(|_| self.demo) else { return Ok(None) };
        let user = id
            .to_str()
            .ok()
            .and_then(|it| UserId::try_new(it).ok())
            .and_then(|id| self.orch.ledger.read(|book| book.user_called(&id).ok().cloned()));
        match user {
            Some(user) => Ok(Some(Caller {
                tools: ToolAccess::default().and(&user.tools),
                ..Caller::new(user.id.clone(), user.permissions.clone(), channel)
            })),
            None => Err(refused(
                "`X-User-ID` names no user; the demo has `user-demo-001` and `user-admin-001`",
            )),
        }
    }
}

/// The one credential that was sent, if any.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let bearer = headers.get(header::AUTHORIZATION).map(|it| {
        it.to_str()
            .ok()
            .and_then(|it| it.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|it| !it.is_empty())
            .ok_or_else(|| refused("`Authorization` must be `Bearer TOKEN`, with an API key or the `access_token` of `login`"))
    });
    let api_key = headers.get(X_API_KEY).map(|it| {
        it.to_str()
            .map_err(|_| refused("`X-API-Key` has characters that no API key has"))
            .map(str::trim)
    });
    let protocol = headers
        .get(header::SEC_WEBSOCKET_PROTOCOL)
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.split(',').find_map(|it| it.trim().strip_prefix(WEBSOCKET_BEARER)));
    let mut sent = [bearer, api_key, protocol.map(Ok)].into_iter().flatten();
    let Some(first) = sent.next().transpose()? else { return Ok(None) };
    for other in sent {
        if other? != first {
            return Err(refused("two different credentials were sent; send one"));
        }
    }
    Ok(Some(first))
}

/// What the client calls itself, for audit.
fn client(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
    let agent = orch_domain::text::sanitize(agent);
    let agent: String = agent.trim().chars().take(120).collect();
    (!agent.is_empty()).then_some(agent)
}

fn refused(message: &str) -> Error {
    Error::Unauthenticated { message: message.to_owned() }
}

/// Refuses foreign sites and wrong credentials, and puts the `Option<Caller>` into the extensions of the request.
///
/// `middleware::from_fn_with_state((access, Channel::Rest), auth::layer)`
pub async fn layer(
    State((access, channel)): State<(Arc<Access>, Channel)>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(refusal) = access.sites.check(request.uri(), request.headers()) {
        return Problem::from(refusal).into_response();
    }
    match access.identify(request.headers(), channel) {
        Ok(caller) => {
            let is_look = channel == Channel::Rest && request.method().is_safe();
            let caller = caller.or_else(|| is_look.then(|| access.visitor(channel)).flatten());
            request.extensions_mut().insert::<Option<Caller>>(caller);
            next.run(request).await
        }
        Err(err) => Problem::from(err).into_response(),
    }
}

/// Refuses who has no name. For faces that serve nothing to strangers; goes inside of `layer`.
pub async fn require_caller(request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Option<Caller>>().cloned().flatten();
    match orch_core::Cx::new(caller).caller() {
        Ok(_) => next.run(request).await,
        Err(err) => Problem::from(err).into_response(),
    }
}
