//! The life of one tool call: its progress in order and before its answer, and its end when the caller withdraws.

use std::sync::Arc;

use futures::future;
use orch_core::cx::{Progress, ProgressUpdate};
use orch_core::operation::Op;
use orch_core::{Answer, Cx};
use orch_domain::Error;
use rmcp::RoleServer;
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
use rmcp::model::{LoggingLevel, LoggingMessageNotificationParam};
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Face;

/// Updates kept for a client that reads slowly; more are dropped, because the next one says more anyway.
const QUEUE: usize = 256;

/// Calls `op` and sees to what the client asked to hear meanwhile.
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
pub(super) async fn run(
    face: &Arc<Face>,
    op: &'static Op,
    arguments: Value,
    call_cx: Cx,
    cx: &RequestContext<RoleServer>,
    log_level: Option<LoggingLevel>,
) -> Result<Answer, Error> {
    let withdrawal =
        Withdrawal { face: face.clone(), token: CancellationToken::new(), armed: true };
    let mut call_cx = call_cx.with_cancel(withdrawal.token.clone());
    let mut reporter = Reporter {
        peer: &cx.peer,
        token: cx.meta.get_progress_token(),
        last: None,
        log_level,
        operation: op.spec.name,
    };
    let (sender, updates) = mpsc::channel(QUEUE);
    if reporter.is_listening() {
        call_cx = call_cx.with_progress(Progress::to(move |update| {
            sender.try_send(update).ok();
        }));
    }
    let answered = CancellationToken::new();
    let call = async {
        let result = (op.call)(face.orch.clone(), call_cx, arguments).await;
        answered.cancel();
        result
    };
    // Side by side, so that a client that reads slowly holds up its own news and not the work; and both to the end,
    // so that no news comes after the answer.
    let work = async {
        let (result, ()) = future::join(call, reporter.pump(updates, &answered)).await;
        reporter.conclude(&result).await;
        result
    };
    let mut work = std::pin::pin!(work);
    let result = tokio::select! {
        biased;
        result = &mut work => result,
        () = cx.ct.cancelled() => {
            withdrawal.withdraw();
            work.await
        }
    };
    withdrawal.disarm();
    result
}

/// Cancels the call when its future is dropped: the connection is gone, and with it whoever wanted the answer.
///
/// The token is our own and not the library's, which it also cancels after each answer: a launch that watches it
/// would then undo itself.
struct Withdrawal {
    face: Arc<Face>,
    token: CancellationToken,
    armed: bool,
}

impl Withdrawal {
    /// A server that ends breaks connections too, but nobody withdrew anything: what was accepted goes on after the
    /// next start.
    fn withdraw(&self) {
        if !self.face.is_ending() {
            self.token.cancel();
        }
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if self.armed {
            self.withdraw();
        }
    }
}

/// Tells the client how the call goes: as progress when it gave a token, as log messages when it asked for a level.
#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
struct Reporter<'a> {
    peer: &'a Peer<RoleServer>,
    token: Option<ProgressToken>,
    /// The protocol wants each progress to be greater than the one before.
    last: Option<f64>,
    log_level: Option<LoggingLevel>,
    operation: &'static str,
}

#[expect(deprecated, reason = "clients up to 2025-11-25 still ask for logging")]
impl Reporter<'_> {
    fn is_listening(&self) -> bool {
        self.token.is_some() || self.logs(LoggingLevel::Info)
    }

    fn logs(&self, level: LoggingLevel) -> bool {
        self.log_level.is_some_and(|wanted| wanted as u8 <= level as u8)
    }

    async fn pump(
        &mut self,
        mut updates: mpsc::Receiver<ProgressUpdate>,
        answered: &CancellationToken,
    ) {
        loop {
            let update = tokio::select! {
                biased;
                update = updates.recv() => update,
                // Not by the end of the channel alone: work that goes on after the answer may still hold a sender.
                () = answered.cancelled() => updates.try_recv().ok(),
            };
            match update {
                Some(update) => self.tell(update).await,
                None => return,
            }
        }
    }

    async fn tell(&mut self, update: ProgressUpdate) {
        if let Some(token) = &self.token
            && self.last.is_none_or(|last| last < update.progress)
        {
            self.last = Some(update.progress);
            let mut progress = ProgressNotificationParam::new(token.clone(), update.progress);
            progress.total = update.total;
            progress.message = Some(update.message.clone());
            // A client that is gone is noticed by whoever reads from it.
            self.peer.notify_progress(progress).await.ok();
        }
        self.log(LoggingLevel::Info, &update.message).await;
    }

    async fn conclude(&self, result: &Result<Answer, Error>) {
        match result {
            Ok(_) => self.log(LoggingLevel::Debug, "answered").await,
            Err(err) => {
                self.log(LoggingLevel::Warning, &format!("{}: {err}", err.code().as_str())).await;
            }
        }
    }

    async fn log(&self, level: LoggingLevel, message: &str) {
        if self.logs(level) {
            let data = json!({"operation": self.operation, "message": message});
            let message = LoggingMessageNotificationParam::new(level, data).with_logger("mcp-orch");
            self.peer.notify_logging_message(message).await.ok();
        }
    }
}
