//! What rows look like on disk: versioned types of their own, so that a change of a domain type or of what a face shows
//! does not change what is stored. A field is added with `#[serde(default)]`; anything more is a new version and a migration.

pub(super) mod audit;
pub(super) mod batch;
pub(super) mod event;
pub(super) mod grant;
pub(super) mod instance;
pub(super) mod node;
pub(super) mod port;
pub(super) mod registry;
pub(super) mod user;

use orch_domain::name::BrokenRule;
use orch_domain::resource::{Cpu, Memory, Resources};
use serde::{Deserialize, Serialize};

/// Why a stored row is not a domain value.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadRow {
    #[error("it is not the JSON expected: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Rule(#[from] BrokenRule),
    #[error("it holds a digest or secret that is not hexadecimal")]
    Hex(#[from] hex::FromHexError),
    #[error("{0}")]
    Fingerprint(String),
    #[error("its key does not have the form of this table")]
    Key,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct ResourcesV1 {
    cpu_millis: u32,
    memory_mib: u32,
    gpu: u32,
}

impl From<Resources> for ResourcesV1 {
    fn from(it: Resources) -> ResourcesV1 {
        ResourcesV1 { cpu_millis: it.cpu.millis(), memory_mib: it.memory.mib(), gpu: it.gpu }
    }
}

impl From<ResourcesV1> for Resources {
    fn from(it: ResourcesV1) -> Resources {
        Resources::new(Cpu::from_millis(it.cpu_millis), Memory::from_mib(it.memory_mib), it.gpu)
    }
}

/// A stored twin of a domain enum. Both ways are exhaustive, so that a new variant does not compile until it has a
/// stored form.
macro_rules! stored_enum {
    ($name:ident is $domain:ty { $($variant:ident = $text:literal),+ $(,)? }) => {
        #[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
        pub(in crate::store) enum $name {
            $(#[serde(rename = $text)] $variant,)+
        }

        impl From<$domain> for $name {
            fn from(it: $domain) -> $name {
                match it {
                    $(<$domain>::$variant => $name::$variant,)+
                }
            }
        }

        impl From<$name> for $domain {
            fn from(it: $name) -> $domain {
                match it {
                    $($name::$variant => <$domain>::$variant,)+
                }
            }
        }
    };
}
pub(in crate::store) use stored_enum;
