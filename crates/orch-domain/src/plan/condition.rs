//! When a step runs at all.

use serde_json::Value;

use super::reference::{Needs, Scope, Unresolved};
use crate::batch::StepState;
use crate::name::StepId;

#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Truthy(Value),
}

impl Condition {
    pub fn parse(value: &Value) -> Result<Condition, String> {
        Ok(Condition::Truthy(value.clone()))
    }

    /// Steps whose results it looks at.
    pub fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Steps of which it asks how they ended; they may have failed.
    pub fn asks_about(&self) -> Vec<StepId> {
        Vec::new()
    }

    pub fn holds(
        &self,
        scope: &Scope<'_>,
        state: &dyn Fn(&StepId) -> Option<StepState>,
    ) -> Result<bool, Unresolved> {
        let _ = (scope, state);
        Ok(true)
    }
}
