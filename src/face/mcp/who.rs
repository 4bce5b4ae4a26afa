//! Who makes a request, over which channel, and what the client calls itself.

use http::request::Parts;
use orch_core::Cx;
use orch_domain::caller::{Caller, Channel};
use orch_domain::text;
use orch_gateway::frame::Raw;
use orch_gateway::members::Members;
use rmcp::RoleServer;
use rmcp::model::{Extensions, Implementation};
use rmcp::service::RequestContext;

use super::own::Asker;

/// How the command line introduces itself, so that audit tells a person at a terminal from an agent.
pub(super) const CLI_CLIENT: &str = "mcp-orch-cli";

const MAX_CLIENT: usize = 100;

/// The caller that came with the request: over HTTP each request has its own, put there by `http`; a stream has one
/// for its whole life. A request over HTTP never falls back to anybody.
pub(super) fn caller(of_stream: Option<&Caller>, extensions: &Extensions) -> Option<Caller> {
    match extensions.get::<Parts>() {
        Some(parts) => parts.extensions.get::<Option<Caller>>().cloned().flatten(),
        None => match extensions.get::<Asker>() {
            Some(Asker(caller)) => Some(caller.clone()),
            None => of_stream.cloned(),
        },
    }
}

/// The context of a call, with what the client calls itself.
pub(super) fn context(of_stream: Option<&Caller>, cx: &RequestContext<RoleServer>) -> Cx {
    let caller = caller(of_stream, &cx.extensions).map(|it| match client_info(cx) {
        Some(client) => introduced(it, &client),
        None => it,
    });
    Cx::new(caller)
}

/// A modern request says for itself who sends it; what the library makes up for one that does not is left out.
fn client_info(cx: &RequestContext<RoleServer>) -> Option<Implementation> {
    if cx.meta.protocol_version().is_some() { cx.meta.client_info() } else { cx.client_info() }
}

fn introduced(caller: Caller, client: &Implementation) -> Caller {
    named(caller, &client.name, &client.version)
}

/// As the client's own words say it.
pub(super) fn introduced_by(caller: Caller, info: &Raw) -> Caller {
    let info = Members::of(info).unwrap_or_default();
    match info.text("name") {
        Some(name) => named(caller, &name, &info.text("version").unwrap_or_default()),
        None => caller,
    }
}

fn named(mut caller: Caller, name: &str, version: &str) -> Caller {
    let is_cli = name == CLI_CLIENT;
    caller.channel = if is_cli { Channel::Cli } else { Channel::Mcp };
    caller.client =
        Some(text::excerpt(&text::sanitize(format!("{name} {version}").trim()), MAX_CLIENT));
    caller
}
