//! What one server offers, as it said it.

use std::sync::Arc;
use std::time::Duration;

use crate::frame::Raw;
use crate::members::Members;
use crate::safety::pin::Flag;
use crate::upstream::handshake::{self, Client, Welcome};
use crate::upstream::{Era, Link, LinkError};

/// Pages of one list: a server that never stops is cut off.
const MAX_PAGES: usize = 200;
const MAX_ITEMS: usize = 20_000;

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub tools: Vec<Item>,
    pub prompts: Vec<Item>,
    pub resources: Vec<Item>,
    pub templates: Vec<Item>,
    /// Tools that are not what they were when they were first seen.
    pub flags: Vec<Flag>,
}

/// One entry of a list: the name it goes by at its server, and all of it.
#[derive(Clone, Debug)]
pub struct Item {
    /// `name`; of a resource its `uri`, of a template its `uriTemplate`. As offered.
    pub name: Arc<str>,
    /// As its server calls it.
    pub origin: Arc<str>,
    pub json: Raw,
}

/// The lists of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl List {
    pub const ALL: [List; 4] = [List::Tools, List::Prompts, List::Resources, List::Templates];

    pub fn method(self) -> &'static str {
        match self {
            List::Tools => "tools/list",
            List::Prompts => "prompts/list",
            List::Resources => "resources/list",
            List::Templates => "resources/templates/list",
        }
    }

    /// The member of the result that has the entries.
    pub fn member(self) -> &'static str {
        match self {
            List::Tools => "tools",
            List::Prompts => "prompts",
            List::Resources => "resources",
            List::Templates => "resourceTemplates",
        }
    }

    fn capability(self) -> &'static str {
        match self {
            List::Tools => "tools",
            List::Prompts => "prompts",
            List::Resources | List::Templates => "resources",
        }
    }

    fn key(self) -> &'static str {
        match self {
            List::Tools | List::Prompts => "name",
            List::Resources => "uri",
            List::Templates => "uriTemplate",
        }
    }

    /// The list that a notification says has changed.
    pub fn of_change(method: &str) -> &'static [List] {
        match method {
            "notifications/tools/list_changed" => &[List::Tools],
            "notifications/prompts/list_changed" => &[List::Prompts],
            "notifications/resources/list_changed" => &[List::Resources, List::Templates],
            _ => &[],
        }
    }
}

impl Catalog {
    pub fn of(&self, list: List) -> &[Item] {
        match list {
            List::Tools => &self.tools,
            List::Prompts => &self.prompts,
            List::Resources => &self.resources,
            List::Templates => &self.templates,
        }
    }

    pub fn set(&mut self, list: List, items: Vec<Item>) {
        *match list {
            List::Tools => &mut self.tools,
            List::Prompts => &mut self.prompts,
            List::Resources => &mut self.resources,
            List::Templates => &mut self.templates,
        } = items;
    }

    pub fn find(&self, list: List, name: &str) -> Option<&Item> {
        self.of(list).iter().find(|it| &*it.name == name)
    }
}

impl Item {
    /// None: it has no name.
    pub fn of(list: List, json: Raw) -> Option<Item> {
        let name: Arc<str> = Members::of(&json)?.text(list.key())?.into();
        Some(Item { origin: name.clone(), name, json })
    }
}

/// A list, and how long it says that it holds.
pub struct Listed {
    pub items: Vec<Item>,
    pub ttl: Option<Duration>,
}

/// Reads one list to its end. A server without that capability has none of it.
pub async fn fetch(
    link: &dyn Link,
    welcome: &Welcome,
    client: &Client,
    list: List,
    limit: Duration,
) -> Result<Listed, LinkError> {
    let mut listed = Listed { items: Vec::new(), ttl: None };
    if welcome.capabilities.get(list.capability()).is_none() {
        return Ok(listed);
    }
    let mut cursor = None;
    for _ in 0..MAX_PAGES {
        let mut params = Members::default();
        if let Some(cursor) = &cursor {
            params.set("cursor", cursor);
        }
        if welcome.terms.era == Era::Stateless {
            params.set("_meta", &handshake::meta(client, &welcome.terms.version));
        }
        let answer = match handshake::ask(link, list.method(), params.to_raw(), limit).await {
            Ok(it) => it,
            // Many that have resources never heard of templates.
            Err(LinkError::Refused { code: -32601, .. }) if list == List::Templates => break,
            Err(err) => return Err(err),
        };
        let page = Members::of(&answer).unwrap_or_default();
        for json in page.array(list.member()).unwrap_or_default() {
            match Item::of(list, json) {
                Some(it) => listed.items.push(it),
                None => tracing::warn!("an entry of `{}` has no `{}`", list.method(), list.key()),
            }
        }
        // 0 says that nothing is known about it.
        let ttl = page.get("ttlMs").and_then(|it| it.get().parse().ok()).filter(|it| *it != 0);
        listed.ttl = listed.ttl.into_iter().chain(ttl.map(Duration::from_millis)).min();
        cursor = page.get("nextCursor").filter(|it| it.get() != "null").cloned();
        if cursor.is_none() || MAX_ITEMS < listed.items.len() {
            break;
        }
    }
    Ok(listed)
}
