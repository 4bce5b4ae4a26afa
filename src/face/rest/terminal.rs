//! A terminal in an instance over a WebSocket: `/instances/{id}/terminal?columns=120&rows=40&command=/bin/sh`.
//!
//! Binary frames are bytes in both directions; a text frame from the client is `{"resize": {"columns": 80, "rows": 24}}`.
//! The engine's terminal itself is another's; here are permission, audit, limits and how it ends.

mod session;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use orch_core::ports::engine::{Terminal, TerminalSize};
use orch_core::{Cx, Orch, gate};
use orch_domain::Error;
use orch_domain::audit::{AuditEntry, Outcome};
use orch_domain::caller::Permission;
use orch_domain::name::InstanceId;
use tokio::sync::OwnedSemaphorePermit;

use crate::auth;
use crate::face::rest::problem::Problem;
use crate::face::rest::{Rest, cx_of};

pub(super) const PATH: &str = "/instances/{id}/terminal";
/// Each holds a connection to an engine.
pub(super) const MAX_OPEN: usize = 64;
const MAX_MESSAGE: usize = 1 << 20;
const OPERATION: &str = "open_terminal";

/// What the query asks for.
#[derive(Debug, PartialEq)]
struct Wanted {
    size: TerminalSize,
    command: Vec<String>,
}

pub(super) async fn handle(rest: Arc<Rest>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let cx = cx_of(&parts.extensions);
    let mut audit = Audit::begin(&rest.orch, &cx);
    match prepare(&rest, &cx, &mut parts, &mut audit).await {
        Ok((upgrade, terminal, permit)) => {
            audit.write(Outcome::Accepted, None);
            let orch = rest.orch.clone();
            upgrade.on_upgrade(move |socket| {
                let tracker = orch.tracker.clone();
                tracker.track_future(async move {
                    let ended = session::run(&orch.shutdown, socket, terminal).await;
                    audit.write(ended, None);
                    drop(permit);
                })
            })
        }
        Err(err) => {
            // Refusals of strangers are not kept: they cost nothing to make.
            if cx.maybe_caller().is_some() {
                audit.write(Outcome::Refused, err.code);
            }
            err.problem.into_response()
        }
    }
}

struct Refused {
    code: Option<&'static str>,
    problem: Problem,
}

impl From<Error> for Refused {
    fn from(err: Error) -> Refused {
        Refused { code: Some(err.code().as_str()), problem: err.into() }
    }
}

async fn prepare(
    rest: &Rest,
    cx: &Cx,
    parts: &mut http::request::Parts,
    audit: &mut Audit,
) -> Result<(WebSocketUpgrade, Terminal, OwnedSemaphorePermit), Refused> {
    gate::permit(OPERATION, Permission::Execute, cx)?;
    let path = RawPathParams::from_request_parts(parts, &())
        .await
        .map_err(|_| Error::invalid("id", "it is not valid percent-encoded text"))?;
    // It has one parameter, and the router names that by its place.
    let id = path.iter().next().map_or("", |(_, it)| it);
    let id = InstanceId::try_new(id).map_err(|err| Error::invalid("id", err.to_string()))?;
    let wanted = wanted(parts.uri.query().unwrap_or_default())?;
    audit.entry.targets.push(id.to_string());
    let place = rest.orch.terminal_place(cx, &id)?;
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|_| Refused { code: None, problem: Problem::not_a_websocket() })?;
    let permit =
        rest.terminals.clone().try_acquire_owned().map_err(|_| Error::TooManyRequests {
            message: format!("{MAX_OPEN} terminals are open already; close one, then try again"),
            retry_after_ms: 5000,
        })?;
    let terminal = place.open(wanted.command, wanted.size).await?;
    let upgrade = upgrade
        .protocols([auth::WEBSOCKET_PROTOCOL])
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE);
    Ok((upgrade, terminal, permit))
}

/// `command` repeated is one word each; given once, it is split at spaces.
fn wanted(query: &str) -> Result<Wanted, Error> {
    let uri = http::Uri::builder().path_and_query(format!("/?{query}")).build();
    let pairs = uri
        .ok()
        .and_then(|it| axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&it).ok())
        .ok_or_else(|| Error::invalid("", "the query string is not valid percent-encoded text"))?;
    let mut size = TerminalSize { columns: 80, rows: 24 };
    let mut command: Vec<String> = Vec::new();
    for (name, text) in pairs.0 {
        let number = || {
            text.parse::<u16>().ok().filter(|it| (1..=1000).contains(it)).ok_or_else(|| {
                Error::invalid(name.as_str(), "it must be a whole number from 1 to 1000")
            })
        };
        match name.as_str() {
            "columns" => size.columns = number()?,
            "rows" => size.rows = number()?,
            "command" => command.push(text),
            _ => {
                let known = "a terminal takes `columns`, `rows` and `command`";
                return Err(Error::invalid(orch_domain::text::excerpt(&name, 60), known));
            }
        }
    }
    if let [one] = &command[..] {
        command = one.split_whitespace().map(str::to_owned).collect();
    }
    if command.is_empty() {
        command.push("/bin/sh".to_owned());
    }
    let is_sound = command.len() <= 64
        && !command[0].is_empty()
        && command.iter().all(|it| it.len() <= 4096 && !it.contains('\0'));
    if !is_sound {
        let rule =
            "at most 64 words of at most 4096 bytes, the first one not empty, without zero bytes";
        return Err(Error::invalid("command", rule));
    }
    Ok(Wanted { size, command })
}

/// The entry of this terminal: written when it opens and again, with its end, when it closes.
struct Audit {
    orch: Arc<Orch>,
    entry: AuditEntry,
    started: Instant,
}

impl Audit {
    fn begin(orch: &Arc<Orch>, cx: &Cx) -> Audit {
        let caller = cx.maybe_caller();
        let entry = AuditEntry {
            id: orch.ledger.next_audit_id(),
            at: orch.clock.now(),
            user: caller.map(|it| it.user.clone()),
            channel: orch_domain::caller::Channel::Rest,
            client: caller.and_then(|it| it.client.clone()),
            operation: OPERATION.to_owned(),
            targets: Vec::new(),
            outcome: Outcome::Accepted,
            error: None,
            elapsed_ms: None,
            arguments: None,
        };
        Audit { orch: orch.clone(), entry, started: Instant::now() }
    }

    fn write(&self, outcome: Outcome, error: Option<&str>) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.orch.ledger.audit(AuditEntry {
            outcome,
            error: error.map(str::to_owned),
            elapsed_ms: (outcome != Outcome::Accepted).then_some(elapsed),
            ..self.entry.clone()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_size_and_command() {
        let it = wanted("columns=120&rows=40&command=sh&command=-c&command=echo%20hi").unwrap();
        assert_eq!(it.size, TerminalSize { columns: 120, rows: 40 });
        assert_eq!(it.command, ["sh", "-c", "echo hi"]);
        assert_eq!(wanted("command=/bin/sh+-l").unwrap().command, ["/bin/sh", "-l"]);
        assert_eq!(wanted("").unwrap().command, ["/bin/sh"]);
    }

    #[test]
    fn absurd_sizes_and_unknown_words_are_refused() {
        for bad in ["columns=0", "rows=-1", "rows=99999", "user=root", "command=a%00&command=b"] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}
