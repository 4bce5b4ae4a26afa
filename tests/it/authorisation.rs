//! Every operation, called around no face at all: the gate itself refuses whoever lacks the permission.

use orch_core::{Cx, gate, ops};
use orch_domain::audit::Outcome;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::UserId;
use orch_domain::{Error, ErrorCode};
use serde_json::json;

use crate::harness::cloud::Cloud;

fn caller(permissions: &[Permission]) -> Caller {
    let user = UserId::try_new("user-demo-001").unwrap();
    Caller::new(user, permissions.to_vec(), Channel::System)
}

/// Who may call what. Short on purpose: what is not here needs a login and `read` at least, and only `login` does not.
const ADMIN: [&str; 25] = [
    "add_server",
    "remove_server",
    "reload_servers",
    "approve_tools",
    "discover_nodes",
    "register_node",
    "update_node",
    "remove_node",
    "cordon_node",
    "uncordon_node",
    "drain_node",
    "pull_image",
    "list_registry_credentials",
    "set_registry_credential",
    "delete_registry_credential",
    "task_status",
    "list_users",
    "create_user",
    "get_user",
    "update_user",
    "delete_user",
    "list_api_keys",
    "create_api_key",
    "revoke_api_key",
    "list_audit",
];
const WRITE: [&str; 6] = [
    "launch_instance",
    "update_instance",
    "stop_instance",
    "start_instance",
    "restart_instance",
    "terminate_instance",
];
const EXECUTE: [&str; 9] = [
    "exec_in_instance",
    "ray_submit_job",
    "ray_stop_job",
    "call_tool",
    "login_server",
    "logout_server",
    "batch_plan",
    "batch_execute",
    "batch_cancel",
];
const NOBODY: [&str; 1] = ["login"];

#[test]
fn permissions_are_those_of_the_table() {
    for op in ops::catalogue() {
        let name = op.spec.name;
        let expected = match name {
            _ if ADMIN.contains(&name) => Some(Permission::Admin),
            _ if WRITE.contains(&name) => Some(Permission::Write),
            _ if EXECUTE.contains(&name) => Some(Permission::Execute),
            _ if NOBODY.contains(&name) => None,
            _ => Some(Permission::Read),
        };
        assert_eq!(op.spec.needs, expected, "{name}");
        // What only needs `read` changes nothing, but for one's own password.
        if expected == Some(Permission::Read) && name != "change_password" {
            assert!(op.spec.effect.is_read_only(), "{name}");
        }
    }
}

#[tokio::test]
async fn no_operation_runs_for_a_stranger() {
    let cloud = Cloud::start().await;
    for op in ops::catalogue() {
        let Some(_) = op.spec.needs else { continue };
        // With arguments that are wrong as well: who may not call is told that and nothing else.
        let result = (op.call)(cloud.orch().clone(), Cx::new(None), json!({"nonsense": 1})).await;
        assert_eq!(result.unwrap_err().code(), ErrorCode::Unauthenticated, "{}", op.spec.name);
    }
    cloud.assert_untouched();
}

#[tokio::test]
async fn no_operation_runs_without_its_permission_and_each_runs_with_it() {
    let cloud = Cloud::start().await;
    for op in ops::catalogue() {
        let Some(needs) = op.spec.needs else { continue };
        let others: Vec<Permission> = Permission::ALL
            .into_iter()
            .filter(|it| *it != needs && *it != Permission::Admin)
            .collect();
        let call = |permissions: &[Permission]| {
            let cx = Cx::new(Some(caller(permissions)));
            assert_eq!(gate::authorise(&op.spec, &cx).is_ok(), permissions.contains(&needs));
            (op.call)(cloud.orch().clone(), cx, json!({"nonsense": 1}))
        };
        match call(&others).await.unwrap_err() {
            Error::Forbidden { operation, needs: needed } => {
                assert_eq!((operation, needed), (op.spec.name, needs));
            }
            err => panic!("{}: {err}", op.spec.name),
        }
        // Through the gate, and stopped by its own check of the arguments.
        let err = call(&[needs]).await.unwrap_err();
        assert_eq!(err.code(), ErrorCode::InvalidParameter, "{}: {err}", op.spec.name);
    }
    let audit = cloud.audit();
    assert!(!audit.is_empty());
    for entry in audit {
        assert_eq!(entry.outcome, Outcome::Refused, "{}", entry.operation);
    }
    cloud.assert_untouched();
}
