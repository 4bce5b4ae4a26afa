//! What one server offers, for those who ask it, and who is told when that changes.

use std::sync::Arc;

use orch_domain::time::Timestamp;

use super::{Change, Server};
use crate::catalog::{Catalog, Item, List};
use crate::config::Reach;
use crate::headers;
use crate::offer::{Offer, Told};
use crate::safety::Safety;
use crate::safety::pin::Flag;
use crate::safety::redact::Patterns;
use crate::upstream::Era;
use crate::upstream::handshake::Welcome;

impl Server {
    pub fn catalog(&self) -> Arc<Catalog> {
        self.offer.shown()
    }

    /// What it offers, and how it was compared with what was first seen.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    pub fn patterns(&self) -> &Patterns {
        &self.redact
    }

    pub fn now(&self) -> Timestamp {
        (self.around.now)()
    }

    pub fn safety(&self) -> &Arc<Safety> {
        &self.around.safety
    }

    /// What it said about itself last, in this run or an earlier one.
    pub fn welcome(&self) -> Option<Welcome> {
        let live = self.live().map(|it| it.welcome.clone());
        live.or_else(|| self.offer.said().map(|it| it.welcome.clone()))
    }

    /// Of a list as it was said, what can be used.
    pub(super) fn usable(&self, list: List, mut items: Vec<Item>, era: Era) -> Vec<Item> {
        // Only there are arguments repeated in headers.
        if list == List::Tools
            && era == Era::Stateless
            && matches!(self.spec.reach, Reach::Http { .. })
        {
            items.retain(|it| match headers::check_tool(it) {
                Ok(()) => true,
                Err(why) => {
                    tracing::warn!("the tool `{}` of `{}` is left out: {why}", it.name, self.name);
                    false
                }
            });
        }
        items
    }

    /// Those who list are told what came of what it said, and the disk what it said.
    pub fn tell(&self, told: Told) {
        for list in told.changed {
            self.around.changes.send(Change::List { server: self.name.clone(), list }).ok();
        }
        for flag in told.flagged {
            self.around.changes.send(Change::Flagged { server: self.name.clone(), flag }).ok();
        }
        let offer = self.offer.clone();
        self.around.tasks.spawn(async move { offer.keep().await });
    }

    /// Takes tools of these names, or all that differ, as they are now. The error is a name that is none.
    pub async fn approve(&self, names: &[String]) -> Result<Vec<Flag>, String> {
        let (flags, told) = self.offer.approve(&self.spec, names, (self.around.now)())?;
        self.tell(told);
        // Whoever approved may rely on it.
        self.offer.keep().await;
        Ok(flags)
    }
}
