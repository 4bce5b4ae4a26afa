//! Stored holders of host ports. Node and port are the key; the row says who has it.

use orch_domain::name::InstanceId;
use orch_domain::port::Holder;
use orch_domain::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::BadRow;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::store) enum HolderV1 {
    Instance(String),
    QuarantineUntil(i64),
}

impl From<&Holder> for HolderV1 {
    fn from(it: &Holder) -> HolderV1 {
        match it {
            Holder::Instance(id) => HolderV1::Instance(id.to_string()),
            Holder::Quarantine { until } => HolderV1::QuarantineUntil(until.as_millis()),
        }
    }
}

impl TryFrom<HolderV1> for Holder {
    type Error = BadRow;
    fn try_from(it: HolderV1) -> Result<Holder, BadRow> {
        Ok(match it {
            HolderV1::Instance(id) => Holder::Instance(InstanceId::try_new(id)?),
            HolderV1::QuarantineUntil(until) => {
                Holder::Quarantine { until: Timestamp::from_millis(until) }
            }
        })
    }
}
