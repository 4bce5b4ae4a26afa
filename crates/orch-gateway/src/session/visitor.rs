//! A client as the servers behind see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::bridge::LOG_LEVEL;
use super::question::Questions;
use crate::frame::{Frame, Raw, raw};
use crate::members::Members;
use crate::upstream::Era;
use crate::upstream::handshake::{CAPABILITIES_KEY, Client, INFO_KEY};

/// What a server may ask a client for; who can do none of it can share a connection with others.
const ASKABLE: [&str; 4] = ["sampling", "elicitation", "roots", "tasks"];

static LAST_SESSION: AtomicU64 = AtomicU64::new(0);

/// Lives as long as a session or a stream; in the era without sessions, as long as one request.
pub struct Visitor {
    /// Whose it is: connections and parked calls of one user are never another's.
    pub user: Arc<str>,
    pub era: Era,
    /// None: there is no session.
    pub session: Option<u64>,
    client: RwLock<Arc<Client>>,
    /// To the client, beside its requests. None: there is no such way.
    outside: Option<mpsc::Sender<Frame>>,
    pub questions: Questions,
    /// It speaks to one server as that is: everything goes through.
    is_direct: bool,
    /// It keeps large results itself.
    pub takes_whole: bool,
    /// As the client set it for its session.
    log_level: Mutex<Option<Raw>>,
}

impl Visitor {
    /// Of the session era; what it declares is said at `introduce`.
    pub fn of_session(user: &str, outside: mpsc::Sender<Frame>, is_direct: bool) -> Visitor {
        Visitor {
            user: user.into(),
            era: Era::Session,
            session: Some(LAST_SESSION.fetch_add(1, Ordering::Relaxed) + 1),
            client: RwLock::new(Arc::new(Client::nobody())),
            outside: Some(outside),
            questions: Questions::default(),
            is_direct,
            takes_whole: false,
            log_level: Mutex::default(),
        }
    }

    /// Of the era in which each request says everything.
    pub fn of_request(user: &str, request: &Frame, is_direct: bool) -> Visitor {
        let meta = Members::of_params(request.params.as_ref()).object("_meta").unwrap_or_default();
        let nobody = Client::nobody();
        let client = Client {
            capabilities: meta.get(CAPABILITIES_KEY).cloned().unwrap_or(nobody.capabilities),
            info: meta.get(INFO_KEY).cloned().unwrap_or(nobody.info),
            hello: None,
        };
        Visitor {
            user: user.into(),
            era: Era::Stateless,
            session: None,
            client: RwLock::new(Arc::new(client)),
            outside: None,
            questions: Questions::default(),
            is_direct,
            takes_whole: false,
            log_level: Mutex::new(meta.get(LOG_LEVEL).cloned()),
        }
    }

    /// Of a call that no client of the protocol made.
    pub fn of_call(user: &str, takes_whole: bool) -> Visitor {
        Visitor {
            user: user.into(),
            era: Era::Session,
            session: None,
            client: RwLock::new(Arc::new(Client::nobody())),
            outside: None,
            questions: Questions::default(),
            is_direct: false,
            takes_whole,
            log_level: Mutex::default(),
        }
    }

    /// Takes down what the client says about itself in `initialize`.
    pub fn introduce(&self, params: Option<&Raw>) {
        let members = Members::of_params(params);
        let nobody = Client::nobody();
        *self.client.write() = Arc::new(Client {
            capabilities: members.get("capabilities").cloned().unwrap_or(nobody.capabilities),
            info: members.get("clientInfo").cloned().unwrap_or(nobody.info),
            hello: params.cloned(),
        });
    }

    pub fn is_direct(&self) -> bool {
        self.is_direct
    }

    pub fn client(&self) -> Arc<Client> {
        self.client.read().clone()
    }

    /// Whether a server could want anything of this client.
    pub fn can_be_asked(&self) -> bool {
        let client = self.client();
        let Some(capabilities) = Members::of(&client.capabilities) else { return false };
        ASKABLE.iter().any(|it| capabilities.get(it).is_some_and(|it| it.get() != "null"))
    }

    /// Whether the client declared what a server's request of it needs.
    pub fn can_answer(&self, method: &str) -> bool {
        let client = self.client();
        let capabilities = Members::of(&client.capabilities).unwrap_or_default();
        let has = |key: &str| capabilities.get(key).is_some_and(|it| it.get() != "null");
        match method {
            "sampling/createMessage" => has("sampling"),
            "elicitation/create" => has("elicitation"),
            "roots/list" => has("roots"),
            it if it.starts_with("tasks/") => has("tasks"),
            _ => true,
        }
    }

    /// Says something to the client that belongs to none of its requests. False: it has no ear for it, or does not read.
    pub fn tell(&self, frame: Frame) -> bool {
        self.outside.as_ref().is_some_and(|it| it.try_send(frame).is_ok())
    }

    pub fn set_log_level(&self, level: Option<Raw>) {
        *self.log_level.lock() = level;
    }

    pub fn log_level(&self) -> Option<Raw> {
        self.log_level.lock().clone()
    }
}

impl Client {
    pub fn nobody() -> Client {
        Client {
            capabilities: raw(&Members::default()),
            info: raw(&Members::default()),
            hello: None,
        }
    }
}
