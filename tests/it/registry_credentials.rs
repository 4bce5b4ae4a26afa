//! Logins at registries are kept and replaced, and never shown.

use http::StatusCode;
use orch_domain::ErrorCode::{InvalidParameter, NotFound};
use serde_json::json;

use crate::harness::cloud::{Cloud, ask};
use crate::harness::lab::Lab;
use crate::harness::world::{ADMIN, DEMO};

const SECRET: &str = "s3cret-of-the-registry";

fn login(registry: &str, username: &str) -> serde_json::Value {
    json!({"registry": registry, "username": username, "password": SECRET})
}

#[tokio::test]
async fn a_login_is_kept_replaced_and_forgotten_and_its_password_never_told() {
    let cloud = Cloud::start().await;
    let kept = cloud.ok(ADMIN, "set_registry_credential", login("GHCR.io", "ann")).await;
    assert_eq!((&kept["registry"], &kept["replaced"]), (&json!("ghcr.io"), &json!(false)));
    let other = login("ghcr.io", "bob");
    let kept = cloud.ok(ADMIN, "set_registry_credential", other).await;
    assert_eq!(kept["replaced"], true);
    cloud.ok(ADMIN, "set_registry_credential", login("docker.io", "team")).await;

    let listed = cloud.ok(ADMIN, "list_registry_credentials", json!({})).await;
    assert_eq!(listed["total_count"], 2);
    let [hub, ghcr] = &listed["registry_credentials"].as_array().unwrap()[..] else { panic!() };
    assert_eq!((&hub["registry"], &ghcr["username"]), (&json!("docker.io"), &json!("bob")));
    assert_eq!(ghcr["set_by"], ADMIN);
    assert!(ghcr["set_at"].as_str().unwrap().starts_with("20"), "{ghcr}");
    let fields: Vec<&String> = ghcr.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["registry", "username", "set_by", "set_at"]);

    let gone = json!({"registry": "ghcr.io"});
    let deleted = cloud.ok(ADMIN, "delete_registry_credential", gone.clone()).await;
    assert_eq!(deleted["username"], "bob");
    let refusal = cloud.refused(ADMIN, "delete_registry_credential", gone, NotFound).await;
    assert_eq!(refusal["kind"], "registry credential");

    let audit = cloud.audit();
    let of = |operation: &str| audit.iter().filter(|it| it.operation == operation).count();
    assert_eq!((of("set_registry_credential"), of("delete_registry_credential")), (3, 2));
    let audited = format!("{audit:?}");
    assert!(audited.contains("ghcr.io") && !audited.contains(SECRET), "{audited}");
    cloud.orch().ledger.read(|book| {
        let kept: Vec<_> = book.registry_credentials().collect();
        assert!(!format!("{kept:?}").contains(SECRET));
        let sealed = &kept[0].sealed_password;
        assert!(!sealed.windows(SECRET.len()).any(|it| it == SECRET.as_bytes()));
    });
}

#[tokio::test]
async fn what_cannot_be_a_login_is_refused_without_repeating_it() {
    let cloud = Cloud::start().await;
    let good = login("ghcr.io", "ann");
    for (field, value, parameter) in [
        ("registry", json!("https://ghcr.io"), "registry"),
        ("registry", json!("ghcr.io/team"), "registry"),
        ("registry", json!("ghcr"), "registry"),
        ("username", json!("  "), "username"),
        ("username", json!("a:b"), "username"),
        ("username", json!("a\nb"), "username"),
        ("password", json!(""), "password"),
        ("password", json!(86_753_090), "password"),
        ("password", json!([SECRET]), "password"),
        ("password", json!(SECRET.repeat(1000)), "password"),
    ] {
        let mut arguments = good.clone();
        arguments[field] = value.clone();
        let refusal =
            cloud.refused(ADMIN, "set_registry_credential", arguments, InvalidParameter).await;
        assert_eq!(refusal["parameter"], parameter, "{value}: {refusal}");
        let said = refusal.to_string();
        assert!(!said.contains(SECRET) && !said.contains("86753090"), "{said}");
    }
    let listed = cloud.ok(ADMIN, "list_registry_credentials", json!({})).await;
    assert_eq!(listed["total_count"], 0);
}

#[tokio::test]
async fn logins_have_routes_for_administrators_only() {
    let cloud = Cloud::demo().await;
    let path = "/registry-credentials/127.0.0.1:5000";
    let body = json!({"username": "ann", "password": SECRET});
    let as_user =
        |method: &str, path: &str, user: &str| ask(method, path).header("x-user-id", user);
    as_user("PUT", path, DEMO).json(&body).of(&cloud).await.problem(403, "Forbidden");
    as_user("GET", "/registry-credentials", DEMO).of(&cloud).await.problem(403, "Forbidden");
    as_user("DELETE", path, DEMO).of(&cloud).await.problem(403, "Forbidden");
    let pull = json!({"image": "nginx", "all": true});
    let reply = as_user("POST", "/dashboard/images/pull", DEMO).json(&pull).of(&cloud).await;
    reply.problem(403, "Forbidden");

    let kept = as_user("PUT", path, ADMIN).json(&body).of(&cloud).await.ok(200);
    assert_eq!(kept["registry"], "127.0.0.1:5000");
    let reply = as_user("GET", "/registry-credentials", ADMIN).of(&cloud).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert!(reply.text.contains("ann") && !reply.text.contains(SECRET), "{}", reply.text);
    as_user("DELETE", path, ADMIN).of(&cloud).await.ok(200);
    let reply = as_user("POST", "/dashboard/images/pull", ADMIN).json(&pull).of(&cloud).await;
    assert_eq!(reply.ok(200)["nodes"][0]["outcome"], "up_to_date");
}

#[tokio::test]
async fn logins_survive_a_restart() {
    let mut lab = Lab::new(1).await;
    lab.ask("set_registry_credential", login("ghcr.io", "robot")).await;
    lab.restart().await;
    let listed = lab.ask("list_registry_credentials", json!({})).await;
    assert_eq!(listed["registry_credentials"][0]["username"], "robot");
}
