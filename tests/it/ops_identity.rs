//! Users, passwords, quotas, API keys and the audit of what was done to them.

use orch_core::Cx;
use orch_domain::ErrorCode::{
    Conflict, InvalidParameter, NotFound, QuotaExceeded, TooManyRequests, Unauthenticated,
};
use orch_domain::audit::Outcome;
use orch_domain::caller::{Channel, Permission};
use serde_json::{Value, json};

use crate::harness::caller::{ADMIN, DEMO};
use crate::harness::cloud::{Cloud, ask};

async fn login(cloud: &Cloud, username: &str, password: &str) -> Result<Value, orch_domain::Error> {
    let arguments = json!({"username": username, "password": password});
    cloud.call_as(&Cx::new(None), "login", arguments).await.map(|it| it.value)
}

#[track_caller]
fn token(logged_in: &Value) -> String {
    logged_in["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_login_answers_a_token_that_works() {
    let cloud = Cloud::start().await;
    let answer = login(&cloud, "demo", "demo").await.unwrap();
    assert_eq!((&answer["token_type"], &answer["user"]["id"]), (&json!("bearer"), &json!(DEMO)));
    assert_eq!(answer["expires_in"], 12 * 3600);
    let caller = cloud.orch().authenticate(&token(&answer), Channel::Rest).unwrap();
    assert_eq!(caller.user.as_str(), DEMO);
    for (username, password) in [("demo", "wrong"), ("nobody", "demo")] {
        let err = login(&cloud, username, password).await.unwrap_err();
        assert_eq!(err.code(), Unauthenticated);
        assert_eq!(err.to_string(), "the user name or the password is wrong");
    }
    let audit = cloud.audit();
    assert_eq!((audit[0].operation.as_str(), audit[0].user.as_ref()), ("login", None));
    assert_eq!(audit[0].targets, ["nobody"]);
    let all = format!("{audit:?}");
    assert!(!all.contains("wrong"), "no password is in the audit");
}

#[tokio::test]
async fn guessing_has_to_wait() {
    let cloud = Cloud::start().await;
    for _ in 0..10 {
        assert_eq!(login(&cloud, "demo", "guess").await.unwrap_err().code(), Unauthenticated);
    }
    assert_eq!(login(&cloud, "demo", "demo").await.unwrap_err().code(), TooManyRequests);
    login(&cloud, "admin", "admin").await.unwrap();
}

#[tokio::test]
async fn guessing_many_at_once_counts_like_one_after_the_other() {
    let cloud = Cloud::start().await;
    let guesses = (0..40).map(|n| login(&cloud, "demo", if n == 39 { "demo" } else { "guess" }));
    let answers: Vec<_> = futures::future::join_all(guesses)
        .await
        .into_iter()
        .map(|it| it.map(|_| ()).map_err(|err| err.code()))
        .collect();
    let n_tried = answers.iter().filter(|it| **it == Err(Unauthenticated)).count();
    // As many more as were under way when the last of the ten came back.
    assert!((10..14).contains(&n_tried), "{n_tried} passwords were tried");
    assert_eq!(answers[39], Err(TooManyRequests));
}

#[tokio::test]
async fn the_built_in_administrator_stays_whoever_else_is_one() {
    let cloud = Cloud::start().await;
    let other = json!({"username": "root", "password": "long enough", "permissions": ["admin"]});
    cloud.ok(ADMIN, "create_user", other).await;
    let refusal = cloud.refused(ADMIN, "delete_user", json!({"user_id": ADMIN}), Conflict).await;
    assert!(refusal["message"].as_str().unwrap().contains("built in"), "{refusal}");
}

#[tokio::test]
async fn a_new_password_ends_the_other_logins() {
    let cloud = Cloud::start().await;
    let before = token(&login(&cloud, "demo", "demo").await.unwrap());
    let change =
        |current: &str, new: &str| json!({"current_password": current, "new_password": new});
    let refusal = cloud
        .refused(DEMO, "change_password", change("wrong", "long enough"), InvalidParameter)
        .await;
    assert_eq!(refusal["parameter"], "current_password");
    let refusal =
        cloud.refused(DEMO, "change_password", change("demo", "short"), InvalidParameter).await;
    assert_eq!(refusal["parameter"], "new_password");
    assert!(cloud.orch().authenticate(&before, Channel::Rest).is_ok());
    let after = cloud.ok(DEMO, "change_password", change("demo", "long enough")).await;
    assert!(cloud.orch().authenticate(&before, Channel::Rest).is_err());
    assert!(cloud.orch().authenticate(&token(&after), Channel::Rest).is_ok());
    assert!(login(&cloud, "demo", "demo").await.is_err());
    login(&cloud, "demo", "long enough").await.unwrap();
}

#[tokio::test]
async fn a_users_life() {
    let cloud = Cloud::start().await;
    let create = json!({"username": "ann", "password": "correct horse", "quota": {"instances": 1}});
    let ann = cloud.ok(ADMIN, "create_user", create.clone()).await;
    assert_eq!(ann["permissions"], json!(["read", "write", "execute"]));
    assert_eq!((&ann["quota"]["instances"], &ann["quota"]["cpu"]), (&json!(1), &json!(10)));
    cloud.refused(ADMIN, "create_user", create, Conflict).await;
    let id = ann["id"].as_str().unwrap();
    let logged_in = token(&login(&cloud, "ann", "correct horse").await.unwrap());

    let launch = |name: &str| json!({"image": "busybox", "name": name});
    let first = cloud.ok(id, "launch_instance", launch("a")).await;
    let refusal = cloud.refused(id, "launch_instance", launch("b"), QuotaExceeded).await;
    assert_eq!((&refusal["resource"], &refusal["limit"]), (&json!("instances"), &json!(1.0)));
    let update = json!({"user_id": id, "quota": {"instances": 2}});
    let ann = cloud.ok(ADMIN, "update_user", update).await;
    assert_eq!((&ann["quota"]["instances"], &ann["used"]["instances"]), (&json!(2), &json!(1)));
    assert!(cloud.orch().authenticate(&logged_in, Channel::Rest).is_ok(), "a quota ends no login");
    cloud.ok(id, "launch_instance", launch("b")).await;
    let quota = cloud.ok(id, "get_quota", json!({})).await;
    assert_eq!(quota["remaining"]["instances"], 0);

    cloud.ok(ADMIN, "update_user", json!({"user_id": id, "permissions": ["read"]})).await;
    assert!(cloud.orch().authenticate(&logged_in, Channel::Rest).is_err());
    let refusal = cloud.refused(ADMIN, "delete_user", json!({"user_id": id}), Conflict).await;
    assert!(refusal["message"].as_str().unwrap().contains("2 instances"), "{refusal}");
    for instance in [first["id"].clone(), list_one(&cloud, id, "b").await] {
        cloud.ok(ADMIN, "terminate_instance", json!({"id": instance})).await;
    }
    cloud.ok(ADMIN, "delete_user", json!({"user_id": id})).await;
    cloud.refused(ADMIN, "get_user", json!({"user_id": id}), NotFound).await;
    assert!(login(&cloud, "ann", "correct horse").await.is_err());
}

async fn list_one(cloud: &Cloud, owner: &str, name: &str) -> Value {
    let list = cloud.ok(ADMIN, "list_instances", json!({"owner": owner, "name": name})).await;
    list["instances"][0]["id"].clone()
}

#[tokio::test]
async fn what_a_user_cannot_be() {
    let cloud = Cloud::start().await;
    for (arguments, parameter) in [
        (json!({"username": "a b", "password": "long enough"}), "username"),
        (json!({"username": "ann", "password": "short"}), "password"),
        (json!({"username": "ann", "password": 12_345_678}), "password"),
        (json!({"username": "ann"}), "password"),
        (json!({"username": "ann", "password": "long enough", "quota": {"gpu": 1}}), "quota.gpu"),
        (
            json!({"username": "ann", "password": "long enough", "permissions": ["root"]}),
            "permissions[0]",
        ),
    ] {
        let refusal = cloud.refused(ADMIN, "create_user", arguments, InvalidParameter).await;
        assert_eq!(refusal["parameter"], parameter, "{refusal}");
        assert!(!refusal.to_string().contains("12345678"), "{refusal}");
    }
    assert_eq!(cloud.ok(ADMIN, "list_users", json!({})).await["total_count"], 2);
    let demote = json!({"user_id": ADMIN, "permissions": ["read"]});
    cloud.refused(ADMIN, "update_user", demote, Conflict).await;
    cloud.refused(ADMIN, "delete_user", json!({"user_id": ADMIN}), Conflict).await;
}

#[tokio::test]
async fn an_api_key_does_what_it_may_until_it_is_revoked() {
    let cloud = Cloud::start().await;
    let create =
        json!({"name": "agent", "user": DEMO, "permissions": ["read"], "expires_in_days": 7});
    let answer =
        cloud.call_as(&Cx::new(Some(cloud.caller(ADMIN))), "create_api_key", create).await.unwrap();
    let secret = answer.value["api_key"].as_str().unwrap().to_owned();
    assert!(answer.text().contains(&secret), "shown this once");
    let caller = cloud.orch().authenticate(&secret, Channel::Mcp).unwrap();
    assert_eq!((caller.user.as_str(), &caller.permissions[..]), (DEMO, &[Permission::Read][..]));

    let list = cloud.ok(ADMIN, "list_api_keys", json!({"user": DEMO})).await;
    assert_eq!((&list["total_count"], &list["api_keys"][0]["name"]), (&json!(1), &json!("agent")));
    assert!(!list.to_string().contains(&secret[16..]), "and never again");
    assert_eq!(cloud.ok(ADMIN, "list_api_keys", json!({"user": ADMIN})).await["total_count"], 0);

    let too_much = json!({"name": "x", "user": DEMO, "permissions": ["admin"]});
    let refusal = cloud.refused(ADMIN, "create_api_key", too_much, InvalidParameter).await;
    assert_eq!(refusal["parameter"], "permissions");
    for bad in [json!({"name": " "}), json!({"name": "a\nb"})] {
        let refusal = cloud.refused(ADMIN, "create_api_key", bad, InvalidParameter).await;
        assert_eq!(refusal["parameter"], "name");
    }
    cloud.refused(ADMIN, "create_api_key", json!({"name": "x", "user": "nobody"}), NotFound).await;

    let id = answer.value["id"].clone();
    cloud.ok(ADMIN, "revoke_api_key", json!({"key_id": id})).await;
    assert!(cloud.orch().authenticate(&secret, Channel::Mcp).is_err());
    cloud.refused(ADMIN, "revoke_api_key", json!({"key_id": id}), NotFound).await;
}

#[tokio::test]
async fn a_user_is_meant_by_id_or_by_name() {
    let cloud = Cloud::start().await;
    let key = cloud.ok(ADMIN, "create_api_key", json!({"name": "agent", "user": "demo"})).await;
    assert_eq!(key["user"], DEMO);
    cloud.ok(DEMO, "launch_instance", json!({"image": "busybox"})).await;
    for owner in ["demo", DEMO] {
        let list = |operation, arguments| cloud.ok(ADMIN, operation, arguments);
        let found = list("list_instances", json!({"owner": owner})).await;
        assert_eq!(found["total_count"], 1, "{owner}");
        assert_eq!(list("list_api_keys", json!({"user": owner})).await["total_count"], 1);
        let audit = list("list_audit", json!({"user": owner})).await;
        assert_eq!(audit["entries"][0]["operation"], "launch_instance");
        assert_eq!(list("get_user", json!({"user_id": owner})).await["id"], DEMO);
        let quota = json!({"user_id": owner, "quota": {"instances": 7}});
        assert_eq!(list("update_user", quota).await["quota"]["instances"], 7);
    }
    assert_eq!(cloud.ok(DEMO, "list_instances", json!({"owner": "demo"})).await["total_count"], 1);
    assert_eq!(cloud.ok(DEMO, "list_instances", json!({"owner": "admin"})).await["total_count"], 0);
    cloud.refused(ADMIN, "list_api_keys", json!({"user": "nobody"}), NotFound).await;
    let mine = json!({"username": "ann", "password": "correct horse"});
    let ann = cloud.ok(ADMIN, "create_user", mine).await["id"].clone();
    assert_eq!(cloud.ok(ADMIN, "delete_user", json!({"user_id": "ann"})).await["id"], ann);
    cloud.refused(ADMIN, "delete_user", json!({"user_id": "admin"}), Conflict).await;
}

#[tokio::test]
async fn a_change_whose_arguments_cannot_be_read_is_audited_as_refused() {
    let cloud = Cloud::start().await;
    cloud.refused(DEMO, "launch_instance", json!({"imge": "busybox"}), InvalidParameter).await;
    // To look at something wrongly is nothing to remember.
    cloud.refused(DEMO, "get_instance", json!({"id": 1}), InvalidParameter).await;
    let key = cloud.api_key(DEMO, &Permission::ALL).await;
    let broken = ask("POST", "/instances").header("content-type", "application/json");
    broken.bearer(&key).body("{\"image\": ").of(&cloud).await.problem(400, "InvalidParameter");
    let said: Vec<_> = cloud
        .audit()
        .into_iter()
        .map(|it| (it.operation, it.outcome, it.error.unwrap(), it.user.unwrap().to_string()))
        .collect();
    let refused = |channel: &str| {
        let error = "InvalidParameter".to_owned();
        (channel.to_owned(), Outcome::Refused, error, DEMO.to_owned())
    };
    assert_eq!(said, [refused("launch_instance"), refused("launch_instance")]);
}

#[tokio::test]
async fn the_audit_is_read_newest_first_and_filtered() {
    let cloud = Cloud::start().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let launched =
            cloud.ok(DEMO, "launch_instance", json!({"image": "busybox", "name": name})).await;
        ids.push(launched["id"].clone());
    }
    cloud.ok(ADMIN, "terminate_instance", json!({"id": ids[0]})).await;
    let audit = |arguments: Value| cloud.ok(ADMIN, "list_audit", arguments);
    let about = audit(json!({"target": ids[0]})).await;
    let operations: Vec<&Value> =
        about["entries"].as_array().unwrap().iter().map(|it| &it["operation"]).collect();
    assert_eq!(operations, ["terminate_instance", "launch_instance"]);
    let entry = &about["entries"][0];
    assert_eq!(
        (&entry["user"], &entry["channel"], &entry["client"]),
        (&json!(ADMIN), &json!("cli"), &json!("test"))
    );
    assert_eq!(entry["outcome"], "succeeded");
    let first = audit(json!({"operation": "launch_instance", "user": DEMO, "page_size": 2})).await;
    assert_eq!(first["entries"][0]["targets"], json!([ids[2]]));
    let second = json!({"operation": "launch_instance", "page_size": 2, "page_token": first["next_page_token"]});
    let second = audit(second).await;
    assert_eq!(second["entries"][0]["targets"], json!([ids[0]]));
    assert_eq!(
        (&second["next_page_token"], second["entries"].as_array().unwrap().len()),
        (&json!(""), 1)
    );
    let damaged = json!({"page_token": orch_domain::page::token_after("audit", "x")});
    cloud.refused(ADMIN, "list_audit", damaged, InvalidParameter).await;
}

#[tokio::test]
async fn guesses_of_strangers_do_not_fill_the_audit() {
    let lab = crate::harness::lab::Lab::new(0).await;
    let nobody = orch_core::Cx::new(None);
    for n in 0..80 {
        let arguments = json!({"username": format!("stranger-{n}"), "password": ""});
        lab.call_as(&nobody, "login", arguments).await.unwrap_err();
    }
    let arguments = json!({"operation": "login", "page_size": 1000});
    let audited = lab.ask("list_audit", arguments).await;
    assert_eq!(audited["entries"].as_array().unwrap().len(), 60, "{audited}");
}
