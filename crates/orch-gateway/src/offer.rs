//! What one server offers: as it said it last, in this run or an earlier one, and as it is shown.
//!
//! What is said is compared with what was first seen before it is shaped, and is kept on the disk, so that the next start
//! has lists before it has connections.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orch_domain::time::Timestamp;
use parking_lot::{Mutex, RwLock};

use crate::catalog::{Catalog, Item, List};
use crate::config::Upstream;
use crate::names::edge_name;
use crate::safety::Safety;
use crate::safety::pin::{Flag, PinMode, Pins, Unsaved};
use crate::safety::remembered::{self, Remembered};

/// A server that says its lists hold for less is not asked more often.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

pub struct Offer {
    server: Arc<str>,
    pub pin: PinMode,
    /// None: nothing was ever said.
    said: RwLock<Option<Arc<Remembered>>>,
    shown: RwLock<Arc<Catalog>>,
    pins: Mutex<Pins>,
    file: Option<PathBuf>,
    fingerprint: String,
    /// What the file has. Held while it is written, so that a later state is not overtaken by an earlier.
    written: tokio::sync::Mutex<Vec<u8>>,
}

/// What came of something that was said.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    /// Lists that are shown otherwise than before.
    pub changed: Vec<List>,
    /// Tools that differ from what was first seen, and did not before.
    pub flagged: Vec<Flag>,
}

impl Offer {
    /// With what is on the disk from the same configuration.
    pub fn open(server: &str, spec: &Upstream, safety: &Safety, now: Timestamp) -> Offer {
        let file = safety.dir_of("catalogs").map(|it| remembered::file_of(&it, server));
        let said = file.as_deref().and_then(|it| remembered::load(it, &spec.guard.fingerprint));
        let offer = Offer {
            server: server.into(),
            pin: safety.pin_of(&spec.guard),
            said: RwLock::new(None),
            shown: RwLock::default(),
            pins: Mutex::new(Pins::load(safety.dir_of("pins"), server)),
            file,
            fingerprint: spec.guard.fingerprint.clone(),
            written: tokio::sync::Mutex::default(),
        };
        if let Some(said) = said {
            offer.show(spec, said, now);
        }
        offer
    }

    pub fn shown(&self) -> Arc<Catalog> {
        self.shown.read().clone()
    }

    /// As the server said it, and what it said about itself.
    pub fn said(&self) -> Option<Arc<Remembered>> {
        self.said.read().clone()
    }

    /// Whether it ever was, in this run or an earlier one.
    pub fn is_known(&self) -> bool {
        self.said.read().is_some()
    }

    /// When its lists are to be read again.
    pub fn ttl(&self, spec: &Upstream) -> Option<Duration> {
        let said = self.said().and_then(|it| it.ttl).map(|it| it.max(SHORTEST_TTL));
        spec.guard.cache_ttl.into_iter().chain(said).min()
    }

    /// All of it, after a connection was made.
    pub fn take(&self, spec: &Upstream, said: Remembered, now: Timestamp) -> Told {
        self.show(spec, said, now)
    }

    /// One list that was read again.
    pub fn take_list(&self, spec: &Upstream, list: List, items: Vec<Item>, now: Timestamp) -> Told {
        let Some(said) = self.said() else { return Told::default() };
        let mut said = Remembered::clone(&said);
        said.catalog.set(list, items);
        self.show(spec, said, now)
    }

    fn show(&self, spec: &Upstream, said: Remembered, now: Timestamp) -> Told {
        let flags = self.pins.lock().look(&said.catalog.tools, self.pin, now);
        for flag in &flags {
            if !self.shown.read().flags.contains(flag) {
                let consequence =
                    if flag.is_quarantined { "is quarantined" } else { "goes on being offered" };
                let tool = orch_domain::text::excerpt(&flag.origin, 100);
                tracing::warn!(
                    "the tool `{tool}` of the server `{}` is {} since it was first seen and {consequence}; `approve_tools` takes it as it is",
                    self.server,
                    flag.differs.as_str(),
                );
            }
        }
        let catalog = shown(spec, &said.catalog, flags);
        *self.said.write() = Some(Arc::new(said));
        let mut shown = self.shown.write();
        let changed = List::ALL.into_iter().filter(|it| !is_same(&shown, &catalog, *it)).collect();
        let flagged =
            catalog.flags.iter().filter(|it| !shown.flags.contains(it)).cloned().collect();
        *shown = Arc::new(catalog);
        Told { changed, flagged }
    }

    /// Which of these tools may not be used, as they are.
    pub fn held_of(&self, tools: &[Item], now: Timestamp) -> Vec<Arc<str>> {
        if self.pin != PinMode::Enforce {
            return Vec::new();
        }
        let flags = self.pins.lock().look(tools, self.pin, now);
        flags.into_iter().map(|it| it.origin).collect()
    }

    /// Takes tools as they are now: those of these names, or all. The error is a name that is none.
    pub fn approve(
        &self,
        spec: &Upstream,
        names: &[String],
        now: Timestamp,
    ) -> Result<(Vec<Flag>, Told), String> {
        let Some(said) = self.said() else {
            return names.first().map_or_else(|| Ok(Default::default()), |it| Err(it.clone()));
        };
        let tools = &said.catalog.tools;
        let offered = spec.tools.apply(tools.clone());
        // By either of its names.
        let mut origins: Vec<Arc<str>> = Vec::new();
        for name in names {
            let is = |it: &&Item| *it.name == **name || edge_name(&self.server, &it.name) == *name;
            let found = offered.iter().chain(tools).find(is).ok_or_else(|| name.clone())?;
            origins.push(found.origin.clone());
        }
        let is_meant = |it: &Arc<str>| names.is_empty() || origins.contains(it);
        let flags: Vec<Flag> =
            self.shown().flags.iter().filter(|it| is_meant(&it.origin)).cloned().collect();
        let approved = tools.iter().filter(|it| flags.iter().any(|flag| flag.origin == it.origin));
        self.pins.lock().approve(approved, now);
        let told = self.show(spec, Remembered::clone(&said), now);
        Ok((flags, told))
    }

    /// Writes to the disk what that does not have yet.
    pub async fn keep(&self) {
        let mut written = self.written.lock().await;
        let pins = self.pins.lock().unsaved();
        let said = self.said().filter(|_| self.file.is_some());
        let bytes = said.map(|it| remembered::to_bytes(&it, &self.fingerprint));
        let changed = bytes.filter(|it| *it != *written);
        if pins.is_none() && changed.is_none() {
            return;
        }
        let (file, text) = (self.file.clone(), changed.clone());
        let saved = tokio::task::spawn_blocking(move || {
            pins.into_iter().for_each(Unsaved::save);
            match (file, text) {
                (Some(file), Some(text)) => remembered::save(&file, &text),
                _ => Ok(()),
            }
        });
        match (saved.await, changed) {
            (Ok(Ok(())), Some(changed)) => *written = changed,
            (Ok(Ok(())), None) => {}
            (Ok(Err(err)), _) => {
                tracing::warn!("what `{}` offers cannot be kept: {err}", self.server);
            }
            (Err(err), _) => tracing::error!("{err}"),
        }
    }
}

fn shown(spec: &Upstream, said: &Catalog, flags: Vec<Flag>) -> Catalog {
    let mut catalog = said.clone();
    let is_held =
        |it: &Item| flags.iter().any(|flag| flag.is_quarantined && flag.origin == it.origin);
    catalog.tools.retain(|it| !is_held(it));
    catalog.tools = spec.tools.apply(catalog.tools);
    catalog.flags = flags;
    catalog
}

fn is_same(a: &Catalog, b: &Catalog, list: List) -> bool {
    let (a, b) = (a.of(list), b.of(list));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.json.get() == b.json.get())
}
