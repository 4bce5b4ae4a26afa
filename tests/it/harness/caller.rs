//! Calling operations as some user, with every answer held against the schema that is promised for it.

use orch_core::{Answer, Cx, ops};
use orch_domain::caller::{Caller, Channel};
use orch_domain::name::UserId;
use orch_domain::{Error, ErrorCode};
use serde_json::Value;

use super::cloud::Cloud;

pub(crate) const ADMIN: &str = "user-admin-001";
pub(crate) const DEMO: &str = "user-demo-001";

impl Cloud {
    /// `user` as logged in, with all of its permissions.
    pub(crate) fn caller(&self, user: &str) -> Caller {
        let user = self.orch.user(&UserId::try_new(user).unwrap()).unwrap();
        Caller {
            user: user.id.clone(),
            permissions: user.permissions.clone(),
            channel: Channel::Cli,
            client: Some("test".to_owned()),
        }
    }

    pub(crate) async fn call(
        &self,
        user: &str,
        name: &str,
        arguments: Value,
    ) -> Result<Answer, Error> {
        self.call_with(Cx::new(Some(self.caller(user))), name, arguments).await
    }

    pub(crate) async fn call_with(
        &self,
        cx: Cx,
        name: &str,
        arguments: Value,
    ) -> Result<Answer, Error> {
        let op = ops::catalogue().into_iter().find(|it| it.spec.name == name).unwrap();
        let answer = (op.call)(self.orch.clone(), cx, arguments).await?;
        let schema = Value::Object(op.output);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let broken: Vec<String> = validator
            .iter_errors(&answer.value)
            .map(|it| format!("{}: {it}", it.instance_path()))
            .collect();
        assert!(broken.is_empty(), "{name} answers otherwise than promised: {broken:?}");
        assert!(!answer.text().is_empty(), "{name} has nothing to say to a person");
        Ok(answer)
    }

    #[track_caller]
    pub(crate) fn ok(
        &self,
        user: &str,
        name: &str,
        arguments: Value,
    ) -> impl Future<Output = Value> {
        let at = std::panic::Location::caller();
        async move {
            match self.call(user, name, arguments).await {
                Ok(answer) => answer.value,
                Err(err) => panic!("{at}: {name}: {err} {:?}", err.describe()),
            }
        }
    }

    /// Asserts that the call is refused with that code, and answers what the refusal says.
    #[track_caller]
    pub(crate) fn refused(
        &self,
        user: &str,
        name: &str,
        arguments: Value,
        code: ErrorCode,
    ) -> impl Future<Output = Value> {
        let at = std::panic::Location::caller();
        async move {
            match self.call(user, name, arguments).await {
                Ok(answer) => panic!("{at}: {name} was not refused: {}", answer.value),
                Err(err) => {
                    assert_eq!(err.code(), code, "{at}: {err}");
                    Value::Object(err.describe())
                }
            }
        }
    }
}
