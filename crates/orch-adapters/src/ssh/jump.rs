//! The machines on the way to others: each has one connection, which all machines behind it share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use orch_domain::ssh::{SshEndpoint, SshHop, Trust};
use parking_lot::Mutex;

use super::{Link, SshError, SshSettings, host_key};

#[derive(Default)]
pub struct Jumps {
    settings: SshSettings,
    /// By the whole way to each: the same address behind another jump is another machine. They live as long as somebody
    /// is behind them.
    links: Mutex<HashMap<Vec<SshHop>, Weak<Link>>>,
}

impl Jumps {
    pub fn new(settings: SshSettings) -> Jumps {
        Jumps { settings, links: Mutex::default() }
    }

    /// The connection to a machine, through those on the way. Connects to nothing yet.
    pub fn link(&self, endpoint: &SshEndpoint) -> Arc<Link> {
        Link::new(endpoint.hop(), self.way(&endpoint.jumps), self.settings.clone())
    }

    /// To the last of `jumps`; none: there are none.
    fn way(&self, jumps: &[SshHop]) -> Option<Arc<Link>> {
        let mut links = self.links.lock();
        links.retain(|_, it| it.strong_count() != 0);
        let mut via: Option<Arc<Link>> = None;
        for (i, hop) in jumps.iter().enumerate() {
            let way = &jumps[..=i];
            let link = links.get(way).and_then(Weak::upgrade).unwrap_or_else(|| {
                let link = Link::new(hop.clone(), via.clone(), self.settings.clone());
                links.insert(way.to_vec(), Arc::downgrade(&link));
                link
            });
            via = Some(link);
        }
        via
    }

    /// Meets all that were not met yet, the nearest first, and pins their keys if `trust` allows them. Only those that
    /// others are behind are logged in to, and only after their key was found right.
    pub async fn identify(
        &self,
        endpoint: &SshEndpoint,
        trust: &Trust,
        within: Duration,
    ) -> Result<SshEndpoint, SshError> {
        let mut met = endpoint.clone();
        for i in 0..met.jumps.len() {
            if met.jumps[i].host_key.is_none() {
                let via = self.way(&met.jumps[..i]);
                let key = host_key::meet(&met.jumps[i], via, &trust.jumps, &self.settings, within);
                met.jumps[i].host_key = Some(key.await?);
            }
        }
        if met.host_key.is_none() {
            let via = self.way(&met.jumps);
            let key = host_key::meet(&met.hop(), via, &trust.host, &self.settings, within).await?;
            met.host_key = Some(key);
        }
        Ok(met)
    }
}

#[cfg(test)]
mod tests {
    use orch_domain::ssh::SshLogin;

    use super::*;

    fn hop(host: &str) -> SshHop {
        SshHop {
            host: host.to_owned(),
            port: 22,
            user: "root".to_owned(),
            login: SshLogin::Usual,
            host_key: None,
        }
    }

    #[test]
    fn machines_behind_one_jump_share_its_connection_as_long_as_there_are_any() {
        let jumps = Jumps::default();
        let (a, b) = (jumps.way(&[hop("a")]).unwrap(), jumps.way(&[hop("a"), hop("b")]).unwrap());
        assert!(Arc::ptr_eq(&a, &jumps.way(&[hop("a")]).unwrap()));
        assert!(Arc::ptr_eq(b.via().unwrap(), &a));
        assert!(!Arc::ptr_eq(&b, &jumps.way(&[hop("b")]).unwrap()), "another machine of that name");
        let other = SshHop { user: "ann".to_owned(), ..hop("a") };
        assert!(!Arc::ptr_eq(&a, &jumps.way(&[other]).unwrap()));
        drop((a, b));
        jumps.way(&[]);
        assert!(jumps.links.lock().is_empty());
    }
}
