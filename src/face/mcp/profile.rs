//! Which view a client has: of the profile in its address, in the dialect it asked for, with no more than it may do there.

use std::sync::Arc;

use axum::extract::{RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use orch_core::Cx;
use orch_core::ports::tool_server::no_server;
use orch_domain::Error;
use orch_domain::caller::Caller;
use orch_gateway::names::Dialect;
use orch_gateway::profile::Profiles;
use orch_gateway::server::Server;
use orch_gateway::view::View;
use rmcp::model::{Extensions, InitializeResult};
use serde_json::{Value, json};

use super::Face;

impl Face {
    /// Serves these beside the endpoint of everything.
    pub fn with_profiles(self, profiles: Profiles) -> Face {
        Face { profiles, ..self }
    }

    /// What there is at an endpoint. `names` is the client's wish; without one the profile says.
    pub fn view(&self, profile: Option<&str>, names: Option<Dialect>) -> Result<View, Error> {
        let profile = profile.map(|it| self.profiles.get(it).cloned()).transpose()?;
        let usual = profile.as_ref().map(|it| it.dialect).unwrap_or_default();
        Ok(View { dialect: names.unwrap_or(usual), profile, ..View::default() })
    }
}

impl Face {
    /// The server that is all there is at an endpoint, where one is.
    pub(super) fn direct(&self, view: &View) -> Result<Option<Arc<Server>>, Error> {
        let Some(name) = view.profile.as_ref().and_then(|it| it.transparent.as_ref()) else {
            return Ok(None);
        };
        if !view.access.shows_server(name) {
            return Err(no_server(name));
        }
        let server = self.hub.as_ref().and_then(|it| it.server(name));
        server.map(Some).ok_or_else(|| no_server(name))
    }
}

/// Puts the view among the extensions of a request, and leaves the caller there what it may do in it.
pub(super) async fn enter(
    State(face): State<Arc<Face>>,
    path: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let profile = path.iter().find(|(name, _)| *name == "profile").map(|it| it.1);
    let view = dialect_of(request.uri().query())
        .and_then(|names| face.view(profile, names))
        .map_err(|err| refused(&err));
    let view = match view {
        Ok(it) => it,
        Err(refusal) => return refusal,
    };
    let extensions = request.extensions_mut();
    if let (Some(profile), Some(caller)) =
        (&view.profile, extensions.get::<Option<Caller>>().cloned().flatten())
    {
        extensions.insert(Some(profile.admit(caller)));
    }
    extensions.insert(view);
    next.run(request).await
}

/// `names=` of a query.
fn dialect_of(query: Option<&str>) -> Result<Option<Dialect>, Error> {
    let wanted = query.unwrap_or_default().split('&').find_map(|it| it.strip_prefix("names="));
    let parse = |it: &str| {
        Dialect::parse(it).ok_or_else(|| {
            Error::invalid("names", "it is `underscores` (`server__tool`) or `dot` (`server.tool`)")
        })
    };
    wanted.map(parse).transpose()
}

pub(super) fn refused(err: &Error) -> Response {
    let status = match err {
        Error::NotFound { .. } => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    let error =
        json!({"code": -32600, "message": err.to_string(), "data": Value::Object(err.describe())});
    (status, axum::Json(json!({"jsonrpc": "2.0", "id": null, "error": error}))).into_response()
}

/// The view that came with a request; a stream has one for its whole life.
pub(super) fn view_of(of_stream: &View, extensions: &Extensions) -> View {
    match extensions.get::<Parts>() {
        Some(parts) => parts.extensions.get::<View>().cloned().unwrap_or_default(),
        None => of_stream.clone(),
    }
}

/// The context of a call at that endpoint: what it does not show is not there for operations either.
pub(super) fn within(view: View, cx: Cx) -> Cx {
    if view.profile.is_none() { cx } else { cx.with_scope(Arc::new(view)) }
}

/// Tells a client of a profile what that is for, and of our own operations only where they are.
pub(super) fn introduce(view: &View, result: &mut InitializeResult) {
    let Some(profile) = &view.profile else { return };
    result.instructions = instructions(profile, result.instructions.take());
}

pub(super) fn instructions(
    profile: &orch_gateway::profile::Profile,
    ours: Option<String>,
) -> Option<String> {
    let mut texts = Vec::new();
    if !profile.description.is_empty() {
        texts.push(profile.description.clone());
    }
    if profile.lazy {
        texts.push(
            "Tools are not listed here: `search_tools` finds them by what is to be done, and `call_tool` calls them."
                .to_owned(),
        );
    }
    texts.extend(ours.filter(|_| profile.own));
    (!texts.is_empty()).then(|| texts.join("\n\n"))
}
