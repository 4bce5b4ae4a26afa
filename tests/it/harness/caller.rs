//! Who calls: users, their keys, and calls whose answers are held against the schema that is promised for them.

use std::collections::HashMap;
use std::sync::LazyLock;

use orch_core::operation::{Answer, Op};
use orch_core::service::identity;
use orch_core::{Cx, ops};
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::{UserId, UserName};
use orch_domain::tool_access::ToolPatterns;
use orch_domain::user::{ApiKey, Quota, User};
use orch_domain::{Error, ErrorCode};
use serde_json::Value;

use super::lab::Lab;

/// The output schemas that `tools/list` shows, which say less than the whole ones. `call_tool` shows none.
static OVER_MCP: LazyLock<HashMap<String, jsonschema::Validator>> = LazyLock::new(|| {
    let tools = mcp_orch::face::mcp::tools().into_iter();
    let named = tools.filter_map(|it| {
        let validator = jsonschema::validator_for(it.get("outputSchema")?).unwrap();
        Some((it["name"].as_str().unwrap().to_owned(), validator))
    });
    named.collect()
});

pub(crate) const ADMIN: &str = "user-admin-001";
pub(crate) const DEMO: &str = "user-demo-001";

pub(crate) const ALL_BUT_ADMIN: [Permission; 3] =
    [Permission::Read, Permission::Write, Permission::Execute];

/// The two users that are built in.
pub(crate) fn built_in() -> [User; 2] {
    let user =
        |id: &str, name: &str| User { name: UserName::try_new(name).unwrap(), ..User::test(id) };
    let admin = User { quota: Quota::ADMIN, ..user(ADMIN, "admin") };
    let permissions = ALL_BUT_ADMIN.to_vec();
    [admin, User { permissions, quota: Quota::DEMO, ..user(DEMO, "demo") }]
}

pub(crate) fn op(name: &str) -> Op {
    ops::catalogue()
        .into_iter()
        .find(|it| it.spec.name == name)
        .unwrap_or_else(|| panic!("no operation {name}"))
}

pub(crate) fn caller(user: &str, permissions: &[Permission]) -> Cx {
    Cx::new(Some(Caller {
        client: Some("test".to_owned()),
        ..Caller::new(UserId::try_new(user).unwrap(), permissions.to_vec(), Channel::Rest)
    }))
}

/// The administrator.
pub(crate) fn ann() -> Cx {
    caller("ann", &Permission::ALL)
}

pub(crate) fn bob() -> Cx {
    caller("bob", &ALL_BUT_ADMIN)
}

impl Lab {
    /// An API key of `user` that may do only this.
    pub(crate) async fn api_key(&self, user: &str, permissions: &[Permission]) -> String {
        let (id, text, secret_sha256) = identity::new_api_key(self.orch().random()).unwrap();
        let key = ApiKey {
            id,
            user: UserId::try_new(user).unwrap(),
            name: "test".to_owned(),
            secret_sha256,
            permissions: permissions.to_vec(),
            created_at: self.orch().clock.now(),
            expires_at: None,
            tools: ToolPatterns::default(),
        };
        self.orch().ledger.write(None, |book| book.add_api_key(key)).await.unwrap();
        text
    }

    /// `user` as logged in, with all of its permissions.
    pub(crate) fn caller(&self, user: &str) -> Caller {
        let user = self.orch().user(&UserId::try_new(user).unwrap()).unwrap();
        Caller {
            client: Some("test".to_owned()),
            ..Caller::new(user.id.clone(), user.permissions.clone(), Channel::Cli)
        }
    }

    /// As `ann`.
    pub(crate) async fn call(&self, name: &str, arguments: Value) -> Result<Answer, Error> {
        self.call_as(&ann(), name, arguments).await
    }

    pub(crate) async fn call_as(
        &self,
        cx: &Cx,
        name: &str,
        arguments: Value,
    ) -> Result<Answer, Error> {
        let op = op(name);
        let answer = (op.call)(self.orch().clone(), cx.clone(), arguments).await?;
        let schema = Value::Object(op.output);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let broken: Vec<String> = validator
            .iter_errors(&answer.value)
            .map(|it| format!("{}: {it}", it.instance_path()))
            .collect();
        assert!(broken.is_empty(), "{name} answers otherwise than promised: {broken:?}");
        let promised = OVER_MCP.get(name);
        assert_eq!(promised.is_none(), name == "call_tool", "{name} promises nothing");
        let broken = promised.into_iter().flat_map(|it| it.iter_errors(&answer.value));
        let broken: Vec<String> = broken.map(|it| it.to_string()).collect();
        assert!(broken.is_empty(), "{name} answers otherwise than MCP promises: {broken:?}");
        assert!(!answer.text().is_empty(), "{name} has nothing to say to a person");
        Ok(answer)
    }

    /// As `ann`, who gets the answer's structured value.
    pub(crate) async fn ask(&self, name: &str, arguments: Value) -> Value {
        self.call(name, arguments).await.unwrap_or_else(|err| panic!("{name}: {err}")).value
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
            match self.call_as(&Cx::new(Some(self.caller(user))), name, arguments).await {
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
            match self.call_as(&Cx::new(Some(self.caller(user))), name, arguments).await {
                Ok(answer) => panic!("{at}: {name} was not refused: {}", answer.value),
                Err(err) => {
                    assert_eq!(err.code(), code, "{at}: {err}");
                    Value::Object(err.describe())
                }
            }
        }
    }
}
