//! Connections with one user's token, which are that user's alone: made at the first call, used again, and closed when they
//! were idle for a while or the login is another one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orch_domain::name::UserId;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::frame::{Frame, Kind};
use crate::members::Members;
use crate::oauth::{LoginSite, Owner, Standing};
use crate::server::{Live, Server, answer};
use crate::upstream::{Exchange, LinkError};

const IDLE: Duration = Duration::from_secs(600);
/// After a failure, the same is told for a moment: who calls in a loop makes no storm of it.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Personal(Mutex<HashMap<UserId, Arc<Slot>>>);

#[derive(Default)]
struct Slot {
    /// Held while it is being connected, so that it is once.
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
    failed: Mutex<Option<(Instant, LinkError)>>,
    used: Arc<Mutex<Option<Instant>>>,
    calls: TaskTracker,
}

impl Server {
    /// One request of a user. With a login there, over a connection of the user's own; without, over the shared one,
    /// unless that has a token of somebody.
    pub async fn send_as(
        &self,
        user: Option<&UserId>,
        method: &str,
        params: Members,
    ) -> Result<Exchange, LinkError> {
        if let (Some(user), Some(site)) = (user, &self.site) {
            match self.around.logins.standing(site, user) {
                Standing::Nothing => {}
                Standing::Over(message) => return Err(LinkError::LoginNeeded { message }),
                Standing::In(owner) => {
                    return self.send_personally(site, &owner, method, params).await;
                }
            }
        }
        self.send(method, params).await
    }

    /// The connection that requests of this user go over, as far as there is one.
    pub fn live_of(&self, user: Option<&UserId>) -> Option<Arc<Live>> {
        let slot = user.and_then(|it| self.personal.0.lock().get(it).cloned());
        let own = slot.and_then(|it| it.live.try_lock().ok().and_then(|it| it.clone()));
        own.filter(|it| !it.link.closed().is_cancelled()).or_else(|| self.live())
    }

    async fn send_personally(
        &self,
        site: &LoginSite,
        owner: &Owner,
        method: &str,
        params: Members,
    ) -> Result<Exchange, LinkError> {
        let slot = self.personal.0.lock().entry(owner.user.clone()).or_default().clone();
        let mut sent = Err(LinkError::SessionOver);
        // A session that is over did not take the request.
        for _ in 0..2 {
            let live = self.own_live(&slot, site, owner).await?;
            sent = self.send_over(&live, method, params.clone()).await;
            if !matches!(sent, Err(LinkError::SessionOver)) {
                break;
            }
        }
        sent.map(|it| it.counted_by(&self.calls).counted_by(&slot.calls))
    }

    async fn own_live(
        &self,
        slot: &Arc<Slot>,
        site: &LoginSite,
        owner: &Owner,
    ) -> Result<Arc<Live>, LinkError> {
        let mut live = slot.live.lock().await;
        *slot.used.lock() = Some(Instant::now());
        if let Some(it) = &*live {
            if !it.link.closed().is_cancelled() && it.owner.as_ref() == Some(owner) {
                return Ok(it.clone());
            }
            it.link.close().await;
        }
        *live = None;
        if let Some((at, err)) = &*slot.failed.lock()
            && at.elapsed() < AFTER_FAILURE
        {
            return Err(err.clone());
        }
        let (inbox, frames) = mpsc::unbounded_channel();
        let token = self.around.logins.source_of(site, &owner.user);
        match self.open(inbox, Some(token)).await {
            Ok((link, welcome, guard)) => {
                guard.keep();
                *slot.failed.lock() = None;
                let new = Arc::new(Live { link, welcome, owner: Some(owner.clone()) });
                *live = Some(new.clone());
                let follow = follow(new.clone(), slot.clone(), frames, self.stop.clone());
                self.around.tasks.spawn(follow);
                Ok(new)
            }
            Err(err) => {
                *slot.failed.lock() = Some((Instant::now(), err.clone()));
                Err(err)
            }
        }
    }

    /// Closes those whose login is over or another one.
    pub(crate) async fn close_stale(&self) {
        let Some(site) = &self.site else { return };
        let slots: Vec<_> =
            self.personal.0.lock().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        for (user, slot) in slots {
            // One that is being connected asks for its token itself.
            let Ok(mut live) = slot.live.try_lock() else { continue };
            let owner = live.as_ref().and_then(|it| it.owner.clone());
            let is_in = match self.around.logins.standing(site, &user) {
                Standing::In(it) => owner == Some(it),
                _ => false,
            };
            if !is_in {
                if let Some(it) = live.take() {
                    it.link.close().await;
                }
                drop(live);
                self.personal.0.lock().remove(&user);
            }
        }
    }
}

/// Answers what the server asks of nobody in particular, until the connection ends. What it tells is for this user, whose
/// calls alone are waited for here; the lists follow the shared connection.
async fn follow(
    live: Arc<Live>,
    slot: Arc<Slot>,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    stop: CancellationToken,
) {
    loop {
        let idle_at = slot.used.lock().map_or_else(Instant::now, |it| it + IDLE);
        tokio::select! {
            Some(frame) = frames.recv() => {
                if frame.kind() == Kind::Request {
                    live.link.tell(answer(frame)).await.ok();
                }
            }
            () = live.link.closed().cancelled() => return,
            () = stop.cancelled() => return live.link.close().await,
            () = tokio::time::sleep_until(idle_at.into()) => {
                let is_idle = slot.calls.is_empty()
                    && slot.used.lock().is_none_or(|it| it + IDLE <= Instant::now());
                if is_idle {
                    // Who comes meanwhile waits for the lock, and connects anew.
                    let mut own = slot.live.lock().await;
                    own.take_if(|it| Arc::ptr_eq(it, &live));
                    return live.link.close().await;
                }
                *slot.used.lock() = Some(Instant::now());
            }
        }
    }
}
